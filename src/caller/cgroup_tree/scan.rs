//! Keeps the map of cgroups up to date.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::super::Coverage;
use super::super::cgroup_path::is_qos_class;
use super::super::dir_watch::DirWatch;
use super::super::scanner::{Scan, Scanned};
use super::super::shortages::{Shortage, Shortages};
use super::CgroupTree;
use super::layout::{Dir, Layout, list};
use super::walk::{GroupKind, Ids, Member};

/// The time between two scans while a directory cannot be read or watched.
const RETRY: Duration = Duration::from_millis(500);

/// Keeps a [`CgroupTree`] up to date. Watches every directory in which the kubelet or a runtime creates cgroups, so that a scan reads
/// only those that have changed. Directories below a container are not watched: a cgroup that a container creates for itself is found
/// by the full scan that the first request from it causes.
#[derive(Debug)]
pub(in crate::caller) struct CgroupScan {
    mount: PathBuf,
    tree: Arc<CgroupTree>,
    watch: DirWatch,
    shortages: Arc<Shortages>,
    groups: HashMap<PathBuf, Group>,
    /// The number of the latest pass over all groups.
    reading: u64,
    watched: HashMap<i32, Watched>,
    /// Why some directory is not watched. While it is unwatched, an incremental scan cannot know what has changed.
    unwatched: Option<io::Error>,
    /// Why some directory could not be read in this scan.
    unread: Option<io::Error>,
}

/// The last known state of a group.
#[derive(Debug)]
struct Group {
    kind: GroupKind,
    /// The group's members, by path.
    members: HashMap<PathBuf, Known>,
    /// The number of the latest pass that found this group.
    reading: u64,
}

/// The last known state of a member.
#[derive(Debug)]
struct Known {
    inode: u64,
    member: Member,
    ids: Ids,
    watch: Option<i32>,
}

/// What a change in a watched directory means.
#[derive(Clone, Debug)]
enum Watched {
    /// Units or kubepods roots have been created or removed.
    Layout,
    /// Members of this group have been created or removed.
    Group(PathBuf),
    /// Containers of a pod have been created or removed.
    Pod { group: PathBuf, path: PathBuf },
}

// === impl CgroupScan ===

impl CgroupScan {
    pub(in crate::caller) fn new(
        mount: PathBuf,
        tree: Arc<CgroupTree>,
        watch: DirWatch,
        shortages: Arc<Shortages>,
    ) -> Self {
        Self {
            mount,
            tree,
            watch,
            shortages,
            groups: HashMap::new(),
            reading: 0,
            watched: HashMap::new(),
            unwatched: None,
            unread: None,
        }
    }

    /// Runs one scan. Entries that cannot be read are kept as they were. Blocks on the file system.
    pub(in crate::caller) fn run(&mut self, scan: Scan) -> Scanned {
        self.unread = None;
        let changed = self.watch.take();
        if changed.ended {
            self.watched.clear();
            self.groups.values_mut().flat_map(|group| group.members.values_mut()).for_each(|known| known.watch = None);
        }
        if scan == Scan::Full || changed.ended || self.unwatched.is_some() {
            self.read_all(Scan::Full);
            self.publish();
        } else if self.read_changed(&changed.watches) {
            self.publish();
        }
        self.shortages.report(Shortage::CgroupWatch, self.unwatched.as_ref());
        self.shortages.report(Shortage::CgroupScan, self.unread.as_ref());
        let coverage = if self.unread.is_none() { Coverage::Complete } else { Coverage::Partial };
        let again = (self.unread.is_some() || self.unwatched.is_some()).then_some(RETRY);
        Scanned { coverage, again }
    }

    /// Reads the directories whose watches have reported a change. Returns whether anything was read.
    fn read_changed(&mut self, watches: &HashSet<i32>) -> bool {
        let changed: Vec<Watched> = watches.iter().filter_map(|watch| self.watched.get(watch).cloned()).collect();
        if changed.iter().any(|watched| matches!(watched, Watched::Layout)) {
            self.read_all(Scan::Incremental);
        }
        for watched in &changed {
            match watched {
                Watched::Layout => {}
                Watched::Group(path) => {
                    if let Some(kind) = self.groups.get(path).map(|group| group.kind) {
                        self.read_group(kind, path, Scan::Incremental);
                    }
                }
                Watched::Pod { group, path } => self.read_again(group, path),
            }
        }
        !changed.is_empty()
    }

    /// Finds the layout and reads every group. With [`Scan::Incremental`], reads only the members that are new.
    fn read_all(&mut self, scan: Scan) {
        self.unwatched = None;
        let layout = match Layout::find(&self.mount) {
            Ok(layout) => layout,
            Err(error) => return self.unread = Some(error),
        };
        for path in &layout.parents {
            self.watch_directory(path, || Watched::Layout);
        }
        self.reading += 1;
        for path in &layout.units {
            self.read_group(GroupKind::Unit, path, scan);
        }
        for path in &layout.roots {
            self.read_group(GroupKind::Root, path, scan);
        }
        // If a directory could not be listed, groups below it may still exist.
        if self.unread.is_none() {
            let (reading, watched) = (self.reading, &mut self.watched);
            self.groups.retain(|_, group| {
                let stays = group.reading == reading;
                if !stays {
                    group.members.values().for_each(|known| known.forget(watched));
                }
                stays
            });
        }
    }

    fn read_group(&mut self, kind: GroupKind, path: &Path, scan: Scan) {
        let members = self.groups.remove(path).map(|group| group.members).unwrap_or_default();
        let mut group = Group { kind, members, reading: self.reading };
        self.watch_directory(path, || Watched::Group(path.to_owned()));
        match list(path) {
            Ok(dirs) => self.read_members(&mut group, path, dirs, scan),
            Err(error) => self.unread = Some(error),
        }
        self.groups.insert(path.to_owned(), group);
    }

    fn read_members(&mut self, group: &mut Group, path: &Path, dirs: Vec<Dir>, scan: Scan) {
        let mut last = std::mem::take(&mut group.members);
        for dir in dirs {
            let Some(member) = group.kind.member(&dir.name) else {
                if group.kind == GroupKind::Root && is_qos_class(&dir.name) {
                    self.read_class(&dir.path, scan);
                }
                continue;
            };
            let known = last.remove(&dir.path).filter(|known| known.inode == dir.inode);
            let known = match known {
                Some(known) if scan == Scan::Incremental => Some(known),
                known => self.read_member(path, &dir, member, known),
            };
            if let Some(known) = known {
                group.members.insert(dir.path, known);
            }
        }
        last.values().for_each(|known| known.forget(&mut self.watched));
    }

    /// An incremental scan reads a class only if it is new: a known class has its own watch.
    fn read_class(&mut self, path: &Path, scan: Scan) {
        let known = self.groups.get(path).is_some_and(|class| class.reading == self.reading);
        if !known || scan == Scan::Full {
            self.read_group(GroupKind::Class, path, scan);
        }
    }

    /// Reads a member. If the read fails, keeps what was known about the member. A member that was never read is left out, so
    /// that the next scan reads it.
    fn read_member(&mut self, group: &Path, dir: &Dir, member: Member, last: Option<Known>) -> Option<Known> {
        let mut watch = last.as_ref().and_then(|last| last.watch);
        // The directory is watched before it is read, so that no change is missed in between.
        if watch.is_none() && matches!(member, Member::Pod(_)) {
            let watched = || Watched::Pod { group: group.to_owned(), path: dir.path.clone() };
            watch = self.watch_directory(&dir.path, watched);
        }
        let ids = match member.read(&dir.path, dir.inode) {
            Ok(ids) => ids,
            Err(error) => {
                self.unread = Some(error);
                last?.ids
            }
        };
        Some(Known { inode: dir.inode, member, ids, watch })
    }

    fn read_again(&mut self, group: &Path, path: &Path) {
        let Some(known) = self.groups.get_mut(group).and_then(|group| group.members.get_mut(path)) else { return };
        match known.member.read(path, known.inode) {
            Ok(ids) => known.ids = ids,
            Err(error) => self.unread = Some(error),
        }
    }

    fn watch_directory(&mut self, path: &Path, watched: impl FnOnce() -> Watched) -> Option<i32> {
        // After one failure, the other watches would fail too. The next scan tries all of them again.
        if self.unwatched.is_some() {
            return None;
        }
        match self.watch.add(path) {
            Ok(watch) => {
                // A directory may be both part of the layout and a group. A change of the layout reads all groups.
                if !matches!(self.watched.get(&watch), Some(Watched::Layout)) {
                    self.watched.insert(watch, watched());
                }
                Some(watch)
            }
            // The directory has vanished since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                self.unwatched = Some(error);
                None
            }
        }
    }

    fn publish(&self) {
        let members = self.groups.values().flat_map(|group| group.members.values());
        let mut ids = HashMap::with_capacity(self.tree.known.load().len() + 16);
        ids.extend(members.flat_map(|known| known.ids.iter().cloned()));
        self.tree.known.store(Arc::new(ids));
    }
}

// === impl Known ===

impl Known {
    /// Removes the watch of this directory from `watched`. The kernel itself ends the watch when the directory is gone.
    fn forget(&self, watched: &mut HashMap<i32, Watched>) {
        if let Some(watch) = self.watch {
            watched.remove(&watch);
        }
    }
}
