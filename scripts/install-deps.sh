#!/usr/bin/env bash
# Installs what is needed on a bare Debian 12. Without an argument: to build and to run kfs.
#   scripts/install-deps.sh [demo] [test] [bench]
# What is there already is left alone; Rust is only asked for.
. "$(dirname "$0")/lib.sh"

build=(
    cc:gcc
    /usr/include/stdio.h:libc6-dev
    /etc/ssl/certs/ca-certificates.crt:ca-certificates
)
demo=(
    mmdebstrap:mmdebstrap
)
# Programs of the tests' root file systems, tools that kfs is compared with, or that read what it
# writes.
test=(
    fusermount3:fuse3
    getfattr:attr
    git:git
    hostname:hostname
    kubectl:kubernetes-client
    ldd:libc-bin
    setcap:libcap2-bin
    strace:strace
    unshare:util-linux
    buildah:buildah
    containerd:containerd
    ctr-remote:stargz-snapshotter
    podman:podman
    runc:runc
    skopeo:skopeo
    umoci:umoci
    xz:xz-utils
    bzip2:bzip2
    zstd:zstd
    docker-registry:docker-registry
    htpasswd:apache2-utils
)
bench=(
    /usr/bin/time:time
    docker-registry:docker-registry
    podman:podman
    perl:perl
    python3:python3
    runc:runc
    xz:xz-utils
    bzip2:bzip2
    zstd:zstd
    buildah:buildah
    umoci:umoci
    skopeo:skopeo
)

wanted=("${build[@]}")
for what in "$@"; do
    case $what in
        demo) wanted+=("${demo[@]}") ;;
        test) wanted+=("${test[@]}") ;;
        bench) wanted+=("${demo[@]}" "${bench[@]}") ;;
        *) die "no such set of packages: $what (demo, test, bench)" ;;
    esac
done
install_packages "${wanted[@]}"
need_rust
