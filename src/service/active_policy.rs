//! The policy in force: decides what a pod may have, builds the issuer's call for it, and owns the credential cache.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;

use crate::cache::CredentialCache;
use crate::clock::Clock;
use crate::issuer::{IssueRequest, Issuer, Source};
use crate::pods::index::{Index, Lookup};
use crate::policy::{Decision, Grant, NotReady, Rules, ServiceAccount, Subject};
use crate::types::{ContainerId, DenialReason, NamespaceEntry, PodEntry, PodUid, ServiceAccountEntry};

/// The most pods whose verdicts are kept, far more than one node runs.
const MAX_PODS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");

/// The policy that discovery provides. Until discovery has finished, credentials are not ready.
#[derive(Debug)]
pub struct ActivePolicy<I, C> {
    rules: Rules,
    service_accounts: bool,
    terms: IssueTerms,
    decisions: Decisions,
    /// The credential cache.
    pub cache: CredentialCache<I, C>,
}

/// The inputs of every call to the issuer that do not depend on the pod.
#[derive(Clone, Debug)]
pub struct IssueTerms {
    /// Where credentials come from.
    pub source: Source,
    /// How long sessions last.
    pub duration: Duration,
    /// The region whose STS is asked.
    pub region: Arc<str>,
}

/// The watched objects that a decision about a pod depends on.
#[derive(Clone, Debug)]
pub(super) struct PodObjects {
    pub(super) pod: Arc<PodEntry>,
    pub(super) namespace: Arc<NamespaceEntry>,
    /// `None` if service accounts are not watched, or the watch has not shown this one yet.
    pub(super) service_account: Option<Arc<ServiceAccountEntry>>,
}

/// The meaning of a decision for the service.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// The call to the issuer that the caller has a right to.
    Granted(Arc<IssueRequest>),
    /// The decision depends on information that the watch has not shown yet.
    NotReady(NotReady),
    /// The policy denies the caller.
    Denied(DenialReason),
}

/// Verdicts by pod and container, all from the same policy. A decision goes through lists that tenants write, so a client that
/// sends many requests must not cause a decision for each of them.
#[derive(Debug)]
struct Decisions(Mutex<LruCache<PodUid, PodDecisions>>);

/// The verdicts on one pod's containers. They stay valid while `objects` are the current objects, because the policy is pure.
#[derive(Debug)]
struct PodDecisions {
    /// The objects are kept alive, so no other object can have the same address, and comparing addresses is exact.
    objects: PodObjects,
    by_container: Vec<(Option<ContainerId>, Verdict)>,
}

// === impl ActivePolicy ===

impl<I: Issuer, C: Clock + Clone> ActivePolicy<I, C> {
    /// A policy of the rules and terms that discovery found, in front of an empty cache. `service_accounts` says whether service
    /// accounts are a source of roles.
    pub fn new(rules: Rules, service_accounts: bool, terms: IssueTerms, cache: CredentialCache<I, C>) -> Self {
        Self { rules, service_accounts, terms, decisions: Decisions::default(), cache }
    }

    /// Whether a container of these objects' pod has a role and, if so, the issuer's call for it.
    pub(super) fn verdict(&self, objects: &PodObjects, container: Option<&ContainerId>) -> Verdict {
        self.decisions.verdict(objects, container, || self.decide(objects, container))
    }

    /// Forgets the grants that the pod no longer has according to `index`, so that the cache stops refreshing their credentials.
    /// The cache keeps credentials that the pod still has a right to, so that a harmless edit of an object causes no call to the
    /// issuer.
    pub fn reconsider(&self, index: &Index, pod: &PodUid) {
        let objects = match index.pod(pod) {
            Lookup::Found(found) => PodObjects::of(index, found),
            Lookup::Unknown | Lookup::Ambiguous(_) => None,
        };
        let mut kept = Vec::new();
        for (container, request) in self.decisions.take_grants(pod) {
            let verdict = objects.as_ref().map(|objects| self.verdict(objects, container.as_ref()));
            if matches!(verdict, Some(Verdict::Granted(now)) if now == request) {
                kept.push(request);
            }
        }
        self.cache.forget_all_but(pod, &kept);
    }

    fn decide(&self, objects: &PodObjects, container: Option<&ContainerId>) -> Verdict {
        match self.rules.decide(objects.subject(container, self.service_accounts)) {
            Decision::Allow(grant) => Verdict::Granted(Arc::new(self.issue_request(grant))),
            Decision::NotReady(what) => Verdict::NotReady(what),
            Decision::Deny(reason) => Verdict::Denied(reason),
        }
    }

    /// The complete inputs of the issuer's call for `grant`. No other code builds a request, so none can lack an input.
    fn issue_request(&self, grant: Grant) -> IssueRequest {
        let Grant { role, session_name, external_id } = grant;
        let IssueTerms { source, duration, region } = self.terms.clone();
        IssueRequest { source, role, session_name, external_id, duration, region }
    }
}

// === impl PodObjects ===

impl PodObjects {
    /// The objects of `pod` in `index`; `None` while the namespace is not known.
    pub(super) fn of(index: &Index, pod: &Arc<PodEntry>) -> Option<Self> {
        let namespace = index.namespace(&pod.namespace)?.clone();
        let service_account = index.service_account(&pod.namespace, &pod.service_account).cloned();
        Some(Self { pod: pod.clone(), namespace, service_account })
    }

    /// Whether `self` and `other` are the very same objects, not only equal ones.
    fn is_same(&self, other: &Self) -> bool {
        let same_account = match (&self.service_account, &other.service_account) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same_account && Arc::ptr_eq(&self.pod, &other.pod) && Arc::ptr_eq(&self.namespace, &other.namespace)
    }

    /// The subject that policy decides about.
    fn subject<'a>(&'a self, container: Option<&'a ContainerId>, service_accounts: bool) -> Subject<'a> {
        Subject {
            pod: &self.pod,
            container,
            namespace: Some(&self.namespace),
            service_account: ServiceAccount::of(service_accounts, self.service_account.as_deref()),
        }
    }
}

// === impl Decisions ===

impl Decisions {
    /// The verdict on a container: the one that was reached before from the same objects, or else what `decide` returns.
    fn verdict(
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
    fn take_grants(&self, pod: &PodUid) -> Vec<(Option<ContainerId>, Arc<IssueRequest>)> {
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

    /// A change of anything that the decision depends on leads to a new decision; nothing else does.
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

        // An equal object at another address counts as a different object: comparing addresses is exact and cheap, and a needless
        // decision does no harm.
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
