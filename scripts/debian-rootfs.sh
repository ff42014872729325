#!/usr/bin/env bash
# Makes the root file system of a minimal Debian from Debian's packages, as a tar. The packages come
# from where apt on this machine gets its own.
#   scripts/debian-rootfs.sh FILE
. "$(dirname "$0")/lib.sh"

[ $# = 1 ] || die "usage: scripts/debian-rootfs.sh FILE"
file=$(realpath -m "$1")
need_root
mkdir -p "$(dirname "$file")"

. /etc/os-release
[ "${ID:-}" = debian ] || die "this needs Debian's packages, and here is ${PRETTY_NAME:-another system}"
sources=$(apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' \
    'Created-By: Packages' 'Origin: Debian')
[ -n "$sources" ] || die "apt knows no packages of Debian: run apt-get update"

# The release day of Debian 12: files that are made here get it, so that the same packages make the
# same bytes.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1686355200}
printf '%s\n' "$sources" |
    mmdebstrap --quiet --variant=minbase --format=tar "$VERSION_CODENAME" "$file.part" -
mv "$file.part" "$file"
