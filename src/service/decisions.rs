//! The decisions of the policy, each made once for one caller and one set of objects.
//!
//! A decision runs over lists that tenants write, so a client that asks often must not cause one for each request.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::caller_pod::CallerPod;
use crate::issuer::IssueRequest;
use crate::policy::{DenyReason, NotYet};
use crate::types::{ContainerId, NamespaceEntry, PodEntry, PodUid, ServiceAccountEntry};

/// Far more than the pods of one node.
const MAX_PODS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// What a decision means for the service.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// The call to the issuer that the caller has a right to.
    Granted(Arc<IssueRequest>),
    /// The decision needs something that the watch has not shown yet.
    NotReady(NotYet),
    /// The policy denies the caller.
    Denied(DenyReason),
}

/// Verdicts by pod and container. All of one table are made by the same policy.
#[derive(Debug)]
pub(super) struct Decisions(Mutex<LruCache<PodUid, PodDecisions>>);

/// The decisions for one pod and the objects that they were made from. While these are the current ones the decisions hold, since
/// the policy is pure. Keeping the objects alive makes comparing their addresses exact.
#[derive(Debug)]
struct PodDecisions {
    pod: Arc<PodEntry>,
    namespace: Arc<NamespaceEntry>,
    service_account: Option<Arc<ServiceAccountEntry>>,
    by_container: Vec<(Option<ContainerId>, Verdict)>,
}

// === impl Decisions ===

impl Decisions {
    /// The verdict on `caller`: the one that was reached before from the same objects, or else what `decide` returns.
    pub(super) fn verdict(&self, caller: &CallerPod, decide: impl FnOnce() -> Verdict) -> Verdict {
        let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = pods.get_or_insert_mut_ref(&caller.pod.uid, || PodDecisions::of(caller));
        if !known.are_of(caller) {
            *known = PodDecisions::of(caller);
        }
        let container = caller.container();
        if let Some((_, verdict)) = known.by_container.iter().find(|(of, _)| of.as_ref() == container) {
            return verdict.clone();
        }
        let verdict = decide();
        known.by_container.push((container.cloned(), verdict.clone()));
        verdict
    }

    /// Drops what is kept for `pod`, which is gone or has changed.
    pub(super) fn forget(&self, pod: &PodUid) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop(pod);
    }
}

impl Default for Decisions {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_PODS)))
    }
}

// === impl PodDecisions ===

impl PodDecisions {
    fn of(caller: &CallerPod) -> Self {
        let CallerPod { pod, namespace, service_account, proof: _ } = caller;
        let (pod, namespace) = (pod.clone(), namespace.clone());
        Self { pod, namespace, service_account: service_account.clone(), by_container: Vec::new() }
    }

    fn are_of(&self, caller: &CallerPod) -> bool {
        let same_account = match (&self.service_account, &caller.service_account) {
            (Some(then), Some(now)) => Arc::ptr_eq(then, now),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_account && Arc::ptr_eq(&self.pod, &caller.pod) && Arc::ptr_eq(&self.namespace, &caller.namespace)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::*;
    use crate::caller::{ClientSocket, NetnsId, Proof};
    use crate::pods::convert::{SlimMeta, SlimPod, namespace_entry, pod_entry, service_account_entry};
    use crate::types::KernelIdentity;

    fn meta() -> SlimMeta {
        serde_json::from_value(json!({"metadata": {"name": "n", "namespace": "n"}})).unwrap()
    }

    fn caller() -> CallerPod {
        let object: SlimPod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}})).unwrap();
        let (pod, namespace) = (Arc::new(pod_entry(&object).unwrap()), Arc::new(namespace_entry(&meta()).unwrap()));
        CallerPod { pod, namespace, service_account: None, proof: None }
    }

    fn in_container(caller: &CallerPod, id: &str) -> CallerPod {
        let identity = KernelIdentity { pod: caller.pod.uid.clone(), container: ContainerId::parse(id).unwrap() };
        let socket = ClientSocket { netns: NetnsId(1), host: false, cookie: 1, cgroup: 1 };
        let CallerPod { pod, namespace, service_account, proof: _ } = caller;
        let (pod, namespace, service_account) = (pod.clone(), namespace.clone(), service_account.clone());
        CallerPod { pod, namespace, service_account, proof: Some(Proof { socket, identity }) }
    }

    /// Whatever the decision depends on makes a new one; nothing else does.
    #[test]
    fn one_decision_for_one_caller_and_one_set_of_objects() {
        let (decisions, made) = (Decisions::default(), Cell::new(0));
        let made_after = |caller: &CallerPod| {
            let verdict = decisions.verdict(caller, || {
                made.set(made.get() + 1);
                Verdict::Denied(DenyReason::NoRole)
            });
            assert!(matches!(verdict, Verdict::Denied(DenyReason::NoRole)));
            made.get()
        };
        let mut caller = caller();
        assert_eq!((made_after(&caller), made_after(&caller)), (1, 1));
        let (a, b) = (in_container(&caller, "a"), in_container(&caller, "b"));
        assert_eq!((made_after(&a), made_after(&b), made_after(&a), made_after(&caller)), (2, 3, 3, 3));

        // An equal object is another one: what it was made from may differ.
        caller.pod = Arc::new(PodEntry::clone(&caller.pod));
        assert_eq!((made_after(&caller), made_after(&caller)), (4, 4));
        caller.namespace = Arc::new(NamespaceEntry::clone(&caller.namespace));
        assert_eq!((made_after(&caller), made_after(&caller)), (5, 5));
        caller.service_account = Some(Arc::new(service_account_entry(&meta()).unwrap()));
        assert_eq!((made_after(&caller), made_after(&caller)), (6, 6));
        caller.service_account = Some(Arc::new(service_account_entry(&meta()).unwrap()));
        assert_eq!((made_after(&caller), made_after(&caller)), (7, 7));
        decisions.forget(&caller.pod.uid);
        assert_eq!(made_after(&caller), 8);
    }
}
