#!/bin/sh
# Takes back what init.sh did.
set -u
systemctl disable --now kubelet
rm -f /etc/systemd/system/kubelet.service /usr/bin/kubelet-pre-start.sh
rm -rf /etc/systemd/system/kubelet.service.d
nerdctl rm -f registry
