# Sourced by the benchmarks that need a registry: docker-registry on a free port of this machine,
# with a Debian and a toolchain in several formats. What it holds is kept for the next run, in
# $BENCH_REGISTRY or target/bench-registry.
# shellcheck shell=bash

storage=${BENCH_REGISTRY:-$target/bench-registry}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# Sets $registry to its address, and $registry_pid.
start_registry() {
    local port
    port=$(free_port)
    registry=127.0.0.1:$port
    mkdir -p "$storage"
    cat >"$work/registry.yml" <<YML
version: 0.1
log: { level: error }
storage: { filesystem: { rootdirectory: $storage } }
http: { addr: $registry }
YML
    docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 &
    registry_pid=$!
    local i
    for i in $(seq 100); do
        skopeo list-tags --tls-verify=false "docker://$registry/none" 2>&1 | grep -q 'connection refused' || return 0
        sleep 0.1
    done
    die "docker-registry does not start: $(cat "$work/registry.log")"
}

has_image() {
    skopeo inspect --tls-verify=false --raw "docker://$registry/$1" >/dev/null 2>&1
}

# fill_registry: the images in all formats. gzip is what skopeo makes of plain layers, as for
# docker's and buildah's images; the rest is kfs's. Prints nothing: what is printed is results.
fill_registry() {
    local name format
    for name in debian toolchain; do
        for format in gzip estargz zstd-chunked; do
            has_image "$name:$format" && continue
            say "$name: $format"
            make_plain "$name"
            if [ "$format" = gzip ]; then
                skopeo --insecure-policy copy --quiet --dest-tls-verify=false \
                    "oci:$target/bench-inputs:$name:plain" "docker://$registry/$name:gzip"
            else
                inputs kfs --quiet convert "$name:plain" "$registry/$name:$format" --to "$format"
                inputs kfs --quiet push "$registry/$name:$format"
            fi
        done
    done >/dev/null
}

# Commands with the store of inputs.
inputs() { KFS_ROOT=$target/bench-inputs "$@"; }

make_plain() {
    inputs kfs inspect "$1:plain" >/dev/null 2>&1 && return
    inputs kfs --quiet import "$debian" debian:12
    inputs kfs tag debian:12 debian:plain
    [ "$1" = debian ] ||
        inputs kfs --quiet build --compression uncompressed -t "$1:plain" "$repo/benches/$1"
}
