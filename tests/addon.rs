//! The manifests of `daemonset/` on the real API server: that it accepts them, that their rights suffice, what their policies reject and
//! admit, and the Events about denials. No container runs here; `tests/containers` covers that.
//!
//! All trials that wait for minutes of the daemon's time are here, so that these waits overlap.
//!
//! Trials are skipped, and never pass, if something is not installed: run `tests/cluster/build.sh kube-apiserver kubectl`. Run as root:
//! `cargo test -p podrole --test addon`.
#![allow(clippy::disallowed_methods, reason = "rules for the daemon; tests watch real time pass and start processes")]

#[path = "addon/admission.rs"]
mod admission;
#[path = "addon/agree.rs"]
mod agree;
#[path = "addon/api.rs"]
mod api;
#[path = "addon/apply.rs"]
mod apply;
#[path = "addon/corpus.rs"]
mod corpus;
#[path = "addon/egress.rs"]
mod egress;
#[path = "addon/events.rs"]
mod events;
#[path = "sdk/judge.rs"]
mod judge;
#[path = "addon/manifests.rs"]
mod manifests;
#[path = "addon/privileges.rs"]
mod privileges;
#[path = "addon/rights.rs"]
mod rights;
#[path = "addon/scrape.rs"]
mod scrape;
#[path = "addon/support.rs"]
mod support;
#[path = "addon/taint.rs"]
mod taint;
#[path = "addon/targets.rs"]
mod targets;

use std::process::ExitCode;

use podrole_lab::world::{Trial, run_trials};

fn main() -> ExitCode {
    podrole_lab::hook();
    let modules: [&[Trial]; 10] = [
        admission::TRIALS,
        agree::TRIALS,
        apply::TRIALS,
        egress::TRIALS,
        events::TRIALS,
        manifests::TRIALS,
        privileges::TRIALS,
        rights::TRIALS,
        scrape::TRIALS,
        taint::TRIALS,
    ];
    run_trials("addon", modules.concat())
}
