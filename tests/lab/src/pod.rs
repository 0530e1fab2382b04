//! A pod: a network namespace as a CNI plugin creates it, cgroups as the kubelet and containerd create them, and the
//! API object.

mod object;
mod spec;
mod wiring;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};

use crate::agent::Agent;
use crate::node::{NODE_V4, NODE_V6, Node, Place, command};
use crate::{ids, proc, world};

use spec::MIXED_UNIT;
pub use spec::{Driver, PodSpec, Qos, Shape};
use wiring::Link;

/// A container of a pod.
#[derive(Clone, Debug)]
pub struct Container {
    /// The container's name in the pod.
    pub name: String,
    /// The runtime's container id: 64 hexadecimal digits.
    pub id: String,
    /// The list of the pod that contains it.
    pub kind: ContainerKind,
    /// How often it was restarted.
    pub restarts: u32,
}

/// The three lists of containers in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerKind {
    /// `containers`
    App,
    /// `initContainers`, including sidecars
    Init,
    /// `ephemeralContainers`, as `kubectl debug` adds them
    Ephemeral,
}

/// A pod that runs on the node. It ends with [`Pod::delete`] or with the world, not when dropped.
#[derive(Debug)]
pub struct Pod {
    node: Node,
    spec: PodSpec,
    uid: String,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    link: Option<Link>,
    cgroup: PathBuf,
    containers: Mutex<Vec<Container>>,
}

impl Pod {
    pub(crate) fn start(node: &Node, spec: PodSpec) -> Result<Self> {
        let uid = spec.uid.clone().map_or_else(ids::uuid, Ok)?;
        let cgroup = Path::new(world::CGROUP_ROOT).join(spec.cgroup_of(spec.cgroup_uid.as_deref().unwrap_or(&uid)));
        let (v4, v6) = match (spec.host_network, spec.v4, spec.v6) {
            (true, ..) => (NODE_V4, NODE_V6),
            (false, Some(v4), Some(v6)) => (v4, v6),
            (false, v4, v6) => {
                let (free4, free6) = node.addresses().take(spec.shape)?;
                // Release the allocated address if the test chose one: deleting the pod releases only the address that
                // the pod has.
                v4.inspect(|_| node.addresses().release(spec.shape, free4));
                (v4.unwrap_or(free4), v6.unwrap_or(free6))
            }
        };
        if !spec.host_network {
            node.addresses().reserve(spec.shape, v4);
        }
        let link = if spec.host_network { None } else { Some(Link::plug(node.serial(), spec.shape, v4, v6)?) };
        fs::create_dir(&cgroup).with_context(|| format!("create the cgroup {}", cgroup.display()))?;
        let pod = Self { node: node.clone(), uid, v4, v6, link, cgroup, containers: Mutex::default(), spec };
        // The sandbox's own container: every pod has one, but no list of the API object contains it.
        pod.make_cgroup(&ids::container()?)?;
        for (name, kind) in &pod.spec.containers {
            pod.add(name, *kind)?;
        }
        Ok(pod)
    }

    /// Ends the pod's processes and removes its netns, cgroups and addresses.
    pub fn delete(self) -> Result<()> {
        Self::delete_all([self])
    }

    /// Deletes many pods, in little more time than one takes.
    pub fn delete_all(pods: impl IntoIterator<Item = Self>) -> Result<()> {
        let pods: Vec<Self> = pods.into_iter().collect();
        for pod in &pods {
            pod.remove_containers_in_unit()?;
            world::remove_cgroup(&pod.cgroup)?;
        }
        let links: Vec<&Link> = pods.iter().filter_map(|pod| pod.link.as_ref()).collect();
        Link::unplug_all(&links)?;
        for pod in pods.iter().filter(|pod| pod.link.is_some()) {
            pod.node.addresses().release(pod.spec.shape, pod.v4);
        }
        Ok(())
    }

    /// The process ids in a container.
    pub fn processes(&self, container: &str) -> Result<Vec<u32>> {
        let path = self.container_cgroup(container)?.join("cgroup.procs");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        text.lines().map(|line| line.parse().with_context(|| format!("{} holds {line}", path.display()))).collect()
    }

    /// The pod's Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.spec.namespace
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The pod's UID in the API.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The spec from which the pod was created.
    pub fn spec(&self) -> &PodSpec {
        &self.spec
    }

    /// The pod's IPv4 address. A pod on the host network has the node's.
    pub fn v4(&self) -> Ipv4Addr {
        self.v4
    }

    /// The pod's IPv6 address. A pod on the host network has the node's.
    pub fn v6(&self) -> Ipv6Addr {
        self.v6
    }

    /// Whether `address` is one of the pod's addresses.
    pub fn has_address(&self, address: IpAddr) -> bool {
        address == IpAddr::V4(self.v4) || address == IpAddr::V6(self.v6)
    }

    /// The pod's network namespace, or `None` on the host network.
    pub fn netns(&self) -> Option<&Path> {
        self.link.as_ref().map(Link::netns)
    }

    /// The node's end of the pod's veth pair, or `None` on the host network.
    pub fn interface(&self) -> Option<&str> {
        self.link.as_ref().map(Link::interface)
    }

    /// The pod's cgroup.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The pod's current containers.
    pub fn containers(&self) -> Vec<Container> {
        self.lock().clone()
    }

    /// The current state of one container.
    pub fn container(&self, name: &str) -> Result<Container> {
        let found = self.lock().iter().find(|container| container.name == name).cloned();
        found.with_context(|| format!("pod {}/{} has no container {name}", self.spec.namespace, self.spec.name))
    }

    /// A container's cgroup.
    pub fn container_cgroup(&self, name: &str) -> Result<PathBuf> {
        Ok(self.container_path(&self.container(name)?.id))
    }

    /// The kernel's id of a container's cgroup.
    pub fn cgroup_id(&self, name: &str) -> Result<u64> {
        let path = self.container_cgroup(name)?;
        fs::metadata(&path).map(|dir| dir.ino()).with_context(|| format!("read the inode of {}", path.display()))
    }

    /// Adds an ephemeral container, as `kubectl debug` does.
    pub fn add_container(&self, name: &str) -> Result<Container> {
        self.add(name, ContainerKind::Ephemeral)
    }

    /// Ends a container's processes and starts it again, with the same name and a new id and cgroup.
    pub fn restart_container(&self, name: &str) -> Result<Container> {
        world::remove_cgroup(&self.container_cgroup(name)?)?;
        let id = ids::container()?;
        self.make_cgroup(&id)?;
        let mut containers = self.lock();
        let Some(container) = containers.iter_mut().find(|container| container.name == name) else {
            bail!("container {name} vanished while it was being restarted");
        };
        container.id = id;
        container.restarts += 1;
        Ok(container.clone())
    }

    /// A command in a container. The caller adds the program and its arguments.
    pub fn command(&self, container: &str) -> Result<Command> {
        Ok(command(&Place { cgroup: Some(self.container_cgroup(container)?), netns: self.netns().map(Into::into) }))
    }

    /// A command in a container of this pod that runs in the netns of another pod.
    pub fn command_in(&self, container: &str, other: &Self) -> Result<Command> {
        Ok(command(&Place { cgroup: Some(self.container_cgroup(container)?), netns: other.netns().map(Into::into) }))
    }

    /// Runs a command in a container to its end. Any exit code is accepted.
    pub fn exec(&self, container: &str, argv: &[&str]) -> Result<Output> {
        proc::output(self.command(container)?.args(argv), b"", proc::PATIENCE)
    }

    /// Runs a command in the pod's netns as the node's root would, in no container's cgroup. For a host-network pod,
    /// this is the node's netns.
    pub fn configure(&self, argv: &[&str]) -> Result<String> {
        proc::run(command(&Place { cgroup: None, netns: self.netns().map(Into::into) }).args(argv))
    }

    /// An agent in a container.
    pub fn agent(&self, container: &str) -> Result<Agent> {
        Agent::start(self.command(container)?)
    }

    /// An agent in a container of this pod that runs in the netns of another pod.
    pub fn agent_in(&self, container: &str, other: &Self) -> Result<Agent> {
        Agent::start(self.command_in(container, other)?)
    }

    /// Removes the pod's network while its processes continue, as a CNI plugin does before the kubelet has finished
    /// with the pod.
    pub fn unplug(&self) -> Result<()> {
        self.link.as_ref().context("a host-network pod has no interface")?.unplug()
    }

    fn add(&self, name: &str, kind: ContainerKind) -> Result<Container> {
        ensure!(self.container(name).is_err(), "pod {} has a container {name} already", self.spec.name);
        let container = Container { name: name.to_owned(), id: ids::container()?, kind, restarts: 0 };
        self.make_cgroup(&container.id)?;
        self.lock().push(container.clone());
        Ok(container)
    }

    fn make_cgroup(&self, id: &str) -> Result<()> {
        let path = self.container_path(id);
        if let Some(parent) = path.parent() {
            // The runtime's unit, the first time.
            fs::create_dir_all(parent).with_context(|| format!("create the cgroup {}", parent.display()))?;
        }
        fs::create_dir(&path).with_context(|| format!("create the cgroup {}", path.display()))
    }

    fn container_path(&self, id: &str) -> PathBuf {
        self.spec.driver.container(Path::new(world::CGROUP_ROOT), &self.cgroup, id)
    }

    /// Removes the cgroups of containers that are not below the pod's.
    fn remove_containers_in_unit(&self) -> Result<()> {
        if self.spec.driver != Driver::Mixed {
            return Ok(());
        }
        let prefix = format!("{}:", self.cgroup.file_name().unwrap_or_default().display());
        let unit = Path::new(world::CGROUP_ROOT).join(MIXED_UNIT);
        for entry in fs::read_dir(&unit).with_context(|| format!("list {}", unit.display()))? {
            let entry = entry.with_context(|| format!("list {}", unit.display()))?;
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                world::remove_cgroup(&entry.path())?;
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Container>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
