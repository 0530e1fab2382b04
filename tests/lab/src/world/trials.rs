//! A test runner for trials that each need a node of their own.
//!
//! It accepts the arguments of cargo's test harness and prints the same closing line, so that `cargo test` and CI treat it like any
//! other test.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::process::{ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Nested, enter, outside, scratch};

const PATIENCE: Duration = Duration::from_secs(120);
/// If set to `1`, a skipped trial fails. For CI, where everything that trials need is installed.
const NO_SKIP: &str = "PODROLE_NO_SKIP";
/// The exit code of a skipped trial, as in automake.
const SKIPPED: u8 = 77;
const FAILED: u8 = 101;
/// The number of slowest trials that are listed at the end.
const SLOWEST: usize = 6;
const USAGE: u8 = 64;
/// The number of trials that run at the same time. Most of them wait more than they compute.
const THREADS: usize = 4;

/// One test: a function that runs in a world of its own.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    name: &'static str,
    run: fn() -> Result<()>,
    timeout: Duration,
    may_skip: bool,
    place: Place,
}

/// Which other trials may run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Up to the number of threads.
    Together,
    /// Any number.
    Waits,
    /// None.
    Alone,
}

impl Trial {
    /// A trial with a timeout of two minutes.
    pub const fn new(name: &'static str, run: fn() -> Result<()>) -> Self {
        Self { name, run, timeout: PATIENCE, may_skip: false, place: Place::Together }
    }

    /// The same trial with another timeout.
    #[must_use]
    pub const fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// The same trial, which may be skipped even with `PODROLE_NO_SKIP=1`, because it needs something that cannot be installed.
    #[must_use]
    pub const fn may_skip(self) -> Self {
        Self { may_skip: true, ..self }
    }

    /// The same trial, run by itself: it asserts a time, which must not include the load of other trials.
    #[must_use]
    pub const fn alone(self) -> Self {
        Self { place: Place::Alone, ..self }
    }

    /// The same trial, started immediately and in addition to the others: it waits for a minute or more and needs almost no CPU.
    #[must_use]
    pub const fn waits(self) -> Self {
        Self { place: Place::Waits, ..self }
    }
}

/// Returns the error that marks a trial as ignored: `return world::skip("no etcd on this machine")`.
pub fn skip<T>(reason: &str) -> Result<T> {
    Err(Skip(reason.to_owned()).into())
}

/// Whether a skipped trial counts as failed.
pub fn skips_fail() -> bool {
    env::var_os(NO_SKIP).is_some_and(|value| value == "1")
}

#[derive(Debug)]
struct Skip(String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "skipped: {}", self.0)
    }
}

impl std::error::Error for Skip {}

/// Runs the trials that the program's arguments select, each in a nested world. `main` returns the result.
pub fn run_trials(name: &str, trials: Vec<Trial>) -> ExitCode {
    run_trials_by(THREADS, name, trials)
}

/// The same with up to `threads` trials at a time, unless the arguments set another number.
pub fn run_trials_by(threads: usize, name: &str, trials: Vec<Trial>) -> ExitCode {
    let result = match Options::parse(threads, env::args_os().skip(1)) {
        Ok(options) => match &options.trial {
            Some(trial) => run_one(trial, &trials),
            None => run_all(name, &options, &trials),
        },
        Err(error) => {
            eprintln!("{name}: {error:#}");
            return ExitCode::from(USAGE);
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("{name}: {error:#}");
        ExitCode::from(FAILED)
    })
}

/// In the child: turns this process into the nested world and runs one trial.
fn run_one(name: &str, trials: &[Trial]) -> Result<ExitCode> {
    let trial = trials.iter().find(|trial| trial.name == name).with_context(|| format!("no trial is named {name}"))?;
    let world = enter(name)?;
    let result = (trial.run)();
    drop(world);
    Ok(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::from(if error.is::<Skip>() { SKIPPED } else { 1 })
        }
    })
}

fn run_all(name: &str, options: &Options, trials: &[Trial]) -> Result<ExitCode> {
    let chosen: Vec<Trial> = trials.iter().filter(|trial| options.selects(trial.name)).copied().collect();
    if options.list {
        for trial in &chosen {
            println!("{}: test", trial.name);
        }
        println!("\n{} tests, 0 benchmarks", chosen.len());
        return Ok(ExitCode::SUCCESS);
    }
    let filtered = trials.len() - chosen.len();
    let world = enter(name)?;
    println!("\nrunning {} test{}", chosen.len(), if chosen.len() == 1 { "" } else { "s" });
    let begin = Instant::now();
    let tally = Mutex::new(Tally::default());
    let [together, waits, alone] = [Place::Together, Place::Waits, Place::Alone].map(|place| queue(&chosen, place));
    let work = |queue: &Queue| {
        // Not in the loop's condition, where the lock would be held while the trial runs.
        let next = || lock(queue).pop_front();
        while let Some(trial) = next() {
            let begin = Instant::now();
            let outcome = observe(trial, options);
            lock(&tally).count(trial.name, outcome, begin.elapsed());
        }
    };
    thread::scope(|scope| {
        // With one thread, trials run strictly one after the other.
        let beside = if options.threads == 1 { 0 } else { lock(&waits).len() };
        (0..beside).for_each(|_| drop(scope.spawn(|| work(&waits))));
        (0..options.threads).for_each(|_| drop(scope.spawn(|| work(&together))));
    });
    work(&waits);
    work(&alone);
    drop(world);
    let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.report(filtered, begin.elapsed());
    Ok(if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

type Queue = Mutex<VecDeque<Trial>>;

/// The trials of one place, longest timeout first, so that no long trial is left running by itself at the end.
fn queue(trials: &[Trial], place: Place) -> Queue {
    let mut trials: Vec<Trial> = trials.iter().filter(|trial| trial.place == place).copied().collect();
    trials.sort_by_key(|trial| std::cmp::Reverse(trial.timeout));
    Mutex::new(trials.into())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

/// In the runner: starts a trial, waits for it and returns its outcome.
fn observe(trial: Trial, options: &Options) -> Outcome {
    let log = scratch().join(format!("{}.out", trial.name.replace('/', "_")));
    let timeout = options.timeout.unwrap_or(trial.timeout);
    let run = || -> Result<Option<_>> {
        // A file and not a pipe, because a process that the trial leaves running would hold the pipe open.
        let out = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let twin = out.try_clone().context("duplicate a descriptor")?;
        let args = [OsString::from("--trial"), OsString::from(trial.name)];
        let nested = Nested::spawn(&args, |command| {
            command.stdin(Stdio::null());
            if !options.nocapture {
                command.stdout(out).stderr(twin);
            }
        })?;
        nested.finish(timeout)
    };
    let result = run();
    let said = fs::read(&log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    match result {
        Err(error) => Outcome::Failed(format!("{said}{error:#}\n")),
        Ok(None) => Outcome::Failed(format!("{said}killed: it took more than {timeout:?}\n")),
        Ok(Some(status)) if status.success() => Outcome::Passed,
        Ok(Some(status)) if status.code() == Some(SKIPPED.into()) => {
            let last = said.lines().last().unwrap_or_default();
            if skips_fail() && !trial.may_skip {
                return Outcome::Failed(format!("{said}{NO_SKIP} is set: a trial that is skipped has failed\n"));
            }
            Outcome::Skipped(last.strip_prefix("skipped: ").unwrap_or(last).to_owned())
        }
        Ok(Some(status)) => Outcome::Failed(format!("{said}exit code {}\n", outside::exit_code(status))),
    }
}

#[derive(Default)]
struct Tally {
    passed: usize,
    ignored: usize,
    failed: Vec<(&'static str, String)>,
    took: Vec<(Duration, &'static str)>,
}

impl Tally {
    fn count(&mut self, name: &'static str, outcome: Outcome, took: Duration) {
        self.took.push((took, name));
        match outcome {
            Outcome::Passed => {
                self.passed += 1;
                println!("test {name} ... ok");
            }
            Outcome::Skipped(reason) => {
                self.ignored += 1;
                println!("test {name} ... ignored, {reason}");
            }
            Outcome::Failed(said) => {
                println!("test {name} ... FAILED");
                self.failed.push((name, said));
            }
        }
        // Show each result immediately. A closed pipe is no reason to stop.
        std::io::stdout().flush().ok();
    }

    fn report(&mut self, filtered: usize, took: Duration) {
        self.took.sort_by_key(|(took, _)| std::cmp::Reverse(*took));
        let slowest: Vec<_> =
            self.took.iter().take(SLOWEST).map(|(took, name)| format!("{name} {:.1}s", took.as_secs_f64())).collect();
        println!("\nslowest: {}", slowest.join(", "));
        if !self.failed.is_empty() {
            println!("\nfailures:\n");
            for (name, said) in &self.failed {
                println!("---- {name} stdout ----\n{said}");
            }
            println!("\nfailures:");
            for (name, _) in &self.failed {
                println!("    {name}");
            }
        }
        println!(
            "\ntest result: {}. {} passed; {} failed; {} ignored; 0 measured; {filtered} filtered out; finished in {:.2}s\n",
            if self.failed.is_empty() { "ok" } else { "FAILED" },
            self.passed,
            self.failed.len(),
            self.ignored,
            took.as_secs_f64()
        );
    }
}

struct Options {
    trial: Option<String>,
    list: bool,
    exact: bool,
    nocapture: bool,
    threads: usize,
    timeout: Option<Duration>,
    filters: Vec<String>,
    skips: Vec<String>,
}

impl Options {
    fn parse(threads: usize, args: impl Iterator<Item = OsString>) -> Result<Self> {
        let mut options = Self {
            trial: None,
            list: false,
            exact: false,
            nocapture: false,
            threads,
            timeout: None,
            filters: Vec::new(),
            skips: Vec::new(),
        };
        let mut args =
            args.map(|arg| arg.into_string().map_err(|arg| anyhow::anyhow!("{} is not text", arg.display())));
        while let Some(arg) = args.next().transpose()? {
            let (flag, inline) = match arg.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
                Some(_) | None => (arg.as_str(), None),
            };
            let mut value = || match inline.clone() {
                Some(value) => Ok(value),
                None => args.next().with_context(|| format!("{flag} needs a value"))?,
            };
            match flag {
                "--trial" => options.trial = Some(value()?),
                "--skip" => options.skips.push(value()?),
                "--test-threads" => options.threads = value()?.parse().context("--test-threads takes a number")?,
                "--timeout" => {
                    options.timeout = Some(Duration::from_secs(value()?.parse().context("--timeout takes seconds")?));
                }
                // No effect here, but users and CI pass these arguments to all test binaries.
                "--color" | "--format" => drop(value()?),
                "-q" | "--quiet" | "--show-output" => {}
                "--list" => options.list = true,
                "--exact" => options.exact = true,
                "--nocapture" | "--no-capture" => options.nocapture = true,
                _ if flag.starts_with('-') => bail!("unknown argument {flag}"),
                _ => options.filters.push(arg),
            }
        }
        anyhow::ensure!(options.threads > 0, "--test-threads must not be 0");
        Ok(options)
    }

    fn selects(&self, name: &str) -> bool {
        let matches = |filter: &String| if self.exact { name == filter } else { name.contains(filter.as_str()) };
        (self.filters.is_empty() || self.filters.iter().any(matches)) && !self.skips.iter().any(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options> {
        Options::parse(THREADS, args.iter().map(OsString::from))
    }

    #[test]
    fn filters_are_substrings_unless_exact() -> Result<()> {
        let options = parse(&["leak", "--skip", "slow", "--test-threads=4"])?;
        assert_eq!(options.threads, 4);
        assert!(options.selects("no_leak_after_flush") && !options.selects("leak_slow") && !options.selects("other"));
        assert!(!parse(&["leak", "--exact"])?.selects("no_leak"));
        assert!(parse(&[])?.selects("anything"));
        Ok(())
    }

    #[test]
    fn mistakes_are_told() {
        for wrong in [&["--bench"][..], &["--skip"], &["--test-threads", "0"], &["--timeout", "long"]] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
