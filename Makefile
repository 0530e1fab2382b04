# make demo    a node in a box: real daemon, real SDKs, what they get and what they cannot reach
# make test    everything there is to test but the image, on a fresh Debian machine with Rust and Go
# make image   the container image, by ARCH=arm64 for another machine than this
# make image-check   builds it twice, which must give the same, and tests what is in it
# make bench   every number that is published
# make lint    formatting and clippy, as CI has them
# make clean   remove what was built
#
# Root is needed to make network namespaces and cgroups; as anybody else, only the finished programs run as root, by sudo.

# In one place, also for what cargo does not build, and for programs that run elsewhere than here.
export CARGO_TARGET_DIR ?= $(CURDIR)/target

AS_ROOT := $(CURDIR)/.ci/as-root
# Not a shell word anywhere: a path may have spaces.
RUNNER := target."cfg(unix)".runner = ["$(AS_ROOT)"]

# As Debian says it.
ARCH ?= $(shell dpkg --print-architecture)

.PHONY: demo test image image-check bench lint clean prepare build
.DEFAULT_GOAL := test

test: build
	cargo test --workspace --locked --no-fail-fast --config '$(RUNNER)'

demo:
	@.ci/packages
	@tests/sdk/build.sh venv >/dev/null
	cargo build -p podrole -p podrole-lab --bins --locked
	@"$(AS_ROOT)" "$$CARGO_TARGET_DIR/debug/demo"

image:
	@.ci/packages image "$(ARCH)"
	@daemonset/image/build.sh "$(ARCH)"

# Builds it again elsewhere, which must give the same, and looks into it.
image-check: image
	@tests/image/twice.sh "$(ARCH)"
	PODROLE_NO_SKIP=1 PODROLE_IMAGE="$$CARGO_TARGET_DIR/image/podrole-$(ARCH).oci.tar" \
		cargo test -p podrole --test image --locked --config '$(RUNNER)'

bench:
	@.ci/packages
	cargo build -p podrole -p podrole-bench --bins --locked --release
	@"$(AS_ROOT)" "$$CARGO_TARGET_DIR/release/podrole-bench"

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings

clean:
	cargo clean

# What the tests run and cargo does not build: packages, the control plane, the AWS SDKs. Minutes once, then nothing.
prepare:
	@.ci/packages tests
	@tests/cluster/build.sh kube-apiserver kube-controller-manager kube-scheduler kubectl nodeagent runc-lab asker >/dev/null
	@tests/sdk/build.sh >/dev/null
	@tests/containers/build.sh >/dev/null

# Programs first: the tests start them, and cargo knows nothing of that.
build: prepare
	cargo build --workspace --locked
