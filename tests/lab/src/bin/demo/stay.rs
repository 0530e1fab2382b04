//! `KEEP=1`: keeps the node running and prints commands to explore it.

use std::env;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use podrole_lab::rig::{ALLOWED_ROLES, ROLE};
use podrole_lab::world;

use crate::cast::Stage;

/// A forgotten demo ends after this time.
const AT_MOST: Duration = Duration::from_secs(8 * 3600);

/// Prints commands to try and waits for a signal, which ends this process and everything in the node.
pub(crate) fn stay(stage: &Stage, outer_pid: &str) -> Result<()> {
    let bin = world::scratch().join("bin");
    fs::create_dir(&bin).with_context(|| format!("create {}", bin.display()))?;
    let enter = bin.join("box");
    script(&enter, &box_script(&bin)?)?;
    script(&bin.join("pod"), &pod_script(stage)?)?;

    let screen = stage.screen;
    // If the demo was started with sudo, the other terminal needs it too.
    let sudo = if env::var_os("SUDO_UID").is_some() { "sudo " } else { "" };
    screen.heading("RUNNING FOR 8 HOURS OR UNTIL CTRL-C", "paste the first line into another terminal, then try:");
    let child = format!("/proc/{outer_pid}/task/{outer_pid}/children");
    screen.line(&format!("   box() {{ {sudo}nsenter -m -n -p -t $(cat {child}) {} \"$@\"; }}", enter.display()));
    let path = path(&bin)?;
    for (needs, line) in tries(&stage.rig.daemon()?.options().admin.to_string())? {
        if env::split_paths(&path).any(|dir| dir.join(needs).is_file()) {
            screen.line(&format!("   box {line}"));
        }
    }
    let end = Instant::now() + AT_MOST;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        thread::park_timeout(left);
    }
    Ok(())
}

/// Commands to try, each with the program that it needs.
fn tries(admin: &str) -> Result<Vec<(&'static str, String)>> {
    let audit = fs::read_dir(world::scratch()).context("list the scratch directory")?;
    let audit = audit.filter_map(|entry| Some(entry.ok()?.path()));
    let audit = audit.into_iter().find(|path| path.extension().is_some_and(|end| end == "audit"));
    let audit = audit.context("podrole has no audit file")?;
    Ok(vec![
        ("sh", "pod shop/web aws sts get-caller-identity".to_owned()),
        ("sh", "pod shop/checkout/mailer                 # a shell in that container".to_owned()),
        ("kubectl", "kubectl get pods -A -o wide".to_owned()),
        ("kubectl", format!("kubectl annotate --overwrite -n shop pod/web {ROLE}=checkout")),
        ("kubectl", format!("kubectl annotate --overwrite ns/data {ALLOWED_ROLES}='[\"*\"]'")),
        ("tail", format!("tail -f {}", audit.display())),
        ("curl", format!("curl -s http://{admin}/metrics")),
        ("nft", "nft list table inet podrole".to_owned()),
    ])
}

/// The `PATH` on the node: the demo's scripts, the user's `PATH`, and the directory in which `tests/cluster/build.sh` puts kubectl.
fn path(bin: &Path) -> Result<String> {
    let program = env::current_exe().context("find this program")?;
    let prepared = program.ancestors().nth(2).context("this program is not in a build directory")?.join("cluster");
    let path = env::var("PATH").context("PATH is not set or not UTF-8")?;
    Ok(format!("{}:{path}:{}", bin.display(), prepared.display()))
}

/// A script that runs a command or a shell on the node. `kubectl` gets its configuration, and a cache in the scratch directory.
fn box_script(bin: &Path) -> Result<String> {
    let scratch = world::scratch();
    Ok(format!(
        "export KUBECONFIG={config} KUBECACHEDIR={cache} PATH={path}\n[ $# -gt 0 ] || set -- sh\nexec \"$@\"\n",
        config = quoted(&scratch.join("kubeconfig").display().to_string()),
        cache = quoted(&scratch.join("kube-cache").display().to_string()),
        path = quoted(&path(bin)?),
    ))
}

/// A script that runs a command or a shell in a container. It joins the cgroup first, because a socket keeps the cgroup in which
/// it was opened.
fn pod_script(stage: &Stage) -> Result<String> {
    let mut cases = String::new();
    for (name, pod) in stage.pods() {
        let netns = pod.netns().context("pod has no network namespace")?;
        for (number, container) in pod.containers().iter().enumerate() {
            let own = format!("{name}/{}", container.name);
            let patterns = if number == 0 { format!("{name}|{own}") } else { own };
            let cgroup = quoted(&pod.container_cgroup(&container.name)?.display().to_string());
            writeln!(cases, "{patterns}) cgroup={cgroup} netns={} ;;", quoted(&netns.display().to_string()))?;
        }
    }
    let path = format!("{}:{}", stage.sdk.bin().display(), env::var("PATH").context("PATH is not set or not UTF-8")?);
    let mut environment = format!("HOME=/nonexistent PATH={}", quoted(&path));
    for (name, value) in stage.sdk.environment() {
        write!(environment, " {name}={}", quoted(&value.to_string_lossy()))?;
    }
    let names: Vec<&str> = stage.pods().keys().copied().collect();
    Ok(format!(
        "case ${{1-}} in\n{cases}*) echo 'usage: pod NAMESPACE/NAME[/CONTAINER] [COMMAND...]; pods: {}' >&2; exit 64 ;;\nesac\n\
         prompt=\"$1 \\$ \"; shift\n[ $# -gt 0 ] || set -- sh\n\
         echo $$ >\"$cgroup/cgroup.procs\" || exit\n\
         exec nsenter --net=\"$netns\" -- env -i TERM=\"${{TERM-dumb}}\" PS1=\"$prompt\" {environment} \"$@\"\n",
        names.join(", ")
    ))
}

fn script(path: &PathBuf, body: &str) -> Result<()> {
    fs::write(path, format!("#!/bin/sh\n{body}")).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, Permissions::from_mode(0o755))
        .with_context(|| format!("make {} executable", path.display()))
}

/// Quotes text for a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
