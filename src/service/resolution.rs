//! What a search for the caller's pod and its grant can come to.

use std::sync::Arc;

use crate::issuer::Code;
use crate::policy::{DenyReason, NotYet};
use crate::types::{ContainerId, Denial, PodEntry, RoleArn};

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
    Decision(NotYet),
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
    pub(super) reason: DeniedReason,
    /// The caller or, if the owner of the connection is in doubt, every pod that claims it.
    pub(super) claimants: Vec<Claimant>,
}

/// A pod that is, or claims to be, the caller.
#[derive(Debug)]
pub(super) struct Claimant {
    pub(super) pod: Arc<PodEntry>,
    pub(super) container: Option<ContainerId>,
}

/// Why a pod is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DeniedReason {
    /// The connection cannot be served as the pod's.
    Owner(OwnerDenial),
    /// Policy.
    Policy(DenyReason),
    /// The pod asked for the credentials of another role than its own.
    WrongRole {
        /// The pod's role.
        own: RoleArn,
    },
    /// STS.
    Issuer {
        /// The role that was asked for.
        role: RoleArn,
        /// STS's code.
        code: Code,
        /// What to do.
        hint: &'static str,
    },
}

/// Why a caller is not served as the pod that it seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnerDenial {
    /// Two pods claim the same cgroup or, with `--identity=ip`, the same address.
    Ambiguous,
    /// The process runs in another pod's network namespace, or in the node's without being a host-network pod: a mesh proxy, a CNI
    /// agent, or an attack.
    ForeignNamespace,
    /// Several network namespaces hold the address, and none of them belongs to the pod that has published it.
    AddressConflict,
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
            Self::Namespace => NotYet::Namespace.name(),
            Self::Pod => "pod_unknown",
            Self::Policy => "starting",
        }
    }
}

// === impl DeniedReason ===

impl DeniedReason {
    /// The stable name: the outcome of such a request in `podrole_http_requests_total`.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Owner(why) => why.name(),
            Self::Policy(_) => "denied",
            Self::WrongRole { .. } => "wrong_role",
            Self::Issuer { .. } => "issuer_error",
        }
    }

    /// The reason in the closed list.
    pub(super) fn denial(&self) -> Denial {
        match self {
            Self::Owner(why) => why.denial(),
            Self::Policy(reason) => reason.denial(),
            Self::WrongRole { .. } => Denial::WrongRole,
            Self::Issuer { .. } => Denial::AssumeRoleRefused,
        }
    }

    /// One sentence for people.
    pub(super) fn explain(&self) -> String {
        match self {
            Self::Owner(why) => why.explain().to_owned(),
            Self::Policy(reason) => reason.explain(),
            Self::WrongRole { own } => {
                format!("the pod asked for another role's name than its own, {}", own.name())
            }
            Self::Issuer { role, code, hint } => format!("STS refuses role {role} ({code}): {hint}"),
        }
    }
}

// === impl OwnerDenial ===

impl OwnerDenial {
    /// The stable name: the outcome of such a request in `podrole_http_requests_total`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous",
            Self::ForeignNamespace => "foreign_namespace",
            Self::AddressConflict => "address_conflict",
        }
    }

    /// The reason in the closed list.
    pub(super) fn denial(self) -> Denial {
        match self {
            Self::Ambiguous => Denial::Ambiguous,
            Self::ForeignNamespace => Denial::ForeignNamespace,
            Self::AddressConflict => Denial::AddressConflict,
        }
    }

    /// One sentence for people.
    pub(super) fn explain(self) -> &'static str {
        match self {
            Self::Ambiguous => "two pods claim to be the caller",
            Self::ForeignNamespace => {
                "a process of this pod sent the request from a network namespace or an address that is not the pod's own: a mesh \
                 proxy, a CNI agent, or an attack"
            }
            Self::AddressConflict => {
                "several network namespaces hold the caller's address, and none of them belongs to the pod that has published it"
            }
        }
    }
}
