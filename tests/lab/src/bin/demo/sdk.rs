//! The real AWS CLI and boto3, started in containers as anybody's program would be: without credentials, without a profile.

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

/// Names the directory that `tests/sdk/build.sh` prints, or the Python environment itself.
const DIRECTORY: &str = "PODROLE_SDK";
/// Asks STS who it is, once for each line it is sent.
const PROBE: &str = include_str!("../../../../sdk/boto_probe.py");

/// Where the SDKs are, and what they need to be told.
#[derive(Debug)]
pub(crate) struct Sdk {
    bin: PathBuf,
    probe: PathBuf,
    sts: String,
}

/// What somebody is told who asks AWS who he is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// The caller's ARN.
    Arn(String),
    /// No credentials, or none that STS takes: in the SDK's words.
    Nobody(String),
}

impl Said {
    /// Role and session of an assumed role's ARN.
    pub(crate) fn role(&self) -> Option<(&str, &str)> {
        match self {
            Self::Arn(arn) => arn.split_once(":assumed-role/")?.1.split_once('/'),
            Self::Nobody(_) => None,
        }
    }
}

impl Sdk {
    /// Finds them in the build directory of this program.
    pub(crate) fn find(sts: String) -> Result<Self> {
        let program = env::current_exe().context("find this program")?;
        let dir = match env::var_os(DIRECTORY) {
            Some(dir) => PathBuf::from(dir),
            None => program.ancestors().nth(2).context("this program is in a build directory")?.join("sdk"),
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

    /// Where `aws` and `python` are.
    pub(crate) fn bin(&self) -> &Path {
        &self.bin
    }

    /// What a program in a pod has to be told, because STS is not where it usually is.
    pub(crate) fn environment(&self) -> [(&'static str, OsString); 3] {
        [
            ("AWS_ENDPOINT_URL_STS", self.sts.clone().into()),
            // The CLI takes it from nowhere else.
            ("AWS_DEFAULT_REGION", "us-west-2".into()),
            // The pods run as root on the machine's own files, and must leave none there.
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
        ]
    }

    /// `aws sts get-caller-identity` in a container.
    pub(crate) fn cli(&self, pod: &Pod, container: &str) -> Result<Said> {
        let mut command = self.command(pod, container, "aws")?;
        command.args(["sts", "get-caller-identity", "--output", "text", "--query", "Arn"]);
        let output = proc::output(&mut command, b"", proc::PATIENCE)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        Ok(if output.status.success() { Said::Arn(text(&output.stdout)) } else { Said::Nobody(text(&output.stderr)) })
    }

    /// A Python program in a container that can be asked more than once.
    pub(crate) fn boto(&self, pod: &Pod, container: &str) -> Result<Boto> {
        let mut command = self.command(pod, container, "python")?;
        command.arg(&self.probe).arg("--serve").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let questions = child.stdin.take().context("its input is a pipe")?;
        let answers = BufReader::new(child.stdout.take().context("its output is a pipe")?);
        Ok(Boto { child, questions, answers })
    }

    fn command(&self, pod: &Pod, container: &str, program: &str) -> Result<Command> {
        let mut command = pod.command(container)?;
        command.envs(self.environment()).arg(self.bin.join(program));
        Ok(command)
    }
}

/// A Python program that stays. It is killed when dropped; it bounds every answer itself.
#[derive(Debug)]
pub(crate) struct Boto {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Boto {
    /// Who is it in a new session, as a program that has just started?
    pub(crate) fn fresh(&mut self) -> Result<Said> {
        self.question("fresh\n")
    }

    /// Who is it in the session that is open, with the credentials it holds?
    pub(crate) fn ask(&mut self) -> Result<Said> {
        self.question("ask\n")
    }

    fn question(&mut self, word: &str) -> Result<Said> {
        self.questions.write_all(word.as_bytes()).context("ask boto3")?;
        let mut line = String::new();
        self.answers.read_line(&mut line).context("listen to boto3")?;
        ensure!(!line.is_empty(), "boto3 ended without an answer");
        let answer: Value = serde_json::from_str(&line).with_context(|| format!("boto3 said {line}"))?;
        let field = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        Ok(if field("error").is_empty() { Said::Arn(field("arn")) } else { Said::Nobody(field("error")) })
    }
}

impl Drop for Boto {
    fn drop(&mut self) {
        // One that has ended already is as good; there is nobody to tell about anything else.
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}
