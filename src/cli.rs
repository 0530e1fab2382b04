//! Subcommands: one file each, from arguments to an exit code.

pub mod cleanup;
pub mod explain;
pub mod guard;
pub mod run;

use std::collections::HashMap;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Config, RunArgs};

/// Wrong flags or settings: `EX_USAGE` of sysexits.
pub const USAGE: u8 = 64;

/// Each Kubernetes pod gets its own AWS IAM role from the metadata address, and none gets the node's.
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
    /// Close this node's metadata service to pods, before anything else runs
    Guard(Hold),
    /// Remove what run and guard set up, and say what that opens
    Cleanup(Hold),
    /// Say which role a pod gets, and why
    Explain(Box<explain::ExplainArgs>),
}

/// What a subcommand does when it is done.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Hold {
    /// Then stay until SIGTERM: for a DaemonSet, whose containers may not end
    #[arg(long)]
    hold: bool,
}

/// The daemon: it stands above the command line, so main hands it in.
pub type Daemon = fn(Config) -> anyhow::Result<()>;

/// Runs the command line. `environment` is the process's own, read once, by main.
pub fn main(
    arguments: impl Iterator<Item = std::ffi::OsString>,
    environment: &HashMap<String, String>,
    daemon: Daemon,
) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let asked_for = !error.use_stderr();
            // Nothing to do about a closed terminal.
            let _ = error.print();
            return if asked_for { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
        }
    };
    match cli.command {
        Command::Run(args) => run::main(*args, environment, daemon),
        Command::Guard(hold) => hold.after(guard::main(environment)),
        Command::Cleanup(hold) => hold.after(cleanup::main()),
        Command::Explain(args) => explain::main(*args, environment),
    }
}

// === impl Hold ===

impl Hold {
    /// Waits for SIGTERM or SIGINT where it is asked to and what came before succeeded.
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

/// A runtime for a subcommand's few system calls.
fn small_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

#[expect(clippy::print_stderr, reason = "a subcommand speaks to its user before, or without, logging")]
fn complain(text: impl std::fmt::Display) {
    eprintln!("podrole: {text}");
}

#[expect(clippy::print_stdout, reason = "what a subcommand was asked for")]
fn say(text: impl std::fmt::Display) {
    println!("{text}");
}
