//! Child processes: run one to its end, or keep one running and observe it.
//!
//! Every wait has a timeout, and dropping a [`Process`] kills it.

use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long [`run`], [`feed`] and `exec` wait for a command to end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a command to its end and returns its standard output. An exit code other than 0 is an error that contains the
/// output.
pub fn run(command: &mut Command) -> Result<String> {
    feed(command, b"")
}

/// Like [`run`], with `input` as standard input.
pub fn feed(command: &mut Command, input: &[u8]) -> Result<String> {
    let output = output(command, input, PATIENCE)?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end. Any exit code is accepted. If it takes longer than `timeout`, it is killed and the call
/// fails.
pub fn output(command: &mut Command, input: &[u8], timeout: Duration) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        // Ignore errors: a command may end without reading all its input, and its exit code shows whether that is a
        // failure.
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(input).ok()));
        let stdout = scope.spawn(move || drain(stdout));
        let stderr = scope.spawn(move || drain(stderr));
        let status = reap(&mut child, timeout);
        if !matches!(status, Ok(Some(_))) {
            child.kill().context("kill a command that takes too long")?;
            child.wait().context("wait for a killed command")?;
        }
        let (stdout, stderr) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
        let Some(status) = status? else {
            bail!("{command:?} took more than {timeout:?}; its standard error: {}", String::from_utf8_lossy(&stderr));
        };
        Ok(Output { status, stdout, stderr })
    })
}

fn drain(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // Bytes read before an error are still worth showing.
        pipe.read_to_end(&mut bytes).ok();
    }
    bytes
}

/// Waits for a child. `None` means that it is still running after `timeout`.
pub(crate) fn reap(child: &mut Child, timeout: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait().context("wait for a child")? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

/// Polls `probe` until it returns a value. Fails after `timeout` with an error that names `what`. The interval starts
/// at 5 ms and grows by 2 % of the time waited, so that long waits do not take processor time from others.
pub fn until<T>(what: &str, timeout: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));
    let begin = Instant::now();
    loop {
        if let Some(value) = probe().with_context(|| format!("while waiting for {what}"))? {
            return Ok(value);
        }
        let waited = begin.elapsed();
        ensure!(waited < timeout, "timed out after {timeout:?} waiting for {what}");
        thread::sleep((waited / 50).clamp(PAUSES.0, PAUSES.1));
    }
}

/// A process that runs beside the test, such as the daemon under test. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// The resources that a process uses, according to `/proc`.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Resident memory, in bytes.
    pub resident: u64,
    /// Resident memory that is not backed by a file, in bytes.
    pub anonymous: u64,
    /// Peak resident memory, in bytes.
    pub peak: u64,
    /// Processor time, user and system.
    pub cpu: Duration,
    /// Number of threads.
    pub threads: u64,
    /// Number of open file descriptors.
    pub files: u64,
}

impl Process {
    /// Starts a command. Standard output and error go to one log file.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let log = crate::world::scratch().join(format!("{name}-{}.log", COUNT.fetch_add(1, Ordering::Relaxed)));
        let file = File::create_new(&log).with_context(|| format!("create {}", log.display()))?;
        let twin = file.try_clone().context("duplicate the log's descriptor")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(twin)
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Its process id in the lab's pid namespace.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits until the log contains `text`. Fails, with the log, if the process ends first or the timeout expires.
    pub fn wait_for_log(&mut self, text: &str, timeout: Duration) -> Result<()> {
        let what = format!("'{text}' in the log of {}", self.name);
        let found = until(&what, timeout, || {
            // Check the exit first, so that everything written before the exit is in the log that is read next.
            let ended = self.child.try_wait().context("wait for a child")?;
            let log = self.log()?;
            match ended {
                _ if log.contains(text) => Ok(Some(())),
                Some(status) => bail!("{} ended with {status}", self.name),
                None => Ok(None),
            }
        });
        found.with_context(|| format!("log of {}:\n{}", self.name, self.log().unwrap_or_default()))
    }

    /// Whether the process is still running.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("wait for a child")?.is_none())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a pid is an i32")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Waits until the process ends. Fails after `timeout` and leaves the process running.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        reap(&mut self.child, timeout)?.with_context(|| format!("{} is still running after {timeout:?}", self.name))
    }

    /// Sends SIGKILL and waits until the process is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().map(drop).with_context(|| format!("wait for {}", self.name))
    }

    /// Its current resource usage.
    pub fn usage(&self) -> Result<Usage> {
        usage(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ignore errors: the process may already have ended.
        self.kill().ok();
    }
}

/// The current resource usage of the process `pid`.
pub fn usage(pid: u32) -> Result<Usage> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let status = fs::read_to_string(dir.join("status")).with_context(|| format!("read the status of process {pid}"))?;
    let field = |name: &str| -> Result<u64> {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} {pid}"))?;
        let number = line.split_whitespace().next().with_context(|| format!("{name} is empty"))?;
        number.parse().with_context(|| format!("{name} is {line}"))
    };
    // schedstat counts nanoseconds, while the ticks of `stat` are coarse. There is one file per thread.
    let mut cpu = Duration::ZERO;
    for task in fs::read_dir(dir.join("task")).with_context(|| format!("list the threads of {pid}"))? {
        let path = task.context("list threads")?.path().join("schedstat");
        // A thread may have ended since the directory was listed.
        if let Ok(text) = fs::read_to_string(path) {
            let spent = text.split_whitespace().next().unwrap_or("0");
            cpu += Duration::from_nanos(spent.parse().with_context(|| format!("schedstat of {pid} is {text}"))?);
        }
    }
    let files = fs::read_dir(dir.join("fd")).with_context(|| format!("list the files of {pid}"))?.count();
    Ok(Usage {
        resident: field("VmRSS:")? * 1024,
        anonymous: field("RssAnon:")? * 1024,
        peak: field("VmHWM:")? * 1024,
        cpu,
        threads: field("Threads:")?,
        files: files as u64,
    })
}
