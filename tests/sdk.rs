//! The whole chain with real parts: real SDKs in pods, the real kube-apiserver and etcd, real nft, the real kernel. Only AWS is a
//! double, which decides whose credentials a pod holds.
//!
//! Trials whose programs are not installed are reported as skipped; `tests/sdk/build.sh` and `tests/cluster/build.sh` install them. Run
//! as root: `cargo test -p podrole --test sdk`. With `-- --nocapture` the measured figures are shown.
#![allow(clippy::disallowed_methods, reason = "rules for the daemon; tests watch real time pass and start processes")]

#[path = "sdk/bad_objects.rs"]
mod bad_objects;
#[path = "sdk/bystander.rs"]
mod bystander;
#[path = "sdk/explain.rs"]
mod explain;
#[path = "sdk/faults.rs"]
mod faults;
#[path = "sdk/identity.rs"]
mod identity;
#[path = "sdk/judge.rs"]
mod judge;
#[path = "sdk/kube_api.rs"]
mod kube_api;
#[path = "sdk/live.rs"]
mod live;
#[path = "sdk/load.rs"]
mod load;
#[path = "sdk/programs.rs"]
mod programs;
#[path = "sdk/restart.rs"]
mod restart;
#[path = "sdk/support.rs"]
mod support;

use std::process::ExitCode;

use podrole_lab::world::{Trial, run_trials};

fn main() -> ExitCode {
    podrole_lab::hook();
    let modules: [&[Trial]; 8] = [
        bad_objects::TRIALS,
        explain::TRIALS,
        faults::TRIALS,
        identity::TRIALS,
        kube_api::TRIALS,
        live::TRIALS,
        load::TRIALS,
        restart::TRIALS,
    ];
    run_trials("sdk", modules.concat())
}
