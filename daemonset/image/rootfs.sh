#!/bin/sh
# Builds the image's root file system: a tar with what nft and podrole need and nothing else, so no shell and no package manager.
#
#   rootfs.sh ARCH OUT.tar     ARCH is Debian's name: amd64, arm64
#
# mmdebstrap's `extract` variant only unpacks: no program of the target runs, so a foreign architecture needs no emulator. The same
# packages give the same bytes; times later than SOURCE_DATE_EPOCH are set to it.
set -eu

# The oldest release that README supports. podrole does not start if its C library is older than the one podrole was linked with.
suite=bookworm
arch=$1
out=$2
here=$(cd "$(dirname "$0")" && pwd)

fail() { printf 'rootfs: %s\n' "$*" >&2; exit 1; }

# The mirror that this machine's apt uses, for any release. Repositories of other vendors are ignored.
mirror_of() {
    apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null |
        sed -n "s/^$1|//p" | sort -u | head -n 1
}
debian=${PODROLE_DEBIAN_MIRROR:-$(mirror_of Debian)}
security=${PODROLE_DEBIAN_SECURITY_MIRROR:-$(mirror_of Debian-Security)}
[ -n "$debian" ] && [ -n "$security" ] ||
    fail "apt knows no mirror of Debian or of its security updates: run apt-get update, or set PODROLE_DEBIAN_MIRROR and" \
        "PODROLE_DEBIAN_SECURITY_MIRROR"

umask 022
mmdebstrap --quiet --variant=extract --architectures="$arch" --format=tar --include=nftables \
    --extract-hook="$(cat "$here/rootfs-hook.sh")" "$suite" "$out.all" - <<SOURCES
deb $debian $suite main
deb $debian $suite-updates main
deb $security $suite-security main
SOURCES

# Removes manuals, glibc libraries that no program here links, files of apt and dpkg, and files that belong to this machine. Copyright
# notices stay, because the licenses require them.
mmtarfilter \
    --path-exclude='/usr/share/doc/*/*' --path-include='/usr/share/doc/*/copyright' \
    --path-exclude='/usr/share/man*' --path-exclude='/usr/share/lintian*' \
    --path-exclude='/usr/lib/*/gconv*' --path-exclude='/lib/systemd*' \
    --path-exclude='/etc/apt*' --path-exclude='/etc/dpkg*' --path-exclude='/var/cache*' --path-exclude='/var/log*' \
    --path-exclude='/var/lib/apt*' --path-exclude='/var/lib/dpkg/*' --path-include='/var/lib/dpkg/status.d*' \
    --path-exclude=/etc/fstab --path-exclude=/etc/hostname --path-exclude=/etc/resolv.conf \
    --path-exclude=/etc/nftables.conf \
    --path-exclude='/lib/*/libmvec.*' --path-exclude='/lib/*/libnsl.*' --path-exclude='/lib/*/libthread_db.*' \
    --path-exclude='/lib/*/libmemusage.so' --path-exclude='/lib/*/libpcprofile.so' --path-exclude='/lib/*/libc_malloc_debug.*' \
    --path-exclude='/dev/*' --path-exclude=/tmp \
    < "$out.all" > "$out.part"
rm "$out.all"
mv "$out.part" "$out"
