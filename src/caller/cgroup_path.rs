//! Parses the names that the kubelet and container runtimes give to cgroups. Pure.
//!
//! The walk goes downward from the kubepods root, one directory at a time. The first pod and the first container on the way
//! determine the identity. A container that may create cgroups below its own can give one of them the name of another pod's
//! cgroup, but gains nothing by doing so.

use crate::types::{ContainerId, KernelIdentity, PodUid};

/// Length of a container id of containerd, CRI-O and docker.
const CONTAINER_ID_LEN: usize = 64;
/// The prefixes that runtimes put before the container id in the name of a scope, with the systemd cgroup driver.
const SCOPE_PREFIXES: [&str; 3] = ["cri-containerd-", "crio-", "docker-"];
/// The names that the runtimes use in `<slice>:<runtime>:<id>`.
const RUNTIMES: [&str; 3] = ["cri-containerd", "crio", "docker"];
/// Directories whose children belong to users, virtual machines and other containers.
const FOREIGN: [&str; 4] = ["user.slice", "machine.slice", "machine", "docker"];

/// Whether a directory is the root of all pods: `kubepods`, `kubepods.slice`, or the same below the kubelet's `--cgroup-root`
/// (`kubelet-kubepods.slice`).
pub fn is_kubepods_root(name: &str) -> bool {
    let name = name.strip_suffix(".slice").unwrap_or(name);
    name == "kubepods" || name.strip_suffix("-kubepods").is_some_and(|kubelet| !kubelet.contains("kubepods"))
}

/// Whether a directory under the root contains the pods of one quality-of-service class.
pub fn is_qos_class(name: &str) -> bool {
    let class = match name.strip_suffix(".slice") {
        Some(slice) => after_kubepods(slice).and_then(|rest| rest.strip_prefix('-')),
        None => Some(name),
    };
    matches!(class, Some("burstable" | "besteffort"))
}

/// The pod whose directory, under the root or a class, has this name: `pod<uid>`, or `…kubepods[-class]-pod<uid>.slice` with `_`
/// for each `-` of the UID.
pub fn pod_uid(name: &str) -> Option<PodUid> {
    let Some(slice) = name.strip_suffix(".slice") else {
        return name.strip_prefix("pod").and_then(PodUid::parse);
    };
    let rest = after_kubepods(slice)?;
    let rest = rest.strip_prefix("-burstable").or_else(|| rest.strip_prefix("-besteffort")).unwrap_or(rest);
    // In the name of a slice, `-` is a path separator, so the kubelet writes the dashes of the UID as `_`.
    rest.strip_prefix("-pod").and_then(|uid| PodUid::parse(&uid.replace('_', "-")))
}

/// The container whose directory, directly under a pod's directory, has this name: `<id>`, `crio-<id>`, or `<runtime>-<id>.scope`.
pub fn container_id(name: &str) -> Option<ContainerId> {
    let id = match name.strip_suffix(".scope") {
        Some(scope) => SCOPE_PREFIXES.iter().find_map(|prefix| scope.strip_prefix(prefix))?,
        None => name.strip_prefix("crio-").unwrap_or(name),
    };
    is_container_id(id).then(|| ContainerId::parse(id)).flatten()
}

/// The pod and container of a directory `<slice of the pod>:<runtime>:<id>`. A kubelet with the systemd cgroup driver asks for this
/// name, and a runtime with the cgroupfs driver takes it literally and puts the directory beside or under its own unit.
pub fn container_in_unit(name: &str) -> Option<KernelIdentity> {
    let (slice, rest) = name.split_once(':')?;
    let (runtime, id) = rest.split_once(':')?;
    if !slice.ends_with(".slice") || !RUNTIMES.contains(&runtime) || !is_container_id(id) {
        return None;
    }
    Some(KernelIdentity { pod: pod_uid(slice)?, container: ContainerId::parse(id)? })
}

/// The kind of a directory above the kubepods root. Directories in which a container may create others are [`Place::Foreign`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The kubepods root.
    Kubepods,
    /// A slice of systemd.
    Slice,
    /// A service of systemd.
    Service,
    /// Any other directory of the node: a component of the kubelet's `--cgroup-root`.
    Plain,
    /// A container, a virtual machine or a user's session.
    Foreign,
}

/// The kind of the directory `name`.
pub fn place(name: &str) -> Place {
    if is_kubepods_root(name) {
        return Place::Kubepods;
    }
    let contained = FOREIGN.contains(&name)
        || name.starts_with("lxc")
        || name.ends_with(".scope")
        || name.contains(':')
        || name.split(|c: char| !c.is_ascii_hexdigit()).any(is_container_id);
    if contained {
        Place::Foreign
    } else if name.ends_with(".slice") {
        if after_kubepods(name).is_some() { Place::Foreign } else { Place::Slice }
    } else if name.ends_with(".service") {
        Place::Service
    } else {
        Place::Plain
    }
}

fn is_container_id(id: &str) -> bool {
    id.len() == CONTAINER_ID_LEN && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn after_kubepods(slice: &str) -> Option<&str> {
    slice.find("kubepods").map(|at| &slice[at + "kubepods".len()..])
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "3f0c9a52-1111-2222-3333-444455556666";
    const ID: &str = "8f2c1b0a8f2c1b0a8f2c1b0a8f2c1b0a8f2c1b0a8f2c1b0a8f2c1b0a8f2c1b0a";

    #[test]
    fn roots() {
        for (name, expected) in [
            ("kubepods", true),
            ("kubepods.slice", true),
            ("kubelet-kubepods.slice", true),
            ("kubepods-burstable.slice", false),
            ("kubepods-kubepods.slice", false),
            ("system.slice", false),
            ("mykubepods", false),
        ] {
            assert_eq!(is_kubepods_root(name), expected, "{name}");
        }
    }

    #[test]
    fn classes() {
        for name in ["burstable", "besteffort", "kubepods-burstable.slice", "kubelet-kubepods-besteffort.slice"] {
            assert!(is_qos_class(name), "{name}");
        }
        for name in ["guaranteed", "podburstable", "kubepods-podburstable.slice", "burstable-x"] {
            assert!(!is_qos_class(name), "{name}");
        }
    }

    #[test]
    fn pods() {
        let underscored = UID.replace('-', "_");
        for name in [
            format!("pod{UID}"),
            format!("kubepods-pod{underscored}.slice"),
            format!("kubepods-burstable-pod{underscored}.slice"),
            format!("kubelet-kubepods-besteffort-pod{underscored}.slice"),
        ] {
            assert_eq!(pod_uid(&name).map(|uid| uid.to_string()), Some(UID.into()), "{name}");
        }
        for name in ["pod", "pod../..", "kubepods-burstable.slice", "podx y", "burstable", "kubepods-podx/y.slice"] {
            assert_eq!(pod_uid(name), None, "{name}");
        }
    }

    #[test]
    fn containers() {
        for name in [
            ID.to_owned(),
            format!("crio-{ID}"),
            format!("crio-{ID}.scope"),
            format!("cri-containerd-{ID}.scope"),
            format!("docker-{ID}.scope"),
        ] {
            assert_eq!(container_id(&name).map(|id| id.to_string()), Some(ID.into()), "{name}");
        }
        for name in
            [&format!("crio-conmon-{ID}.scope"), "init.scope", &ID[1..], &ID.to_uppercase(), &format!("{ID}.service")]
        {
            assert_eq!(container_id(name), None, "{name}");
        }
    }

    #[test]
    fn containers_beside_their_slices() {
        let underscored = UID.replace('-', "_");
        for slice in [
            format!("kubepods-pod{underscored}.slice"),
            format!("kubepods-besteffort-pod{underscored}.slice"),
            format!("kubelet-kubepods-burstable-pod{underscored}.slice"),
        ] {
            for runtime in ["cri-containerd", "crio", "docker"] {
                let found = container_in_unit(&format!("{slice}:{runtime}:{ID}")).unwrap();
                assert_eq!((found.pod.to_string(), found.container.to_string()), (UID.into(), ID.into()));
            }
        }
        let slice = format!("kubepods-pod{underscored}.slice");
        for name in [
            format!("{slice}:cri-containerd:"),
            format!("{slice}:cri-containerd:{ID}:"),
            format!("{slice}:other:{ID}"),
            format!("{slice}::{ID}"),
            format!("{slice}:{ID}"),
            format!("pod{UID}:cri-containerd:{ID}"),
            format!("kubepods.slice:cri-containerd:{ID}"),
        ] {
            assert_eq!(container_in_unit(&name), None, "{name}");
        }
    }

    #[test]
    fn places() {
        for (name, expected) in [
            ("kubepods.slice", Place::Kubepods),
            ("kubelet.slice", Place::Slice),
            ("system.slice", Place::Slice),
            ("runtime.slice", Place::Slice),
            ("containerd.service", Place::Service),
            ("kubelet", Place::Plain),
            ("k3s", Place::Plain),
            (ID, Place::Foreign),
            (&format!("docker-{ID}.scope"), Place::Foreign),
            (&format!("libpod-{ID}"), Place::Foreign),
            (&format!("kubepods-podx.slice:cri-containerd:{ID}"), Place::Foreign),
            ("kubepods-besteffort.slice", Place::Foreign),
            ("lxc.payload.web", Place::Foreign),
            ("init.scope", Place::Foreign),
            ("user.slice", Place::Foreign),
        ] {
            assert_eq!(place(name), expected, "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn total(name in "\\PC{0,40}") {
            let _ = (is_kubepods_root(&name), is_qos_class(&name), pod_uid(&name), container_id(&name));
            let _ = (container_in_unit(&name), place(&name));
        }
    }
}
