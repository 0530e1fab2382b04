//! A real container runtime on the node: Debian's containerd and runc, with the reference CNI plugins.
//!
//! It runs in the world's namespaces and keeps all files in the world's scratch directory. Its shims outlive it, but
//! they end with the world's pid namespace. [`Runtime::import`] loads images; nothing is pulled.

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

/// Startup timeout. containerd normally boots in a tenth of a second.
const STARTUP: Duration = Duration::from_secs(20);

/// How pods are connected to the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// A routed veth pair for each pod: the `ptp` plugin.
    #[default]
    PointToPoint,
    /// One bridge for all pods: the `bridge` plugin.
    Bridge,
}

/// The running runtime. Dropping it kills it.
#[derive(Debug)]
pub struct Runtime {
    containerd: Process,
    dir: PathBuf,
}

impl Runtime {
    /// The missing part of the runtime, if any, and the Debian package that provides it.
    pub fn missing() -> Option<String> {
        let programs = [("containerd", "containerd"), ("ctr", "containerd"), ("runc", "runc")];
        let lacking = programs.iter().find(|(name, _)| on_path(name).is_none());
        let plugins = Path::new(config::PLUGINS).join("ptp").is_file();
        lacking
            .map(|(name, package)| format!("no {name}: apt-get install {package}"))
            .or_else(|| (!plugins).then(|| "no CNI plugins: apt-get install containernetworking-plugins".to_owned()))
    }

    /// Starts the runtime on the node. `runc` is the program that creates containers: see
    /// `tests/cluster/controlplane/runc-lab`.
    pub fn start(node: &Node, network: Network, runc: &Path) -> Result<Self> {
        // As systemd does: later mounts of the host appear in a container only if the host's mounts are shared.
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

    /// The path of its socket.
    pub fn socket(&self) -> PathBuf {
        config::socket(&self.dir)
    }

    /// Imports an OCI archive and returns the image's name, which the archive contains.
    pub fn import(&self, node: &Node, archive: &Path) -> Result<String> {
        let name = image::name_of(archive)?;
        let mut command = node.command();
        command.arg("ctr").arg("--address").arg(self.socket());
        // Kubernetes' containerd namespace. Without `--no-unpack`, the image is unpacked when the command returns.
        command.args(["--namespace", "k8s.io", "images", "import"]).arg(archive);
        proc::run(&mut command).with_context(|| format!("import {}", archive.display()))?;
        Ok(name)
    }

    /// Its log so far.
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
