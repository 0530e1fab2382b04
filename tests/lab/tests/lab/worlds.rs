//! Tests worlds: nothing outlives the process that was started, however it ends.
//!
//! The subject is this program again, started with an argument outside of any world.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podrole_lab::imds::Imds;
use podrole_lab::node::{Node, NodeOptions};
use podrole_lab::pod::PodSpec;
use podrole_lab::proc::{self, Process, until};
use podrole_lab::world::{self, Trial, run_trials};

const SUBJECT: &str = "--subject";
pub(crate) const LONG: Duration = Duration::from_secs(10);

/// Runs the subject, if this process was started as one.
pub(crate) fn subject() -> Option<ExitCode> {
    let mut args = std::env::args().skip(1);
    if args.next()? != SUBJECT {
        // The runner starts its trials with its own arguments.
        let is_inner = std::env::var_os("LAB_INNER_TRIALS").is_some();
        return is_inner.then(|| run_trials("inner", inner_trials()));
    }
    let result = match args.next().as_deref() {
        Some("wait") => with_world(stay),
        Some("panic") => with_world(|_| panic!("as told")),
        Some("orphans") => with_world(orphans),
        _ => Err(anyhow::anyhow!("unknown subject")),
    };
    Some(match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

/// Sets up a world with a pod, processes in it and a server, announces it, then calls `act`.
fn with_world(act: impl FnOnce(&Node) -> Result<()>) -> Result<()> {
    let _world = world::enter("subject")?;
    let node = Node::new(NodeOptions::default())?;
    let _imds = Imds::start(&node)?;
    let pod = node.pod(PodSpec::new("default", "web"))?;
    let _sleeper = Process::start("sleeper", pod.command("app")?.args(["sleep", "1000"]))?;
    // A process that has left its parent's session.
    proc::run(pod.command("app")?.args(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 &"]))?;
    let agent = pod.agent("app")?;
    agent.credentials()?;
    println!("ready");
    act(&node)
}

/// Waits for longer than any trial; a pipe to the trial breaks when the trial closes its end.
fn stay(_: &Node) -> Result<()> {
    thread::sleep(LONG * 3);
    Ok(())
}

/// Ends hundreds of orphans: none may remain as a zombie.
fn orphans(node: &Node) -> Result<()> {
    proc::run(node.command().args(["sh", "-c", "for i in $(seq 200); do (true &) ; done"]))?;
    until("orphans to be reaped", LONG, || {
        let mut zombies = 0;
        for entry in fs::read_dir("/proc")? {
            let stat = fs::read_to_string(entry?.path().join("stat")).unwrap_or_default();
            zombies += usize::from(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')));
        }
        Ok((zombies == 0).then_some(()))
    })?;
    println!("reaped");
    Ok(())
}

struct Subject {
    child: Child,
    lines: Box<dyn Iterator<Item = std::io::Result<String>>>,
}

impl Subject {
    fn start(what: &str) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        world::forget(&mut command).args([SUBJECT, what]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start the subject")?;
        let output = child.stdout.take().context("a pipe")?;
        let mut subject = Self { child, lines: Box::new(BufReader::new(output).lines()) };
        subject.expect("ready")?;
        Ok(subject)
    }

    fn expect(&mut self, expected: &str) -> Result<()> {
        let line = self.lines.next().with_context(|| format!("the subject ended before '{expected}'"))??;
        ensure!(line == expected, "the subject said {line}");
        Ok(())
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }
}

/// The lab's cgroups that currently exist.
pub(crate) fn cgroups() -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(world::CGROUP_ROOT)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("podrole-lab.") {
            found.insert(entry.path());
        }
    }
    Ok(found)
}

pub(crate) fn processes(cgroup: &Path) -> Result<BTreeSet<u32>> {
    let mut found: BTreeSet<u32> = match fs::read_to_string(cgroup.join("cgroup.procs")) {
        Ok(text) => text.lines().map(str::parse).collect::<Result<_, _>>()?,
        Err(_) => return Ok(BTreeSet::new()),
    };
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(processes(&entry.path())?);
        }
    }
    Ok(found)
}

/// The network namespaces of these processes.
pub(crate) fn networks(pids: &BTreeSet<u32>) -> BTreeSet<u64> {
    // A process may end meanwhile.
    let of = |pid: &u32| fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|namespace| namespace.ino());
    pids.iter().filter_map(of).collect()
}

/// Every process that this trial can see, including those of other trials.
pub(crate) fn everybody() -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(found)
}

pub(crate) fn vanish_when_killed() -> Result<()> {
    let mut subject = Subject::start("wait")?;
    let all = cgroups()?;
    ensure!(all.len() == 1, "{all:?}");
    let cgroup = all.first().context("one cgroup")?;
    let running = processes(cgroup)?;
    // init, the program, two sleepers, the agent
    ensure!(running.len() >= 5, "{running:?}");
    let places = networks(&running);
    ensure!(places.len() == 2 && places.is_disjoint(&networks(&BTreeSet::from([std::process::id()]))), "node and pod");
    // A concurrent run leaves it alone.
    let mut beside = Subject::start("wait")?;
    ensure!(cgroups()?.len() == 2 && processes(cgroup)? == running);
    kill(beside.pid()?, Signal::SIGKILL)?;
    beside.child.wait()?;
    kill(subject.pid()?, Signal::SIGKILL)?;
    subject.child.wait()?;
    until("every process to be gone", LONG, || {
        let left = running.iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).count();
        Ok((left == 0 && processes(cgroup)?.is_empty()).then_some(()))
    })?;
    // A netns is kept alive by its processes and mounts, and a mount namespace by its processes.
    ensure!(networks(&everybody()?).is_disjoint(&places), "a network namespace outlived its world");
    ensure!(cgroups()?.contains(cgroup), "a killed owner cannot remove its cgroup");
    // The next run removes it, and only orphaned cgroups.
    let mut third = Subject::start("wait")?;
    let left = cgroups()?;
    ensure!(left.len() == 1 && !left.contains(cgroup), "{left:?}");
    kill(third.pid()?, Signal::SIGTERM)?;
    third.child.wait()?;
    ensure!(cgroups()?.is_empty());
    Ok(())
}

pub(crate) fn clean_up_after_signals() -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let mut subject = Subject::start("wait")?;
        let cgroup = cgroups()?.pop_first().context("one cgroup")?;
        let running = processes(&cgroup)?;
        kill(subject.pid()?, signal)?;
        // Well before the subject would end by itself.
        let status = until("the subject's end", LONG, || Ok(subject.child.try_wait()?))?;
        ensure!(status.code() == Some(128 + signal as i32), "{signal}: {status}");
        ensure!(cgroups()?.is_empty(), "{signal} left {:?}", cgroups()?);
        ensure!(running.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()), "{signal} left processes");
    }
    Ok(())
}

pub(crate) fn clean_up_after_a_panic() -> Result<()> {
    let mut subject = Subject::start("panic")?;
    let status = subject.child.wait()?;
    ensure!(!status.success(), "{status}");
    ensure!(cgroups()?.is_empty(), "{:?}", cgroups()?);
    Ok(())
}

pub(crate) fn reap_orphans() -> Result<()> {
    let mut subject = Subject::start("orphans")?;
    subject.expect("reaped")?;
    ensure!(subject.child.wait()?.success());
    ensure!(cgroups()?.is_empty(), "{:?}", cgroups()?);
    Ok(())
}

pub(crate) fn need_root() -> Result<()> {
    // A copy, because other users may not be able to enter the program's directory.
    let copy = Path::new("/run/lab-copy");
    fs::copy(std::env::current_exe()?, copy)?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy).args([SUBJECT, "wait"]);
    let output = proc::output(world::forget(&mut command), b"", LONG)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("sudo"), "{said}");
    // On a machine without one of the tools, the error says what to install.
    let mut command = Command::new(std::env::current_exe()?);
    let output = proc::output(world::forget(&mut command).args([SUBJECT, "wait"]).env("PATH", "/nowhere"), b"", LONG)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("iproute2"), "{said}");
    // A stray variable in the environment does not make the machine a lab.
    let mut command = Command::new(std::env::current_exe()?);
    command.args([SUBJECT, "wait"]).env("PODROLE_LAB_STAGE", "inside 1");
    let output = proc::output(&mut command, b"", LONG)?;
    ensure!(!output.status.success(), "the program accepted this as its own world");
    Ok(())
}

fn inner_trials() -> Vec<Trial> {
    vec![
        Trial::new("passes", || Node::new(NodeOptions::default()).map(drop)),
        Trial::new("passes_too", || Node::new(NodeOptions::default()).map(drop)),
        Trial::new("fails", || {
            println!("words before the failure");
            anyhow::bail!("the reason")
        }),
        Trial::new("panics", || panic!("out of cheese")),
        Trial::new("skips", || world::skip("nothing to test with")),
        Trial::new("skips_anywhere", || world::skip("an old kernel")).may_skip(),
        Trial::new("hangs", || proc::run(Command::new("sleep").arg("1000")).map(drop))
            .timeout(Duration::from_millis(500)),
    ]
}

fn inner(args: &[&str]) -> Result<(Option<i32>, String)> {
    inner_with(args, "0")
}

/// These trials do not inherit this trial's environment.
fn inner_with(args: &[&str], no_skip: &str) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    world::forget(&mut command).args(args).env("LAB_INNER_TRIALS", "1").env("PODROLE_NO_SKIP", no_skip);
    let output = proc::output(&mut command, b"", proc::PATIENCE)?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

pub(crate) fn runner_reports_as_cargo_does() -> Result<()> {
    let (code, said) = inner(&["--skip", "nothing"])?;
    ensure!(code == Some(101), "{code:?}: {said}");
    for line in [
        "running 7 tests",
        "test passes ... ok",
        "test fails ... FAILED",
        "test panics ... FAILED",
        "test hangs ... FAILED",
        "test skips ... ignored, nothing to test with",
        "---- fails stdout ----\nwords before the failure\nthe reason\n",
        "out of cheese",
        "more than 500ms",
        "\ntest result: FAILED. 2 passed; 3 failed; 2 ignored; 0 measured; 0 filtered out; finished in ",
    ] {
        ensure!(said.contains(line), "no '{line}' in:\n{said}");
    }
    let (code, said) = inner(&["pass", "--test-threads=1"])?;
    let line = "\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 5 filtered out; finished in ";
    ensure!(code == Some(0) && said.contains(line), "{code:?}: {said}");
    let (code, said) = inner_with(&["skips"], "1")?;
    ensure!(code == Some(101), "{code:?}: {said}");
    for line in [
        "test skips ... FAILED",
        "---- skips stdout ----\nskipped: nothing to test with\nPODROLE_NO_SKIP",
        "test skips_anywhere ... ignored, an old kernel",
    ] {
        ensure!(said.contains(line), "no '{line}' in:\n{said}");
    }
    let (code, said) = inner(&["--list", "fail"])?;
    ensure!(code == Some(0) && said.starts_with("fails: test\n"), "{code:?}: {said}");
    ensure!(inner(&["--nonsense"])?.0 == Some(64));
    Ok(())
}
