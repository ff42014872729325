#!/bin/sh
# Sets a node up: programs, services, the registry.
set -eu
cd "$(dirname "$0")/.."
cp bin/* /usr/bin/
cp scripts/kubelet-pre-start.sh /usr/bin/
cp etc/kubelet.service /etc/systemd/system/
mkdir -p /etc/systemd/system/kubelet.service.d
cp etc/10-kubeadm.conf /etc/systemd/system/kubelet.service.d/
systemctl daemon-reload
systemctl enable kubelet
sh scripts/init-registry.sh 5000 "$PWD/registry"
