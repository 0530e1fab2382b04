//! `podrole run`: installs the guards, then reads the configuration and starts the daemon.

use std::collections::HashMap;
use std::process::ExitCode;

use tracing::error;

use crate::config::{Config, RunArgs, metadata_endpoint};
use crate::telemetry::Logs;

use super::guard::{GuardError, install_guards};
use super::{Daemon, USAGE, complain, small_runtime};

/// Runs the subcommand.
pub fn main(args: RunArgs, environment: &HashMap<String, String>, daemon: Daemon) -> ExitCode {
    // The guards are installed before the settings are read, so that a daemon that cannot start leaves the node guarded.
    let guarded = small_runtime().map_err(|error| GuardError::Partial(error.to_string()));
    let guarded = guarded.and_then(|runtime| runtime.block_on(install_guards(&metadata_endpoint(environment).0)));
    let mut config = match (Config::new(args, environment), &guarded) {
        (_, Err(foreign @ GuardError::Foreign(_))) => {
            complain(foreign);
            return ExitCode::FAILURE;
        }
        (Err(problems), guarded) => {
            problems.iter().for_each(complain);
            if let Err(partial) = guarded {
                complain(partial);
            }
            return ExitCode::from(USAGE);
        }
        (Ok(config), _) => config,
    };
    let logs = match Logs::start(config.log_format, std::mem::take(&mut config.log)) {
        Ok(logs) => logs,
        Err(error) => {
            complain(format_args!("cannot start the log: {error}"));
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = guarded {
        error!(error = %error, "The guards are incomplete; starting anyway");
    }
    let code = match daemon(config, logs.clone()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Log the whole chain of causes: the outer errors say what failed, and the innermost says why.
            error!(error = %format_args!("{error:#}"), "Stopping on an error; guards left in place, pods remain blocked");
            ExitCode::FAILURE
        }
    };
    logs.flush();
    code
}
