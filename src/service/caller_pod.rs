//! A caller whose pod is known, and what policy grants it.

use std::sync::Arc;

use super::resolution::{Claimant, Denied, DeniedReason};
use crate::caller::Proof;
use crate::issuer::IssueRequest;
use crate::policy::{ServiceAccount, Subject};
use crate::types::{ContainerId, NamespaceEntry, PodEntry, ServiceAccountEntry};

/// A caller whose pod and namespace are known.
#[derive(Debug)]
pub(super) struct CallerPod {
    pub(super) pod: Arc<PodEntry>,
    pub(super) namespace: Arc<NamespaceEntry>,
    /// `None` if service accounts are not watched, or the watch has not shown this one yet.
    pub(super) service_account: Option<Arc<ServiceAccountEntry>>,
    pub(super) proof: Option<Proof>,
}

/// A caller and the issuer's call that policy grants it.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) caller: CallerPod,
    pub(super) request: Arc<IssueRequest>,
}

// === impl CallerPod ===

impl CallerPod {
    /// The container that calls; `None` if callers are identified by address.
    pub(super) fn container(&self) -> Option<&ContainerId> {
        self.proof.as_ref().map(|proof| &proof.identity.container)
    }

    /// Whether its namespace allows requests without a session token.
    pub(super) fn allows_imds_v1(&self) -> bool {
        self.namespace.imds_v1
    }

    /// What policy decides about.
    pub(super) fn subject(&self, service_accounts: bool) -> Subject<'_> {
        Subject {
            pod: &self.pod,
            container: self.container(),
            namespace: Some(&self.namespace),
            service_account: ServiceAccount::of(service_accounts, self.service_account.as_deref()),
        }
    }

    /// A denial of this caller.
    pub(super) fn denied(&self, reason: DeniedReason) -> Denied {
        let claimant = Claimant { pod: self.pod.clone(), container: self.container().cloned() };
        Denied { reason, claimants: vec![claimant] }
    }
}
