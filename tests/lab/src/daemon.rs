//! The daemon under test: the real binary, started as a node's service would be.
//!
//! It gets no environment but what a test gives it, so nothing of the developer's machine (credentials, regions, proxies) can make
//! a test pass. Its audit lines (standard output) and its log (standard error) are kept apart.

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

/// Names the binary, whatever else would: to test one that was built elsewhere.
const BINARY: &str = "PODROLE_BIN";
/// Where the daemon says how it is, unless a test says otherwise.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9441);
/// How the names of its files begin.
const FILES: &str = "podrole-";
/// A daemon drains before it ends.
const END: Duration = Duration::from_secs(30);
/// Lines of the log in the report of a failure.
const RECENT_LINES: usize = 40;

/// How the daemon is started.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// The binary, usually `env!("CARGO_BIN_EXE_podrole")`; `None` looks for it beside this program.
    pub binary: Option<PathBuf>,
    /// What starts it, such as `taskset -c 0`; usually nothing.
    pub wrapper: Vec<String>,
    /// The flags of `run`. Where one is given twice the last one counts, as people expect of overrides; see [`merge`].
    pub flags: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// Where it says how it is: `--admin-addr`.
    pub admin: SocketAddr,
}

impl Default for DaemonOptions {
    fn default() -> Self {
        Self { binary: None, wrapper: Vec::new(), flags: Vec::new(), env: Vec::new(), admin: ADMIN }
    }
}

impl DaemonOptions {
    /// The same with these flags on top: `["--identity", "ip"]`.
    #[must_use]
    pub fn with(&self, flags: &[&str]) -> Self {
        Self { flags: merge(&self.flags, flags), ..self.clone() }
    }

    /// Runs another subcommand to its end, whatever its exit code.
    pub fn run(&self, node: &Node, args: &[&str]) -> Result<Output> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut command = self.command(node)?;
        let output = proc::output(command.args(args), b"", proc::PATIENCE)?;
        // Kept for the search of everything that was said.
        let path = crate::world::scratch().join(format!("{FILES}{}.said", COUNT.fetch_add(1, Ordering::Relaxed)));
        let said = [&*output.stdout, b"\n", &*output.stderr].concat();
        fs::write(&path, said).with_context(|| format!("write {}", path.display()))?;
        Ok(output)
    }

    /// The binary on the node, with its environment and no arguments yet.
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
        // Tests are in `deps`, other programs beside it.
        let program = env::current_exe().context("find this program")?;
        let found = program.ancestors().skip(1).take(2).map(|dir| dir.join("podrole")).find(|path| path.is_file());
        found.with_context(|| format!("no podrole beside {}; build it or set {BINARY}", program.display()))
    }
}

/// `flags` with those of `more` put over them: a flag that both have keeps only the value of `more`. Every flag takes one value.
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

/// A daemon. It is killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    node: Node,
    options: DaemonOptions,
    child: Child,
    audit: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts `podrole run`; it is not ready yet.
    pub fn start(node: &Node, options: DaemonOptions) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = |what: &str| crate::world::scratch().join(format!("{FILES}{number}.{what}"));
        let (audit, log) = (file("audit"), file("log"));
        let child = spawn(node, &options, &audit, &log)?;
        Ok(Self { node: node.clone(), options, child, audit, log })
    }

    /// Starts it anew with the same flags, after its end; its audit lines and log go on in the same files.
    pub fn restart(&mut self) -> Result<()> {
        if self.is_running()? {
            bail!("the daemon still runs; end it first");
        }
        self.child = spawn(&self.node, &self.options, &self.audit, &self.log)?;
        Ok(())
    }

    /// Waits until it says that it is ready; an error that holds its log if it ends first or takes too long.
    pub fn wait_ready(&mut self, timeout: Duration) -> Result<()> {
        let ready = proc::until("the daemon to be ready", timeout, || {
            if let Some(status) = self.child.try_wait().context("wait for the daemon")? {
                bail!("it ended with {status}");
            }
            Ok(self.is_ready().then_some(()))
        });
        ready.with_context(|| {
            let why = admin::get(self.options.admin, "/readyz?verbose").map(|(_, body)| body).unwrap_or_default();
            format!("not ready: {why}\nlog of the daemon:\n{}", self.logs())
        })
    }

    /// True if it says so now.
    pub fn is_ready(&self) -> bool {
        admin::get(self.options.admin, "/readyz").is_ok_and(|(status, _)| status == 200)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it was started.
    pub fn options(&self) -> &DaemonOptions {
        &self.options
    }

    /// The audit lines so far.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let text = self.audit_text()?;
        // A line that is still being written has no end yet.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not an audit line: {line}")))
            .collect()
    }

    /// The audit lines so far, as they were written.
    pub fn audit_text(&self) -> Result<String> {
        fs::read_to_string(&self.audit).with_context(|| format!("read {}", self.audit.display()))
    }

    /// The files that these go to, and what is in them.
    pub(crate) fn files(&self) -> [(&'static str, &Path); 2] {
        [("log", &self.log), ("audit", &self.audit)]
    }

    /// Everything it logged so far.
    pub fn logs(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The last that it said and did, for the report of a failure: libraries' own words left out.
    pub fn recently(&self) -> String {
        let logs = self.logs();
        let own: Vec<&str> = logs.lines().filter(|line| !line.contains("TRACE")).collect();
        let last = own.len().saturating_sub(RECENT_LINES);
        own.get(last..).unwrap_or_default().join("\n")
    }

    /// `GET path` from its admin address: status and body.
    pub fn admin(&self, path: &str) -> Result<(u16, String)> {
        admin::get(self.options.admin, path).with_context(|| format!("GET {path} from {}", self.options.admin))
    }

    /// Its metrics as text.
    pub fn metrics(&self) -> Result<String> {
        Ok(self.admin("/metrics")?.1)
    }

    /// The sum of a metric's series that have all these labels; 0 where there is none.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        admin::sum(&self.metrics()?, name, labels)
    }

    /// True while it has not ended.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("wait for the daemon")?.is_none())
    }

    /// The same, and it is left to others to collect its exit code.
    pub(crate) fn lives(&self) -> Result<bool> {
        let pid = i32::try_from(self.pid()).context("a pid is an i32")?;
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(Pid::from_raw(pid)), look) {
            Ok(status) => Ok(status == WaitStatus::StillAlive),
            // Its exit code was collected already.
            Err(Errno::ECHILD) => Ok(false),
            Err(error) => Err(error).context("look at the daemon"),
        }
    }

    /// Waits for its end by itself.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let status = proc::reap(&mut self.child, timeout)?;
        status.with_context(|| format!("the daemon still runs after {timeout:?}; its log:\n{}", self.logs()))
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill().context("kill the daemon")?;
        self.child.wait().map(drop).context("wait for the killed daemon")
    }

    /// Asks it to end, as the kubelet does, and waits until it has.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(END)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).context("a pid is an i32")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to the daemon"))
    }

    /// Stops it where it is, as one that hangs: whatever happens then, it did not do.
    pub fn suspend(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// What it uses now.
    pub fn usage(&self) -> Result<Usage> {
        proc::usage(self.pid())
    }

    /// Its resident memory in KiB, and that of no child of it.
    pub fn rss_kib(&self) -> Result<u64> {
        Ok(self.usage()?.resident / 1024)
    }

    /// `podrole guard` on the same node.
    pub fn guard(&self) -> Result<Output> {
        self.options.run(&self.node, &["guard"])
    }

    /// `podrole cleanup` on the same node.
    pub fn cleanup(&self) -> Result<Output> {
        self.options.run(&self.node, &["cleanup"])
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that has ended already is as good; there is nobody to tell about anything else.
        self.kill9().ok();
    }
}

/// What every daemon of this world has logged and recorded, those that have ended too, and what every other subcommand has said.
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

/// What [`Daemon::start`] and [`DaemonOptions::run`] name their files.
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
