#!/bin/sh
# Builds podrole for a Rust target, so that any directory on any machine gives the same bytes. Prints where the binary is.
#
# The same bytes need the same rustc, cargo, C compiler and C library: the first two come from the toolchain in use, the others
# from the Debian release that the image is made of.
set -eu
cd "$(dirname "$0")/../.."

target=$1
: "${CARGO_TARGET_DIR:=$PWD/target}"

# Sources first: rustc is to know the directories that they are unpacked in, whose names hold the registry's.
cargo fetch --quiet --locked --target "$target"

# One flag a line, as a path may have spaces; cargo wants a unit separator between them. The last match wins.
rust_flags() {
    printf '%s\n' "--remap-path-prefix=$PWD=/podrole" "--remap-path-prefix=$CARGO_TARGET_DIR=/target"
    for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
        printf '%s\n' "--remap-path-prefix=$registry=/crates"
    done
    # Only where somebody has the component rust-src does the compiler know these by another name.
    commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
    printf '%s\n' "--remap-path-prefix=$(rustc --print sysroot)/lib/rustlib/src/rust=/rustc/$commit"
}

# Everything that somebody may have set to have it otherwise.
unset RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_INCREMENTAL RUSTC_WRAPPER CFLAGS CXXFLAGS LDFLAGS || true
CARGO_ENCODED_RUSTFLAGS=$(rust_flags | tr '\n' '\037' | sed 's/\x1f$//')
export CARGO_TARGET_DIR CARGO_ENCODED_RUSTFLAGS
fail() { printf 'binary: %s\n' "$*" >&2; exit 1; }
case $target:$(uname -m) in
    aarch64-*:aarch64 | x86_64-*:x86_64) ;;
    aarch64-*:x86_64)
        [ -d "$(rustc --print target-libdir --target "$target")" ] ||
            fail "Rust has no standard library for $target here: run rustup target add $target"
        # Debian's cross compiler, for AWS-LC and to link with.
        CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
        export CC_aarch64_unknown_linux_gnu CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER
        ;;
    *) fail "$target cannot be built on $(uname -m)" ;;
esac
# Without symbols the binary is a tenth smaller: where it panicked, it says by file and line. Packed relocations are a twentieth,
# and Debian 12's loader knows them; its linker for arm64 does not.
set -- -C strip=symbols
case $target in
    x86_64-*) set -- "$@" -C link-arg=-Wl,-z,pack-relative-relocs ;;
esac
# With a target named, the flags are not those of build scripts, and `cargo build --release` keeps its own results.
cargo rustc --quiet --locked --release --package podrole --bin podrole --target "$target" -- "$@" >&2
printf '%s\n' "$CARGO_TARGET_DIR/$target/release/podrole"
