//! Where the binaries of the control plane are: `KUBEBUILDER_ASSETS`, or what `tests/cluster/build.sh` made.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The binaries that a [`Cluster`](super::Cluster) is started from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assets {
    /// kube-apiserver.
    pub apiserver: PathBuf,
    /// etcd, version 3.4 or newer.
    pub etcd: PathBuf,
}

impl Assets {
    /// A program that stands beside kube-apiserver, or that `tests/cluster/build.sh NAME` made for the tests.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let mut places: Vec<PathBuf> = self.apiserver.parent().map(Path::to_path_buf).into_iter().collect();
        places.extend(built());
        let found = places.into_iter().map(|dir| dir.join(name)).find(|file| file.is_file());
        found.with_context(|| format!("no {name}: run tests/cluster/build.sh {name}"))
    }

    /// Finds the binaries, or says which one is missing and how to get it: a test then reports itself as skipped.
    ///
    /// The places, in this order: `KUBEBUILDER_ASSETS`; `cluster/` below `CARGO_TARGET_DIR`; `cluster/` below the target directory
    /// that the running program was built into.
    pub fn find() -> Result<Self> {
        if let Some(dir) = env::var_os("KUBEBUILDER_ASSETS").filter(|dir| !dir.is_empty()) {
            return Self::in_dir(Path::new(&dir));
        }
        let found = built().into_iter().find(|dir| dir.join("kube-apiserver").is_file());
        match found {
            Some(dir) => Self::in_dir(&dir),
            None => bail!("no kube-apiserver: run tests/cluster/build.sh, or set KUBEBUILDER_ASSETS"),
        }
    }

    /// The binaries in `dir`; etcd may also be the system's.
    pub fn in_dir(dir: &Path) -> Result<Self> {
        let apiserver = dir.join("kube-apiserver");
        if !apiserver.is_file() {
            bail!("{} does not exist: run tests/cluster/build.sh", apiserver.display());
        }
        let local = dir.join("etcd");
        let etcd = if local.is_file() { Some(local) } else { on_path("etcd") };
        let etcd = etcd.with_context(|| format!("no etcd in {} or PATH: install etcd-server", dir.display()))?;
        Ok(Self { apiserver, etcd })
    }
}

/// Where `tests/cluster/build.sh` puts what it makes, as far as this process can know.
fn built() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    places.extend(env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from));
    if let Ok(program) = env::current_exe() {
        // target/PROFILE/deps/NAME for a test, target/PROFILE/NAME for a program, one level more with --target.
        places.extend(program.ancestors().skip(2).take(3).map(Path::to_path_buf));
    }
    places.into_iter().map(|place| place.join("cluster")).collect()
}

/// The first file called `name` in the directories of `PATH`.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
