//! The fields of pods, namespaces and service accounts that decisions need.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::{AllowList, AllowListError, ExternalId, RoleError, RoleRef, SessionNameError};

/// A pod's UID as the API server assigned it, or the 32 hex digits in the cgroup name of a static pod.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(Arc<str>);

/// A container's id as in the name of its cgroup, without the runtime's prefix (`containerd://`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(Arc<str>);

/// The caller according to the kernel: the pod and container whose cgroup created the socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelIdentity {
    /// The pod's UID, from the name of its cgroup.
    pub pod: PodUid,
    /// The container's id, from the name of its cgroup.
    pub container: ContainerId,
}

/// The value of an annotation that is set, or why it is invalid. For an annotation that is not set, `Option<Annotation<T>>` is
/// `None`.
pub type Annotation<T> = Result<T, BadAnnotation>;

/// Why an annotation is invalid. The message never repeats the value, which may be any text of any length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnnotation {
    /// The value is not a role.
    #[error("annotation {key} {error}")]
    Role {
        /// The annotation's key.
        key: Arc<str>,
        /// What is wrong with the value.
        error: RoleError,
    },
    /// The value is not a session name or an external id.
    #[error("annotation {key} {error}")]
    Session {
        /// The annotation's key.
        key: Arc<str>,
        /// What is wrong with the value.
        error: SessionNameError,
    },
    /// The value is not a list of roles.
    #[error("annotation {key} {error}")]
    AllowList {
        /// The annotation's key.
        key: Arc<str>,
        /// What is wrong with the value.
        error: AllowListError,
    },
}

/// The role of one container, which overrides the pod's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRole {
    /// The container's name.
    pub container: Arc<str>,
    /// The requested role; `None` if the annotation says that the container has no role.
    pub role: Annotation<Option<RoleRef>>,
}

/// One pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEntry {
    /// The UID that the API server assigned.
    pub uid: PodUid,
    /// The UID in the name of the pod's cgroup, if it differs from the pod's UID, as for static (mirror) pods.
    pub cgroup_uid: Option<PodUid>,
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// The pod's name.
    pub name: Arc<str>,
    /// The pod's service account (`default` if none is set).
    pub service_account: Arc<str>,
    /// The addresses that have been published so far.
    pub ips: Box<[IpAddr]>,
    /// Whether the pod runs in the node's own network namespace.
    pub host_network: bool,
    /// Whether the pod's phase is Succeeded or Failed. A finished pod has no right to credentials, and its address may already
    /// belong to another pod.
    pub finished: bool,
    /// Whether one of the pod's containers can read its siblings' credentials: from their packets (`CAP_NET_RAW`, which runtimes
    /// grant by default) or by taking their sockets (a shared process namespace or the host's).
    pub siblings_may_read: bool,
    /// The role that the pod asks for.
    pub role: Option<Annotation<RoleRef>>,
    /// The external id that the pod asks for.
    pub external_id: Option<Annotation<ExternalId>>,
    /// The session name that the pod asks for. Only the length is checked here, because the other rules need the namespace and
    /// the UID.
    pub session_name: Option<Annotation<Arc<str>>>,
    /// The roles of individual containers, at most one for each.
    pub container_roles: Box<[ContainerRole]>,
    /// The ids and names of all containers whose ids the pod's status shows, including init and ephemeral containers.
    pub containers: Box<[(ContainerId, Arc<str>)]>,
}

/// One namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct NamespaceEntry {
    /// The namespace's name.
    pub name: Arc<str>,
    /// The list in `iam.amazonaws.com/allowed-roles` (globs).
    pub allowed_roles: Option<Annotation<AllowList>>,
    /// The list in `iam.amazonaws.com/permitted` (a regular expression).
    pub permitted: Option<Annotation<AllowList>>,
    /// An external id that overrides the external ids of the namespace's pods.
    pub external_id: Option<Annotation<ExternalId>>,
    /// Whether the namespace's pods may send requests without a session token (IMDSv1).
    pub imds_v1: bool,
}

/// One service account. Service accounts are watched only if they are a source of roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountEntry {
    /// The service account's namespace.
    pub namespace: Arc<str>,
    /// The service account's name.
    pub name: Arc<str>,
    /// The role in `eks.amazonaws.com/role-arn`.
    pub role: Option<Annotation<RoleRef>>,
}

// === impl PodUid ===

impl PodUid {
    /// Accepts 1 to 64 characters of `[A-Za-z0-9-]`; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        fits.then(|| Self(text.into()))
    }

    /// The UID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the UID has the form of a static pod's config hash: 32 hex digits without dashes. Only such a UID may be an alias.
    pub fn is_config_hash(&self) -> bool {
        self.0.len() == 32 && self.0.bytes().all(|b| b.is_ascii_hexdigit())
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl ContainerId ===

impl ContainerId {
    /// Accepts 1 to 128 characters of `[A-Za-z0-9_.-]`; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=128).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        fits.then(|| Self(text.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl PodEntry ===

impl PodEntry {
    /// Whether this pod asks for the same roles, external id and session name as `other`. All fields are listed, so that a new
    /// annotation cannot be left out: otherwise podrole would not notice a change of that annotation until the credentials
    /// expire.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        let Self {
            role,
            external_id,
            session_name,
            container_roles,
            uid: _,
            cgroup_uid: _,
            namespace: _,
            name: _,
            service_account: _,
            ips: _,
            host_network: _,
            finished: _,
            siblings_may_read: _,
            containers: _,
        } = self;
        *role == other.role
            && *container_roles == other.container_roles
            && *external_id == other.external_id
            && *session_name == other.session_name
    }

    /// The name of the container with this id; `None` until the pod's status shows it.
    pub fn container_name(&self, id: &ContainerId) -> Option<&Arc<str>> {
        self.containers.iter().find(|(known, _)| known == id).map(|(_, name)| name)
    }
}
