//! The pod of a caller, the objects that decide what it gets, and what policy grants it.

use std::sync::Arc;

use super::resolution::{Claimant, Denied};
use crate::caller::Proof;
use crate::issuer::IssueRequest;
use crate::pods::index::{Index, Lookup};
use crate::policy::{ServiceAccount, Subject};
use crate::types::{ContainerId, DenialReason, NamespaceEntry, PodEntry, ServiceAccountEntry};

/// The watched objects that a decision about a pod is made from.
#[derive(Clone, Debug)]
pub(super) struct PodObjects {
    pub(super) pod: Arc<PodEntry>,
    pub(super) namespace: Arc<NamespaceEntry>,
    /// `None` if service accounts are not watched, or the watch has not shown this one yet.
    pub(super) service_account: Option<Arc<ServiceAccountEntry>>,
}

/// A caller whose pod and namespace are known.
#[derive(Debug)]
pub(super) struct CallerPod {
    pub(super) objects: PodObjects,
    /// `None` if callers are identified by address.
    pub(super) proof: Option<Proof>,
}

/// A caller and the issuer's call that policy grants it.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) caller: CallerPod,
    pub(super) request: Arc<IssueRequest>,
}

// === impl PodObjects ===

impl PodObjects {
    /// The objects of `pod` in `index`; `None` while the namespace is not known.
    pub(super) fn of(index: &Index, pod: &Arc<PodEntry>) -> Option<Self> {
        let namespace = index.namespace(&pod.namespace)?.clone();
        let service_account = index.service_account(&pod.namespace, &pod.service_account).cloned();
        Some(Self { pod: pod.clone(), namespace, service_account })
    }

    /// Whether `index` still has these very objects.
    pub(super) fn are_current(&self, index: &Index) -> bool {
        match index.pod(&self.pod.uid) {
            Lookup::Found(pod) => Self::of(index, pod).is_some_and(|now| now.is_same(self)),
            Lookup::Unknown | Lookup::Ambiguous(_) => false,
        }
    }

    /// Whether these are the very same objects, not only equal ones.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same_account = match (&self.service_account, &other.service_account) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_account && Arc::ptr_eq(&self.pod, &other.pod) && Arc::ptr_eq(&self.namespace, &other.namespace)
    }

    /// What policy decides about.
    pub(super) fn subject<'a>(&'a self, container: Option<&'a ContainerId>, service_accounts: bool) -> Subject<'a> {
        Subject {
            pod: &self.pod,
            container,
            namespace: Some(&self.namespace),
            service_account: ServiceAccount::of(service_accounts, self.service_account.as_deref()),
        }
    }
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

    /// Whether its namespace allows requests without a session token.
    pub(super) fn allows_imds_v1(&self) -> bool {
        self.objects.namespace.imds_v1
    }

    /// A denial of this caller.
    pub(super) fn denied(&self, reason: DenialReason) -> Denied {
        let claimant = Claimant { pod: self.pod().clone(), container: self.container().cloned() };
        Denied { reason, claimants: vec![claimant] }
    }
}
