#!/bin/sh
# Builds the root file systems of the images in the container tests, and prints their directory.
#
# ${CARGO_TARGET_DIR:-target}/containers/podrole.tar   the root file system of podrole's image, without podrole: the tests add the binary
#                                                      that was built with them
# ${CARGO_TARGET_DIR:-target}/containers/python.tar    Debian's Python, with boto3 as tests/sdk pins it
#
# An existing result from the same sources is kept.
set -eu
umask 022

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
repository=$here/../..
say() { printf 'containers: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

target=${CARGO_TARGET_DIR:-$repository/target}
mkdir -p "$target/containers"
out=$(CDPATH='' cd -- "$target/containers" && pwd)

# Two callers must not write the same files. The lock ends with this process.
exec 9>"$out/.lock"
flock 9

# Whether `$name` exists and was built from these files.
made_from() {
    from=$("$repository/.ci/fingerprint" "$(dpkg --print-architecture)" "$@") || fail "fingerprint failed"
    [ -f "$out/$name" ] && [ "$(cat "$out/.$name.from" 2>/dev/null)" = "$from" ]
}
keep() {
    rm -f "$out/.$name.from"
    mv "$out/.$name.new" "$out/$name"
    printf '%s\n' "$from" >"$out/.$name.from"
}

name=podrole.tar
if ! made_from daemonset/image/rootfs.sh daemonset/image/rootfs-hook.sh; then
    say "making the root file system of podrole's image"
    SOURCE_DATE_EPOCH=0 "$repository/daemonset/image/rootfs.sh" "$(dpkg --print-architecture)" "$out/.$name.new" || fail "rootfs.sh failed"
    keep
fi

name=python.tar
if ! made_from tests/containers/build.sh tests/sdk/requirements.txt; then
    say "making a root file system with Python and boto3"
    sdk=${PODROLE_SDK:-$("$repository/tests/sdk/build.sh" venv)}
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # Pure Python packages, so Debian's interpreter accepts those that this machine's interpreter downloaded.
    mkdir -p "$work/site"
    for package in boto3 botocore dateutil jmespath s3transfer six.py urllib3; do
        cp -R "$sdk"/venv/lib/python3*/site-packages/"$package" "$work/site/"
    done
    # Models of unused services are most of its size.
    find "$work/site/botocore/data" -mindepth 1 -maxdepth 1 -type d ! -name sts -exec rm -rf {} +
    PODROLE_SITE=$work/site mmdebstrap --quiet --variant=extract --format=tar --include=python3-minimal,libpython3-stdlib \
        --extract-hook='mkdir -p "$1/opt" && cp -R "$PODROLE_SITE/." "$1/opt/"' bookworm "$work/all.tar" ||
        fail "mmdebstrap failed (apt-get install mmdebstrap; apt-get update)"
    mmtarfilter --path-exclude='/usr/share/doc/*' --path-exclude='/usr/share/man/*' --path-exclude='/var/*' --path-exclude='/dev/*' \
        <"$work/all.tar" >"$out/.$name.new"
    keep
fi
printf '%s\n' "$out"
