#!/usr/bin/env bash
# Builds beside buildah, on the toolchain of 0.6 GB: first from a registry, then everything cached, one
# file edited, many files written, much copied, one large file committed.
#   scripts/bench/build.sh
. "$(dirname "$0")/lib.sh"
. "$repo/scripts/bench/registry.sh"

cleanup() {
    cd "$repo"
    kill "${registry_pid:-}" 2>/dev/null || true
    buildah rm --all >/dev/null 2>&1 || true
    umount "$work/buildah/overlay" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
start_registry
fill_registry

kfs_build() { kfs --quiet build --plain-http "$@"; }
buildah_build() {
    buildah bud --quiet --signature-policy "$policy" --isolation chroot --layers --tls-verify=false "$@"
}
forget_kfs() { rm -rf "$KFS_ROOT"; }
forget_buildah() {
    buildah rm --all >/dev/null
    buildah rmi --all --force >/dev/null
}

# compare WHAT RUNS BEFORE CONTEXT [OPTION...]: a row; BEFORE is run before each build.
compare() {
    local what=$1 runs=$2 before=$3 context=$4 ours=() theirs=() i
    shift 4
    for i in $(seq "$runs"); do
        "$before" kfs "$i" "$context"
        ours+=("$(took kfs_build "$@" -t built "$context")")
        "$before" buildah "$i" "$context"
        theirs+=("$(took buildah_build "$@" -t built "$context")")
    done
    local kfs_us=$(median "${ours[@]}") buildah_us=$(median "${theirs[@]}")
    row "$what" "$runs" "$(seconds "$kfs_us")" "$(seconds "$buildah_us")" "$(times "$buildah_us" "$kfs_us") x"
}
nothing() { :; }
forget() { "forget_$1"; }
# Without a cached step, with the base at hand.
edit() { printf '%s %s\n' "$1" "$2" >"$3/src/dir-0/file-0"; }

context() {
    mkdir -p "$work/$1"
    cat >"$work/$1/Dockerfile"
}

printf 'FROM %s/toolchain:zstd-chunked\nCOPY small /small\nRUN touch /touched\n' "$registry" | context first-chunked
printf 'FROM %s/toolchain:gzip\nCOPY small /small\nRUN touch /touched\n' "$registry" | context first-gzip
echo small | tee "$work/first-chunked/small" >"$work/first-gzip/small"

{
    printf 'FROM %s/toolchain:gzip\n' "$registry"
    for i in $(seq 18); do printf 'RUN echo %s >/step-%s\n' "$i" "$i"; done
    printf 'COPY src /src\n'
} | context cached
mkdir "$work/cached/src"
for i in $(seq 0 99); do
    mkdir "$work/cached/src/dir-$i"
    for j in $(seq 0 99); do echo "$i $j" >"$work/cached/src/dir-$i/file-$j"; done
done

printf 'FROM %s/toolchain:gzip\nRUN mkdir /many && perl -e '\''for (1..20000) { open F, ">/many/$_"; print F "x" x 1000 }'\''\n' \
    "$registry" | context many

printf 'FROM %s/toolchain:gzip\nCOPY src /src\n' "$registry" | context copied
say "1 GB in 20,000 files"
# Repeated only beyond what zstd looks back.
perl -e 'srand 1; my $text = join " ", map { int rand 65521 } 1 .. 3_000_000; my $at = 0;
    mkdir "src"; for my $d (0..99) { mkdir "src/$d"; for my $f (0..199) {
    my $s = 10000 + ($d * 200 + $f) * 7919 % 80000; $at = 0 if $at + $s > length $text;
    open F, ">", "src/$d/$f"; print F substr $text, $at, $s; $at += $s } }'
mv src "$work/copied/"

printf 'FROM %s/toolchain:gzip\nRUN cat /usr/lib/x86_64-linux-gnu/*.so* /usr/bin/* | head -c 1000000000 >/large\n' \
    "$registry" | context large

machine buildah
head_row "Builds on a toolchain of 0.6 GB" "what" "runs" "kfs, s" "buildah, s" "as fast"
compare "base in the registry (zstd:chunked), \`COPY\` a file, \`RUN touch\`" 1 forget "$work/first-chunked"
compare "base in the registry (gzip), the same" 1 forget "$work/first-gzip"
kfs_build -t warm "$work/cached" >/dev/null
buildah_build -t warm "$work/cached" >/dev/null 2>&1
compare "20 steps and 10,000 files, all cached" 5 nothing "$work/cached"
compare "one of the files edited" 3 edit "$work/cached"
compare "\`RUN\` that writes 20,000 files" 3 nothing "$work/many" --no-cache
compare "\`COPY\` of $(calc "$(du -sb "$work/copied/src" | cut -f 1)/1e6" 0) MB in 20,000 files" 1 nothing "$work/copied" --no-cache

say "one file of 1 GB"
kfs_us=$(took kfs_build --no-cache -t large "$work/large")
mkdir large-root
layer=$(kfs inspect large --format json | python3 -c 'import json, sys; print(json.load(sys.stdin)["manifest"]["layers"][-1]["digest"].split(":")[1])')
zstd -dcq "$KFS_ROOT/blobs/sha256/$layer" | tar -xf - -C large-root
made_us=$(took sh -c "cat large-root/large >/dev/null")
plain_us=$(took sh -c "tar -cf - -C large-root large | zstd -q -3 -T2 >large.zst")
row "\`RUN\` that writes 1 GB, the writing included" 1 "$(seconds "$kfs_us")" \
    "\`tar \\| zstd -3 -T2\` of the file alone $(seconds "$plain_us"), reading it $(seconds "$made_us")" ""
