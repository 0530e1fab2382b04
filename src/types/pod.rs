//! What podrole keeps of a pod and of a namespace: only what a decision needs.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::{AllowList, AllowListError, ExternalId, RoleError, RoleRef, SessionNameError};

/// A pod's UID as the API server gave it, or the 32 hex digits that a static pod's cgroup carries instead.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(Arc<str>);

/// A container's id without its runtime's prefix (`containerd://`), as it stands in a cgroup's name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(Arc<str>);

/// Who the kernel says is calling: the pod and container whose cgroup created the socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelIdentity {
    /// From the pod's cgroup.
    pub pod: PodUid,
    /// From the container's cgroup.
    pub container: ContainerId,
}

/// An annotation that was there: what it says, or why it says nothing usable. One that is absent is `None` around this.
pub type Annotation<T> = Result<T, BadAnnotation>;

/// An annotation that cannot be used, and why. Its value is never repeated: it may be anything, of any length.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAnnotation {
    /// Not a role.
    #[error("annotation {key} {error}")]
    Role {
        /// The annotation's key.
        key: Arc<str>,
        /// What is wrong with its value.
        error: RoleError,
    },
    /// Not a session name or an external id.
    #[error("annotation {key} {error}")]
    Session {
        /// The annotation's key.
        key: Arc<str>,
        /// What is wrong with its value.
        error: SessionNameError,
    },
    /// Not a list of roles.
    #[error("annotation {key} {error}")]
    AllowList {
        /// The annotation's key.
        key: Arc<str>,
        /// What is wrong with its value.
        error: AllowListError,
    },
}

/// An override of the pod's role for one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRole {
    /// The container's name.
    pub container: Arc<str>,
    /// `None`: this container has no role.
    pub role: Annotation<Option<RoleRef>>,
}

/// One pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEntry {
    /// The API server's UID.
    pub uid: PodUid,
    /// The UID that the cgroup carries where it is another: static (mirror) pods.
    pub cgroup_uid: Option<PodUid>,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its service account (`default` where unset).
    pub service_account: Arc<str>,
    /// Its addresses as far as they are known.
    pub ips: Box<[IpAddr]>,
    /// It runs in the node's own network namespace.
    pub host_network: bool,
    /// Its phase is Succeeded or Failed: it has no right to anything any more, and its address may be another's.
    pub finished: bool,
    /// Some container of it can read its siblings' packets (`CAP_NET_RAW`, which runtimes grant by default).
    pub can_sniff: bool,
    /// The role it asks for.
    pub role: Option<Annotation<RoleRef>>,
    /// The external id it asks for.
    pub external_id: Option<Annotation<ExternalId>>,
    /// The session name it asks for; whether it is usable is known only together with the UID.
    pub session_name: Option<Annotation<Arc<str>>>,
    /// Overrides, one a container at most.
    pub container_roles: Box<[ContainerRole]>,
    /// Names of the containers whose ids its statuses show, init and ephemeral ones included.
    pub containers: Box<[(ContainerId, Arc<str>)]>,
}

/// One namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct NamespaceEntry {
    /// Its name.
    pub name: Arc<str>,
    /// What `iam.amazonaws.com/allowed-roles` (globs) allows.
    pub allowed_roles: Option<Annotation<AllowList>>,
    /// What `iam.amazonaws.com/permitted` (a regular expression) allows.
    pub permitted: Option<Annotation<AllowList>>,
    /// An external id that overrides its pods'.
    pub external_id: Option<Annotation<ExternalId>>,
    /// Its pods may ask without a session token (IMDSv1).
    pub imds_v1: bool,
}

/// One service account, watched only while it is a source of roles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountEntry {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// What `eks.amazonaws.com/role-arn` says.
    pub role: Option<Annotation<RoleRef>>,
}

// === impl PodUid ===

impl PodUid {
    /// Takes 1 to 64 characters of `[A-Za-z0-9-]`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        fits.then(|| Self(text.into()))
    }

    /// The UID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this has the form of a static pod's config hash: 32 hex digits, no dashes. Only such a text may be an alias.
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
    /// Takes 1 to 128 characters of `[A-Za-z0-9_.-]`; `None` for anything else.
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
    /// Whether this asks for the same as `other`: the same roles, external id and session name. All fields are listed, so that a new
    /// annotation cannot be left out by accident: a change of it would not be noticed until the credentials expire.
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
            can_sniff: _,
            containers: _,
        } = self;
        *role == other.role
            && *container_roles == other.container_roles
            && *external_id == other.external_id
            && *session_name == other.session_name
    }

    /// The name of the container with this id, once the pod's statuses show it.
    pub fn container_name(&self, id: &ContainerId) -> Option<&Arc<str>> {
        self.containers.iter().find(|(known, _)| known == id).map(|(_, name)| name)
    }
}
