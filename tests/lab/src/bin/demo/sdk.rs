//! The real AWS CLI and boto3, run in containers like any program: without configured credentials or a profile.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use podrole_lab::pod::Pod;
use podrole_lab::{proc, world};
use serde_json::Value;

/// Environment variable with the directory that `tests/sdk/build.sh` prints, or with the Python environment itself.
const DIRECTORY: &str = "PODROLE_SDK";
/// A Python program that calls `sts:GetCallerIdentity` once for each line on its standard input.
const PROBE: &str = include_str!("../../../../sdk/boto_probe.py");

/// The location of the SDKs and their configuration.
#[derive(Debug)]
pub(crate) struct Sdk {
    bin: PathBuf,
    probe: PathBuf,
    sts: String,
}

/// The result of `sts:GetCallerIdentity`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// The caller's ARN.
    Arn(String),
    /// The SDK found no credentials, or STS rejected them: the SDK's error message.
    Unknown(String),
}

impl Identity {
    /// The role and session of an assumed role's ARN; `None` for any other identity.
    pub(crate) fn role(&self) -> Option<(&str, &str)> {
        match self {
            Self::Arn(arn) => arn.split_once(":assumed-role/")?.1.split_once('/'),
            Self::Unknown(_) => None,
        }
    }
}

impl Sdk {
    /// Finds the SDKs in this program's build directory, or where `PODROLE_SDK` says.
    pub(crate) fn find(sts: String) -> Result<Self> {
        let program = env::current_exe().context("find this program")?;
        let dir = match env::var_os(DIRECTORY) {
            Some(dir) => PathBuf::from(dir),
            None => program.ancestors().nth(2).context("this program is not in a build directory")?.join("sdk"),
        };
        let places = [dir.join("venv/bin"), dir.join("bin")];
        let found = places.into_iter().find(|bin| bin.join("python").is_file() && bin.join("aws").is_file());
        let bin = found.with_context(|| {
            format!("no AWS SDKs in {}: run tests/sdk/build.sh (`make demo` does), or set {DIRECTORY}", dir.display())
        })?;
        let probe = world::scratch().join("boto_probe.py");
        fs::write(&probe, PROBE).with_context(|| format!("write {}", probe.display()))?;
        Ok(Self { bin, probe, sts })
    }

    /// The directory of `aws` and `python`.
    pub(crate) fn bin(&self) -> &Path {
        &self.bin
    }

    /// Environment variables for programs in pods, which point the SDKs at the STS double.
    pub(crate) fn environment(&self) -> [(&'static str, OsString); 3] {
        [
            ("AWS_ENDPOINT_URL_STS", self.sts.clone().into()),
            // The CLI takes the region only from here.
            ("AWS_DEFAULT_REGION", "us-west-2".into()),
            // Pods run as root on the machine's own file system: do not write .pyc files there.
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
        ]
    }

    /// Runs `aws sts get-caller-identity` in a container.
    pub(crate) fn cli(&self, pod: &Pod, container: &str) -> Result<Identity> {
        let mut command = self.command(pod, container, "aws")?;
        command.args(["sts", "get-caller-identity", "--output", "text", "--query", "Arn"]);
        let output = proc::output(&mut command, b"", proc::PATIENCE)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        Ok(if output.status.success() {
            Identity::Arn(text(&output.stdout))
        } else {
            Identity::Unknown(text(&output.stderr))
        })
    }

    /// Starts a Python program in a container that can be asked repeatedly.
    pub(crate) fn boto(&self, pod: &Pod, container: &str) -> Result<Boto> {
        let mut command = self.command(pod, container, "python")?;
        command.arg(&self.probe).arg("--serve").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let questions = child.stdin.take().context("standard input of boto3 is not a pipe")?;
        let answers = BufReader::new(child.stdout.take().context("standard output of boto3 is not a pipe")?);
        Ok(Boto { child, questions, answers })
    }

    fn command(&self, pod: &Pod, container: &str, program: &str) -> Result<Command> {
        let mut command = pod.command(container)?;
        command.envs(self.environment()).arg(self.bin.join(program));
        Ok(command)
    }
}

/// A running Python program, killed when dropped. It limits the time of each answer itself.
#[derive(Debug)]
pub(crate) struct Boto {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Boto {
    /// The identity in a new SDK session, as a newly started program would see it.
    pub(crate) fn fresh(&mut self) -> Result<Identity> {
        self.question("fresh\n")
    }

    /// The identity in the open session, with the credentials that it holds.
    pub(crate) fn held(&mut self) -> Result<Identity> {
        self.question("ask\n")
    }

    fn question(&mut self, word: &str) -> Result<Identity> {
        self.questions.write_all(word.as_bytes()).context("send a question to boto3")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("read the answer of boto3")?;
        ensure!(!line.is_empty(), "boto3 exited without an answer");
        let answer: Value =
            serde_json::from_str(&line).with_context(|| format!("parse the answer of boto3: {line}"))?;
        let field = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        Ok(if field("error").is_empty() { Identity::Arn(field("arn")) } else { Identity::Unknown(field("error")) })
    }
}

impl Drop for Boto {
    fn drop(&mut self) {
        // It may have exited already, and a failure to kill it cannot be reported from here.
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}
