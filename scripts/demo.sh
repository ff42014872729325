#!/usr/bin/env bash
# Shows kfs on a real image: installs what that needs on a bare Debian 12, builds kfs, makes a Debian
# root file system from packages, mounts it, runs a program in it, builds on it, looks into the result.
# Everything is kept below target/demo: nothing else is touched.
#   scripts/demo.sh
. "$(dirname "$0")/lib.sh"

need_root
scripts/install-deps.sh demo
need_rust
need_fuse

say "building kfs"
cargo build --release --locked --quiet
PATH=$target/release:$PATH

demo=$target/demo
rootfs=$demo/debian.tar
mkdir -p "$demo"
if [ ! -e "$rootfs" ]; then
    say "making a root file system of Debian packages (half a minute)"
    scripts/debian-rootfs.sh "$rootfs"
fi

export KFS_ROOT=$demo/store
export SOURCE_DATE_EPOCH=1686355200
cleanup() { [ ! -d "$KFS_ROOT" ] || kfs --quiet umount --all; }
trap cleanup EXIT
cleanup
rm -rf "$KFS_ROOT" "$demo/mnt"

# A transcript: each command, what it says, and how long it took.
TIMEFORMAT='# %R s'
run() {
    local word
    printf '\n$'
    for word in "$@"; do
        [[ $word =~ ^[A-Za-z0-9_./:=-]+$ ]] || word=${word@Q}
        printf ' %s' "$word"
    done
    echo
    time "$@" 2>&1
}
cd "$demo"
mkdir mnt
ln -sfn "$repo/examples" examples

run kfs import debian.tar debian:12
run kfs images
run kfs mount debian:12 mnt
run chroot mnt sh -c '. /etc/os-release; echo "$PRETTY_NAME, $(dpkg -l | grep -c ^ii) packages"'
run kfs umount mnt
run kfs mount --rw debian:12 mnt
run kfs mounts
run chroot mnt sh -c 'echo hello >/etc/motd && cat /etc/motd'
run kfs umount mnt
run kfs build -t hello-debian examples/debian
run kfs diff debian:12 hello-debian
# They would carry container images that are not on this machine.
run kfs build --collect=none -t cluster-base:v1 examples/cluster/base
run kfs build --collect=none -t hello-cluster:v1 examples/cluster
run kfs build --type app-installer -t hello-apps:v1 examples/cluster/apps
run kfs inspect -t app hello-apps:v1
run kfs diff cluster-base:v1 hello-cluster:v1
run kfs tree hello-cluster:v1
run kfs cat hello-cluster:v1 /manifests/imageList /etc/applications
run kfs history hello-cluster:v1
run kfs images
say "" "the store is $KFS_ROOT: go on with  PATH=$target/release:\$PATH KFS_ROOT=$KFS_ROOT"
