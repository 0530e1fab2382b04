//! Everything together on a real node: podrole from its own image and manifests, containers of containerd and runc, the real
//! scheduler and API server. Only AWS is a double.
//!
//! Trials are skipped, and never pass, if something is not installed: the results of `tests/containers/build.sh` and
//! `tests/cluster/build.sh` (every name in it), Debian's containerd, runc and containernetworking-plugins. Run as root:
//! `cargo test -p podrole --test containers`. `PODROLE_IMAGE=ARCHIVE` tests that image instead of one with the binary that was built
//! beside this program.
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
    // Each trial starts a whole cluster, which keeps a core busy.
    run_trials_by(2, "containers", modules.concat())
}
