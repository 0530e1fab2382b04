//! A real container runtime on the node: Debian's containerd and runc, with the reference CNI plugins.
//!
//! It lives in the world's own namespaces, with everything it keeps in the world's scratch directory, and goes with the world: its
//! shims outlive it, but not the world's pid namespace. Images are put in by [`Runtime::import`]; nothing is pulled.

mod config;
mod image;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};

use crate::cluster::on_path;
use crate::node::Node;
use crate::proc::{self, Process};
use crate::world;

pub use image::Image;

/// It boots in a tenth of a second.
const STARTUP: Duration = Duration::from_secs(20);

/// How pods are connected to the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// A veth for each pod, routed: the `ptp` plugin.
    #[default]
    PointToPoint,
    /// One bridge for all: the `bridge` plugin.
    Bridge,
}

/// The running runtime. It is killed when dropped.
#[derive(Debug)]
pub struct Runtime {
    containerd: Process,
    dir: PathBuf,
}

impl Runtime {
    /// What of the runtime is not installed, and the Debian package that has it.
    pub fn missing() -> Option<String> {
        let programs = [("containerd", "containerd"), ("ctr", "containerd"), ("runc", "runc")];
        let lacking = programs.iter().find(|(name, _)| on_path(name).is_none());
        let plugins = Path::new(config::PLUGINS).join("ptp").is_file();
        lacking
            .map(|(name, package)| format!("no {name}: apt-get install {package}"))
            .or_else(|| (!plugins).then(|| "no CNI plugins: apt-get install containernetworking-plugins".to_owned()))
    }

    /// Starts it on the node. `runc` is what containers are made with: see `tests/cluster/controlplane/runc-lab`.
    pub fn start(node: &Node, network: Network, runc: &Path) -> Result<Self> {
        // As systemd has it: what a container sees of the host's mounts is kept up to date only where they are shared.
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED, None::<&str>)
            .context("share the node's mounts")?;
        let dir = world::scratch().join("containerd");
        let networks = dir.join("cni");
        fs::create_dir_all(&networks).with_context(|| format!("create {}", networks.display()))?;
        write(&networks.join("10-lab.conflist"), &config::network(network).to_string())?;
        let file = dir.join("config.toml");
        write(&file, &config::containerd(&dir, runc))?;
        let mut command = node.command();
        command.arg("containerd").arg("--config").arg(&file);
        let containerd = Process::start("containerd", &mut command)?;
        let mut runtime = Self { containerd, dir };
        runtime.containerd.wait_for_log("containerd successfully booted", STARTUP)?;
        Ok(runtime)
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        config::socket(&self.dir)
    }

    /// Puts an image in from an OCI archive that names it; that name.
    pub fn import(&self, node: &Node, archive: &Path) -> Result<String> {
        let name = image::name_of(archive)?;
        let mut command = node.command();
        command.arg("ctr").arg("--address").arg(self.socket());
        // Kubernetes' own; without `--no-unpack` it is ready for containers when this returns.
        command.args(["--namespace", "k8s.io", "images", "import"]).arg(archive);
        proc::run(&mut command).with_context(|| format!("import {}", archive.display()))?;
        Ok(name)
    }

    /// Everything it wrote so far.
    pub fn log(&self) -> Result<String> {
        self.containerd.log()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.containerd.pid()
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    if path.exists() {
        bail!("{} exists: one world has one runtime", path.display());
    }
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
