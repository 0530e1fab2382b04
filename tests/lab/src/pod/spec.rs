//! The options of a pod.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use super::ContainerKind;

/// How the pod's network is connected to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A port of a bridge that has an address: flannel, the bridge plugin, Docker.
    Bridge,
    /// A veth pair whose node side has no address, with a gateway address that exists nowhere: Calico, the VPC CNI,
    /// Cilium, ptp.
    PointToPoint,
}

/// The kubelet's cgroup driver, which determines the cgroups' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// `kubepods/burstable/pod<uid>/<id>`
    Cgroupfs,
    /// `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope`
    Systemd,
    /// CRI-O's names with the systemd driver: `crio-<id>.scope`.
    CrioSystemd,
    /// CRI-O's names with the cgroupfs driver: `crio-<id>`.
    CrioCgroupfs,
    /// cri-dockerd's names with the systemd driver: `docker-<id>.scope`.
    DockerSystemd,
    /// The kubelet uses systemd, containerd cgroupfs: `system.slice/containerd.service/<slice of the pod>:cri-containerd:<id>`.
    Mixed,
}

/// The unit in which [`Driver::Mixed`] puts containers.
pub(super) const MIXED_UNIT: &str = "system.slice/containerd.service";

impl Driver {
    /// Every driver.
    pub const ALL: [Self; 6] =
        [Self::Cgroupfs, Self::Systemd, Self::CrioSystemd, Self::CrioCgroupfs, Self::DockerSystemd, Self::Mixed];

    /// Whether the kubelet names slices.
    fn has_slices(self) -> bool {
        !matches!(self, Self::Cgroupfs | Self::CrioCgroupfs)
    }

    /// The directory of a container of the pod whose cgroup is `pod`.
    pub(super) fn container(self, root: &Path, pod: &Path, id: &str) -> PathBuf {
        match self {
            Self::Cgroupfs => pod.join(id),
            Self::Systemd => pod.join(format!("cri-containerd-{id}.scope")),
            Self::CrioSystemd => pod.join(format!("crio-{id}.scope")),
            Self::CrioCgroupfs => pod.join(format!("crio-{id}")),
            Self::DockerSystemd => pod.join(format!("docker-{id}.scope")),
            Self::Mixed => {
                let slice = pod.file_name().unwrap_or_default().display();
                root.join(MIXED_UNIT).join(format!("{slice}:cri-containerd:{id}"))
            }
        }
    }
}

/// The pod's QoS class, which determines the location of its cgroup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Directly below the root of all pods' cgroups.
    Guaranteed,
    /// Some resources requested; most pods.
    Burstable,
    /// No resources requested.
    BestEffort,
}

impl Qos {
    pub(super) fn directory(self) -> Option<&'static str> {
        match self {
            Self::Guaranteed => None,
            Self::Burstable => Some("burstable"),
            Self::BestEffort => Some("besteffort"),
        }
    }

    /// The value of `status.qosClass`.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The options of a pod. The default is on the bridge, burstable, with the systemd driver and one container `app`.
#[derive(Clone, Debug)]
#[must_use]
pub struct PodSpec {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) service_account: String,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) uid: Option<String>,
    pub(super) cgroup_uid: Option<String>,
    pub(super) driver: Driver,
    pub(super) qos: Qos,
    pub(super) shape: Shape,
    pub(super) v4: Option<Ipv4Addr>,
    pub(super) v6: Option<Ipv6Addr>,
    pub(super) containers: Vec<(String, ContainerKind)>,
    pub(super) host_network: bool,
}

impl PodSpec {
    /// A pod with this name in this Kubernetes namespace.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            service_account: "default".to_owned(),
            annotations: BTreeMap::new(),
            labels: BTreeMap::new(),
            uid: None,
            cgroup_uid: None,
            driver: Driver::Systemd,
            qos: Qos::Burstable,
            shape: Shape::Bridge,
            v4: None,
            v6: None,
            containers: vec![("app".to_owned(), ContainerKind::App)],
            host_network: false,
        }
    }

    /// Sets `spec.serviceAccountName`.
    pub fn service_account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    /// Adds an annotation.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets all annotations.
    pub fn annotations(mut self, annotations: BTreeMap<String, String>) -> Self {
        self.annotations = annotations;
        self
    }

    /// Adds a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets a fixed UID instead of a random one.
    pub fn uid(mut self, uid: &str) -> Self {
        self.uid = Some(uid.to_owned());
        self
    }

    /// Sets a UID for the cgroup's name that differs from the API's, as static pods have. The caller adds the
    /// annotations that declare it.
    pub fn cgroup_uid(mut self, uid: &str) -> Self {
        self.cgroup_uid = Some(uid.to_owned());
        self
    }

    /// Sets the cgroup driver.
    pub fn driver(mut self, driver: Driver) -> Self {
        self.driver = driver;
        self
    }

    /// Sets the QoS class.
    pub fn qos(mut self, qos: Qos) -> Self {
        self.qos = qos;
        self
    }

    /// Sets the network layout.
    pub fn shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// Sets a fixed IPv4 address. A test may give the same address to two pods.
    pub fn v4(mut self, address: Ipv4Addr) -> Self {
        self.v4 = Some(address);
        self
    }

    /// Sets a fixed IPv6 address.
    pub fn v6(mut self, address: Ipv6Addr) -> Self {
        self.v6 = Some(address);
        self
    }

    /// Sets the app containers, replacing `app`.
    pub fn containers(mut self, names: &[&str]) -> Self {
        self.containers.retain(|(_, kind)| *kind != ContainerKind::App);
        self.containers.extend(names.iter().map(|name| ((*name).to_owned(), ContainerKind::App)));
        self
    }

    /// Adds an init container or sidecar.
    pub fn init_container(mut self, name: &str) -> Self {
        self.containers.push((name.to_owned(), ContainerKind::Init));
        self
    }

    /// Puts the pod on the host network.
    pub fn host_network(mut self) -> Self {
        self.host_network = true;
        self
    }

    /// The path of the pod's cgroup, relative to the cgroup root.
    pub(super) fn cgroup_of(&self, uid: &str) -> PathBuf {
        match (self.driver.has_slices(), self.qos.directory()) {
            (false, None) => format!("kubepods/pod{uid}").into(),
            (false, Some(qos)) => format!("kubepods/{qos}/pod{uid}").into(),
            // A dash in a slice's name means nesting, so dashes are replaced.
            (true, None) => format!("kubepods.slice/kubepods-pod{}.slice", uid.replace('-', "_")).into(),
            (true, Some(qos)) => {
                let uid = uid.replace('-', "_");
                format!("kubepods.slice/kubepods-{qos}.slice/kubepods-{qos}-pod{uid}.slice").into()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_named_as_the_kubelet_names_them() {
        let path = |driver, qos| PodSpec::new("ns", "pod").driver(driver).qos(qos).cgroup_of("a-b");
        let expected = "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-poda_b.slice";
        assert_eq!(path(Driver::Systemd, Qos::BestEffort), PathBuf::from(expected));
        assert_eq!(path(Driver::Systemd, Qos::Guaranteed), PathBuf::from("kubepods.slice/kubepods-poda_b.slice"));
        assert_eq!(path(Driver::Cgroupfs, Qos::Burstable), PathBuf::from("kubepods/burstable/poda-b"));
        assert_eq!(path(Driver::Cgroupfs, Qos::Guaranteed), PathBuf::from("kubepods/poda-b"));
    }
}
