#!/bin/sh
# Builds podrole for a Rust target, with the same bytes in any directory on any machine. Prints the path of the binary.
#
# Reproducible only with the same rustc, cargo, C compiler and C library. The first two come from the toolchain in use, the other two
# must come from the Debian release that the image is built from.
set -eu
cd "$(dirname "$0")/../.."

target=$1
: "${CARGO_TARGET_DIR:=$PWD/target}"

# Fetch the sources first: the flags below remap the directories that they are unpacked in, whose names contain the registry's.
cargo fetch --quiet --locked --target "$target"

# One flag per line, because a path may contain spaces; cargo expects unit separators. The last match wins.
rust_flags() {
    printf '%s\n' "--remap-path-prefix=$PWD=/podrole" "--remap-path-prefix=$CARGO_TARGET_DIR=/target"
    for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
        printf '%s\n' "--remap-path-prefix=$registry=/crates"
    done
    # With the component rust-src installed, the compiler would record these by their local paths.
    commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
    printf '%s\n' "--remap-path-prefix=$(rustc --print sysroot)/lib/rustlib/src/rust=/rustc/$commit"
}

# Settings of the user's environment that would change the result.
unset RUSTFLAGS CARGO_BUILD_RUSTFLAGS CARGO_INCREMENTAL RUSTC_WRAPPER CFLAGS CXXFLAGS LDFLAGS || true
CARGO_ENCODED_RUSTFLAGS=$(rust_flags | tr '\n' '\037' | sed 's/\x1f$//')
export CARGO_TARGET_DIR CARGO_ENCODED_RUSTFLAGS
fail() { printf 'binary: %s\n' "$*" >&2; exit 1; }
case $target:$(uname -m) in
    aarch64-*:aarch64 | x86_64-*:x86_64) ;;
    aarch64-*:x86_64)
        [ -d "$(rustc --print target-libdir --target "$target")" ] ||
            fail "Rust has no standard library for $target here: run rustup target add $target"
        # Debian's cross compiler, for AWS-LC and for linking.
        CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
        export CC_aarch64_unknown_linux_gnu CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER
        ;;
    *) fail "$target cannot be built on $(uname -m)" ;;
esac
# Stripping symbols saves a tenth of the binary; a panic still reports file and line. Packed relocations save a twentieth. Debian 12's
# loader supports them, but its linker for arm64 does not.
set -- -C strip=symbols
case $target in
    x86_64-*) set -- "$@" -C link-arg=-Wl,-z,pack-relative-relocs ;;
esac
# With an explicit target the flags do not apply to build scripts, and the results of `cargo build --release` are kept apart.
cargo rustc --quiet --locked --release --package podrole --bin podrole --target "$target" -- "$@" >&2
printf '%s\n' "$CARGO_TARGET_DIR/$target/release/podrole"
