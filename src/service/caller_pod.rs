//! The pod of a caller, and the pod's grant.

use std::sync::Arc;

use super::active_policy::PodObjects;
use super::unresolved::{Claimant, Denied};
use crate::caller::Proof;
use crate::issuer::IssueRequest;
use crate::types::{ContainerId, DenialReason, PodEntry};

/// A caller whose pod and namespace are known.
#[derive(Debug)]
pub(super) struct CallerPod {
    pub(super) objects: PodObjects,
    /// `None` if callers are identified by address.
    pub(super) proof: Option<Proof>,
}

/// A caller, and the issue request that policy grants it.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) caller: CallerPod,
    pub(super) issue: Arc<IssueRequest>,
    /// The version of the index from which the grant was derived.
    pub(super) version: u64,
}

// === impl CallerPod ===

impl CallerPod {
    /// The pod.
    pub(super) fn pod(&self) -> &Arc<PodEntry> {
        &self.objects.pod
    }

    /// The container that calls; `None` if callers are identified by address.
    pub(super) fn container(&self) -> Option<&ContainerId> {
        self.proof.as_ref().map(|proof| &proof.identity.container)
    }

    /// Whether the caller's namespace allows requests without a session token.
    pub(super) fn allows_imds_v1(&self) -> bool {
        self.objects.namespace.imds_v1
    }

    /// Builds a denial of this caller.
    pub(super) fn denied(&self, reason: DenialReason) -> Denied {
        let claimant = Claimant { pod: self.pod().clone(), container: self.container().cloned() };
        Denied { reason, claimants: vec![claimant] }
    }
}
