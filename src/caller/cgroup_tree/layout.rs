//! Finds the directories in which the kubelet and the runtime create pods' cgroups.

use std::fs;
use std::io;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::super::cgroup_path::{Place, place};

/// How deep below the mount the kubepods root may be (`/kubelet.slice/kubelet-kubepods.slice`).
const ROOT_DEPTH: usize = 3;
/// The most units that are searched for containers. A node has about a hundred.
const MAX_UNITS: usize = 1024;

/// Where pods' cgroups are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// The kubepods roots. Usually there is one root; a kubelet whose cgroup driver was changed leaves a second root beside it.
    pub(super) roots: Vec<PathBuf>,
    /// The units in which the runtime creates containers if its cgroup driver differs from the kubelet's, and the slices around
    /// them.
    pub(super) units: Vec<PathBuf>,
    /// The directories whose children determine the roots and units.
    pub(super) parents: Vec<PathBuf>,
}

/// A directory in a listing.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) inode: u64,
}

// === impl Layout ===

impl Layout {
    /// Searches below the cgroup2 mount. A container that may create cgroups can give them any name, so no directory below a
    /// container counts. Directories that do not belong to the mount's owner do not count either, nor do roots below the level of
    /// the first root that is found.
    pub(super) fn find(mount: &Path) -> io::Result<Self> {
        let owner = fs::metadata(mount)?.uid();
        let mut layout = Self { units: vec![mount.to_owned()], ..Self::default() };
        let mut level = vec![(Place::Plain, mount.to_owned())];
        for depth in 0..ROOT_DEPTH {
            let (mut next, mut roots) = (Vec::new(), Vec::new());
            for (parent, path) in level {
                for dir in list(&path)? {
                    let found = place(&dir.name);
                    let counts = match found {
                        Place::Kubepods => true,
                        Place::Plain => parent == Place::Plain,
                        Place::Slice | Place::Service => parent == Place::Slice || depth == 0,
                        Place::Foreign => false,
                    };
                    if !counts || !belongs_to(&dir.path, owner)? {
                        continue;
                    }
                    match found {
                        Place::Kubepods => roots.push(dir.path),
                        Place::Service => layout.units.push(dir.path),
                        Place::Slice => {
                            layout.units.push(dir.path.clone());
                            next.push((found, dir.path));
                        }
                        Place::Plain | Place::Foreign => next.push((found, dir.path)),
                    }
                }
                layout.parents.push(path);
            }
            if layout.roots.is_empty() {
                layout.roots = roots;
            }
            level = next;
        }
        layout.units.truncate(MAX_UNITS);
        Ok(layout)
    }
}

/// Whether a directory that exists belongs to `owner`.
fn belongs_to(path: &Path, owner: u32) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(meta) => Ok(meta.uid() == owner),
        Err(error) if is_gone(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Lists the directories in `path`. The list is empty if `path` has vanished.
pub(super) fn list(path: &Path) -> io::Result<Vec<Dir>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if is_gone(&error) => break,
            Err(error) => return Err(error),
        };
        if entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(name) = entry.file_name().into_string()
        {
            found.push(Dir { name, path: entry.path(), inode: entry.ino() });
        }
    }
    Ok(found)
}

/// Whether an error means that a directory has vanished, not that a read failed. Reading a cgroup that is removed while it is open
/// fails with `ENODEV`.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}
