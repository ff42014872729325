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
# Tools that tests compare kfs with or take apart their work with, and cargo-nextest's runner.
test=(
    buildah:buildah
    skopeo:skopeo
    umoci:umoci
    setfattr:attr
    zstd:zstd
    curl:curl
)
bench=(
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
install "${wanted[@]}"
need_rust
