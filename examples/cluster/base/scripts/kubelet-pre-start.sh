#!/bin/sh
# What the kubelet wants of a kernel.
set -eu
modprobe br_netfilter
sysctl -q -w net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
swapoff -a
