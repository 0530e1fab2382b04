//! Child processes: run one to its end, or keep one running and look at it.
//!
//! Nothing here waits without a bound, and a [`Process`] that is dropped is gone.

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

/// Runs a command to its end and gives its standard output; an exit code other than 0 is an error that holds what it said.
pub fn run(command: &mut Command) -> Result<String> {
    feed(command, b"")
}

/// Like [`run`], with `input` on its standard input.
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

/// Runs a command to its end, whatever its exit code; one that takes longer than `timeout` is killed and is an error.
pub fn output(command: &mut Command, input: &[u8], timeout: Duration) -> Result<Output> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        // A command may end without reading all its input: that is its right, its exit code tells the rest.
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
            bail!("{command:?} took more than {timeout:?}; it said {}", String::from_utf8_lossy(&stderr));
        };
        Ok(Output { status, stdout, stderr })
    })
}

fn drain(pipe: Option<impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // What was read before an error is still worth showing.
        pipe.read_to_end(&mut bytes).ok();
    }
    bytes
}

/// Waits for a child; `None` if it still runs after `timeout`.
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

/// Asks `probe` until it gives a value; an error that names `what` after `timeout`. Every 5 ms at first and less often the longer it
/// has waited, by 2 % of that: whoever waits a minute does not take the machine from everybody else.
pub fn until<T>(what: &str, timeout: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));
    let begin = Instant::now();
    loop {
        if let Some(value) = probe().with_context(|| format!("while waiting for {what}"))? {
            return Ok(value);
        }
        let waited = begin.elapsed();
        ensure!(waited < timeout, "waited {timeout:?} in vain for {what}");
        thread::sleep((waited / 50).clamp(PAUSES.0, PAUSES.1));
    }
}

/// A process that runs beside the test, such as the daemon under test. It is killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a process uses, as `/proc` tells it.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Resident memory in bytes.
    pub resident: u64,
    /// Its highest value so far, in bytes.
    pub peak: u64,
    /// Processor time spent, user and system.
    pub cpu: Duration,
    /// Number of threads.
    pub threads: u64,
    /// Number of open file descriptors.
    pub files: u64,
}

impl Process {
    /// Starts a command; standard output and error go to one log file.
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

    /// Everything it wrote so far.
    pub fn log(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Waits until the log holds `text`; an error, with the log, if the process ends first or takes too long.
    pub fn wait_for_log(&mut self, text: &str, timeout: Duration) -> Result<()> {
        let what = format!("'{text}' in the log of {}", self.name);
        let found = until(&what, timeout, || {
            // The exit is asked first: what was written before it is then surely in the log.
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

    /// True while it has not ended.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("wait for a child")?.is_none())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a pid is an i32")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to {}", self.name))
    }

    /// Waits for its end; an error after `timeout`, and the process goes on.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        reap(&mut self.child, timeout)?.with_context(|| format!("{} still runs after {timeout:?}", self.name))
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().map(drop).with_context(|| format!("wait for {}", self.name))
    }

    /// What it uses now.
    pub fn usage(&self) -> Result<Usage> {
        usage(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A process that has ended already is as good; there is nobody to tell about anything else.
        self.kill().ok();
    }
}

/// What the process `pid` uses now.
pub fn usage(pid: u32) -> Result<Usage> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let status = fs::read_to_string(dir.join("status")).with_context(|| format!("read the status of process {pid}"))?;
    let field = |name: &str| -> Result<u64> {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} {pid}"))?;
        let number = line.split_whitespace().next().with_context(|| format!("{name} is empty"))?;
        number.parse().with_context(|| format!("{name} is {line}"))
    };
    // Nanoseconds on the processor, exact where the ticks of `stat` are coarse; one file per thread.
    let mut cpu = Duration::ZERO;
    for task in fs::read_dir(dir.join("task")).with_context(|| format!("list the threads of {pid}"))? {
        let path = task.context("list threads")?.path().join("schedstat");
        // A thread may end between the listing and this.
        if let Ok(text) = fs::read_to_string(path) {
            let spent = text.split_whitespace().next().unwrap_or("0");
            cpu += Duration::from_nanos(spent.parse().with_context(|| format!("schedstat of {pid} is {text}"))?);
        }
    }
    let files = fs::read_dir(dir.join("fd")).with_context(|| format!("list the files of {pid}"))?.count();
    Ok(Usage {
        resident: field("VmRSS:")? * 1024,
        peak: field("VmHWM:")? * 1024,
        cpu,
        threads: field("Threads:")?,
        files: files as u64,
    })
}
