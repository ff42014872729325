# Sourced by the benchmarks: clocks, medians, tables, and the tools they are run with.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

need_root
scripts/install-deps.sh bench
need_rust
need_fuse

# To try the scripts themselves: BENCH_PROFILE=dev.
profile=${BENCH_PROFILE:-release}
cargo build --profile "$profile" --locked --quiet --bins --examples
built=$target/${profile/#dev/debug}
PATH=$built:$built/examples:$PATH

debian=$target/demo/debian.tar
[ -e "$debian" ] || scripts/debian-rootfs.sh "$debian"

work=$(mktemp -d "$target/bench.XXXXXX")
export KFS_ROOT=$work/store
# Other tools take images without a policy on signatures.
policy=$work/policy.json
echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$policy"

# buildah makes a name of an image's path, and a name has no capital letters: paths are relative.
cd "$work"

buildah() {
    command buildah --root "$work/buildah" --runroot "$work/buildah-run" --storage-driver overlay "$@"
}

# took COMMAND...: microseconds of a command's run.
took() {
    local start=${EPOCHREALTIME/./}
    "$@" >"$work/said" 2>&1 || die "$*: $(tail -n 3 "$work/said")"
    echo $((${EPOCHREALTIME/./} - start))
}

# median FIGURE...
median() {
    printf '%s\n' "$@" | sort -n | sed -n "$((($# + 1) / 2))p"
}

# calc EXPRESSION DIGITS
calc() { awk "BEGIN { printf \"%.${2}f\", $1 }"; }

# seconds MICROSECONDS
seconds() { calc "$1/1e6" 2; }

# times SLOW FAST: how many times as fast.
times() { calc "$1/$2" 1; }

row() {
    local line='|' cell
    for cell in "$@"; do
        line+=" $cell |"
    done
    printf '%s\n' "$line"
}

# head_row TITLE HEADING...
head_row() {
    printf '\n### %s\n\n' "$1"
    shift
    row "$@"
    row --- "$(printf -- '---: | %.0s' $(seq $(($# - 2))))---:"
}

drop_caches() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
}

# machine TOOL...: what this is measured on.
machine() {
    local tool versions
    printf '%s, %s cores, kernel %s, %s\n' "$(. /etc/os-release && echo "$PRETTY_NAME")" "$(nproc)" \
        "$(uname -r)" "$(date -u +%F)"
    versions=$(kfs --version)
    for tool in "$@"; do
        versions+="; $(command "$tool" --version | head -n 1)"
    done
    printf '%s\n' "$versions"
}
