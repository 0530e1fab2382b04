//! What a pod may have: pure rules over what the watch showed and what the administrator set. Deny by default.
//!
//! The daemon, and whatever explains its decisions, call the same [`Rules::decide`].

mod decide;

pub use decide::{Decision, Grant, ListSource, NotReady, RoleSource, ServiceAccount, Subject};

use std::collections::HashMap;
use std::sync::Arc;

use crate::types::{AllowList, BaseArn, Glob, RoleArn};

/// The administrator's side of every decision.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What bare role names and patterns without `arn:` are completed with.
    pub base: BaseArn,
    /// Full-ARN patterns, one of which every role must match, whatever a namespace allows.
    pub ceiling: Vec<Glob>,
    /// Roles no pod may have: the daemon's own, its first hop's, the node's.
    pub own_roles: Vec<RoleArn>,
    /// Whether a namespace without any list allows nothing (`true`) or anything under the ceiling.
    pub require_allow: bool,
    /// What the administrator allows a namespace besides its own annotations.
    pub allow: HashMap<Arc<str>, AllowList>,
    /// Whether pods in which one container could read another's answers may have per-container roles.
    pub container_roles: ContainerRoles,
    /// Who shares a session.
    pub session_scope: SessionScope,
    /// The node's name, for sessions that the whole node shares.
    pub node: Arc<str>,
}

/// `--container-roles`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerRoles {
    /// Overrides work in every pod; containers of one pod share a network, which the audit line says.
    Shared,
    /// Overrides are refused in pods where a container may sniff (`CAP_NET_RAW`).
    Strict,
}

/// `--session-scope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionScope {
    /// A session per pod: CloudTrail names the pod.
    Pod,
    /// A session per service account.
    ServiceAccount,
    /// A session per role and node.
    Role,
}
