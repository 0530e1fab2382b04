//! Private namespaces that vanish with the process.
//!
//! [`enter`] turns a program that was started on somebody's machine into one that owns a machine: four processes in a row, each the
//! same program.
//!
//! ```text
//! outside   what the user started: owns the cgroup, waits, cleans up
//! init      pid 1 of a pid namespace, reaps orphans; dies with "outside", whatever kills that
//! inside    the program proper: `enter` returns in it
//! nested    optional, by [`Nested`]: the program once more, with network, mounts and cgroup of its own
//! ```
//!
//! `unshare --fork --kill-child` would do for the first step but for one thing: it blocks SIGTERM while it waits, so neither
//! `kill` nor a CI runner could end a test.

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

/// Where the lab's cgroups appear, as on a node: the root of the world's own subtree.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// How a process of the lab knows which of the four it is.
const STAGE: &str = "PODROLE_LAB_STAGE";

/// The calling process is in private namespaces.
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

/// Puts the calling program into private namespaces. To be called while it has one thread.
///
/// Returns in a new process that runs the same program with the same arguments; the one that was started only waits for it.
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

/// Takes the lab's marks off a command, so that what it starts is outside and makes a world of its own.
pub fn forget(command: &mut std::process::Command) -> &mut std::process::Command {
    command.env_remove(STAGE)
}
