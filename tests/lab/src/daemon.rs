//! The daemon under test: the real binary, started as a service on a node would be.
//!
//! Its environment contains only what the test sets, so that nothing on the developer's machine (credentials, regions,
//! proxies) can make a test pass. Audit lines (standard output) and log (standard error) go to separate files.

mod admin;

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde_json::Value;

use crate::node::Node;
use crate::proc::{self, Usage};

/// The environment variable that overrides the binary's path, to test a binary that was built elsewhere.
const BINARY: &str = "PODROLE_BIN";
/// The default of `--admin-addr`.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9441);
/// Prefix of the names of the daemon's output files.
const FILES: &str = "podrole-";
/// Timeout for an orderly end; the daemon drains connections first.
const END: Duration = Duration::from_secs(30);
/// Number of log lines in the report of a failure.
const RECENT_LINES: usize = 40;

/// Options for starting the daemon.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// The binary, usually `env!("CARGO_BIN_EXE_podrole")`; `None` looks for it beside this program.
    pub binary: Option<PathBuf>,
    /// A command that starts the binary, such as `taskset -c 0`; usually empty.
    pub wrapper: Vec<String>,
    /// The flags of `run`. If a flag occurs twice, the last value wins, see [`merge`].
    pub flags: Vec<String>,
    /// The daemon's whole environment.
    pub env: Vec<(String, String)>,
    /// The address of the admin listener: `--admin-addr`.
    pub admin: SocketAddr,
}

impl Default for DaemonOptions {
    fn default() -> Self {
        Self { binary: None, wrapper: Vec::new(), flags: Vec::new(), env: Vec::new(), admin: ADMIN }
    }
}

impl DaemonOptions {
    /// These options with more flags, such as `["--identity", "ip"]`.
    #[must_use]
    pub fn with(&self, flags: &[&str]) -> Self {
        Self { flags: merge(&self.flags, flags), ..self.clone() }
    }

    /// Runs another subcommand to its end. Any exit code is accepted.
    pub fn run(&self, node: &Node, args: &[&str]) -> Result<Output> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut command = self.command(node)?;
        let output = proc::output(command.args(args), b"", proc::PATIENCE)?;
        // Keep the output for the search for secrets.
        let path = crate::world::scratch().join(format!("{FILES}{}.said", COUNT.fetch_add(1, Ordering::Relaxed)));
        let said = [&*output.stdout, b"\n", &*output.stderr].concat();
        fs::write(&path, said).with_context(|| format!("write {}", path.display()))?;
        Ok(output)
    }

    /// The command for the binary on the node, with environment and without arguments.
    fn command(&self, node: &Node) -> Result<Command> {
        let mut command = node.command();
        command.args(&self.wrapper).arg(self.binary()?);
        command.env_clear().envs(self.env.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    fn binary(&self) -> Result<PathBuf> {
        if let Some(path) = env::var_os(BINARY) {
            return Ok(path.into());
        }
        if let Some(path) = &self.binary {
            return Ok(path.clone());
        }
        // Tests are in `deps`; other programs are one directory above.
        let program = env::current_exe().context("find this program")?;
        let found = program.ancestors().skip(1).take(2).map(|dir| dir.join("podrole")).find(|path| path.is_file());
        found.with_context(|| format!("no podrole beside {}; build it or set {BINARY}", program.display()))
    }
}

/// Merges flags: a flag in both `flags` and `more` keeps only the value from `more`. Every flag takes one value.
pub fn merge(flags: &[String], more: &[&str]) -> Vec<String> {
    let name = |flag: &str| flag.split('=').next().unwrap_or(flag).to_owned();
    let over: Vec<String> = more.iter().filter(|flag| flag.starts_with("--")).map(|flag| name(flag)).collect();
    let mut merged = Vec::new();
    let mut keep = true;
    for flag in flags {
        if flag.starts_with("--") {
            keep = !over.contains(&name(flag));
        }
        if keep {
            merged.push(flag.clone());
        }
    }
    merged.extend(more.iter().map(|flag| (*flag).to_owned()));
    merged
}

/// A daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    node: Node,
    options: DaemonOptions,
    child: Child,
    audit: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts `podrole run` without waiting until it is ready.
    pub fn start(node: &Node, options: DaemonOptions) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = |what: &str| crate::world::scratch().join(format!("{FILES}{number}.{what}"));
        let (audit, log) = (file("audit"), file("log"));
        let child = spawn(node, &options, &audit, &log)?;
        Ok(Self { node: node.clone(), options, child, audit, log })
    }

    /// Starts the daemon again with the same flags after it has ended. Audit lines and log are appended to the same
    /// files.
    pub fn restart(&mut self) -> Result<()> {
        if self.is_running()? {
            bail!("the daemon is still running; end it first");
        }
        self.child = spawn(&self.node, &self.options, &self.audit, &self.log)?;
        Ok(())
    }

    /// Waits until the daemon reports ready. Fails, with its log, if it ends first or the timeout expires.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<()> {
        let ready = proc::until("the daemon to be ready", timeout, || {
            if let Some(status) = self.child.try_wait().context("wait for the daemon")? {
                bail!("the daemon ended with {status}");
            }
            Ok(self.is_ready().then_some(()))
        });
        ready.with_context(|| {
            let why = admin::get(self.options.admin, "/readyz?verbose").map(|(_, body)| body).unwrap_or_default();
            format!("not ready: {why}\nlog of the daemon:\n{}", self.logs())
        })
    }

    /// Whether the daemon currently reports ready.
    pub fn is_ready(&self) -> bool {
        admin::get(self.options.admin, "/readyz").is_ok_and(|(status, _)| status == 200)
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The options with which it was started.
    pub fn options(&self) -> &DaemonOptions {
        &self.options
    }

    /// The audit lines so far.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let text = self.audit_text()?;
        // Skip a last line that is still being written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not an audit line: {line}")))
            .collect()
    }

    /// The audit lines so far, as text.
    pub fn audit_text(&self) -> Result<String> {
        fs::read_to_string(&self.audit).with_context(|| format!("read {}", self.audit.display()))
    }

    /// The paths of the log and audit files, with their names.
    pub(crate) fn files(&self) -> [(&'static str, &Path); 2] {
        [("log", &self.log), ("audit", &self.audit)]
    }

    /// The log so far.
    pub fn logs(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last lines of the log without TRACE lines, for failure reports.
    pub fn recently(&self) -> String {
        let logs = self.logs();
        let own: Vec<&str> = logs.lines().filter(|line| !line.contains("TRACE")).collect();
        let last = own.len().saturating_sub(RECENT_LINES);
        own.get(last..).unwrap_or_default().join("\n")
    }

    /// Sends `GET path` to the admin listener. Returns status and body.
    pub fn admin(&self, path: &str) -> Result<(u16, String)> {
        admin::get(self.options.admin, path).with_context(|| format!("GET {path} from {}", self.options.admin))
    }

    /// The metrics in text format.
    pub fn metrics(&self) -> Result<String> {
        Ok(self.admin("/metrics")?.1)
    }

    /// The sum of the metric's series that have all these labels, or 0 if there are none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        admin::sum(&self.metrics()?, name, labels)
    }

    /// Whether the daemon is still running.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("wait for the daemon")?.is_none())
    }

    /// Like [`Daemon::is_running`], but leaves the exit status to be collected by others.
    pub(crate) fn lives(&self) -> Result<bool> {
        let pid = i32::try_from(self.pid()).context("a pid is an i32")?;
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(Pid::from_raw(pid)), look) {
            Ok(status) => Ok(status == WaitStatus::StillAlive),
            // The exit status was already collected.
            Err(Errno::ECHILD) => Ok(false),
            Err(error) => Err(error).context("check the daemon"),
        }
    }

    /// Waits until the daemon ends by itself.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let status = proc::reap(&mut self.child, timeout)?;
        status.with_context(|| format!("the daemon is still running after {timeout:?}; its log:\n{}", self.logs()))
    }

    /// Sends SIGKILL and waits until the process is gone.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill().context("kill the daemon")?;
        self.child.wait().map(drop).context("wait for the killed daemon")
    }

    /// Sends SIGTERM, as the kubelet does, and waits until the daemon has ended.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(END)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).context("a pid is an i32")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to the daemon"))
    }

    /// Stops the process (SIGSTOP), as if it hung: it does nothing until [`Daemon::resume`].
    pub fn suspend(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a suspended daemon continue.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Its current resource usage.
    pub fn usage(&self) -> Result<Usage> {
        proc::usage(self.pid())
    }

    /// Its resident memory in KiB, without child processes.
    pub fn rss_kib(&self) -> Result<u64> {
        Ok(self.usage()?.resident / 1024)
    }

    /// Runs `podrole guard` on the same node.
    pub fn guard(&self) -> Result<Output> {
        self.options.run(&self.node, &["guard"])
    }

    /// Runs `podrole cleanup` on the same node.
    pub fn cleanup(&self) -> Result<Output> {
        self.options.run(&self.node, &["cleanup"])
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ignore errors: the daemon may already have ended.
        self.kill9().ok();
    }
}

/// The logs and audit lines of all daemons of this world, ended ones included, and the output of all other subcommands.
pub(crate) fn written() -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let scratch = crate::world::scratch();
    let mut written = Vec::new();
    for entry in fs::read_dir(scratch).with_context(|| format!("list {}", scratch.display()))? {
        let path = entry.with_context(|| format!("list {}", scratch.display()))?.path();
        if path.file_name().and_then(OsStr::to_str).is_some_and(is_ours) {
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            written.push((path, bytes));
        }
    }
    written.sort();
    Ok(written)
}

/// Whether the file was written by [`Daemon::start`] or [`DaemonOptions::run`].
fn is_ours(name: &str) -> bool {
    let parts = name.strip_prefix(FILES).and_then(|name| name.split_once('.'));
    parts.is_some_and(|(number, what)| number.parse::<u32>().is_ok() && ["log", "audit", "said"].contains(&what))
}

fn spawn(node: &Node, options: &DaemonOptions, audit: &Path, log: &Path) -> Result<Child> {
    let append = |path: &Path| {
        File::options().create(true).append(true).open(path).with_context(|| format!("create {}", path.display()))
    };
    let mut command = options.command(node)?;
    command.arg("run").args(&options.flags);
    command.stdin(Stdio::null()).stdout(append(audit)?).stderr(append(log)?);
    command.spawn().with_context(|| format!("start {command:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_daemons_files_are_searched() {
        assert!(is_ours("podrole-0.log") && is_ours("podrole-12.audit") && is_ours("podrole-3.said"));
        for other in ["podrole-0", "podrole-.log", "podrole-x.log", "state", "kubeconfig", "podrole-1.log.old"] {
            assert!(!is_ours(other), "{other}");
        }
    }

    #[test]
    fn later_flags_replace_earlier_ones() {
        let base = ["--identity", "kernel", "--log=debug", "--node-name", "n"].map(str::to_owned);
        assert_eq!(
            merge(&base, &["--identity", "ip", "--log", "info"]),
            ["--node-name", "n", "--identity", "ip", "--log", "info"]
        );
    }
}
