#!/bin/sh
# Builds the control plane that the tests run against, and prints the directory that holds it.
#
#   build.sh [NAME...]     NAME: kube-apiserver (the default), kube-controller-manager, kube-scheduler, kubectl;
#                          the tests' own programs: nodeagent, runc-lab, asker
#
# Each NAME becomes ${CARGO_TARGET_DIR:-target}/cluster/NAME. It is built only if it is missing or its sources have
# changed; the first build takes minutes. If KUBEBUILDER_ASSETS is set, the binaries in that directory are used, and
# nothing of Kubernetes is built.
set -eu

kubernetes=v1.36.3

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
source_dir=$here/controlplane
say() { printf 'cluster: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

[ $# -gt 0 ] || set -- kube-apiserver

need_etcd() {
    command -v etcd >/dev/null 2>&1 && return
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null 2>&1 ||
        fail "etcd is not installed: install your distribution's package (Debian: apt-get install etcd-server)"
    say "installing Debian's etcd-server"
    # The package script must not start the service, because the tests run their own.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends etcd-server >&2 ||
        fail "apt-get could not install etcd-server (try apt-get update first)"
}

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    own=
    for name in "$@"; do
        [ -x "$KUBEBUILDER_ASSETS/$name" ] && continue
        case $name in
            nodeagent | runc-lab | asker) own="$own $name" ;;
            *) fail "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS has no $name" ;;
        esac
    done
    [ -x "$KUBEBUILDER_ASSETS/etcd" ] || need_etcd
    if [ -z "$own" ]; then
        printf '%s\n' "$KUBEBUILDER_ASSETS"
        exit 0
    fi
    # The names contain no spaces, so splitting is intended.
    # shellcheck disable=SC2086
    set -- $own
else
    need_etcd
fi
command -v go >/dev/null 2>&1 || fail "go is not installed: install Go $(sed -n 's/^go //p' "$source_dir/go.mod") or newer"

target=${CARGO_TARGET_DIR:-$here/../../target}
mkdir -p "$target/cluster"
out=$(CDPATH='' cd -- "$target/cluster" && pwd)

# Two concurrent callers must not build the same program twice. The lock is released when this process ends.
exec 9>"$out/.lock"
flock 9

# The fingerprint of a program: sources, pinned versions, this script and the compiler.
go=$(go version)
from() {
    "$here/../../.ci/fingerprint" "$go" tests/cluster/build.sh tests/cluster/controlplane/go.mod tests/cluster/controlplane/go.sum \
        "tests/cluster/controlplane/$1"
}

# Clients query the server's version, and kubectl rejects a server that does not know its own.
version=k8s.io/component-base/version
major_minor=${kubernetes#v}
major_minor=${major_minor%.*}
ldflags="-s -w -X $version.gitVersion=$kubernetes -X $version.gitMajor=${major_minor%.*} -X $version.gitMinor=${major_minor#*.}"
ldflags="$ldflags -X $version.gitTreeState=clean"

for name in "$@"; do
    [ -f "$source_dir/$name/main.go" ] || fail "no such program: $name"
    from=$(from "$name")
    if [ -x "$out/$name" ] && [ "$(cat "$out/.$name.from" 2>/dev/null)" = "$from" ]; then continue; fi
    say "building $name $kubernetes (minutes the first time)"
    start=$(date +%s)
    (cd "$source_dir" && CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -buildvcs=false -ldflags "$ldflags" \
        -o "$out/.$name.new" "./$name") || fail "go build of $name failed"
    rm -f "$out/.$name.from"
    mv "$out/.$name.new" "$out/$name"
    printf '%s\n' "$from" >"$out/.$name.from"
    say "built $name in $(($(date +%s) - start)) s"
done
printf '%s\n' "$out"
