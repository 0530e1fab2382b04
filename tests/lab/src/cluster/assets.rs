//! Locates the control plane's binaries: `KUBEBUILDER_ASSETS`, or the output of `tests/cluster/build.sh`.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The binaries from which a [`Cluster`](super::Cluster) is started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assets {
    /// kube-apiserver.
    pub apiserver: PathBuf,
    /// etcd, version 3.4 or newer.
    pub etcd: PathBuf,
}

impl Assets {
    /// The path of a program in kube-apiserver's directory or built by `tests/cluster/build.sh NAME`.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        let mut places: Vec<PathBuf> = self.apiserver.parent().map(Path::to_path_buf).into_iter().collect();
        places.extend(built());
        let found = places.into_iter().map(|dir| dir.join(name)).find(|file| file.is_file());
        found.with_context(|| format!("no {name}: run tests/cluster/build.sh {name}"))
    }

    /// Finds the binaries. If one is missing, the error names it and says how to get it, so that the test can report
    /// itself as skipped.
    ///
    /// Searches in this order: `KUBEBUILDER_ASSETS`; `cluster/` below `CARGO_TARGET_DIR`; `cluster/` below the target
    /// directory of the running program.
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

    /// The binaries in `dir`. etcd may also be on `PATH`.
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

/// The directories in which `tests/cluster/build.sh` may have put its output.
fn built() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = Vec::new();
    places.extend(env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from));
    if let Ok(program) = env::current_exe() {
        // Tests are target/PROFILE/deps/NAME, other programs target/PROFILE/NAME; --target adds one level.
        places.extend(program.ancestors().skip(2).take(3).map(Path::to_path_buf));
    }
    places.into_iter().map(|place| place.join("cluster")).collect()
}

/// The first file called `name` in the directories of `PATH`.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
