//! Runs `podrole check` on nodes that are broken in the one way that a check must find, and on the same nodes before that.
//!
//! Each case tests three things. On a healthy node the check runs and passes. On the broken node the check fails and names a fix, and
//! no other check fails except those that must follow. After a repair, where one is possible, the check passes again. Run as root:
//! `cargo test -p podrole --test check`.
#![allow(clippy::disallowed_methods, reason = "rules for the daemon; tests watch real time pass and start processes")]

#[path = "check/aws.rs"]
mod aws;
#[path = "check/daemon.rs"]
mod daemon;
#[path = "check/kubernetes.rs"]
mod kubernetes;
#[path = "check/node.rs"]
mod node;
#[path = "check/redirect.rs"]
mod redirect;
#[path = "check/support.rs"]
mod support;
#[path = "check/whole.rs"]
mod whole;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use podrole::cli::check::table::Check;
use podrole_lab::world::{Trial, run_trials};

/// A check and the trial that breaks a node for it.
type Case = (Check, Trial);

const CASES: [&[Case]; 5] = [node::CASES, redirect::CASES, kubernetes::CASES, aws::CASES, daemon::CASES];

fn main() -> ExitCode {
    podrole_lab::hook();
    let cases = CASES.concat().into_iter().map(|(_, trial)| trial);
    let others = [
        kubernetes::TRIALS,
        node::TRIALS,
        redirect::TRIALS,
        whole::TRIALS,
        &[Trial::new("every_check_has_a_case_that_breaks_a_node", complete)],
    ];
    run_trials("check", cases.chain(others.concat()).collect())
}

fn complete() -> Result<()> {
    let mut cases: BTreeMap<Check, usize> = BTreeMap::new();
    let rights = kubernetes::RIGHTS.map(|(check, ..)| check);
    for check in CASES.concat().into_iter().map(|(check, _)| check).chain(rights) {
        *cases.entry(check).or_default() += 1;
    }
    let missing: Vec<&str> =
        Check::ALL.iter().filter(|check| !cases.contains_key(check)).map(|check| check.code()).collect();
    ensure!(missing.is_empty(), "checks without a case: {missing:?}");
    Ok(())
}
