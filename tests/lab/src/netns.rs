//! Network namespaces, managed from inside the process.
//!
//! A network namespace belongs to a thread, and a child process starts in the netns of the thread that spawned it. A
//! short-lived thread therefore replaces both `ip netns add` and `nsenter`; this matters when a test creates a thousand
//! pods.

use std::fs::{self, File};
use std::panic;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::proc;

/// Creates a netns and binds it to `path`, as container runtimes do under `/run/netns`.
pub(crate) fn create(path: &Path) -> Result<()> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("unshare the network namespace")?;
        instant_ipv6()?;
        File::create_new(path).with_context(|| format!("create {}", path.display()))?;
        mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .with_context(|| format!("bind a network namespace to {}", path.display()))
    })
}

/// Unbinds a netns from its path. The kernel frees it when its last user is gone.
pub(crate) fn delete(path: &Path) -> Result<()> {
    umount2(path, MntFlags::MNT_DETACH).with_context(|| format!("unmount {}", path.display()))?;
    fs::remove_file(path).with_context(|| format!("remove {}", path.display()))
}

/// Moves the calling thread into the netns at `path` permanently. Call it only on threads that the lab created.
pub(crate) fn join(path: &Path) -> Result<()> {
    let namespace = File::open(path).with_context(|| format!("open {}", path.display()))?;
    setns(namespace, CloneFlags::CLONE_NEWNET).with_context(|| format!("enter {}", path.display()))
}

/// Runs `work` in the netns at `path`.
pub(crate) fn within<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    on_thread(|| {
        join(path)?;
        work()
    })
}

/// Runs `ip -batch` with `script`, in the netns at `path` or in that of the calling thread.
pub(crate) fn batch(path: Option<&Path>, script: &str) -> Result<()> {
    let run = || {
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]);
        proc::feed(&mut command, script.as_bytes()).map(drop).with_context(|| format!("ip -batch with:\n{script}"))
    };
    match path {
        Some(path) => within(path, run),
        None => run(),
    }
}

/// Disables duplicate address detection for interfaces created later, so that an IPv6 address is usable at once instead
/// of after a second.
pub(crate) fn instant_ipv6() -> Result<()> {
    for scope in ["all", "default"] {
        sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
    }
    Ok(())
}

/// Sets a kernel parameter of the calling thread's netns.
pub(crate) fn sysctl(name: &str, value: &str) -> Result<()> {
    fs::write(Path::new("/proc/sys").join(name), value).with_context(|| format!("set {name} to {value}"))
}

fn on_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("lab-netns".into()).spawn_scoped(scope, work);
        match worker.map_err(|error| anyhow!("start a thread: {error}"))?.join() {
            Ok(result) => result,
            Err(panic) => panic::resume_unwind(panic),
        }
    })
}
