//! The subcommands. Each subcommand has its own file.

pub mod check;
pub mod cleanup;
pub mod docs;
pub mod explain;
pub mod guard;
pub mod run;

use std::collections::HashMap;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, RunArgs};
use crate::telemetry::Logs;

use check::CheckArgs;

/// The exit code for wrong flags or settings: `EX_USAGE` of sysexits.
pub const USAGE: u8 = 64;

/// Gives each Kubernetes pod its own AWS IAM role at the metadata address, and keeps the node's role from all of them.
#[derive(Debug, Parser)]
#[command(name = "podrole", version, about, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon on this node
    Run(Box<RunArgs>),
    /// Block pods from this node's metadata service, before anything else runs
    Guard(Hold),
    /// Check whether this node is set up as run needs it, and say what to fix (takes the flags of run)
    Check(Box<CheckArgs>),
    /// Remove what run and guard set up, and say what that exposes
    Cleanup(Hold),
    /// Show which role a pod gets, and why
    Explain(Box<explain::ExplainArgs>),
}

/// The flag of subcommands that may keep running when they are done.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Hold {
    /// When done, keep running until SIGTERM (for a DaemonSet, whose containers must not exit)
    #[arg(long)]
    hold: bool,
}

/// The function that runs the daemon. This module must not depend on `app`, so `main` passes the function as an argument.
pub type Daemon = fn(Config, Logs) -> anyhow::Result<()>;

/// Parses `arguments` and runs the subcommand. `environment` is the process environment.
pub fn main(
    arguments: impl Iterator<Item = std::ffi::OsString>,
    environment: &HashMap<String, String>,
    daemon: Daemon,
) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for = !error.use_stderr();
            // Printing fails only if the terminal is closed.
            let _ = error.print();
            return if asked_for { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
        }
    };
    match cli.command {
        Command::Run(args) => run::main(*args, environment, daemon),
        Command::Guard(hold) => hold.after(guard::main(environment)),
        Command::Check(args) => check::main(*args, environment),
        Command::Cleanup(hold) => hold.after(cleanup::main()),
        Command::Explain(args) => explain::main(*args, environment),
    }
}

// === impl Hold ===

impl Hold {
    /// With `--hold`, waits for SIGTERM or SIGINT if `code` is a success.
    fn after(self, code: ExitCode) -> ExitCode {
        if !self.hold || code != ExitCode::SUCCESS {
            return code;
        }
        let waited = small_runtime().and_then(|runtime| {
            runtime.block_on(async {
                let (mut terminate, mut interrupt) =
                    (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                Ok(())
            })
        });
        match waited {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(format_args!("cannot wait for a signal: {error}"));
                ExitCode::FAILURE
            }
        }
    }
}

/// A single-threaded runtime for a subcommand.
fn small_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

#[expect(clippy::print_stderr, reason = "a subcommand prints errors before, or without, logging")]
fn complain(text: impl std::fmt::Display) {
    eprintln!("podrole: {text}");
}

#[expect(clippy::print_stdout, reason = "the output of a subcommand")]
fn say(text: impl std::fmt::Display) {
    println!("{text}");
}
