//! The whole way on a real node: podrole from its own image and its own manifests, pods made by containerd and runc, bound by the
//! real scheduler, on the real API server. Only AWS is a double.
//!
//! What is not installed is skipped, never passed: `tests/containers/build.sh`, `tests/cluster/build.sh` (every name in it) and
//! Debian's containerd, runc and containernetworking-plugins. Run as root: `cargo test -p podrole --test containers`. With
//! `PODROLE_IMAGE=ARCHIVE` that image is tested, and not one with the binary that was built beside this program.
#![allow(clippy::disallowed_methods, reason = "rules for the daemon; tests watch real time pass and start processes")]

#[path = "containers/agent.rs"]
mod agent;
#[path = "containers/capabilities.rs"]
mod capabilities;
#[path = "containers/start_up.rs"]
mod start_up;
#[path = "containers/support.rs"]
mod support;
#[path = "containers/whole_way.rs"]
mod whole_way;

use std::process::ExitCode;

use podrole_lab::world::{Trial, run_trials_by};

fn main() -> ExitCode {
    podrole_lab::hook();
    let modules: [&[Trial]; 4] = [agent::TRIALS, capabilities::TRIALS, start_up::TRIALS, whole_way::TRIALS];
    // Each is a whole cluster, which keeps a core busy while it starts.
    run_trials_by(2, "containers", modules.concat())
}
