#!/usr/bin/env bash
# Installs what the tests need on a bare Debian 12 and runs all of them: form, lints, documents,
# tests. As root with /dev/fuse a test that is skipped is a failure.
#   scripts/test.sh
. "$(dirname "$0")/lib.sh"

scripts/install-deps.sh test
need_rust
if ! cargo nextest --version >/dev/null 2>&1; then
    say "installing cargo-nextest"
    cargo install --locked cargo-nextest
fi

# Mounts and servers of kfs that are there now.
traces() {
    { grep ' fuse\.kfs \|^kfs ' /proc/mounts || true; } | cut -d ' ' -f 2
}
before=$(traces)

# A test that skips itself in another way would not be counted.
if git grep -n 'eprintln!("SKIPPED' -- '*.rs'; then
    die "use tests/skip there"
fi

step() {
    say "+ $*"
    "$@"
}
step cargo fmt --all --check
step cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
step env RUSTDOCFLAGS="-D warnings" cargo doc -p kfs-fs -p kfs-builder -p kfs-charts -p kfs-measure --no-deps --document-private-items --locked --quiet
step cargo test --doc --workspace --locked --quiet

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export KFS_SKIP_LOG=$work/skipped
: >"$KFS_SKIP_LOG"
failed=0
step cargo nextest run --workspace --locked --no-fail-fast 2>&1 | tee "$work/nextest" || failed=1

after=$(traces)
if [ "$before" != "$after" ]; then
    say "mounts that the tests left behind:" "$after"
    failed=1
fi

if [ -s "$KFS_SKIP_LOG" ]; then
    say "" "tests that were skipped, in whole or in part:"
    sort -u "$KFS_SKIP_LOG" >&2
    if [ "$(id -u)" = 0 ] && [ -c /dev/fuse ] && grep -qv $'\tno shared inputs' "$KFS_SKIP_LOG"; then
        say "as root with /dev/fuse none may be"
        failed=1
    fi
fi

# What nextest says at its end, with the tests that skipped themselves counted as what they are.
summary=$(sed 's/\x1b\[[0-9;]*m//g' "$work/nextest" | grep 'Summary \[' | tail -n 1)
number() { printf '%s\n' "$summary" | sed -n "s/.* \([0-9]*\) $1.*/\1/p"; }
skipped=$(cut -f 2 "$KFS_SKIP_LOG" | sort -u | wc -l)
passed=$(number passed)
bad=$(number failed)
printf '%s passed, %s failed, %s skipped\n' "$((${passed:-0} - skipped))" "${bad:-0}" "$skipped"
[ "$failed" = 0 ]
