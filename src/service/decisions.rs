//! The decisions of the policy, each made once for one caller and one set of objects.
//!
//! A decision runs over lists that tenants write, so a client that asks often must not cause one for each request.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use super::caller_pod::PodObjects;
use crate::issuer::IssueRequest;
use crate::policy::NotReady;
use crate::types::{ContainerId, DenialReason, PodUid};

/// Far more than the pods of one node.
const MAX_PODS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// What a decision means for the service.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// The call to the issuer that the caller has a right to.
    Granted(Arc<IssueRequest>),
    /// The decision needs something that the watch has not shown yet.
    NotReady(NotReady),
    /// The policy denies the caller.
    Denied(DenialReason),
}

/// Verdicts by pod and container. All of one table are reached by the same policy.
#[derive(Debug)]
pub(super) struct Decisions(Mutex<LruCache<PodUid, PodDecisions>>);

/// The verdicts on one pod's containers. They hold while these objects are the current ones, since the policy is pure.
#[derive(Debug)]
struct PodDecisions {
    /// Keeping the objects alive makes comparing their addresses exact.
    objects: PodObjects,
    by_container: Vec<(Option<ContainerId>, Verdict)>,
}

// === impl Decisions ===

impl Decisions {
    /// The verdict on a container: the one that was reached before from the same objects, or else what `decide` returns.
    pub(super) fn verdict(
        &self,
        objects: &PodObjects,
        container: Option<&ContainerId>,
        decide: impl FnOnce() -> Verdict,
    ) -> Verdict {
        let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = pods.get_or_insert_mut_ref(&objects.pod.uid, || PodDecisions::new(objects));
        if !known.objects.is_same(objects) {
            *known = PodDecisions::new(objects);
        }
        if let Some((_, verdict)) = known.by_container.iter().find(|(of, _)| of.as_ref() == container) {
            return verdict.clone();
        }
        let verdict = decide();
        known.by_container.push((container.cloned(), verdict.clone()));
        verdict
    }

    /// Removes the verdicts on `pod`, which is gone or has changed, and returns the grants among them.
    pub(super) fn take_grants(&self, pod: &PodUid) -> Vec<(Option<ContainerId>, Arc<IssueRequest>)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop(pod);
        let verdicts = known.into_iter().flat_map(|known| known.by_container);
        let grant = |(container, verdict)| match verdict {
            Verdict::Granted(request) => Some((container, request)),
            Verdict::NotReady(_) | Verdict::Denied(_) => None,
        };
        verdicts.filter_map(grant).collect()
    }
}

impl Default for Decisions {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(MAX_PODS)))
    }
}

impl PodDecisions {
    fn new(objects: &PodObjects) -> Self {
        Self { objects: objects.clone(), by_container: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::*;
    use crate::pods::convert::{SlimMeta, SlimPod, namespace_entry, pod_entry, service_account_entry};
    use crate::types::{NamespaceEntry, PodEntry};

    fn meta() -> SlimMeta {
        serde_json::from_value(json!({"metadata": {"name": "n", "namespace": "n"}})).unwrap()
    }

    fn objects() -> PodObjects {
        let object: SlimPod =
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}})).unwrap();
        let (pod, namespace) = (Arc::new(pod_entry(&object).unwrap()), Arc::new(namespace_entry(&meta()).unwrap()));
        PodObjects { pod, namespace, service_account: None }
    }

    /// A change of anything that the decision depends on leads to a new one; nothing else does.
    #[test]
    fn one_decision_for_one_caller_and_one_set_of_objects() {
        let (decisions, made) = (Decisions::default(), Cell::new(0));
        let made_after = |objects: &PodObjects, container: Option<&ContainerId>| {
            let verdict = decisions.verdict(objects, container, || {
                made.set(made.get() + 1);
                Verdict::Denied(DenialReason::NoRole)
            });
            assert!(matches!(verdict, Verdict::Denied(DenialReason::NoRole)));
            made.get()
        };
        let mut objects = objects();
        assert_eq!((made_after(&objects, None), made_after(&objects, None)), (1, 1));
        let (a, b) = (ContainerId::parse("a").unwrap(), ContainerId::parse("b").unwrap());
        assert_eq!((made_after(&objects, Some(&a)), made_after(&objects, Some(&b))), (2, 3));
        assert_eq!((made_after(&objects, Some(&a)), made_after(&objects, None)), (3, 3));

        // An equal object counts as another one: comparing addresses is exact and cheap, and a needless decision does no harm.
        objects.pod = Arc::new(PodEntry::clone(&objects.pod));
        assert_eq!((made_after(&objects, None), made_after(&objects, None)), (4, 4));
        objects.namespace = Arc::new(NamespaceEntry::clone(&objects.namespace));
        assert_eq!((made_after(&objects, None), made_after(&objects, None)), (5, 5));
        objects.service_account = Some(Arc::new(service_account_entry(&meta()).unwrap()));
        assert_eq!((made_after(&objects, None), made_after(&objects, None)), (6, 6));
        objects.service_account = Some(Arc::new(service_account_entry(&meta()).unwrap()));
        assert_eq!((made_after(&objects, None), made_after(&objects, None)), (7, 7));
        assert!(decisions.take_grants(&objects.pod.uid).is_empty(), "a denial is no grant");
        assert_eq!(made_after(&objects, None), 8);
    }
}
