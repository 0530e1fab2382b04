//! Builds images as OCI archives from existing tar layers and single files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::config::PAUSE;
use crate::proc;
use crate::world;

/// An image that has not been written yet.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    layers: Vec<PathBuf>,
    files: Vec<(PathBuf, String)>,
    config: Value,
}

impl Image {
    /// An empty image with this name and tag, such as `localhost/app:1`.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), layers: Vec::new(), files: Vec::new(), config: json!({}) }
    }

    /// The sandbox image: a static program that sleeps until it is signaled.
    pub fn pause(program: &Path) -> Self {
        Self::new(PAUSE).file(program, "/pause").entrypoint(&["/pause", "--pause"])
    }

    /// Adds this tar as the next layer.
    #[must_use]
    pub fn layer(mut self, tar: &Path) -> Self {
        self.layers.push(tar.to_owned());
        self
    }

    /// Adds a program from this machine at an absolute path in the image.
    #[must_use]
    pub fn file(mut self, source: &Path, path: &str) -> Self {
        self.files.push((source.to_owned(), path.trim_start_matches('/').to_owned()));
        self
    }

    /// Sets the command that a container runs.
    #[must_use]
    pub fn entrypoint(mut self, words: &[&str]) -> Self {
        self.config["Entrypoint"] = json!(words);
        self
    }

    /// Sets an environment variable of the container.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let mut all: Vec<Value> = self.config["Env"].as_array().cloned().unwrap_or_default();
        all.push(json!(format!("{name}={value}")));
        self.config["Env"] = json!(all);
        self
    }

    /// Writes the archive. Returns its path.
    pub fn write(&self) -> Result<PathBuf> {
        let stem = self.name.replace(['/', ':'], "-");
        let dir = world::scratch().join("images").join(&stem);
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("create {}", blobs.display()))?;
        let mut layers = self.layers.clone();
        if !self.files.is_empty() {
            layers.push(self.own_layer(&dir)?);
        }
        let blob = |bytes: &[u8]| -> Result<(String, usize)> {
            let sum = hex(digest(&SHA256, bytes).as_ref());
            fs::write(blobs.join(&sum), bytes).with_context(|| format!("write a blob of {}", self.name))?;
            Ok((format!("sha256:{sum}"), bytes.len()))
        };
        let (mut descriptors, mut ids) = (Vec::new(), Vec::new());
        for layer in &layers {
            let bytes = fs::read(layer).with_context(|| format!("read {}", layer.display()))?;
            let (sum, size) = blob(&bytes)?;
            descriptors
                .push(json!({"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": sum, "size": size}));
            ids.push(sum);
        }
        let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": machine, "os": "linux", "config": self.config, "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let (sum, size) = blob(config.to_string().as_bytes())?;
        let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "digest": sum, "size": size});
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": descriptors});
        let (sum, size) = blob(manifest.to_string().as_bytes())?;
        let entry = json!({"mediaType": kind, "digest": sum, "size": size, "annotations": {NAME: self.name}});
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(dir.join("index.json"), index.to_string()).context("write index.json")?;
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).context("write oci-layout")?;
        let archive = dir.with_extension("tar");
        proc::run(Command::new("tar").arg("-C").arg(&dir).arg("-cf").arg(&archive).args([
            "blobs",
            "index.json",
            "oci-layout",
        ]))?;
        fs::remove_dir_all(&dir).context("remove the image's layout")?;
        Ok(archive)
    }

    fn own_layer(&self, dir: &Path) -> Result<PathBuf> {
        let (root, tar) = (dir.join("files"), dir.join("files.tar"));
        for (source, path) in &self.files {
            let target = root.join(path);
            let parent = target.parent().context("a file is in a directory")?;
            fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
            fs::copy(source, &target).with_context(|| format!("copy {}", source.display()))?;
            fs::set_permissions(&target, fs::Permissions::from_mode(0o755)).context("make the file executable")?;
        }
        proc::run(Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).args([
            "--owner=0",
            "--group=0",
            "--sort=name",
            ".",
        ]))?;
        Ok(tar)
    }
}

/// The annotation with the image's name for containerd.
const NAME: &str = "io.containerd.image.name";

/// The name of the image in an archive.
pub(super) fn name_of(archive: &Path) -> Result<String> {
    let text = proc::run(Command::new("tar").arg("-xOf").arg(archive).arg("index.json"))
        .with_context(|| format!("{} is not an OCI archive", archive.display()))?;
    let index: Value = serde_json::from_str(&text).context("read the archive's index.json")?;
    let name = index["manifests"][0]["annotations"][NAME].as_str();
    name.map(str::to_owned).with_context(|| format!("{} does not name its image ({NAME})", archive.display()))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
