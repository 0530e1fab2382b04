//! The image's programs run with only the privileges that the manifests grant.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use podrole_lab::proc;
use podrole_lab::world::{Trial, skip};

use crate::archive::{ARCH, Image};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("podrole_starts_from_a_read_only_root_without_any_right", version).may_skip(),
    Trial::new("nft_runs_in_the_image_with_one_capability", nft).may_skip(),
    Trial::new("guard_closes_a_node_from_the_image_with_one_capability", guard).may_skip(),
];

const NOBODY: u32 = 65534;
const ROOT: u32 = 0;
/// The number of `CAP_NET_ADMIN`.
const NET_ADMIN: &str = "12";
const NO_CAPABILITY: &str = "";

fn version() -> Result<()> {
    let jail = Jail::new()?;
    let output = jail.run(NOBODY, NO_CAPABILITY, &["/usr/bin/podrole", "--version"])?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(
        String::from_utf8_lossy(&output.stdout).trim() == concat!("podrole ", env!("CARGO_PKG_VERSION")),
        "{output:?}"
    );
    // Control: the program really runs in the image, which has no shell.
    let shell = jail.run(NOBODY, NO_CAPABILITY, &["/bin/sh", "-c", "true"])?;
    ensure!(!shell.status.success(), "there is a shell in the image: {shell:?}");
    Ok(())
}

fn nft() -> Result<()> {
    let jail = Jail::new()?;
    proc::run(Command::new("nft").args(["add", "table", "inet", "there"]))?;
    let list = ["/usr/sbin/nft", "-j", "list", "tables"];
    let output = jail.run(ROOT, NET_ADMIN, &list)?;
    ensure!(output.status.success(), "{output:?}");
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let tables = listed["nftables"].as_array().context("no list of tables")?;
    ensure!(tables.iter().any(|object| object["table"]["name"] == "there"), "{listed}");
    // Control: it fails without the capability.
    let output = jail.run(ROOT, NO_CAPABILITY, &list)?;
    ensure!(!output.status.success(), "{output:?}");
    Ok(())
}

fn guard() -> Result<()> {
    let jail = Jail::new()?;
    proc::run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    let tables = || proc::run(Command::new("nft").args(["list", "tables"]));
    // Kubernetes gives added capabilities to root only, which is why the image runs as root.
    for (user, capabilities) in [(ROOT, NO_CAPABILITY), (NOBODY, NET_ADMIN)] {
        let output = jail.run(user, capabilities, &["/usr/bin/podrole", "guard"])?;
        ensure!(!output.status.success(), "{output:?}");
        ensure!(!tables()?.contains("inet podrole"), "user {user} with capabilities {capabilities:?} set a table");
    }
    let output = jail.run(ROOT, NET_ADMIN, &["/usr/bin/podrole", "guard"])?;
    ensure!(output.status.success(), "{output:?}");
    ensure!(tables()?.contains("inet podrole"), "{output:?}");
    Ok(())
}

/// The image as the root of a container: read-only, with /proc and /dev as runtimes provide them.
struct Jail {
    image: Image,
}

impl Jail {
    fn new() -> Result<Self> {
        let image = Image::open()?;
        let theirs = &image.config["architecture"];
        if theirs != ARCH {
            return skip(&format!("an image for {theirs} does not run here"));
        }
        let root = &image.root;
        let mount = |options: &[&str], what: &str, at: &Path| {
            proc::run(Command::new("mount").args(options).arg(what).arg(at)).map(drop)
        };
        let itself = root.to_str().context("the scratch directory is not text")?;
        mount(&["--bind"], itself, root)?;
        mount(&["-t", "proc", "-o", "ro"], "proc", &root.join("proc"))?;
        mount(&["-t", "tmpfs"], "dev", &root.join("dev"))?;
        // nft reads a transaction from it.
        symlink("/proc/self/fd/0", root.join("dev/stdin"))?;
        fs::write(root.join("dev/null"), "")?;
        mount(&["--bind"], "/dev/null", &root.join("dev/null"))?;
        mount(&["-o", "remount,bind,ro"], itself, root)?;
        Ok(Self { image })
    }

    fn run(&self, user: u32, capabilities: &str, program: &[&str]) -> Result<Output> {
        let jail = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/image/jail.py");
        let mut command = Command::new("python3");
        command.arg(jail).arg(&self.image.root).arg(user.to_string()).arg(capabilities).args(program);
        proc::output(&mut command, b"", proc::PATIENCE)
    }
}
