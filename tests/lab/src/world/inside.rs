//! The inside of a world: process 1, which sets it up and supervises the other processes.

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

/// Runs as process 1: sets the world up, starts the "inside" program and reaps orphans until that program ends.
pub(super) fn init(cgroup: &Path) -> Result<i32> {
    // The kernel kills a pid namespace together with its process 1. This ties process 1 to the process that the user started.
    set_parent_process_death_signal(Some(Signal::KILL)).context("ask to die with the parent")?;
    // The parent may have died before the previous call. It holds a lock while it is alive.
    ensure!(cgroup::is_locked(cgroup)?, "the parent process is gone");
    // The parent waits for signals with all of them blocked, and a mask survives fork and exec. Without this call no daemon under
    // test would receive SIGTERM.
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
            // A reaped orphan.
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {}
            // Not possible: only ends of processes are waited for.
            WaitStatus::Stopped(..)
            | WaitStatus::PtraceEvent(..)
            | WaitStatus::PtraceSyscall(..)
            | WaitStatus::Continued(..)
            | WaitStatus::StillAlive => {}
        }
    }
}

/// Moves this process into `cgroup` and into new network, mount and cgroup namespaces, and sets them up like those of a node.
pub(super) fn isolate(cgroup: &Path) -> Result<()> {
    // Before the cgroup namespace is created, because its root is the cgroup of the creating process at that moment.
    fs::write(cgroup.join("cgroup.procs"), "0").with_context(|| format!("move into {}", cgroup.display()))?;
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWCGROUP)
        .context("unshare network, mount and cgroup namespaces")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("make all mounts private")?;
    // All of `/run`, because the lab creates directories there that must not be left on the machine.
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
    // Without `noexec`, because some tests put programs into `/run` and the scratch directory.
    let flags = if kind == "tmpfs" { MsFlags::MS_NOSUID } else { flags };
    mount(Some(kind), place, Some(kind), flags, None::<&str>).with_context(|| format!("mount {kind} on {place}"))
}
