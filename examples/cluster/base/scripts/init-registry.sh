#!/bin/sh
# Serves a directory as a registry: init-registry.sh PORT DIRECTORY
set -eu
port=$1
volume=$2
config=$(dirname "$0")/../etc/registry_config.yml
nerdctl rm -f registry >/dev/null 2>&1 || true
nerdctl run -d --restart=always --net=host --name registry \
    -v "$volume:/var/lib/registry" -v "$config:/etc/docker/registry/config.yml" \
    -e "REGISTRY_HTTP_ADDR=:$port" registry:2
