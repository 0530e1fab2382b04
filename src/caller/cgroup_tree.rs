//! Maps a cgroup id to its pod and container, by walking downward from the kubepods root.
//!
//! A cgroup's id is the inode of its directory. The id has 64 bits and is not reused, so an entry stays correct.
//! `/proc/<pid>/cgroup` and mountinfo are not used: the process may have ended, its pid may be reused, and it may have mounted
//! something over the tree.

mod layout;
mod scan;
mod walk;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use arc_swap::ArcSwap;

use super::cgroup_path::is_qos_class;
use crate::types::KernelIdentity;

use layout::{Layout, list};
use walk::{GroupKind, Member};

pub(super) use scan::CgroupScan;

/// The cgroups of all containers, as of the last scan.
#[derive(Debug, Default)]
pub struct CgroupTree {
    known: ArcSwap<HashMap<u64, KernelIdentity>>,
}

/// The pods' cgroups on this node.
#[derive(Debug, Default)]
pub struct Survey {
    /// The kubepods roots.
    pub roots: Vec<PathBuf>,
    /// The number of pods that have a cgroup below a root.
    pub pods: usize,
    /// The number of containers' cgroups, including the cgroups of sandboxes and those that containers have created.
    pub containers: usize,
}

// === impl CgroupTree ===

impl CgroupTree {
    /// The pod and container of a cgroup, as of the last scan.
    pub fn identity(&self, cgroup: u64) -> Option<KernelIdentity> {
        self.known.load().get(&cgroup).cloned()
    }
}

/// Counts the pods' cgroups below the cgroup2 mount.
///
/// # Errors
///
/// Fails if a directory cannot be read.
pub fn survey(mount: &Path) -> io::Result<Survey> {
    let layout = Layout::find(mount)?;
    let mut survey = Survey::default();
    let mut groups: Vec<(GroupKind, PathBuf)> = layout.units.into_iter().map(|path| (GroupKind::Unit, path)).collect();
    groups.extend(layout.roots.iter().map(|path| (GroupKind::Root, path.clone())));
    while let Some((kind, path)) = groups.pop() {
        for dir in list(&path)? {
            if let Some(member) = kind.member(&dir.name) {
                survey.pods += usize::from(matches!(member, Member::Pod(_)));
                survey.containers += member.read(&dir.path, dir.inode)?.len();
            } else if kind == GroupKind::Root && is_qos_class(&dir.name) {
                groups.push((GroupKind::Class, dir.path));
            }
        }
    }
    survey.roots = layout.roots;
    Ok(survey)
}

#[cfg(test)]
mod tests;
