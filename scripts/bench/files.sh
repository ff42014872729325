#!/usr/bin/env bash
# Measures whole commands of kfs beside buildah, umoci, kernel overlayfs and plain tools, on one
# machine in one run, and prints Markdown. Figures are medians of several runs, the two sides taking
# turns, unless it says one run. The image is a Debian with FILES small files more, in one gzip layer.
#   scripts/bench/files.sh [FILES...]          default: 100000; 1000000 takes half an hour and 15 GB
. "$(dirname "$0")/lib.sh"
. "$repo/scripts/bench/registry.sh"

[ $# -gt 0 ] || set -- 100000
mkdir "$work"/{kfs,overlay,empty,context}
cleanup() {
    cd "$repo"
    kfs --quiet umount --all || true
    kill "${registry_pid:-}" 2>/dev/null || true
    umount "$work/overlay" 2>/dev/null || true
    buildah rm --all >/dev/null 2>&1 || true
    umount "$work/buildah/overlay" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

# Anonymous memory of the server, in KiB.
server_memory() {
    local pid
    pid=$(kfs mounts --format json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p')
    sed -n 's/^RssAnon:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$pid/status"
}

walk() { find "$1" -printf '%s\n' >/dev/null; }
read_whole() { dd if="$1" of=/dev/null bs=1M status=none; }
plain_index() { gzip -dc "$1" | sha256sum; }
kfs_index() {
    rm -rf "$KFS_ROOT/indexes"
    kfs --quiet ls -d "$1" /
}
overlay_mount() {
    mount -t overlay overlay -o "ro,lowerdir=$1:$work/empty" "$work/overlay"
}

make_image() {
    say "$1 files: making the image"
    cp "$debian" "$work/image.tar"
    synthetic-tar "$1" >"$work/data.tar"
    tar --concatenate --file "$work/image.tar" "$work/data.tar"
    gzip -1 <"$work/image.tar" >"$work/image.tar.gz"
    rm "$work/data.tar" "$work/image.tar"
    kfs --quiet import "$work/image.tar.gz" "files:$1" >/dev/null
}

bench_index() {
    say "$1 files: index"
    local blob=$work/image.tar.gz ours=() plain=() i memory
    for i in 1 2 3; do
        ours+=("$(took kfs_index "files:$1")")
        plain+=("$(took plain_index "$blob")")
    done
    rm -rf "$KFS_ROOT/indexes"
    memory=$(command time -f %M kfs --quiet ls -d "files:$1" / 2>&1 >/dev/null | tail -n 1)
    local kfs_us=$(median "${ours[@]}") plain_us=$(median "${plain[@]}")
    row "index the layer ($(($(stat -c %s "$blob") >> 20)) MiB gzip), s" "$(calc "$kfs_us/1e6" 2)" \
        "\`gzip -dc \\| sha256sum\` $(calc "$plain_us/1e6" 2)" "$(calc "$plain_us/$kfs_us" 2) x as fast"
    row "most memory while indexing, one run, MiB" "$((memory >> 10))" "" ""
}

# What the others do before they can show the image.
bench_unpack() {
    say "$1 files: unpack with umoci and buildah"
    umoci_us=$(took umoci unpack --image "$KFS_ROOT:files:$1" "$work/umoci")
    buildah_us=$(took buildah pull --signature-policy "$policy" "oci:store:files:$1")
    buildah tag "$(buildah images --quiet | head -n 1)" base >/dev/null
    row "image in the store to first mount, one run, s" "see index and mount" \
        "umoci $(calc "$umoci_us/1e6" 1), buildah $(calc "$buildah_us/1e6" 1)" ""
}

bench_mount() {
    say "$1 files: mount"
    local ours=() theirs=() overlay=() i
    for i in 1 2 3 4 5 6 7; do
        ours+=("$(took kfs --quiet mount "files:$1" "$work/kfs")")
        kfs --quiet umount "$work/kfs"
        overlay+=("$(took overlay_mount "$work/umoci/rootfs")")
        umount "$work/overlay"
    done
    for i in 1 2 3; do
        theirs+=("$(took buildah_mount)")
        buildah rm --all >/dev/null
    done
    local kfs_us=$(median "${ours[@]}") overlay_us=$(median "${overlay[@]}")
    local buildah_us=$(median "${theirs[@]}")
    row "mount, ms" "$(calc "$kfs_us/1e3" 1)" \
        "buildah from + mount $(calc "$buildah_us/1e3" 0), overlayfs on the unpacked tree $(calc "$overlay_us/1e3" 1)" \
        "$(calc "$buildah_us/$kfs_us" 1) x as fast as buildah"
}
buildah_mount() {
    local container
    container=$(buildah from --pull-never base)
    buildah mount "$container"
}

bench_walk() {
    say "$1 files: walk"
    local kfs_first=() kfs_second=() overlay_first=() overlay_second=() disk_first=() disk_second=()
    local i memory=() entries rootfs=$work/umoci/rootfs
    entries=$(find "$rootfs" | wc -l)
    for i in 1 2 3; do
        drop_caches
        kfs --quiet mount "files:$1" "$work/kfs"
        kfs_first+=("$(took walk "$work/kfs")")
        kfs_second+=("$(took walk "$work/kfs")")
        memory+=("$(server_memory)")
        kfs --quiet umount "$work/kfs"
        drop_caches
        overlay_mount "$rootfs"
        overlay_first+=("$(took walk "$work/overlay")")
        overlay_second+=("$(took walk "$work/overlay")")
        umount "$work/overlay"
        drop_caches
        disk_first+=("$(took walk "$rootfs")")
        disk_second+=("$(took walk "$rootfs")")
    done
    each() { calc "$(median "${@:2}")/$entries" "$1"; }
    row "\`find -printf %s\`, first, us an entry" "$(each 2 "${kfs_first[@]}")" \
        "overlayfs $(each 2 "${overlay_first[@]}"), ext4 $(each 2 "${disk_first[@]}")" \
        "$(calc "$(median "${overlay_first[@]}")/$(median "${kfs_first[@]}")" 2) x as fast as overlayfs"
    row "\`find -printf %s\`, second, us an entry" "$(each 2 "${kfs_second[@]}")" \
        "overlayfs $(each 2 "${overlay_second[@]}"), ext4 $(each 2 "${disk_second[@]}")" \
        "$(calc "$(median "${overlay_second[@]}")/$(median "${kfs_second[@]}")" 2) x as fast as overlayfs"
    row "anonymous memory of the server after the walks, MiB" \
        "$(calc "$(median "${memory[@]}")/1024" 1)" "" "$(calc "$(median "${memory[@]}")*1024/$entries" 0) bytes an entry"
    row "indexes on disk, MiB" "$(calc "$(du -sb "$KFS_ROOT/indexes" | cut -f 1)/1048576" 1)" "" \
        "$(calc "$(du -sb "$KFS_ROOT/indexes" | cut -f 1)/$entries" 0) bytes an entry"
}

bench_build() {
    say "$1 files: build"
    local ours=() theirs=() i
    printf 'a small file\n' >"$work/context/small"
    printf 'FROM %s\nCOPY small /small\nRUN touch /touched\n' "files:$1" >"$work/context/for-kfs"
    printf 'FROM %s\nCOPY small /small\nRUN touch /touched\n' localhost/base >"$work/context/for-buildah"
    for i in 1 2 3; do
        ours+=("$(took kfs build --no-cache -f "$work/context/for-kfs" -t built "$work/context")")
        theirs+=("$(took buildah bud --signature-policy "$policy" --isolation chroot --layers --no-cache -f "$work/context/for-buildah" -t built "$work/context")")
    done
    local kfs_us=$(median "${ours[@]}") buildah_us=$(median "${theirs[@]}")
    row "\`FROM\` it + \`COPY\` one file + \`RUN touch\`, s" "$(calc "$kfs_us/1e6" 2)" \
        "buildah $(calc "$buildah_us/1e6" 2)" "$(calc "$buildah_us/$kfs_us" 1) x as fast"
}

forget_image() {
    buildah rmi --all --force >/dev/null
    chmod -R u+rwX "$work/umoci" 2>/dev/null || true
    rm -rf "$work/umoci" "$work/image.tar.gz"
    kfs --quiet rmi --force "files:$1" built >/dev/null
}

rate() { calc "1024/($1/1e6)" 0; }

# took_random DIR: microseconds that 2,000 reads of 4 KiB take there, the page cache empty.
took_random() {
    kfs --quiet bench fs "$1" --runs 1 --format json | python3 -c '
import json, sys
rows = json.load(sys.stdin)["rows"]
print(int(1e6 * next(row for row in rows if row["operation"] == "random")["places"][0]["cold"][0]))'
}

# read_beside_disk WHAT: rows of the file in the mount beside the one on the disk.
read_beside_disk() {
    local ours=() disk=() overlay=() dropped=() dropped_disk=() random=() random_disk=() i
    read_whole "$work/kfs/file"
    read_whole "$work/big/file"
    read_whole "$work/overlay/file"
    for i in 1 2 3 4 5; do
        ours+=("$(took read_whole "$work/kfs/file")")
        disk+=("$(took read_whole "$work/big/file")")
        overlay+=("$(took read_whole "$work/overlay/file")")
    done
    for i in 1 2 3; do
        drop_caches
        dropped+=("$(took read_whole "$work/kfs/file")")
        drop_caches
        dropped_disk+=("$(took read_whole "$work/big/file")")
        random+=("$(took_random "$work/kfs")")
        random_disk+=("$(took_random "$work/big")")
    done
    beside() { calc "$(median "${@:2}")/$1" 2; }
    local kfs_us=$(median "${ours[@]}") dropped_us=$(median "${dropped[@]}") random_us=$(median "${random[@]}")
    row "$1, in the page cache, MiB/s" "$(rate "$kfs_us")" \
        "disk $(rate "$(median "${disk[@]}")"), overlayfs $(rate "$(median "${overlay[@]}")")" \
        "$(beside "$kfs_us" "${disk[@]}") x the disk's own"
    row "$1, page cache dropped, MiB/s" "$(rate "$dropped_us")" "disk $(rate "$(median "${dropped_disk[@]}")")" \
        "$(beside "$dropped_us" "${dropped_disk[@]}") x the disk's own"
    row "$1, 2,000 random reads of 4 KiB, page cache dropped, us each" "$(calc "$random_us/2000" 0)" \
        "disk $(calc "$(median "${random_disk[@]}")/2000" 0)" \
        "$(beside "$random_us" "${random_disk[@]}") x the disk's own"
}

# The first time from a registry, whole, and then out of the cache.
bench_cached() {
    local cold
    kfs --quiet mount --plain-http --pull=always "$@" "$registry/big:zstd-chunked" "$work/kfs"
    drop_caches
    cold=$(took read_whole "$work/kfs/file")
    [ $# -gt 0 ] || row "from a registry on this machine, first time, one run, MiB/s" "$(rate "$cold")" "" ""
    kfs --quiet umount "$work/kfs"
    # A mount that finds all in the cache.
    kfs --quiet mount --pull=never "$@" "$registry/big:zstd-chunked" "$work/kfs"
    read_beside_disk "cached from a registry${*:+, \`$*\`}"
    kfs --quiet umount "$work/kfs"
}

bench_read() {
    say "read"
    mkdir "$work/big"
    head -c 1G /dev/urandom >"$work/big/file"
    tar -C "$work/big" -cf "$work/big.tar" file
    kfs --quiet import "$work/big.tar" big >/dev/null
    rm "$work/big.tar"
    overlay_mount "$work/big"
    head_row "Reading a file of 1 GiB" "what" "kfs" "beside it" "ratio"
    kfs --quiet mount big "$work/kfs"
    read_beside_disk "plain layer in the store"
    kfs --quiet umount "$work/kfs"
    storage=$work/registry
    start_registry
    kfs --quiet convert big "$registry/big:zstd-chunked" --to zstd-chunked >/dev/null
    kfs --quiet push --plain-http "$registry/big:zstd-chunked" >/dev/null
    kfs --quiet rmi big "$registry/big:zstd-chunked" >/dev/null
    kfs --quiet prune --all --force >/dev/null
    bench_cached
    bench_cached --passthrough
    umount "$work/overlay"
}

machine buildah umoci
for files in "$@"; do
    make_image "$files"
    head_row "$files files and a Debian in one layer" "what" "kfs" "beside it" "ratio"
    bench_index "$files"
    bench_unpack "$files"
    bench_mount "$files"
    bench_walk "$files"
    bench_build "$files"
    forget_image "$files"
done
bench_read
