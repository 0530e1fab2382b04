#!/bin/sh
# Builds podrole's image and its bill of materials, with neither a container engine nor a base image.
#
#   build.sh [ARCH]     amd64 or arm64; default: this machine's
#
#   target/image/podrole-ARCH.oci        an OCI layout
#   target/image/podrole-ARCH.oci.tar    the same as an archive, for `ctr -n k8s.io images import`
#   target/image/podrole-ARCH.cdx.json   CycloneDX: the crates that are compiled in and the Debian packages
#
# The same commit, toolchain and state of Debian's mirror give the same digest. Settings, beside the mirrors in rootfs.sh:
#   PODROLE_IMAGE_NAME      the image's name in containerd; default: localhost/podrole
#   PODROLE_IMAGE_DIR       where the results go; default: target/image
#   PODROLE_IMAGE_BINARY    a binary to use instead of building one
#   PODROLE_IMAGE_SOURCE    the URL of the published source, for the label `source`; default: `repository` in Cargo.toml
#   SOURCE_DATE_EPOCH       the time of everything in the image; default: that of the last commit
set -eu
umask 022
export LC_ALL=C
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."

fail() { printf 'image: %s\n' "$*" >&2; exit 1; }

arch=${1:-$(dpkg --print-architecture)}
case $arch in
    amd64) target=x86_64-unknown-linux-gnu ;;
    arm64) target=aarch64-unknown-linux-gnu ;;
    *) fail "no image for the architecture $arch: amd64 and arm64 are known" ;;
esac
: "${CARGO_TARGET_DIR:=$PWD/target}"
export CARGO_TARGET_DIR
dir=${PODROLE_IMAGE_DIR:-$CARGO_TARGET_DIR/image}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
name=${PODROLE_IMAGE_NAME:-localhost/podrole}

# A source archive has no commits.
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct 2>/dev/null || echo 0)}"
export SOURCE_DATE_EPOCH
created=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
revision=$(git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null || echo unknown)
version=$(cargo pkgid --locked --package podrole | sed 's/.*[#@]//')

binary=${PODROLE_IMAGE_BINARY:-$("$here/binary.sh" "$target")}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$here/rootfs.sh" "$arch" "$work/rootfs.tar"

# Fixes everything that tar would otherwise take from the file system, so that the archive is reproducible.
pack() { tar --format=ustar --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner "$@"; }
install -D -m 0755 "$binary" "$work/podrole/usr/bin/podrole"
install -D -m 0644 LICENSE "$work/podrole/usr/share/doc/podrole/copyright"
pack -C "$work/podrole" -cf "$work/podrole.tar" usr

# The root file system comes first: it changes less often than podrole, and nodes cache layers.
oci=$work/oci
umoci init --layout "$oci"
umoci new --image "$oci:$version"
layer() {
    umoci raw add-layer --image "$oci:$version" --history.created "$created" --history.author podrole \
        --history.created_by "$2" "$1" >&2
}
layer "$work/rootfs.tar" "daemonset/image/rootfs.sh $arch"
layer "$work/podrole.tar" "daemonset/image/binary.sh $target"

field() { sed -n "s/^$1 = \"\(.*\)\"\$/\1/p" Cargo.toml | head -n 1; }
set --
while IFS='|' read -r key value; do
    [ -z "$value" ] || set -- "$@" --config.label "org.opencontainers.image.$key=$value" \
        --manifest.annotation "org.opencontainers.image.$key=$value"
done <<LABELS
title|podrole
description|$(field description)
version|$version
revision|$revision
source|${PODROLE_IMAGE_SOURCE:-$(field repository)}
licenses|$(field license)
created|$created
LABELS
# Root, because Kubernetes gives added capabilities to no other user; the manifests drop all capabilities but the named ones.
umoci config --image "$oci:$version" --no-history --created "$created" --author podrole --os linux --architecture "$arch" \
    --config.user 0:0 --config.workingdir / --config.env PATH=/usr/sbin:/usr/bin \
    --config.entrypoint /usr/bin/podrole --config.cmd run "$@"
umoci gc --layout "$oci" >&2
# containerd takes the image's name from this annotation. From the tag alone it would make a name with the date of the import.
digest=$(python3 "$here/oci.py" "$oci/index.json" "$name:$version" "$arch")

stem=podrole-$arch
python3 "$here/sbom.py" "$target" "$work/rootfs.tar" "$arch" "$digest" > "$work/$stem.cdx.json"
pack --mode=u=rwX,go=rX -C "$oci" -cf "$work/$stem.oci.tar" blobs index.json oci-layout
rm -rf "$dir/$stem.oci"
mv "$oci" "$dir/$stem.oci"
mv "$work/$stem.oci.tar" "$work/$stem.cdx.json" "$dir"

unpacked=$(($(tar -tvf "$work/rootfs.tar" | awk '{ sum += $3 } END { print sum }') + $(stat -c %s "$binary")))
printf '%s:%s %s\n' "$name" "$version" "$arch"
printf '  manifest    %s\n' "$digest"
printf '  archive     sha256:%s\n' "$(sha256sum < "$dir/$stem.oci.tar" | cut -d ' ' -f 1)"
printf '  compressed  %s bytes\n' "$(stat -c %s "$dir/$stem.oci.tar")"
printf '  unpacked    %s bytes\n' "$unpacked"
printf '  %s\n' "$dir/$stem.oci" "$dir/$stem.oci.tar" "$dir/$stem.cdx.json"
