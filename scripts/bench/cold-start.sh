#!/usr/bin/env bash
# From an empty store to a program's exit, image in a registry behind a net that is slow: kfs on three
# formats, and beside podman, buildah, and skopeo with umoci. Prints Markdown.
#   scripts/bench/cold-start.sh
. "$(dirname "$0")/lib.sh"
. "$repo/scripts/bench/registry.sh"

cleanup() {
    cd "$repo"
    kill "${registry_pid:-}" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
start_registry
fill_registry

# What was measured of this program, by this script, is there already if it was broken off.
key=$(cat "$(command -v kfs)" "$repo/scripts/bench/cold-start.sh" | sha256sum)
measured=$target/bench-results/cold-start/$profile-${key:0:12}
mkdir -p "$measured"
commands=$work/commands
: >"$commands"

# start NAME IMAGE NET RUNS AGAINST COMMAND...: measures, unless that was done.
start() {
    local name=$1 image=$2 net=$3 runs=$4 against=$5 options=()
    shift 5
    [ -z "$net" ] || options+=(--net "$net")
    [ -z "$against" ] || options+=(--against "$against")
    printf 'kfs bench cold-start REGISTRY/%s --runs %s%s --%s\n' "$image" "$runs" \
        "${options[*]:+ ${options[*]}}" "$(printf ' %s' "${@@Q}")" >>"$commands"
    [ -e "$measured/$name.json" ] && return
    say "$name"
    kfs bench cold-start "$registry/$image" --plain-http --runs "$runs" --format json \
        --html "$measured/$name.html" "${options[@]}" -- "$@" >"$measured/$name.json.part"
    mv "$measured/$name.json.part" "$measured/$name.json"
}

peers=podman,buildah,skopeo+umoci
for format in zstd-chunked estargz; do
    start "debian-$format-1gbit-true" "debian:$format" 1gbit,20ms 3 "" /bin/true
done
start debian-gzip-1gbit-true debian:gzip 1gbit,20ms 3 $peers /bin/true
# All of an image: no slower than to pull, unpack and then read it.
start debian-gzip-1gbit-whole debian:gzip 1gbit,20ms 3 $peers \
    sh -c 'tar --one-file-system -cf - / 2>/dev/null | wc -c'
for net in "" 1gbit,20ms 100mbit,20ms; do
    for format in zstd-chunked estargz; do
        # The eStargz is for comparison: one net is enough.
        [ "$format" = zstd-chunked ] || [ "$net" = 1gbit,20ms ] || continue
        at=${net%,*}
        start "toolchain-$format-${at:-loopback}-true" "toolchain:$format" "$net" 3 "" /bin/true
        start "toolchain-$format-${at:-loopback}-python" "toolchain:$format" "$net" 3 "" python3 -c 'import json'
        start "toolchain-$format-${at:-loopback}-gcc" "toolchain:$format" "$net" 3 "" gcc --version
    done
done
# What the others do depends on the image, and hardly on the command.
start toolchain-gzip-1gbit-gcc toolchain:gzip 1gbit,20ms 3 $peers gcc --version
start toolchain-gzip-100mbit-gcc toolchain:gzip 100mbit,20ms 1 podman gcc --version

machine podman buildah skopeo umoci
python3 "$repo/scripts/bench/cold-start.py" "$measured"
printf '\nCommands, with the addresses left out:\n\n```console\n%s\n```\n' "$(cat "$commands")"
