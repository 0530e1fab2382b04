//! What the metadata service works with.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::caller_pod::CallerPod;
use super::decisions::{Decisions, Verdict};
use crate::audit::Audit;
use crate::cache::CredentialCache;
use crate::caller::resolver::Resolver;
use crate::clock::Clock;
use crate::events::Events;
use crate::imds::{Facts, KeyRing};
use crate::issuer::{IssueRequest, Issuer, Source};
use crate::metrics::Metrics;
use crate::pods::store::Store;
use crate::policy::{Decision, Grant, Rules};
use crate::types::PodUid;

/// Everything that answering requests takes.
pub struct Deps<K, I, C> {
    /// How callers are identified.
    pub identity: Identity<K>,
    /// The watched objects.
    pub store: Arc<Store>,
    /// Whether service accounts are a source of roles.
    pub service_accounts: bool,
    /// Empty until discovery has finished; set once and kept.
    pub active_policy: Arc<ArcSwapOption<ActivePolicy<I, C>>>,
    /// The keys of session tokens.
    pub keys: Arc<ArcSwap<KeyRing>>,
    /// Static facts about the node that pods may read.
    pub facts: Arc<ArcSwap<Facts>>,
    /// Whether every namespace may ask without a session token (`--imds-v1=allow`).
    pub imds_v1: bool,
    /// The clock.
    pub clock: C,
    /// Returns a fresh random nonce for a session token.
    pub nonce: fn() -> [u8; 12],
    /// The audit log.
    pub audit: Arc<Audit>,
    /// Events on denied pods; `None` with `--events=false`.
    pub events: Option<Arc<Events>>,
    /// The metrics.
    pub metrics: Arc<Metrics>,
}

/// How callers are identified.
#[derive(Debug)]
pub enum Identity<K> {
    /// By the kernel.
    Kernel(Resolver<K>),
    /// By their address only: the weaker mode, for nodes whose kernel cannot identify the owner of a socket.
    Address,
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

/// What discovery brings: until then, credentials are not ready.
#[derive(Debug)]
pub struct ActivePolicy<I, C> {
    rules: Rules,
    terms: IssueTerms,
    decisions: Decisions,
    /// The credential cache.
    pub cache: CredentialCache<I, C>,
}

// === impl Identity ===

impl<K> Identity<K> {
    /// The mode as audit lines and metrics spell it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kernel(_) => "kernel",
            Self::Address => "ip",
        }
    }
}

// === impl ActivePolicy ===

impl<I: Issuer, C: Clock + Clone> ActivePolicy<I, C> {
    /// Policy and issue terms as discovery found them, in front of an empty cache.
    pub fn new(rules: Rules, terms: IssueTerms, cache: CredentialCache<I, C>) -> Self {
        Self { rules, terms, decisions: Decisions::default(), cache }
    }

    /// Whether the policy grants `caller` a role and, if so, the issuer's call for it.
    pub(super) fn verdict(&self, caller: &CallerPod, service_accounts: bool) -> Verdict {
        self.decisions.verdict(caller, || match self.rules.decide(caller.subject(service_accounts)) {
            Decision::Allow(grant) => Verdict::Granted(Arc::new(self.issue_request(grant))),
            Decision::NotYet(what) => Verdict::NotReady(what),
            Decision::Deny(reason) => Verdict::Denied(reason),
        })
    }

    /// Forgets a pod that is gone, or whose credentials are decided differently from now on.
    pub fn forget(&self, pod: &PodUid) {
        self.cache.forget(pod);
        self.decisions.forget(pod);
    }

    /// The complete inputs of the issuer's call for `grant`. No other code builds a request, so none can lack an input.
    fn issue_request(&self, grant: Grant) -> IssueRequest {
        let Grant { role, session_name, external_id } = grant;
        let IssueTerms { source, duration, region } = self.terms.clone();
        IssueRequest { source, role, session_name, external_id, duration, region }
    }
}
