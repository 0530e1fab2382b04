//! The process that the user started: it creates the cgroup and the pid namespace, waits for the processes in them, and cleans up.

use std::env;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::geteuid;

use super::{STAGE, Stage, cgroup};

/// The programs that the lab runs, and the Debian package of each.
const TOOLS: [(&str, &str); 3] = [("ip", "iproute2"), ("nft", "nftables"), ("nsenter", "util-linux")];

/// Runs this program again inside and returns its exit code.
pub(super) fn launch() -> Result<i32> {
    ensure!(geteuid().is_root(), "the lab makes network namespaces and cgroups, which only root may: run it with sudo");
    find_tools()?;
    let root = cgroup::mount_point()?;
    cgroup::sweep(&root)?;
    let own = cgroup::Owned::create(&root)?;
    // Blocked, so that `await_end` receives them and they do not kill this process before it has cleaned up. The child unblocks them.
    let signals = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block().context("block signals")?;
    let code = start(own.path()).and_then(|mut child| await_end(&mut child, &signals, own.path()));
    own.remove()?;
    code
}

fn start(cgroup: &Path) -> Result<Child> {
    unshare(CloneFlags::CLONE_NEWPID).context("unshare the pid namespace")?;
    let program = env::current_exe().context("find this program")?;
    Command::new(&program)
        .args(env::args_os().skip(1))
        .env(STAGE, Stage::Init { cgroup: cgroup.to_owned() }.to_env())
        .spawn()
        .with_context(|| format!("start {} again", program.display()))
}

fn await_end(child: &mut Child, signals: &SigSet, cgroup: &Path) -> Result<i32> {
    loop {
        let signal = signals.wait().context("wait for a signal")?;
        if signal != Signal::SIGCHLD {
            cgroup::remove(cgroup)?;
            child.wait().context("wait for the world's end")?;
            return Ok(128 + signal as i32);
        }
        if let Some(status) = child.try_wait().context("wait for the world's end")? {
            return Ok(exit_code(status));
        }
    }
}

/// The exit code that a shell would report.
pub(super) fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

fn find_tools() -> Result<()> {
    let path = env::var_os("PATH").context("PATH is not set")?;
    for (tool, package) in TOOLS {
        if !env::split_paths(&path).any(|dir| dir.join(tool).is_file()) {
            bail!("the lab needs '{tool}', which is not on PATH: apt-get install {package}");
        }
    }
    Ok(())
}
