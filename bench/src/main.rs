//! Every number that podrole publishes, measured against a bare hyper server in the same run: `make bench`.
//!
//! The node is a box (see `podrole-lab`): pods are namespaces with cgroups, nftables and the kernel are real. Exit code 1 when a
//! budget is not met.
#![allow(clippy::disallowed_methods, reason = "rules for the daemon; a benchmark reads clocks and starts processes")]

mod bare;
mod report;
mod scale;
mod warm;

use std::process::ExitCode;

use anyhow::Result;
use podrole_lab::world;

use report::Report;

fn main() -> ExitCode {
    podrole_lab::hook();
    if let Some(code) = bare::main() {
        return code;
    }
    match run() {
        Ok(report) => report.finish(),
        Err(error) => {
            report::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<Report> {
    let _world = world::enter("bench")?;
    let mut report = Report::default();
    // One node for everything: the warm path is measured among the 250 pods, not on an empty node.
    let rig = scale::start(&mut report)?;
    warm::run(&mut report, &rig)?;
    scale::herd(&mut report, &rig)?;
    Ok(report)
}
