//! The demo as users run it: it fails when a check fails, and with `KEEP=1` it keeps running and then leaves nothing behind.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use podrole_lab::proc::{self, Process, until};
use podrole_lab::world;

use crate::worlds::{LONG, cgroups, everybody, networks, processes};

const DEMO: &str = env!("CARGO_BIN_EXE_demo");
/// How long the demo may take on a busy machine.
const PLAYED: Duration = Duration::from_secs(110);

/// With identification by address, podrole cannot tell the containers of a pod apart, so two containers get no role.
pub(crate) fn fails_when_something_is_wrong() -> Result<()> {
    // Not in the scratch directory, because the demo's world has a different one.
    let weaker = Path::new(env!("CARGO_TARGET_TMPDIR")).join("weaker-podrole");
    fs::write(&weaker, format!("#!/bin/sh\nexec '{}' \"$@\" --identity ip\n", podrole()?.display()))?;
    fs::set_permissions(&weaker, fs::Permissions::from_mode(0o755))?;
    let output = proc::output(demo()?.env("PODROLE_BIN", &weaker), b"", PLAYED)?;
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.code() == Some(1), "{}: {said}{error}", output.status);
    let wrong = ["FAILED: ", "shop/checkout/mailer with podrole", r#"expected "mailer", found "none""#];
    ensure!(wrong.iter().all(|text| said.contains(text)), "{said}{error}");
    Ok(())
}

pub(crate) fn stays_until_it_is_told_to_end() -> Result<()> {
    let mut demo = Process::start("demo", demo()?.env("KEEP", "1"))?;
    demo.wait_for_log("curl -s http", PLAYED)?;
    let said = demo.log()?;
    ensure!(said.lines().any(|line| line.starts_with("All ") && line.ends_with(" checks passed.")), "{said}");
    // The commands that it prints work.
    let function =
        said.lines().find(|line| line.trim_start().starts_with("box()")).context("the demo prints no box function")?;
    for (line, expected) in
        [("pod shop/web aws sts get-caller-identity", ":assumed-role/web/"), ("nft list table inet podrole", "chain")]
    {
        ensure!(said.contains(&format!("   box {line}")), "the demo does not suggest {line}: {said}");
        let answer = proc::run(Command::new("sh").args(["-c", &format!("{function}\nbox {line}")]))?;
        ensure!(answer.contains(expected), "{line}: {answer}");
    }
    let all = cgroups()?;
    let cgroup = all.first().context("the demo has no cgroup")?;
    let running = processes(cgroup)?;
    let own = networks(&BTreeSet::from([std::process::id()]));
    let places: BTreeSet<u64> = networks(&running).difference(&own).copied().collect();
    ensure!(running.len() > 5 && places.len() > 5, "expected a daemon and its pods, found {running:?} in {places:?}");
    demo.signal(Signal::SIGTERM)?;
    demo.wait(LONG)?;
    until("all processes to end", LONG, || Ok(everybody()?.is_disjoint(&running).then_some(())))?;
    ensure!(networks(&everybody()?).is_disjoint(&places), "a network namespace outlives the demo");
    ensure!(cgroups()?.is_empty(), "cgroups outlive the demo: {:?}", cgroups()?);
    Ok(())
}

/// The demo's command. The demo creates its own world; the trial is skipped where programs are missing.
fn demo() -> Result<Command> {
    podrole()?;
    let sdk = match env::var_os("PODROLE_SDK") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(DEMO).ancestors().nth(2).context("the demo is not in a build directory")?.join("sdk"),
    };
    if !sdk.is_dir() {
        return world::skip(&format!("no AWS SDKs in {}: run tests/sdk/build.sh", sdk.display()));
    }
    let mut command = Command::new(DEMO);
    world::forget(&mut command).env_remove("KEEP").env_remove("PODROLE_BIN");
    Ok(command)
}

fn podrole() -> Result<PathBuf> {
    let binary = Path::new(DEMO).with_file_name("podrole");
    if binary.is_file() { Ok(binary) } else { world::skip("no podrole beside the demo: run cargo build -p podrole") }
}
