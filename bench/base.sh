#!/bin/sh
# Builds the daemon of another commit as `make bench` builds this one's, and prints where the binary is: base.sh COMMIT
#
# The result stays in the build directory, by commit: a second comparison with the same commit builds nothing.
set -eu
cd "$(dirname "$0")/.."
fail() { printf 'base: %s\n' "$*" >&2; exit 1; }

commit=$(git rev-parse --verify --quiet "$1^{commit}") || fail "$1 is not a commit of this repository"
: "${CARGO_TARGET_DIR:=$PWD/target}"
out=$CARGO_TARGET_DIR/bench
mkdir -p "$out"
out=$(cd "$out" && pwd)
binary=$out/podrole-$commit
if [ ! -x "$binary" ]; then
    printf 'base: building %s (minutes)\n' "$commit" >&2
    # Always the same directory, so that cargo keeps the dependencies that two commits have in common.
    rm -rf "$out/source"
    mkdir "$out/source"
    git archive "$commit" | tar -x -C "$out/source"
    (cd "$out/source" && CARGO_TARGET_DIR=$out/target cargo build -p podrole --bin podrole --locked --release) >&2 ||
        fail "the build of $commit failed"
    cp "$out/target/release/podrole" "$binary.new"
    mv "$binary.new" "$binary"
fi
printf '%s\n' "$binary"
