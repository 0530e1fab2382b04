//! `make demo`: a Kubernetes node in a box on this machine, and on one screen what podrole changes on it.
//!
//! The daemon, nftables, the kernel's answers, the pods' cgroups and networks and the AWS SDKs in the pods are the real ones; STS,
//! the node's metadata service and the Kubernetes API are the lab's doubles. Whatever is shown is checked too: the exit code is 0
//! only if all of it is as it should be.
//!
//! Environment: `KEEP=1` leaves everything up to play with; `PODROLE_BIN` and `PODROLE_SDK` name another daemon and other SDKs
//! than those of the same build directory.
#![allow(clippy::disallowed_methods, reason = "rules for the daemon; the demo measures real time and starts processes")]

mod cast;
mod change;
mod checks;
mod identities;
mod records;
mod refusals;
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

/// Holds the process id that the user's machine knows this program by: inside its pid namespace nothing tells.
const OUTER_PID: &str = "PODROLE_DEMO_PID";

fn main() -> ExitCode {
    podrole_lab::hook();
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error}");
            // Causes may hold a log: a line of it is a line here.
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
            "it makes network namespaces and cgroups (its own; the machine's stay as they are), which only root may.\n\
             Run `make demo`, which uses sudo for that, or: sudo {}",
            program.display()
        );
    }
    let Some(outer_pid) = env::var(OUTER_PID).ok() else {
        // Its own process replaced by itself, so with the same id, which then is in the environment of all that follow.
        let mut again = Command::new(env::current_exe().context("find this program")?);
        return Err(again.args(env::args_os().skip(1)).env(OUTER_PID, std::process::id().to_string()).exec().into());
    };
    world::enter("demo")?;

    let mut stage = Stage::set()?;
    if let Err(error) = play(&mut stage) {
        // What was wrong before tells more than where it ended.
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
        stage.screen.line(&stage.screen.dim("KEEP=1 leaves it running, for you to look around."));
    }
    Ok(if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn play(stage: &mut Stage) -> Result<()> {
    let screen = stage.screen;
    screen.line(
        &screen.strong("podrole demo: a Kubernetes node in a box. Nothing outside of it changes on this machine."),
    );
    screen.line("Real: podrole, nftables, kernel, pods' cgroups and networks, AWS CLI and boto3 inside the pods.");
    screen.line("Stand-ins: AWS STS, the node's EC2 metadata service (169.254.169.254), the Kubernetes API.");
    let before = identities::play(stage)?;
    refusals::play(stage, &before)?;
    change::play(stage)?;
    speed::play(stage)?;
    records::play(stage)?;
    refusals::packets(stage, &before)
}
