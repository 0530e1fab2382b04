//! Decides which role a pod may have, from the watched objects and the administrator's settings. Pure. Denies by default.
//!
//! The daemon and `podrole explain` both call [`Rules::decide`].

mod decide;

pub use decide::{Decision, Grant, ListSource, NotReady, RoleSource, ServiceAccount, Subject};

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::{AllowList, BaseArn, Glob, RoleArn};

/// The administrator's settings, which apply to every decision.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The ARN prefix that completes role names and patterns without `arn:`.
    pub base: BaseArn,
    /// Patterns over full ARNs. Every role must match one of them, even if its namespace allows the role.
    pub ceiling: Vec<Glob>,
    /// Roles that no pod may have: the daemon's own, the first hop's and the node's.
    pub own_roles: Vec<RoleArn>,
    /// Whether a namespace without an allow list allows no roles (`true`) or all roles under the ceiling (`false`).
    pub require_allow: bool,
    /// The administrator's allow lists, by namespace, in addition to the namespaces' annotations.
    pub allow: HashMap<Arc<str>, AllowList>,
    /// Whether a pod may have per-container roles if one of its containers could read another's credentials.
    pub container_roles: ContainerRoles,
    /// Which requests share an STS session.
    pub session_scope: SessionScope,
    /// The node's name, for sessions that all pods of the node share.
    pub node: Arc<str>,
}

/// The values of `--container-roles`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerRoles {
    /// Per-container roles work in all pods. The containers of a pod share a network, so the audit line says whether siblings may
    /// read the credentials.
    Shared,
    /// Per-container roles are denied in pods with a container that can read its siblings' credentials: by `CAP_NET_RAW` or a shared
    /// process namespace.
    Strict,
}

/// The values of `--session-scope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionScope {
    /// Each pod has its own session, so that CloudTrail names the pod.
    Pod,
    /// All pods of a service account share a session.
    ServiceAccount,
    /// All pods of a node with the same role share a session.
    Role,
}
