//! Reads the cgroups of one pod or container.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::super::cgroup_path::{container_id, container_in_unit, pod_uid};
use super::layout::list;
use crate::types::{KernelIdentity, PodUid};

/// The most directories that are read below one container. systemd or docker in a pod creates a few dozen. A pod that creates
/// more than the limit may be trying to slow down the walk. Cgroups beyond the limit have no identity.
const MAX_PER_CONTAINER: usize = 512;
/// The most levels that are read below a container. This limit also keeps a pod from slowing down the walk.
const MAX_DEPTH: usize = 8;

/// A directory that contains the cgroups of many pods or containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GroupKind {
    /// A kubepods root, which contains the pods of the class Guaranteed and the directories of the other classes.
    Root,
    /// The directory of one of the other classes.
    Class,
    /// A systemd unit, which contains the containers of a runtime whose cgroup driver differs from the kubelet's.
    Unit,
}

/// A directory of a group that belongs to one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// A pod's cgroup, whose children are its containers.
    Pod(PodUid),
    /// A container's cgroup.
    Container(KernelIdentity),
}

/// Cgroup ids and their owner.
pub(super) type Ids = Vec<(u64, KernelIdentity)>;

// === impl GroupKind ===

impl GroupKind {
    /// The kind of the group's directory `name`; `None` for a directory that belongs to no pod.
    pub(super) fn member(self, name: &str) -> Option<Member> {
        match self {
            Self::Root | Self::Class => pod_uid(name).map(Member::Pod),
            Self::Unit => container_in_unit(name).map(Member::Container),
        }
    }
}

// === impl Member ===

impl Member {
    /// Reads the ids of all the member's cgroups that belong to a container.
    pub(super) fn read(&self, path: &Path, inode: u64) -> io::Result<Ids> {
        let mut ids = Vec::new();
        match self {
            Self::Container(identity) => read_container(identity, path, inode, &mut ids)?,
            Self::Pod(pod) => {
                for dir in list(path)? {
                    if let Some(container) = container_id(&dir.name) {
                        let identity = KernelIdentity { pod: pod.clone(), container };
                        read_container(&identity, &dir.path, dir.inode, &mut ids)?;
                    }
                }
            }
        }
        Ok(ids)
    }
}

/// Directories below a container belong to it, whatever their names.
fn read_container(identity: &KernelIdentity, path: &Path, inode: u64, ids: &mut Ids) -> io::Result<()> {
    ids.push((inode, identity.clone()));
    let mut budget = MAX_PER_CONTAINER;
    read_below(identity, path, 0, &mut budget, ids)
}

fn read_below(
    identity: &KernelIdentity,
    path: &Path,
    depth: usize,
    budget: &mut usize,
    ids: &mut Ids,
) -> io::Result<()> {
    if is_leaf(path) {
        return Ok(());
    }
    for dir in list(path)? {
        if depth < MAX_DEPTH && *budget > 0 {
            *budget -= 1;
            ids.push((dir.inode, identity.clone()));
            read_below(identity, &dir.path, depth + 1, budget, ids)?;
        }
    }
    Ok(())
}

/// Whether a cgroup has no children. A link count of two means no children, and reading the count is much cheaper than listing
/// the directory with its files. File systems that do not count directories as links report a link count of one.
fn is_leaf(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.nlink() == 2)
}
