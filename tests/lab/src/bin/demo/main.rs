//! `make demo`: runs a simulated Kubernetes node on this machine and shows, on one screen, what podrole changes.
//!
//! The daemon, nftables, the kernel, the pods' cgroups and networks, and the AWS SDKs in the pods are real. STS, the node's
//! metadata service and the Kubernetes API are the lab's test doubles. Everything shown is also checked: the exit code is 0 only if
//! all checks pass.
//!
//! Environment: `KEEP=1` keeps everything running for exploration; `PODROLE_BIN` and `PODROLE_SDK` replace the daemon and the SDKs
//! of this build directory.
#![allow(clippy::disallowed_methods, reason = "rules for the daemon; the demo measures real time and starts processes")]

mod cast;
mod change;
mod checks;
mod denials;
mod identities;
mod records;
mod screen;
mod sdk;
mod speed;
mod stay;

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use podrole_lab::world;

use cast::Stage;

/// Environment variable with this program's process id on the user's machine, which it cannot see from inside its pid namespace.
const OUTER_PID: &str = "PODROLE_DEMO_PID";

fn main() -> ExitCode {
    podrole_lab::hook();
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error}");
            // A cause may contain a log of several lines: indent each of them.
            for cause in error.chain().skip(1).map(ToString::to_string) {
                cause.lines().filter(|line| !line.trim().is_empty()).for_each(|line| eprintln!("   {line}"));
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        let program = env::current_exe().context("find this program")?;
        anyhow::bail!(
            "root is required to create network namespaces and cgroups (the machine's own stay unchanged).\n\
             Run `make demo`, which uses sudo, or: sudo {}",
            program.display()
        );
    }
    let Some(outer_pid) = env::var(OUTER_PID).ok() else {
        // Replace this process by itself: the id stays the same, and the environment of all later processes contains it.
        let mut again = Command::new(env::current_exe().context("find this program")?);
        return Err(again.args(env::args_os().skip(1)).env(OUTER_PID, std::process::id().to_string()).exec().into());
    };
    world::enter("demo")?;

    let mut stage = Stage::set()?;
    if let Err(error) = play(&mut stage) {
        // Earlier failed checks say more about the cause than the error that ended the demo.
        if stage.checks.any_failed() {
            stage.screen.line("");
            stage.checks.report(&stage.screen);
        }
        return Err(error);
    }
    let all_hold = stage.checks.report(&stage.screen);
    if env::var_os("KEEP").is_some_and(|value| !value.is_empty() && value != "0") {
        stay::stay(&stage, &outer_pid)?;
    } else if all_hold {
        stage.screen.line(&stage.screen.dim("To keep the node running and look around: KEEP=1 make demo"));
    }
    Ok(if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn play(stage: &mut Stage) -> Result<()> {
    let screen = stage.screen;
    screen.line(&screen.strong("podrole demo: a simulated Kubernetes node. Nothing else on this machine changes."));
    screen.line(
        "Real:      podrole, nftables, the kernel, the pods' cgroups and networks, AWS CLI and boto3 in the pods.",
    );
    screen.line("Simulated: AWS STS, the node's EC2 metadata service (169.254.169.254), the Kubernetes API.");
    let before = identities::play(stage)?;
    denials::play(stage, &before)?;
    change::play(stage)?;
    speed::play(stage)?;
    records::play(stage)?;
    denials::packets(stage, &before)
}
