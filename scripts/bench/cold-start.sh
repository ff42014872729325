#!/usr/bin/env bash
# From nothing to a program's exit, image in a registry behind a proxy that shapes: kfs on three
# formats beside podman, buildah, and skopeo with umoci. Then again with the registry gone.
#   scripts/bench/cold-start.sh
. "$(dirname "$0")/lib.sh"
. "$(dirname "$0")/registry.sh"

cleanup() {
    cd "$repo"
    kfs --quiet umount --all 2>/dev/null || true
    kill "$registry_pid" ${proxy_pid:-} 2>/dev/null || true
    podman rm --all --force >/dev/null 2>&1 || true
    buildah rm --all >/dev/null 2>&1 || true
    umount "$work/buildah/overlay" "$work/podman/overlay" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
start_registry
fill_registry
mkdir mnt

podman() {
    command podman --root "$work/podman" --runroot "$work/podman-run" --tmpdir "$work/podman-tmp" \
        --storage-driver overlay --cgroup-manager cgroupfs --runtime runc --events-backend none "$@"
}

# shape NET: a proxy before the registry, at $proxy; none for "loopback".
shape() {
    stop_proxy
    local port
    port=$(free_port)
    proxy=127.0.0.1:$port
    case $1 in
        loopback) kfs bench proxy "$registry" --listen "$proxy" ;;
        *) kfs bench proxy "$registry" --listen "$proxy" --net "$1,20ms" ;;
    esac >"$work/proxy.log" 2>&1 &
    proxy_pid=$!
    sleep 0.3
}
stop_proxy() {
    [ -z "${proxy_pid:-}" ] || kill "$proxy_pid" 2>/dev/null || true
    wait "${proxy_pid:-}" 2>/dev/null || true
    proxy_pid=
}

kfs_run() {
    kfs --quiet mount --plain-http --prefetch=off "$1" mnt
    chroot mnt "${@:2}"
}
podman_run() {
    podman run --rm --quiet --tls-verify=false --signature-policy "$policy" \
        --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 --net=host \
        --security-opt seccomp=unconfined --log-driver none "docker://$1" "${@:2}"
}
buildah_run() {
    local container
    container=$(buildah from --quiet --tls-verify=false --signature-policy "$policy" "docker://$1")
    buildah run --isolation chroot "$container" -- "${@:2}"
}
umoci_run() {
    skopeo --insecure-policy copy --quiet --src-tls-verify=false "docker://$1" oci:layout:x
    umoci unpack --image layout:x bundle
    chroot bundle/rootfs "${@:2}"
}
forget() {
    kfs --quiet umount mnt 2>/dev/null || true
    rm -rf "$KFS_ROOT" layout bundle
    podman rmi --all --force >/dev/null 2>&1 || true
    buildah rm --all >/dev/null 2>&1 || true
    buildah rmi --all --force >/dev/null 2>&1 || true
    drop_caches
}

# What kfs fetched since its mount, in MB and requests.
fetched() {
    kfs mounts --stats --format json | python3 -c '
import json, sys
stats = json.load(sys.stdin)[0]["stats"]
print("%.2f MB, %d requests" % (stats["fetchedBytes"] / 1e6, stats["requests"]))'
}

# kfs_side RUNS IMAGE COMMAND...: seconds, and what was fetched.
kfs_side() {
    local runs=$1 image=$2 figures=() i
    shift 2
    for i in $(seq "$runs"); do
        forget
        figures+=("$(took kfs_run "$proxy/$image" "$@")")
    done
    printf '%s s, %s' "$(seconds "$(median "${figures[@]}")")" "$(fetched)"
}
peer_side() {
    local peer=$1 image=$2
    shift 2
    forget
    seconds "$(took "${peer}_run" "$proxy/$image" "$@")"
}

machine podman buildah skopeo umoci
commands=("/bin/true" "python3 -c 'import json'" "gcc --version")
for image in debian toolchain; do
    for net in loopback 1gbit 100mbit; do
        shape "$net"
        head_row "Cold start: $image, $net" "command" "kfs zstd:chunked" "kfs eStargz" "kfs gzip, first contact" \
            "podman, s" "buildah, s" "skopeo + umoci, s"
        for command in "${commands[@]}"; do
            [ "$image" = toolchain ] || [ "$command" = /bin/true ] || continue
            eval "set -- $command"
            row "\`$command\`" "$(kfs_side 3 "$image:zstd-chunked" "$@")" "$(kfs_side 3 "$image:estargz" "$@")" \
                "$(kfs_side 1 "$image:gzip" "$@")" "$(peer_side podman "$image:gzip" "$@")" \
                "$(peer_side buildah "$image:gzip" "$@")" "$(peer_side umoci "$image:gzip" "$@")"
        done
    done
done

# known_gzip COMMAND...: the layers' indexes are there, nothing of their content.
head_row "A gzip image whose indexes are known, empty cache; then again, the registry gone" \
    "command" "kfs" "registry gone"
for command in "${commands[@]}"; do
    eval "set -- $command"
    shape loopback
    forget
    kfs --quiet ls -d --plain-http "$proxy/toolchain:gzip" /
    kfs --quiet cache prune --all
    drop_caches
    cold="$(seconds "$(took kfs_run "$proxy/toolchain:gzip" "$@")") s, $(fetched)"
    kfs umount mnt
    stop_proxy
    warm=$(seconds "$(took kfs_run "$proxy/toolchain:gzip" "$@")")
    row "\`$command\`" "$cold" "$warm s"
done

head_row "Pull of the toolchain (gzip), loopback, s" "kfs pull" "skopeo copy to oci:" "as fast"
shape loopback
kfs_pull() { kfs --quiet pull --plain-http "$proxy/toolchain:gzip"; }
skopeo_pull() {
    skopeo --insecure-policy copy --quiet --src-tls-verify=false "docker://$proxy/toolchain:gzip" oci:layout:x
}
ours=() theirs=()
for i in 1 2 3; do
    forget
    ours+=("$(took kfs_pull)")
    forget
    theirs+=("$(took skopeo_pull)")
done
row "$(seconds "$(median "${ours[@]}")")" "$(seconds "$(median "${theirs[@]}")")" \
    "$(times "$(median "${theirs[@]}")" "$(median "${ours[@]}")") x"
