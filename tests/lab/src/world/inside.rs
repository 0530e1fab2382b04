//! The inside of a world: what the first process in it sets up, and how that process looks after the rest.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::SigSet;
use nix::sys::wait::{WaitStatus, wait};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::{CGROUP_ROOT, STAGE, Stage, cgroup, own_netns, scratch};
use crate::netns;

/// Process 1: sets the world up, starts the program proper, reaps orphans until that ends.
pub(super) fn init(cgroup: &Path) -> Result<i32> {
    // The kernel kills a pid namespace with its first process, and this ties that one to the process the user started.
    set_parent_process_death_signal(Some(Signal::KILL)).context("ask to die with the parent")?;
    // The parent may have died before the line above; it holds a lock for as long as it lives.
    ensure!(cgroup::is_locked(cgroup)?, "the process that started this one is gone");
    // That one waits for signals with all of them blocked, and a mask outlives fork and exec: no daemon under test would hear its
    // SIGTERM.
    SigSet::empty().thread_set_mask().context("unblock signals")?;
    isolate(cgroup)?;
    let program = env::current_exe().context("find this program")?;
    let child = Command::new(&program)
        .args(env::args_os().skip(1))
        .env(STAGE, Stage::Inside { netns: own_netns()? }.to_env())
        .spawn()
        .with_context(|| format!("start {} again", program.display()))?;
    loop {
        match wait().context("wait for the world's processes")? {
            WaitStatus::Exited(pid, code) if pid.as_raw().unsigned_abs() == child.id() => return Ok(code),
            WaitStatus::Signaled(pid, signal, _) if pid.as_raw().unsigned_abs() == child.id() => {
                return Ok(128 + signal as i32);
            }
            // An orphan.
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {}
            // Not asked for.
            WaitStatus::Stopped(..)
            | WaitStatus::PtraceEvent(..)
            | WaitStatus::PtraceSyscall(..)
            | WaitStatus::Continued(..)
            | WaitStatus::StillAlive => {}
        }
    }
}

/// Moves this process into `cgroup` and into network, mount and cgroup namespaces of its own, and sets those up as a node's.
pub(super) fn isolate(cgroup: &Path) -> Result<()> {
    // Before the cgroup namespace is made: its root is where its first process is at that moment.
    fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| format!("move into {}", cgroup.display()))?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)
        .context("unshare network, mount and cgroup namespaces")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("make all mounts private")?;
    // `/run` as a whole: the lab makes directories there that must not be left on the machine.
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("cgroup2", CGROUP_ROOT), ("tmpfs", "/run")] {
        attach(kind, place)?;
    }
    for place in ["/run/netns", "/run/podrole"] {
        fs::create_dir(place).with_context(|| format!("create {place}"))?;
        attach("tmpfs", place)?;
    }
    fs::create_dir(scratch()).with_context(|| format!("create {}", scratch().display()))?;
    netns::instant_ipv6()?;
    netns::sysctl("net/ipv4/ip_forward", "1")?;
    netns::sysctl("net/ipv6/conf/all/forwarding", "1")?;
    netns::batch(None, "link set lo up\n")
}

fn attach(kind: &str, place: &str) -> Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    // Programs are put into `/run` by some tests, and a scratch directory that cannot hold one surprises.
    let flags = if kind == "tmpfs" { MsFlags::MS_NOSUID } else { flags };
    mount(Some(kind), place, Some(kind), flags, None::<&str>).with_context(|| format!("mount {kind} on {place}"))
}
