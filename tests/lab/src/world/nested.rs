//! A world within the world: a process that runs the same program with its own network, mounts and cgroup.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{CGROUP_ROOT, STAGE, Stage, cgroup};
use crate::proc;

/// A process in a nested world. Dropping it kills everything in that world.
#[derive(Debug)]
pub struct Nested {
    child: Child,
    cgroup: PathBuf,
}

impl Nested {
    /// Starts this program again with `args`. Its call of [`super::enter`] creates the nested world. `adjust` may redirect its output.
    pub fn spawn(args: &[OsString], adjust: impl FnOnce(&mut Command)) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let cgroup = Path::new(CGROUP_ROOT).join(format!("nested.{}.{number}", std::process::id()));
        fs::create_dir(&cgroup).with_context(|| format!("create the cgroup {}", cgroup.display()))?;
        let program = env::current_exe().context("find this program")?;
        let mut command = Command::new(&program);
        command.args(args).env(STAGE, Stage::Nested { cgroup: cgroup.clone() }.to_env());
        adjust(&mut command);
        match command.spawn() {
            Ok(child) => Ok(Self { child, cgroup }),
            Err(error) => {
                cgroup::remove(&cgroup)?;
                Err(error).with_context(|| format!("start {} again", program.display()))
            }
        }
    }

    /// Waits up to `timeout` for the process to end, then kills everything that is left in the world. `None` if the process was killed.
    pub fn finish(mut self, timeout: Duration) -> Result<Option<ExitStatus>> {
        let status = proc::reap(&mut self.child, timeout)?;
        self.end()?;
        Ok(status)
    }

    fn end(&mut self) -> Result<()> {
        cgroup::remove(&self.cgroup)?;
        // The process may not have moved into its cgroup yet.
        self.child.kill().context("kill a nested world")?;
        self.child.wait().map(drop).context("wait for a nested world")
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        // After `finish` nothing is left to do. If this fails, the end of the outer world cleans up.
        self.end().ok();
    }
}
