//! The lab's cgroup on the machine: creation, ownership and removal.
//!
//! Two things identify the owner: the process id and start time in the name, and a lock on the directory. The lock also works if two
//! pid namespaces share one cgroup mount. A leftover directory is removed only if both say that its owner has ended.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::trials::skip;
use crate::proc;

const PREFIX: &str = "podrole-lab.";
const GONE: Duration = Duration::from_secs(10);

/// A cgroup that this process owns. [`Owned::remove`] removes it and kills every process in it.
pub(super) struct Owned {
    path: PathBuf,
    _lock: File,
}

impl Owned {
    /// Creates this process's cgroup below `root`.
    pub(super) fn create(root: &Path) -> Result<Self> {
        let pid = std::process::id();
        let start = start_time(pid).context("find this process's own start time")?;
        let path = root.join(format!("{PREFIX}{pid}.{start}"));
        fs::create_dir(&path).with_context(|| format!("create the cgroup {}", path.display()))?;
        let lock = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        lock.try_lock().with_context(|| format!("lock {}", path.display()))?;
        Ok(Self { path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn remove(self) -> Result<()> {
        remove(&self.path)
    }
}

/// The mount point of the machine's cgroup2 hierarchy.
pub(super) fn mount_point() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    // The last one, because a later mount on the same directory hides an earlier one.
    let found = table.lines().rev().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("cgroup2 ").then(|| left.split(' ').nth(4)).flatten()
    });
    found.map(PathBuf::from).context("no cgroup2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup")
}

/// Removes the cgroups of earlier runs that were killed.
pub(super) fn sweep(root: &Path) -> Result<()> {
    for entry in fs::read_dir(root).with_context(|| format!("list {}", root.display()))? {
        let entry = entry.with_context(|| format!("list {}", root.display()))?;
        let path = entry.path();
        let Some((pid, start)) = entry.file_name().to_str().and_then(owner) else {
            continue;
        };
        if start_time(pid) != Some(start) && !is_locked(&path)? {
            remove(&path).with_context(|| format!("sweep what an earlier run left in {}", path.display()))?;
        }
    }
    Ok(())
}

/// Whether the process that created the cgroup is still running.
pub(super) fn is_locked(path: &Path) -> Result<bool> {
    let dir = match File::open(path) {
        Ok(dir) => dir,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("open {}", path.display())),
    };
    match dir.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// Kills every process in a cgroup and below it, then removes the directories, deepest first. A missing cgroup is not an error.
pub fn remove(path: &Path) -> Result<()> {
    match fs::write(path.join("cgroup.kill"), "1") {
        Ok(()) => {}
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("kill what runs in {}", path.display())),
    }
    let deadline = Instant::now() + GONE;
    let mut pause = Duration::from_micros(100);
    while is_populated(path)? {
        ensure!(Instant::now() < deadline, "processes in {} outlive a kill by {GONE:?}", path.display());
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    remove_tree(path).with_context(|| format!("remove the cgroup {}", path.display()))
}

/// Creates the directory `at` and mounts a cgroup version 1 hierarchy there. Skips the trial if the kernel has no such hierarchy.
pub fn mount_cgroup1(at: &Path) -> Result<()> {
    fs::create_dir_all(at).with_context(|| format!("create {}", at.display()))?;
    // Reuse a hierarchy of the machine. A new one would be visible to the whole machine.
    let own = fs::read_to_string("/proc/self/cgroup").context("read this process's cgroups")?;
    let hierarchy = own.lines().filter_map(|line| line.split(':').nth(1)).find(|name| !name.is_empty());
    let options = match hierarchy {
        Some(name) if name.starts_with("name=") => format!("none,{name}"),
        Some(controllers) => controllers.to_owned(),
        None => "none,name=podrolev1".to_owned(),
    };
    let mut mount = Command::new("mount");
    mount.args(["-t", "cgroup", "-o", &options, "none"]).arg(at);
    let output = proc::output(&mut mount, b"", proc::PATIENCE)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    skip(&format!("this kernel mounts no cgroup version 1 here ({options}): {}", said.trim()))
}

fn is_populated(path: &Path) -> Result<bool> {
    match fs::read_to_string(path.join("cgroup.events")) {
        Ok(events) => Ok(events.lines().any(|line| line == "populated 1")),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("read the events of {}", path.display())),
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if is_gone(&error) => Ok(()),
        result => result,
    }
}

/// Reading an open file of a removed cgroup fails with ENODEV.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32)
}

fn owner(name: &str) -> Option<(u32, u64)> {
    let (pid, start) = name.strip_prefix(PREFIX)?.split_once('.')?;
    Some((pid.parse().ok()?, start.parse().ok()?))
}

/// The start time of a process in clock ticks since boot. Together with the process id it is unique.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may itself contain parentheses and spaces.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_have_an_owner() {
        assert_eq!(owner("podrole-lab.12.345"), Some((12, 345)));
        for other in
            ["podrole-lab", "podrole-lab.", "podrole-lab.12", "podrole-lab.x.1", "system.slice", "xpodrole-lab.1.2"]
        {
            assert_eq!(owner(other), None, "{other}");
        }
    }

    #[test]
    fn a_start_time_belongs_to_one_process() {
        assert!(start_time(std::process::id()).is_some());
        assert_eq!(start_time(u32::MAX), None);
    }
}
