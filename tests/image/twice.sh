#!/bin/sh
# Builds the image of `make image` again, in another directory with other settings, and compares the results: twice.sh [ARCH]
#
# It takes the binary from the first build, because compiling takes minutes; REBUILD=1 compiles it again as well. The control builds
# with another timestamp and must give a different image.
set -eu
cd "$(dirname "$0")/../.."
arch=${1:-$(dpkg --print-architecture)}
target=${CARGO_TARGET_DIR:-$PWD/target}
first=$target/image/podrole-$arch
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { printf 'twice: %s\n' "$*" >&2; exit 1; }
[ -e "$first.oci.tar" ] || fail "$first.oci.tar is not there: run make image"

# The binary is in one of the layers.
for blob in "$first.oci"/blobs/sha256/*; do
    tar -xzf "$blob" -C "$work" usr/bin/podrole 2>/dev/null && break
done
binary=$work/usr/bin/podrole
[ -x "$binary" ] || fail "no binary is in $first.oci"
again() {
    # Committed and new files, without build results. The commit is that of this directory.
    mkdir -p "$work/a longer path/to the source"
    git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$work/a longer path/to the source"
    (
        umask 077
        GIT_DIR=$(git rev-parse --absolute-git-dir)
        cd "$work/a longer path/to the source"
        export GIT_DIR GIT_WORK_TREE="$PWD" GIT_OPTIONAL_LOCKS=0 PODROLE_IMAGE_DIR="$work/$1"
        export TZ=Pacific/Chatham LANG=C.UTF-8 TMPDIR="$work"
        if [ "${REBUILD:-}" = 1 ]; then
            export CARGO_TARGET_DIR="$work/target"
        else
            export PODROLE_IMAGE_BINARY="$binary"
        fi
        [ "$1" = same ] || export SOURCE_DATE_EPOCH=1
        daemonset/image/build.sh "$arch" > "$work/$1.log" 2>&1 || { cat "$work/$1.log" >&2; exit 1; }
    ) || fail "the build in another place failed"
}
same() {
    for suffix in oci.tar cdx.json; do
        cmp -s "$first.$suffix" "$work/$1/podrole-$arch.$suffix" || return 1
    done
}

again same
same same || fail "two builds, two images: compare $first.oci.tar with another build by hand (tar -t, then the blobs)"
export REBUILD=
again control
! same control || fail "a build from another time gave the same image: this comparison proves nothing"
printf 'twice: the same archive and bill of materials, %s\n' "$(sha256sum < "$first.oci.tar" | cut -d ' ' -f 1)"
