#!/bin/sh
# Prepares the real AWS SDKs that the tests run inside pods, and prints the directory that holds them.
#
#   build.sh [PART...]     PART: gosdk, venv; both if none is given
#
# ${CARGO_TARGET_DIR:-target}/sdk/gosdk   the Go program of tests/sdk/go
# ${CARGO_TARGET_DIR:-target}/sdk/venv    a Python environment with boto3 and the AWS CLI, as requirements.txt pins them
#
# Parts that exist and were built from the same inputs are left alone.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
say() { printf 'sdk: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

[ $# -gt 0 ] || set -- gosdk venv

target=${CARGO_TARGET_DIR:-$here/../../target}
mkdir -p "$target/sdk"
out=$(CDPATH='' cd -- "$target/sdk" && pwd)

# Two callers must not write the same files. The lock ends with this process.
exec 9>"$out/.lock"
flock 9

gosdk() {
    command -v go >/dev/null 2>&1 || fail "go is not installed: install Go $(sed -n 's/^go //p' "$here/go/go.mod") or newer"
    from=$("$here/../../.ci/fingerprint" "$(go version)" tests/sdk/build.sh tests/sdk/go)
    [ -x "$out/gosdk" ] && [ "$(cat "$out/.gosdk.from" 2>/dev/null)" = "$from" ] && return
    say "building gosdk"
    # Without cgo, so that it runs in an image without a C library.
    (cd "$here/go" && CGO_ENABLED=0 GOFLAGS=-mod=readonly go build -trimpath -buildvcs=false -ldflags "-s -w" \
        -o "$out/.gosdk.new" .) || fail "go build failed"
    rm -f "$out/.gosdk.from"
    mv "$out/.gosdk.new" "$out/gosdk"
    printf '%s\n' "$from" >"$out/.gosdk.from"
}

venv() {
    command -v python3 >/dev/null 2>&1 || fail "python3 is not installed: install Python 3.10 or newer with its venv module"
    # The stamp records the inputs: another Python or another pin needs another environment. A venv cannot be moved, so its
    # path is part of the stamp.
    stamp="$(python3 -c 'import sys; print(sys.version, sys.base_prefix)') $out $(cksum <"$here/requirements.txt")"
    [ -f "$out/venv/.stamp" ] && [ "$(cat "$out/venv/.stamp")" = "$stamp" ] && return
    say "preparing the Python environment"
    rm -rf "$out/venv"
    python3 -m venv "$out/venv" || fail "python3 -m venv failed (Debian: apt-get install python3-venv)"
    "$out/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        -r "$here/requirements.txt" || fail "pip could not install requirements.txt"
    printf '%s\n' "$stamp" >"$out/venv/.stamp"
}

for part in "$@"; do
    case $part in
        gosdk) gosdk ;;
        venv) venv ;;
        *) fail "no such part: $part (gosdk, venv)" ;;
    esac
done
printf '%s\n' "$out"
