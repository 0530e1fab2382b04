//! Measures every published figure against a bare hyper server in the same run (`make bench`), or this tree's daemon against another
//! binary (`make bench BASE=<commit>`).
//!
//! The node is a node in a box (see `podrole-lab`): pods are network namespaces with cgroups; nftables and the kernel are real. The exit
//! code is 1 if a budget is exceeded.
#![allow(clippy::disallowed_methods, reason = "rules for the daemon; a benchmark reads clocks and starts processes")]

mod bare;
mod compare;
mod report;
mod scale;
mod warm;

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
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
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    match arguments.as_slice() {
        [] => {}
        [flag, base] if flag == "--base" => {
            compare::run(&mut report, Path::new(base))?;
            return Ok(report);
        }
        other => bail!("{other:?}: only --base BINARY is known"),
    }
    // One node for everything, so that the warm path is measured among 250 pods and not on an empty node.
    let rig = scale::start(&mut report)?;
    warm::run(&mut report, &rig)?;
    scale::herd(&mut report, &rig)?;
    Ok(report)
}
