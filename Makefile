# make demo          a node in a box: the real daemon and real SDKs, what they get and what they cannot reach
# make test          all tests at small size except those of the image; installs and builds what they need on a fresh Debian with Rust and Go
# make image         the container image; ARCH=arm64 for another architecture
# make image-check   builds the image a second time, compares the two, and tests what is in it
# make soak          all tests and the image with loops and matrices at full size; SEED=... TRIAL=... replays a failure
# make bench         measures every published figure; BASE=<commit> compares with the binary of another commit
# make lint          formatting and clippy, as in CI
# make clean         removes what was built
#
# Creating network namespaces and cgroups needs root. If you are not root, only the finished programs run as root, through sudo.

# One place for all results, including those that cargo does not build and those of programs that run in other directories.
export CARGO_TARGET_DIR ?= $(CURDIR)/target

AS_ROOT := $(CURDIR)/.ci/as-root
# Always quoted where the shell sees it, because the path may contain spaces.
RUNNER := target."cfg(unix)".runner = ["$(AS_ROOT)"]

# Debian's name of the architecture.
ARCH ?= $(shell dpkg --print-architecture)

.PHONY: demo test soak image image-check bench lint clean prepare build
.DEFAULT_GOAL := test

test: build
	cargo test --workspace --locked --no-fail-fast --config '$(RUNNER)' $(if $(TRIAL),-- '$(TRIAL)')

soak:
	@SEED='$(SEED)' .ci/soak '$(TRIAL)'

demo:
	@.ci/packages
	@tests/sdk/build.sh venv >/dev/null
	cargo build -p podrole -p podrole-lab --bins --locked
	@"$(AS_ROOT)" "$$CARGO_TARGET_DIR/debug/demo"

image:
	@.ci/packages image "$(ARCH)"
	@daemonset/image/build.sh "$(ARCH)"

# Builds the image again in another directory, which must give the same bytes, and tests its contents.
image-check: image
	@tests/image/twice.sh "$(ARCH)"
	PODROLE_NO_SKIP=1 PODROLE_IMAGE="$$CARGO_TARGET_DIR/image/podrole-$(ARCH).oci.tar" \
		cargo test -p podrole --test image --locked --config '$(RUNNER)'

bench:
	@.ci/packages
	cargo build -p podrole --bin podrole --locked --release
	cargo build -p podrole-bench --locked --release
	@base=; [ -z '$(BASE)' ] || base=$$(bench/base.sh '$(BASE)') && \
		"$(AS_ROOT)" "$$CARGO_TARGET_DIR/release/podrole-bench" $${base:+--base "$$base"}

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

clean:
	cargo clean

# Everything that the tests run but cargo does not build: packages, the control plane, the AWS SDKs, root file systems. Takes minutes
# the first time, and nothing after that.
prepare:
	@.ci/packages tests
	@tests/cluster/build.sh kube-apiserver kube-controller-manager kube-scheduler kubectl nodeagent runc-lab asker >/dev/null
	@tests/sdk/build.sh >/dev/null
	@tests/containers/build.sh >/dev/null

# Builds the programs before the tests run: the tests start them, and cargo does not know this dependency.
build: prepare
	cargo build --workspace --locked
