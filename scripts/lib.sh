# Sourced by the other scripts: where things are, how to speak, what is missing.
# shellcheck shell=bash

set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$repo"
target=${CARGO_TARGET_DIR:-$repo/target}

say() { printf '%s\n' "$@" >&2; }
die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Asks for root where a script cannot do without.
need_root() {
    [ "$(id -u)" = 0 ] || die "needs root: mounts, chroot and devices are made here"
}

# Asks for FUSE, which a container has only when it is given.
need_fuse() {
    [ -c /dev/fuse ] && return
    modprobe fuse 2>/dev/null || true
    [ -c /dev/fuse ] || die "there is no /dev/fuse: load the module fuse, or give the container --device /dev/fuse"
}

# install_packages COMMAND:PACKAGE...: installs the Debian packages of the commands that are not there.
# A COMMAND with a slash is a file.
install_packages() {
    local pair command missing=()
    for pair in "$@"; do
        command=${pair%%:*}
        case $command in
            */*) [ -e "$command" ] || missing+=("${pair#*:}") ;;
            *) command -v "$command" >/dev/null || missing+=("${pair#*:}") ;;
        esac
    done
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null || die "please install: ${missing[*]}"
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "please install as root: apt-get install ${missing[*]}"
        as_root=(sudo)
    fi
    say "installing ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2
}

# A Rust that can build kfs. Debian 12's own is too old, and which one to have is the user's choice.
need_rust() {
    [ -r "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
    command -v cargo >/dev/null || die "there is no Rust: install $wanted or later from https://rustup.rs"
    found=$(rustc --version | cut -d ' ' -f 2)
    [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] ||
        die "Rust $found is too old: install $wanted or later from https://rustup.rs (rustup update)"
}
