//! Maps a cgroup id to its pod and container, by walking the kubepods tree downward.
//!
//! A cgroup's id is the inode of its directory. It has 64 bits and is not reused, so an entry stays true. `/proc/<pid>/cgroup` and
//! mountinfo are not used: the process may have ended, its pid may be reused, and it may have mounted something over the tree.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::cgroup_path::{container_id, is_kubepods_root, is_qos_class, pod_uid};
use crate::types::KernelIdentity;

/// How deep below the mount the kubepods root may be (`/kubelet.slice/kubelet-kubepods.slice`).
const ROOT_DEPTH: usize = 3;
/// The most directories that are read of one container. systemd or docker in a pod makes a few dozen; a pod that makes more may
/// intend to slow the walk down. Cgroups beyond the limit have no identity.
const MAX_PER_CONTAINER: usize = 512;
/// The most levels that are read below a container, for the same reason.
const MAX_DEPTH: usize = 8;

/// The cgroups of all containers, as of the last walk.
#[derive(Debug)]
pub struct CgroupTree {
    mount: PathBuf,
    known: ArcSwap<HashMap<u64, KernelIdentity>>,
}

// === impl CgroupTree ===

impl CgroupTree {
    /// An empty map for the cgroup2 mount at `mount`.
    pub fn new(mount: PathBuf) -> Self {
        Self { mount, known: ArcSwap::default() }
    }

    /// The pod and container of a cgroup, as of the last walk.
    pub fn identity(&self, cgroup: u64) -> Option<KernelIdentity> {
        self.known.load().get(&cgroup).cloned()
    }

    /// Walks the tree. Blocks on the file system. Directories that vanish during the walk are skipped.
    pub fn walk(&self) {
        let mut known = HashMap::with_capacity(self.known.load().len() + 16);
        find_roots(&self.mount, 0, &mut |root| {
            each_directory(root, |name, path, _| match pod_uid(name) {
                Some(pod) => walk_pod(&pod, path, &mut known),
                None if is_qos_class(name) => each_directory(path, |name, path, _| {
                    if let Some(pod) = pod_uid(name) {
                        walk_pod(&pod, path, &mut known);
                    }
                }),
                None => {}
            });
        });
        self.known.store(Arc::new(known));
    }
}

/// The kubepods roots below the cgroup2 mount at `mount`, which contain the pods' cgroups.
pub fn roots(mount: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    find_roots(mount, 0, &mut |root| found.push(root.to_owned()));
    found
}

fn find_roots(path: &Path, depth: usize, found: &mut impl FnMut(&Path)) {
    each_directory(path, |name, path, _| {
        if is_kubepods_root(name) {
            found(path);
        } else if depth + 1 < ROOT_DEPTH {
            find_roots(path, depth + 1, found);
        }
    });
}

fn walk_pod(pod: &crate::types::PodUid, path: &Path, known: &mut HashMap<u64, KernelIdentity>) {
    each_directory(path, |name, path, inode| {
        if let Some(container) = container_id(name) {
            let identity = KernelIdentity { pod: pod.clone(), container };
            known.insert(inode, identity.clone());
            let mut budget = MAX_PER_CONTAINER;
            // Directories below a container belong to it, whatever their names.
            walk_container(&identity, path, 0, &mut budget, known);
        }
    });
}

fn walk_container(
    identity: &KernelIdentity,
    path: &Path,
    depth: usize,
    budget: &mut usize,
    known: &mut HashMap<u64, KernelIdentity>,
) {
    each_directory(path, |_, path, inode| {
        if depth < MAX_DEPTH && *budget > 0 {
            *budget -= 1;
            known.insert(inode, identity.clone());
            walk_container(identity, path, depth + 1, budget, known);
        }
    });
}

fn each_directory(path: &Path, mut visit: impl FnMut(&str, &Path, u64)) {
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory && let Some(name) = entry.file_name().to_str() {
            visit(name, &entry.path(), entry.ino());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The walk reads only names and inodes, so it can be tested on any file system.
    #[test]
    fn first_pod_and_first_container_count() {
        let mount = std::env::temp_dir().join(format!("podrole-cgroup-tree-{}", std::process::id()));
        let _ = fs::remove_dir_all(&mount);
        let own = ["a"; 64].concat();
        let victim = ["b"; 64].concat();
        let container = mount.join(format!("kubepods/burstable/podown-1/{own}"));
        let forged = container.join(format!("kubepods/burstable/podvictim-1/{victim}"));
        let systemd = mount.join(format!(
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podown_2.slice/cri-containerd-{own}.scope"
        ));
        let outside = mount.join(format!("system.slice/x.service/podvictim-1/{victim}"));
        for path in [&forged, &systemd, &outside] {
            fs::create_dir_all(path).unwrap();
        }
        let tree = CgroupTree::new(mount.clone());
        tree.walk();
        let pod_of = |path: &Path| {
            let inode = std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
            tree.identity(inode).map(|identity| (identity.pod.to_string(), identity.container.to_string()))
        };
        let expected = Some(("own-1".to_owned(), own.clone()));
        assert_eq!(pod_of(&container), expected);
        assert_eq!(pod_of(&forged), expected, "a forged cgroup belongs to the container that made it");
        assert_eq!(pod_of(&systemd), Some(("own-2".to_owned(), own)));
        assert_eq!(pod_of(&outside), None);
        assert_eq!(pod_of(container.parent().unwrap()), None, "a pod's directory is not a container");
        fs::remove_dir_all(&mount).unwrap();
    }
}
