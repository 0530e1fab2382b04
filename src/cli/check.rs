//! `podrole check`: reports whether this node and this cluster are set up for `podrole run` with the same flags. If they are not, the
//! report says what to do.
//!
//! The command changes nothing. Each check has a time limit, and a check that fails or hangs does not stop the others. The report
//! shows a check that cannot run as skipped, with the reason, and never as passed.

mod aws;
mod daemon;
mod foreign;
mod kubernetes;
mod node;
mod redirect;
mod report;
pub mod table;

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::config::{Config, IdentityMode, RunArgs};

use super::{USAGE, complain, say, small_runtime};
use report::{Report, Symbols};
use table::Check;

/// The time limit for all checks of one area. Each call in an area has its own, much shorter limit.
const AREA_TIMEOUT: Duration = Duration::from_secs(25);

/// The flags of `check`. They include all flags of `run`, because `check` tests what the daemon would do with those flags.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// Output format: text | short (failed checks only, one line each) | json
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Exit with 1 for warnings too
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// The values of `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Short,
    Json,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// The check passed. The text says what the check found.
    Ok(String),
    /// The check failed. The table of checks defines the severity.
    Failed {
        /// The problem that the check found.
        found: String,
        /// A fix for this node, if there is a more specific one than the fix in the table of checks.
        fix: Option<String>,
    },
    /// The check could not run. The text is the reason.
    Skipped(String),
}

/// The results of the checks that have ended.
#[derive(Debug, Default)]
struct Findings(Mutex<BTreeMap<Check, Outcome>>);

/// Runs the subcommand.
pub fn main(args: CheckArgs, environment: &HashMap<String, String>) -> ExitCode {
    let config = match Config::new(args.run, environment) {
        Ok(config) => config,
        Err(problems) => {
            problems.iter().for_each(complain);
            return ExitCode::from(USAGE);
        }
    };
    // The call fails if a provider is already installed. That failure is harmless.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match small_runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let report = Report { node: config.node.clone(), findings: runtime.block_on(run_checks(&config)) };
    // A file system call that hangs must not delay the report.
    runtime.shutdown_background();
    say(match args.output {
        Output::Text => report.text(Symbols::of(environment)),
        Output::Short => report.short(),
        Output::Json => report.json(),
    });
    if report.passes(args.strict) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs all checks.
async fn run_checks(config: &Config) -> BTreeMap<Check, Outcome> {
    let findings = Findings::default();
    let _ = tokio::join!(
        tokio::time::timeout(AREA_TIMEOUT, node::check_node(config, &findings)),
        tokio::time::timeout(AREA_TIMEOUT, redirect::check_redirect(config, &findings)),
        tokio::time::timeout(AREA_TIMEOUT, kubernetes::check_kubernetes(config, &findings)),
        tokio::time::timeout(AREA_TIMEOUT, aws::check_aws(config, &findings)),
        tokio::time::timeout(AREA_TIMEOUT, daemon::check_daemon(config, &findings)),
    );
    let mut findings = findings.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    for check in Check::ALL {
        // A check without a result counts as failed, not as skipped, because no other check reports the cause.
        let timed_out = || Outcome::failed(format!("no result within {} s", AREA_TIMEOUT.as_secs()));
        findings.entry(check).or_insert_with(timed_out);
    }
    findings
}

// === impl Findings ===

impl Findings {
    fn put(&self, check: Check, outcome: Outcome) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(check, outcome);
    }

    fn skip(&self, checks: &[Check], why: &str) {
        for check in checks {
            self.put(*check, Outcome::skipped(why));
        }
    }
}

// === impl Outcome ===

impl Outcome {
    fn ok(found: impl Into<String>) -> Self {
        Self::Ok(found.into())
    }

    fn failed(found: impl Into<String>) -> Self {
        Self::Failed { found: found.into(), fix: None }
    }

    fn skipped(why: impl Into<String>) -> Self {
        Self::Skipped(why.into())
    }

    /// Adds a fix for this node to a failure.
    fn fix(self, fix: impl Into<String>) -> Self {
        match self {
            Self::Failed { found, .. } => Self::Failed { found, fix: Some(fix.into()) },
            Self::Ok(_) | Self::Skipped(_) => self,
        }
    }
}

/// The reason for skipping the checks of kernel identity; `None` if these checks run.
fn kernel_identity_unused(config: &Config) -> Option<&'static str> {
    match config.identity {
        IdentityMode::Kernel => None,
        IdentityMode::Ip => Some("not needed with --identity=ip"),
    }
}
