//! `podrole check`: is this node, this cluster, set up as `run` with these same flags needs it? What is not, and what to do.
//!
//! It changes nothing. Each check is bounded in time and none stops another; one that cannot be made is reported as skipped, with the
//! reason, never as passed.

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

/// For a whole area. Every single call in it has a bound of its own, far below.
const AREA: Duration = Duration::from_secs(25);

/// Flags of `check`: those of `run`, since what is checked is what the daemon would do, and these.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// How to print: text | short (only what is wrong, a line each) | json
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Exit with 1 for warnings too
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    run: RunArgs,
}

/// `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Short,
    Json,
}

/// What came of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// It holds; what was found.
    Ok(String),
    /// It does not: as bad as the table says.
    Failed {
        found: String,
        /// What to do here, where that is known better than the table does.
        fix: Option<String>,
    },
    /// It could not be made; why.
    Skipped(String),
}

/// What came of all of them, as they end.
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
    // One that was installed already is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match small_runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let report = Report { node: config.node.clone(), findings: runtime.block_on(look(&config)) };
    // A call into a file system that hangs must not keep us.
    runtime.shutdown_background();
    say(match args.output {
        Output::Text => report.text(Symbols::of(environment)),
        Output::Short => report.short(),
        Output::Json => report.json(),
    });
    if report.passes(args.strict) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Makes every check.
async fn look(config: &Config) -> BTreeMap<Check, Outcome> {
    let findings = Findings::default();
    let _ = tokio::join!(
        tokio::time::timeout(AREA, node::look(config, &findings)),
        tokio::time::timeout(AREA, redirect::look(config, &findings)),
        tokio::time::timeout(AREA, kubernetes::look(config, &findings)),
        tokio::time::timeout(AREA, aws::look(config, &findings)),
        tokio::time::timeout(AREA, daemon::look(config, &findings)),
    );
    let mut findings = findings.0.into_inner().unwrap_or_else(PoisonError::into_inner);
    for check in Check::ALL {
        // Not "skipped": nobody else says what went wrong.
        findings.entry(check).or_insert_with(|| Outcome::failed(format!("no result within {} s", AREA.as_secs())));
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

    /// The same with what to do here.
    fn fix(self, fix: impl Into<String>) -> Self {
        match self {
            Self::Failed { found, .. } => Self::Failed { found, fix: Some(fix.into()) },
            Self::Ok(_) | Self::Skipped(_) => self,
        }
    }
}

/// Why what proves identity is not looked at, where it is not used.
fn not_by_kernel(config: &Config) -> Option<&'static str> {
    match config.identity {
        IdentityMode::Kernel => None,
        IdentityMode::Ip => Some("not needed with --identity=ip"),
    }
}
