//! One child process of the control plane. Its output goes to a file; it is watched, killed and reaped.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::assets::on_path;

/// How much of a log an error contains, in bytes.
const TAIL: u64 = 4096;

/// The memory of a process, in KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Resident set size.
    pub resident_kib: u64,
    /// Peak resident set size.
    pub peak_kib: u64,
}

#[derive(Debug)]
pub(super) struct Child {
    name: &'static str,
    child: std::process::Child,
    log: PathBuf,
}

impl Child {
    /// Starts `program`. Call it on a thread that lives as long as the child should: the kernel kills the child when
    /// that thread ends. This ends the control plane when a test process is killed and no `Drop` runs.
    pub(super) fn spawn(name: &'static str, program: &Path, arguments: &[String], log: PathBuf) -> Result<Self> {
        let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let errors = output.try_clone().context("sharing the log file")?;
        let mut command = match on_path("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(program);
                command
            }
            None => Command::new(program),
        };
        // The environment contains only PATH, so that the user's proxy, GODEBUG or ETCD_* settings do not affect the control
        // plane.
        command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        let child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("starting {name} ({})", program.display()))?;
        Ok(Self { name, child, log })
    }

    /// Fails if the process has ended; the error contains the end of its log.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("checking {}", self.name))? {
            Some(status) => bail!("{} ended with {status}\n{}", self.name, self.tail()),
            None => Ok(()),
        }
    }

    /// The last lines of its log.
    pub(super) fn tail(&self) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
            let mut bytes = Vec::new();
            file.take(TAIL).read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        match read() {
            Ok(text) => format!("--- end of the log of {} ---\n{}", self.name, text.trim_end()),
            Err(error) => format!("--- the log of {} cannot be read: {error} ---", self.name),
        }
    }

    /// The kernel's memory figures. `/proc` must belong to the caller's pid namespace.
    pub(super) fn memory(&self) -> Result<Memory> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let field = |name: &str| -> Result<u64> {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse().ok())
                .with_context(|| format!("{path} has no {name}"))
        };
        Ok(Memory { resident_kib: field("VmRSS:")?, peak_kib: field("VmHWM:")? })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // An error means that the process has already ended. After SIGKILL the wait is short.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
