//! What a search for the caller's pod and its grant can come to.

use std::sync::Arc;

use crate::policy;
use crate::types::{ContainerId, DenialReason, PodEntry};

/// What a search in the index finds.
#[derive(Debug)]
pub(super) enum Resolution<T> {
    Found(T),
    NotReady(NotReady),
    Denied(Denied),
}

/// What is not known yet. The client is told to retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotReady {
    /// The published address of a pod, which would tell it from another claimant.
    Address,
    /// Whether the caller, who changed while the request waited, has a right to anything.
    CallerChanged,
    /// The issuer's answer.
    Credentials,
    /// Something that policy needs for its decision.
    Decision(policy::NotReady),
    /// The namespace.
    Namespace,
    /// The pod.
    Pod,
    /// podrole's own account and region, and with them the policy.
    Policy,
}

/// A denial and everybody whom it concerns.
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

// === impl Resolution ===

impl<T> Resolution<T> {
    /// Continues the search from what was found.
    pub(super) fn and_then<U>(self, next: impl FnOnce(T) -> Resolution<U>) -> Resolution<U> {
        match self {
            Self::Found(found) => next(found),
            Self::NotReady(what) => Resolution::NotReady(what),
            Self::Denied(denied) => Resolution::Denied(denied),
        }
    }
}

// === impl NotReady ===

impl NotReady {
    /// The stable name: the outcome of such a request in `podrole_http_requests_total`.
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
