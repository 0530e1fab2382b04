use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use super::super::Coverage;
use super::super::dir_watch::DirWatch;
use super::super::scanner::{Scan, Scanner};
use super::super::shortages::Shortages;
use super::*;
use crate::metrics::Metrics;
use crate::readiness::Readiness;

const UID: &str = "3f0c9a52-1111-2222-3333-444455556666";
const VICTIM: &str = "aaaaaaaa-1111-2222-3333-444455556666";

/// A directory that stands for the cgroup2 mount. A scan reads only names, inodes and link counts, so any file system can be used.
struct Mount {
    path: PathBuf,
    tree: Arc<CgroupTree>,
    scan: CgroupScan,
    readiness: Readiness,
}

impl Mount {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("podrole-cgroups-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        let tree = Arc::new(CgroupTree::default());
        let (readiness, start) = Readiness::new(false);
        drop(start);
        let shortages = Arc::new(Shortages::new(Arc::new(Metrics::new()), readiness.clone()));
        // Nothing reads the requests of this scanner: the test itself runs each scan.
        let watch = DirWatch::new(Scanner::new().0);
        let scan = CgroupScan::new(path.clone(), tree.clone(), watch, shortages);
        Self { path, tree, scan, readiness }
    }

    fn add(&self, path: &str) -> u64 {
        let path = self.path.join(path);
        fs::create_dir_all(&path).unwrap();
        fs::metadata(&path).unwrap().ino()
    }

    fn remove(&self, path: &str) {
        fs::remove_dir_all(self.path.join(path)).unwrap();
    }

    fn full(&mut self) -> Coverage {
        self.scan.run(Scan::Full).coverage
    }

    /// Scans until `cgroup` is known or unknown as expected: a notification arrives a moment after the change.
    fn notified(&mut self, cgroup: u64, known: bool) {
        for _ in 0..1000 {
            self.scan.run(Scan::Incremental);
            if self.tree.identity(cgroup).is_some() == known {
                return;
            }
            pause(Duration::from_millis(2));
        }
        panic!("no notification of {cgroup}");
    }

    fn pod_of(&self, cgroup: u64) -> Option<String> {
        self.tree.identity(cgroup).map(|identity| identity.pod.to_string())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Lets the thread that reads notifications run.
fn pause(time: Duration) {
    let (_sender, never) = mpsc::channel::<()>();
    let _ = never.recv_timeout(time);
}

fn id(digit: &str) -> String {
    digit.repeat(64)
}

fn slice(uid: &str) -> String {
    format!("kubepods-besteffort-pod{}.slice", uid.replace('-', "_"))
}

#[test]
fn layouts_of_kubelets_and_runtimes() {
    let (c, slice) = (id("c"), slice(UID));
    let layouts = [
        ("containerd, cgroupfs", format!("kubepods/besteffort/pod{UID}/{c}")),
        ("containerd, cgroupfs, guaranteed", format!("kubepods/pod{UID}/{c}")),
        ("containerd, systemd", format!("kubepods.slice/kubepods-besteffort.slice/{slice}/cri-containerd-{c}.scope")),
        ("k3s", format!("kubepods/burstable/pod{UID}/{c}")),
        (
            "kind",
            format!(
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-{slice}/cri-containerd-{c}.scope"
            ),
        ),
        ("kind, cgroupfs", format!("kubelet/kubepods/besteffort/pod{UID}/{c}")),
        ("CRI-O, systemd", format!("kubepods.slice/kubepods-besteffort.slice/{slice}/crio-{c}.scope")),
        ("CRI-O, cgroupfs", format!("kubepods/besteffort/pod{UID}/crio-{c}")),
        ("cri-dockerd, systemd", format!("kubepods.slice/kubepods-besteffort.slice/{slice}/docker-{c}.scope")),
        ("cri-dockerd, cgroupfs", format!("kubepods/besteffort/pod{UID}/{c}")),
        ("mixed, under the unit", format!("system.slice/containerd.service/{slice}:cri-containerd:{c}")),
        ("mixed, beside the unit", format!("system.slice/{slice}:cri-containerd:{c}")),
        ("mixed, at the top", format!("{slice}:cri-containerd:{c}")),
        ("mixed, Bottlerocket", format!("runtime.slice/containerd.service/{slice}:cri-containerd:{c}")),
        ("mixed, k3s", format!("system.slice/k3s.service/{slice}:cri-containerd:{c}")),
    ];
    for (number, (name, path)) in layouts.into_iter().enumerate() {
        let mut mount = Mount::new(&format!("layout-{number}"));
        // With mixed drivers the kubelet still makes the pod's slice.
        mount.add(&format!("kubepods.slice/kubepods-besteffort.slice/{slice}"));
        if !path.starts_with("kubepods.slice") && !path.contains(':') {
            mount.remove("kubepods.slice");
        }
        let container = mount.add(&path);
        let nested = mount.add(&format!("{path}/init.scope/more"));
        assert_eq!(mount.full(), Coverage::Complete, "{name}");
        assert_eq!(mount.pod_of(container).as_deref(), Some(UID), "{name}");
        assert_eq!(mount.pod_of(nested).as_deref(), Some(UID), "{name}");
        let above = mount.path.join(&path).parent().unwrap().metadata().unwrap().ino();
        assert_eq!(mount.pod_of(above), None, "{name}: only containers have an identity");
        let found = survey(&mount.path).unwrap();
        assert!(found.containers > 0, "{name}: {found:?}");
    }
}

#[test]
fn a_forged_tree_below_a_container_is_its_owners_or_nobodys() {
    let (c, victim) = (id("c"), id("f"));
    let forged = [
        format!("kubepods/besteffort/pod{VICTIM}/{victim}"),
        format!("kubepods.slice/kubepods-besteffort.slice/{}/cri-containerd-{victim}.scope", slice(VICTIM)),
        format!("{}:cri-containerd:{victim}", slice(VICTIM)),
        format!("system.slice/containerd.service/{}:cri-containerd:{victim}", slice(VICTIM)),
    ];
    // A forged cgroup below a pod's container belongs to that container's pod; below anything else, it belongs to no pod.
    let containers = [
        (format!("kubepods/besteffort/pod{UID}/{c}"), Some(UID)),
        (format!("system.slice/{}:cri-containerd:{c}", slice(UID)), Some(UID)),
        (format!("{}:cri-containerd:{c}", slice(UID)), Some(UID)),
        (format!("docker/{c}"), None),
        (c.clone(), None),
        (format!("system.slice/docker-{c}.scope"), None),
        ("lxc.payload.web".to_owned(), None),
        (format!("machine.slice/libpod-{c}.scope"), None),
        ("user.slice/user-1000.slice".to_owned(), None),
    ];
    for (number, (container, owner)) in containers.iter().enumerate() {
        // Test each container with and without a true root beside it.
        for with_root in [true, false] {
            let mut mount = Mount::new(&format!("forged-{number}-{with_root}"));
            if with_root {
                mount.add("kubepods/burstable");
            }
            let forged: Vec<(&String, u64)> =
                forged.iter().map(|path| (path, mount.add(&format!("{container}/{path}")))).collect();
            assert_eq!(mount.full(), Coverage::Complete);
            for (path, cgroup) in forged {
                assert_eq!(mount.pod_of(cgroup).as_deref(), *owner, "{container}/{path}");
            }
        }
    }
}

#[test]
fn the_shallowest_root_counts() {
    let mut mount = Mount::new("roots");
    let deep = mount.add(&format!("other/kubepods/besteffort/pod{VICTIM}/{}", id("d")));
    mount.full();
    assert_eq!(mount.pod_of(deep).as_deref(), Some(VICTIM), "the control: a kubelet with --cgroup-root=/other");
    let own = mount.add(&format!("kubepods/besteffort/pod{UID}/{}", id("c")));
    mount.full();
    assert_eq!((mount.pod_of(own).as_deref(), mount.pod_of(deep)), (Some(UID), None));
}

#[test]
fn changes_are_found_by_incremental_scans() {
    let mut mount = Mount::new("changes");
    mount.add("system.slice/containerd.service");
    mount.full();
    // The kubelet's tree, pods of two classes, a second container, a restart, and a runtime with another driver.
    for path in [
        format!("kubepods/pod{UID}/{}", id("1")),
        format!("kubepods/burstable/pod{VICTIM}/{}", id("2")),
        format!("kubepods/burstable/pod{VICTIM}/{}", id("3")),
        format!("system.slice/containerd.service/{}:cri-containerd:{}", slice("other-1"), id("4")),
        format!("system.slice/new.service/{}:cri-containerd:{}", slice("other-2"), id("5")),
    ] {
        let cgroup = mount.add(&path);
        mount.notified(cgroup, true);
        mount.remove(&path);
        mount.notified(cgroup, false);
        let again = mount.add(&path);
        mount.notified(again, true);
    }
    // When a pod is removed, its containers are removed with it.
    let last = mount.add(&format!("kubepods/pod{UID}/{}", id("6")));
    mount.notified(last, true);
    mount.remove(&format!("kubepods/pod{UID}"));
    mount.notified(last, false);
    assert_eq!(survey(&mount.path).unwrap().containers, 4);
}

#[test]
fn only_a_full_scan_finds_what_a_container_creates() {
    let mut mount = Mount::new("nested");
    let container = format!("kubepods/pod{UID}/{}", id("1"));
    mount.add(&container);
    mount.full();
    let nested = mount.add(&format!("{container}/init.scope"));
    mount.scan.run(Scan::Incremental);
    assert_eq!(mount.pod_of(nested), None);
    mount.full();
    assert_eq!(mount.pod_of(nested).as_deref(), Some(UID));
}

#[test]
fn what_cannot_be_read_is_kept() {
    let mut mount = Mount::new("kept");
    let container = mount.add(&format!("kubepods/burstable/pod{UID}/{}", id("1")));
    mount.full();
    // A path that is too long stands for any read that fails: first a read of the mount, then a read of a class.
    let hidden = mount.path.with_extension("hidden");
    let class = mount.path.join("kubepods/burstable");
    for broken in [mount.path.clone(), class] {
        fs::rename(&broken, &hidden).unwrap();
        std::os::unix::fs::symlink(&broken, &broken).unwrap();
        let read = fs::read_dir(&broken).map(drop).unwrap_err();
        assert_eq!(read.raw_os_error(), Some(rustix::io::Errno::LOOP.raw_os_error()), "the control: {read}");
        if broken == mount.path {
            assert_eq!(mount.full(), Coverage::Partial);
            assert_eq!(mount.readiness.degradations(), ["cgroup_scan"]);
        } else {
            // A link is not a directory, so the class has vanished.
            assert_eq!(mount.full(), Coverage::Complete);
        }
        let kept = mount.pod_of(container).is_some();
        assert_eq!(kept, broken == mount.path);
        fs::remove_file(&broken).unwrap();
        fs::rename(&hidden, &broken).unwrap();
        assert_eq!(mount.full(), Coverage::Complete);
        assert_eq!(mount.pod_of(container).as_deref(), Some(UID));
        assert!(mount.readiness.degradations().is_empty());
    }
}
