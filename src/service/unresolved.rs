//! The reasons why a search for the caller's pod and its grant finds nothing.

use std::sync::Arc;

use crate::policy;
use crate::types::{ContainerId, DenialReason, PodEntry};

/// Why a search in the index finds nothing.
#[derive(Debug)]
pub(super) enum Unresolved {
    /// The search may find something after the next change of the index.
    NotReady(NotReady),
    /// No later search would find anything either.
    Denied(Denied),
}

/// The information that is not known yet. podrole tells the client to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotReady {
    /// The published address of a pod, which would distinguish it from another claimant.
    Address,
    /// Whether the caller still has a right to the answer, because the caller changed while the request waited.
    CallerChanged,
    /// The issuer's answer.
    Credentials,
    /// The information that policy needs for its decision.
    Decision(policy::NotReady),
    /// The namespace.
    Namespace,
    /// The pod.
    Pod,
    /// podrole's own account and region, and with them the policy.
    Policy,
}

/// A denial and all pods that it concerns.
#[derive(Debug)]
pub(super) struct Denied {
    pub(super) reason: DenialReason,
    /// The caller or, if the owner of the connection is in doubt, every pod that claims it.
    pub(super) claimants: Vec<Claimant>,
}

/// A pod that is, or claims to be, the caller.
#[derive(Debug)]
pub(super) struct Claimant {
    pub(super) pod: Arc<PodEntry>,
    pub(super) container: Option<ContainerId>,
}

// === impl Unresolved ===

impl From<NotReady> for Unresolved {
    fn from(what: NotReady) -> Self {
        Self::NotReady(what)
    }
}

impl From<Denied> for Unresolved {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

// === impl NotReady ===

impl NotReady {
    /// The stable name, which labels the outcome of such a request in `podrole_http_requests_total`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Address => "address_unknown",
            Self::CallerChanged => "identity_changed",
            Self::Credentials => "issuer_timeout",
            Self::Decision(what) => what.name(),
            Self::Namespace => policy::NotReady::Namespace.name(),
            Self::Pod => "pod_unknown",
            Self::Policy => "starting",
        }
    }
}
