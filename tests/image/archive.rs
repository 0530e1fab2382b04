//! An OCI archive, unpacked as a container runtime would.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::proc;
use podrole_lab::world::{scratch, skip};
use serde_json::Value;

/// This machine's architecture, as images name it.
pub(crate) const ARCH: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// An unpacked image and its parts.
pub(crate) struct Image {
    pub(crate) archive: PathBuf,
    /// The only entry of the index.
    pub(crate) entry: Value,
    pub(crate) manifest: Value,
    pub(crate) config: Value,
    /// The directory with all layers, unpacked in order.
    pub(crate) root: PathBuf,
}

impl Image {
    /// Unpacks the image under test in the trial's world and checks every digest.
    pub(crate) fn open() -> Result<Self> {
        let archive = match env::var_os("PODROLE_IMAGE") {
            Some(path) => PathBuf::from(path),
            None => built()?,
        };
        let layout = scratch().join("oci");
        let root = scratch().join("root");
        fs::create_dir(&layout)?;
        fs::create_dir(&root)?;
        unpack(&archive, &layout)?;
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
        let entries = index["manifests"].as_array().context("the index has no manifests")?;
        ensure!(entries.len() == 1, "one image is in the archive, not {}", entries.len());
        let entry = entries[0].clone();
        let manifest: Value = serde_json::from_slice(&fs::read(blob(&layout, &entry)?)?)?;
        let config = serde_json::from_slice(&fs::read(blob(&layout, &manifest["config"])?)?)?;
        for layer in manifest["layers"].as_array().context("the manifest has no layers")? {
            unpack(&blob(&layout, layer)?, &root)?;
        }
        Ok(Self { archive, entry, manifest, config, root })
    }

    /// The path of a file that `make image` writes beside the archive.
    pub(crate) fn beside(&self, suffix: &str) -> Result<PathBuf> {
        let name = self.archive.file_name().and_then(|name| name.to_str()).context("the archive has no name")?;
        let stem = name.strip_suffix(".oci.tar").with_context(|| format!("{name} is not called *.oci.tar"))?;
        Ok(self.archive.with_file_name(format!("{stem}{suffix}")))
    }
}

/// The archive that `make image` built for this machine.
fn built() -> Result<PathBuf> {
    let test = env::current_exe().context("find this program")?;
    let target = test.ancestors().nth(3).context("this program is in no target directory")?;
    let archive = target.join(format!("image/podrole-{ARCH}.oci.tar"));
    if archive.exists() { Ok(archive) } else { skip(&format!("no {}: run make image", archive.display())) }
}

fn unpack(archive: &Path, into: &Path) -> Result<()> {
    proc::run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(into).arg("--same-permissions")).map(drop)
}

/// The file that a descriptor names. Fails if its digest or size differs from the descriptor.
fn blob(layout: &Path, descriptor: &Value) -> Result<PathBuf> {
    let digest = descriptor["digest"].as_str().context("a descriptor has no digest")?;
    let hex = digest.strip_prefix("sha256:").with_context(|| format!("{digest} is not SHA-256"))?;
    let path = layout.join("blobs/sha256").join(hex);
    let said = proc::run(Command::new("sha256sum").arg(&path))?;
    ensure!(said.starts_with(hex), "{} has another digest: {said}", path.display());
    ensure!(descriptor["size"] == fs::metadata(&path)?.len(), "{descriptor} has another size");
    Ok(path)
}
