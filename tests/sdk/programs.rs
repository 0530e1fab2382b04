//! The real SDKs: finds them and runs them in a container with default settings.

use std::env;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use podrole_lab::pod::Pod;
use podrole_lab::rig::{ControlPlane, Rig};
use podrole_lab::{proc, world};
use serde::Deserialize;

/// The variable that sets the directory of the programs instead of the default places.
const DIRECTORY: &str = "PODROLE_SDK";
/// Longer than the programs' own time limit.
const PATIENCE: Duration = Duration::from_secs(90);

/// A program that runs in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sdk {
    /// boto3, without a region.
    Boto,
    /// `aws sts get-caller-identity`
    Cli,
    /// The AWS SDK for Go, version 2.
    Go,
}

/// All programs.
pub(crate) const ALL: [Sdk; 3] = [Sdk::Boto, Sdk::Cli, Sdk::Go];

/// The paths of the programs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    python: PathBuf,
    cli: PathBuf,
    go: PathBuf,
}

/// The answer of a program.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Found {
    pub(crate) region: Option<String>,
    pub(crate) access_key_id: String,
    pub(crate) arn: String,
    pub(crate) error: String,
    pub(crate) retrieve_ms: u64,
}

impl Programs {
    /// Finds the programs. The trial is skipped if one is missing.
    pub(crate) fn find() -> Result<Self> {
        let Some(dir) = places().into_iter().find(|dir| dir.is_dir()) else {
            return world::skip(&format!("no SDKs: run tests/sdk/build.sh, or set {DIRECTORY}"));
        };
        let programs =
            Self { python: dir.join("venv/bin/python3"), cli: dir.join("venv/bin/aws"), go: dir.join("gosdk") };
        for program in [&programs.python, &programs.cli, &programs.go] {
            if !program.is_file() {
                return world::skip(&format!("{} is missing: run tests/sdk/build.sh", program.display()));
            }
        }
        Ok(programs)
    }

    /// Runs a program in the container `app` until it ends.
    pub(crate) fn run<A: ControlPlane>(&self, rig: &Rig<A>, pod: &Pod, sdk: Sdk) -> Result<Found> {
        self.run_with(rig, pod, sdk, &[])
    }

    /// The same with additional environment variables.
    pub(crate) fn run_with<A: ControlPlane>(
        &self,
        rig: &Rig<A>,
        pod: &Pod,
        sdk: Sdk,
        env: &[(&str, &str)],
    ) -> Result<Found> {
        let mut command = self.command(rig, pod, sdk)?;
        command.envs(env.iter().copied());
        let output = proc::output(&mut command, b"", PATIENCE)?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if sdk == Sdk::Cli && !output.status.success() {
            return Ok(Found { error: err.into_owned(), ..Found::default() });
        }
        if sdk == Sdk::Cli {
            #[derive(Deserialize)]
            struct Answer {
                #[serde(rename = "Arn")]
                arn: String,
            }
            let answer: Answer = serde_json::from_str(&out).with_context(|| format!("the AWS CLI said {out}{err}"))?;
            return Ok(Found { arn: answer.arn, ..Found::default() });
        }
        parse(&out).with_context(|| format!("{sdk:?} ended with {} and said {err}", output.status))
    }

    /// Starts a program that answers questions until it is dropped, like a long-running program.
    pub(crate) fn serve<A: ControlPlane>(&self, rig: &Rig<A>, pod: &Pod, sdk: Sdk) -> Result<Serving> {
        ensure!(sdk != Sdk::Cli, "the AWS CLI is not a long-running program");
        let mut command = self.command(rig, pod, sdk)?;
        command.arg("--serve").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let questions = child.stdin.take().context("its input is a pipe")?;
        let out = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        let (said, answers) = channel();
        // Reads in a separate thread, so that a missing answer fails the trial by its timeout.
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Serving { sdk, child, questions, answers })
    }

    fn command<A: ControlPlane>(&self, rig: &Rig<A>, pod: &Pod, sdk: Sdk) -> Result<Command> {
        let mut command = pod.command("app")?;
        // The address of STS and nothing else: no region, role, credentials or metadata endpoint.
        command.env("AWS_ENDPOINT_URL_STS", rig.sts.endpoint());
        match sdk {
            Sdk::Boto => {
                command.arg(&self.python).arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/boto_probe.py"));
            }
            Sdk::Cli => {
                // The AWS CLI does not start without a region and does not read it from the metadata service.
                command.env("AWS_DEFAULT_REGION", "us-west-2");
                command.arg(&self.cli).args(["sts", "get-caller-identity", "--output", "json"]);
            }
            Sdk::Go => {
                command.arg(&self.go);
            }
        }
        Ok(command)
    }
}

/// A running program, killed on drop.
#[derive(Debug)]
pub(crate) struct Serving {
    sdk: Sdk,
    child: Child,
    questions: ChildStdin,
    answers: Receiver<String>,
}

impl Serving {
    /// Asks for its identity, with the credentials that it holds.
    pub(crate) fn ask(&mut self) -> Result<Found> {
        self.question("ask\n")
    }

    /// Asks for its identity, with newly fetched credentials.
    pub(crate) fn fresh(&mut self) -> Result<Found> {
        self.question("fresh\n")
    }

    fn question(&mut self, word: &str) -> Result<Found> {
        self.questions.write_all(word.as_bytes()).with_context(|| format!("ask {:?}", self.sdk))?;
        let line = self.answers.recv_timeout(PATIENCE).with_context(|| format!("no answer of {:?}", self.sdk))?;
        parse(&line)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Fails if the process has already ended. Other errors cannot be reported here.
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}

impl Found {
    /// Checks that STS identified the program as `arn`.
    pub(crate) fn is(&self, arn: &str) -> Result<()> {
        if !self.error.is_empty() {
            bail!("not {arn}: {}", self.error);
        }
        ensure!(self.arn == arn, "it is {}, not {arn}", self.arn);
        Ok(())
    }
}

fn parse(line: &str) -> Result<Found> {
    serde_json::from_str(line.trim()).with_context(|| format!("not an answer: {line:?}"))
}

fn places() -> Vec<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = set(DIRECTORY) {
        return vec![dir];
    }
    let program = env::current_exe().unwrap_or_default();
    // The program is target/PROFILE/deps/NAME, or one level deeper with --target.
    let near = program.ancestors().skip(3).take(2).map(Path::to_owned);
    set("CARGO_TARGET_DIR").into_iter().chain(near).map(|target| target.join("sdk")).collect()
}
