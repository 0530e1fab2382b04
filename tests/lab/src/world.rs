//! Private namespaces that vanish with the process.
//!
//! [`enter`] gives a program a machine of its own. It takes up to four processes, each started by the one before, all running the same
//! program.
//!
//! ```text
//! outside   started by the user: owns the cgroup, waits, cleans up
//! init      pid 1 of a pid namespace, reaps orphans; is killed together with "outside"
//! inside    does the program's work: `enter` returns in it
//! nested    optional, started by [`Nested`]: the program once more, with its own network, mounts and cgroup
//! ```
//!
//! The first step does not use `unshare --fork --kill-child`, because that blocks SIGTERM while it waits: neither `kill` nor a CI
//! runner could end a test.

mod cgroup;
mod inside;
mod nested;
mod outside;
mod trials;

use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

pub use cgroup::{mount_cgroup1, remove as remove_cgroup};
pub use nested::Nested;
pub use trials::{Trial, run_trials, run_trials_by, skip, skips_fail};

/// Where the lab's cgroups are mounted, as on a node. The mount shows only the world's own subtree.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The environment variable that tells a process of the lab which of the four it is.
const STAGE: &str = "PODROLE_LAB_STAGE";

/// Proof that the calling process is in private namespaces.
#[derive(Debug)]
pub struct World {
    name: String,
}

impl World {
    /// The name that was given to [`enter`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the world's cgroups appear.
    pub fn cgroup_root(&self) -> &'static Path {
        Path::new(CGROUP_ROOT)
    }

    /// A directory in memory that vanishes with the world.
    pub fn scratch(&self) -> &'static Path {
        scratch()
    }
}

/// A directory in memory that vanishes with the world.
pub fn scratch() -> &'static Path {
    Path::new("/run/podrole-lab")
}

/// Puts the calling program into private namespaces. Must be called while the program has only one thread.
///
/// Returns in a new process that runs the same program with the same arguments. The original process only waits for the new one.
pub fn enter(name: &str) -> Result<World> {
    let threads = fs::read_dir("/proc/self/task").context("list this process's threads")?.count();
    ensure!(threads == 1, "world::enter must come first in main, but {threads} threads run already");
    let code = match Stage::of_this_process()? {
        Stage::Outside => outside::launch()?,
        Stage::Init { cgroup } => inside::init(&cgroup)?,
        Stage::Inside { netns } => {
            ensure!(netns == own_netns()?, "{STAGE} is set, but this is not the lab's network namespace");
            return Ok(World { name: name.to_owned() });
        }
        Stage::Nested { cgroup } => {
            inside::isolate(&cgroup)?;
            return Ok(World { name: name.to_owned() });
        }
    };
    #[expect(
        clippy::exit,
        reason = "the program's real work happened in a child; its exit code is all that is left to say"
    )]
    std::process::exit(code)
}

enum Stage {
    Outside,
    Init { cgroup: PathBuf },
    Inside { netns: u64 },
    Nested { cgroup: PathBuf },
}

impl Stage {
    fn of_this_process() -> Result<Self> {
        let Some(value) = env::var_os(STAGE) else {
            return Ok(Self::Outside);
        };
        let value = value.to_str().with_context(|| format!("{STAGE} is not text"))?;
        match value.split_once(' ') {
            Some(("init", cgroup)) => Ok(Self::Init { cgroup: cgroup.into() }),
            Some(("inside", inode)) => Ok(Self::Inside { netns: inode.parse().context("inode of the lab's network")? }),
            Some(("nested", cgroup)) => Ok(Self::Nested { cgroup: cgroup.into() }),
            Some(_) | None => bail!("{STAGE}={value} is none of the lab's stages; unset it"),
        }
    }

    fn to_env(&self) -> String {
        match self {
            Self::Outside => String::new(),
            Self::Init { cgroup } => format!("init {}", cgroup.display()),
            Self::Inside { netns } => format!("inside {netns}"),
            Self::Nested { cgroup } => format!("nested {}", cgroup.display()),
        }
    }
}

fn own_netns() -> Result<u64> {
    fs::metadata("/proc/self/ns/net").map(|namespace| namespace.ino()).context("find this process's network namespace")
}

/// Removes the lab's variables from a command's environment, so that the command starts "outside" and creates a world of its own.
pub fn forget(command: &mut std::process::Command) -> &mut std::process::Command {
    command.env_remove(STAGE)
}
