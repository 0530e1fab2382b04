//! The policy in force: decides what a pod may have, builds the issuer's call for it, and owns the credential cache.

use std::sync::Arc;
use std::time::Duration;

use super::caller_pod::PodObjects;
use super::decisions::{Decisions, Verdict};
use crate::cache::CredentialCache;
use crate::clock::Clock;
use crate::issuer::{IssueRequest, Issuer, Source};
use crate::pods::index::{Index, Lookup};
use crate::policy::{Decision, Grant, Rules};
use crate::types::{ContainerId, PodUid};

/// What discovery brings: until then, credentials are not ready.
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

// === impl ActivePolicy ===

impl<I: Issuer, C: Clock + Clone> ActivePolicy<I, C> {
    /// Rules and terms as discovery found them, in front of an empty cache. `service_accounts`: whether they are a source of roles.
    pub fn new(rules: Rules, service_accounts: bool, terms: IssueTerms, cache: CredentialCache<I, C>) -> Self {
        Self { rules, service_accounts, terms, decisions: Decisions::default(), cache }
    }

    /// Whether a container of these objects' pod has a role and, if so, the issuer's call for it.
    pub(super) fn verdict(&self, objects: &PodObjects, container: Option<&ContainerId>) -> Verdict {
        self.decisions.verdict(objects, container, || self.decide(objects, container))
    }

    /// Forgets what a pod was granted and is granted no longer by `index`: nobody may refresh it. Credentials that the pod still has a
    /// right to stay in the cache, so that a harmless edit of an object costs no call to the issuer.
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
