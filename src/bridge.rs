//! The use case: a connection and a request in, a reply out. The one place where caller, pods, policy, cache and protocol meet.

mod outcome;
mod owner;
mod reply;

pub use outcome::{Outcome, Unready};
pub use reply::Reply;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::Method;
use http::request::Parts;
use tokio::time::Instant;
use tracing::{debug, error};

use crate::audit::{Audit, Delivery, Subject as AuditSubject};
use crate::cache::{CredentialCache, Issued, Miss};
use crate::caller::resolver::{Proofs, Resolver, Unproven};
use crate::caller::{Connection, Kernel};
use crate::clock::Clock;
use crate::events::Events;
use crate::imds::{self, Facts, KeyRing, Listing, Route, SessionToken, TokenBinding, classify, session_token};
use crate::issuer::{IssueError, IssueRequest, Issuer, Source};
use crate::metrics::Metrics;
use crate::pods::index::Index;
use crate::pods::store::Store;
use crate::policy::{Decision, DenyReason, Grant, Rules, ServiceAccount, Subject};
use crate::types::{ContainerId, Denial, KernelIdentity, PodEntry, PodUid};

use owner::{Caller, Owned, Ownership};

/// The patience of the common SDKs is one second, with one attempt. Whoever is not known by then is told to come again.
const BUDGET: Duration = Duration::from_millis(800);

/// How callers are identified.
#[derive(Debug)]
pub enum Identity<K> {
    /// By the kernel.
    Kernel(Resolver<K>),
    /// By address alone: the weaker mode, for nodes whose kernel cannot tell.
    Address,
}

/// What the issuer is asked with, besides the pod's own part.
#[derive(Clone, Debug)]
pub struct IssueTerms {
    /// How.
    pub source: Source,
    /// For how long.
    pub duration: Duration,
    /// In which region.
    pub region: Arc<str>,
}

/// What becomes known only after the start: until then, credentials are "not ready yet".
#[derive(Debug)]
pub struct Ruling {
    /// The policy.
    pub rules: Rules,
    /// The constant part of every call.
    pub terms: IssueTerms,
}

/// Everything that answering takes.
pub struct Parties<K, I, C> {
    /// Who calls.
    pub identity: Identity<K>,
    /// What the watch has shown.
    pub store: Arc<Store>,
    /// Whether service accounts are a source of roles.
    pub service_accounts: bool,
    /// The policy; empty until it is known.
    pub ruling: Arc<ArcSwapOption<Ruling>>,
    /// Credentials; empty until STS is set up.
    pub cache: Arc<ArcSwapOption<CredentialCache<I, C>>>,
    /// Session tokens.
    pub keys: Arc<ArcSwap<KeyRing>>,
    /// Facts for pods.
    pub facts: Arc<ArcSwap<Facts>>,
    /// Whether every namespace may ask without a token.
    pub imds_v1: bool,
    /// Now.
    pub clock: C,
    /// Fresh nonces for tokens.
    pub nonce: fn() -> [u8; 12],
    /// Who got what.
    pub audit: Arc<Audit>,
    /// Who is told why not; `None`: nobody.
    pub events: Option<Arc<Events>>,
    /// What was counted.
    pub metrics: Arc<Metrics>,
}

/// Access keys by container.
type Delivered = HashMap<(PodUid, Option<ContainerId>), Arc<str>>;

/// Answers requests.
pub struct Bridge<K, I, C> {
    parties: Parties<K, I, C>,
    /// The last access key each container was given, to tell a first delivery.
    delivered: Mutex<Delivered>,
}

// === impl Bridge ===

impl<K: Kernel, I: Issuer, C: Clock + Clone> Bridge<K, I, C> {
    /// A bridge between these parties.
    pub fn new(parties: Parties<K, I, C>) -> Self {
        Self { parties, delivered: Mutex::default() }
    }

    /// Answers one request that came in by `connection`.
    pub async fn handle(&self, connection: &Connection, head: &Parts) -> Reply {
        let started = self.parties.clock.boot();
        let (route, outcome) = match classify(head) {
            Err(refusal) => ("refused", Outcome::Refused(refusal)),
            Ok(route) => (route.name(), self.outcome(connection, head, &route).await.unwrap_or_else(|outcome| outcome)),
        };
        if let Outcome::Unproven(Unproven::Kernel(error)) = &outcome {
            error!(%error, "The kernel cannot be asked who calls; the request is refused");
        }
        debug!(peer = %connection.peer, route, outcome = outcome.name(), "Answered");
        self.parties.metrics.request(route, outcome.name(), self.parties.clock.boot().saturating_sub(started));
        reply::reply(outcome, self.parties.clock.wall())
    }

    /// The pod is gone: nothing about it is remembered.
    pub fn forget(&self, pod: &PodUid) {
        self.delivered.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, _), _| of != pod);
    }

    async fn outcome(&self, connection: &Connection, head: &Parts, route: &Route) -> Result<Outcome, Outcome> {
        let deadline = Instant::now() + BUDGET;
        let token = session_token(&head.headers).map_err(Outcome::Refused)?;
        let mut caller = self.identify(connection, deadline).await?;
        if let Route::Token { ttl } = route {
            return self.issue_token(connection, &caller, *ttl);
        }
        let ttl = match token {
            SessionToken::Present(token) => match self.verify_token(connection, &caller, token) {
                Ok(ttl) => Some(ttl),
                // Some SDKs keep a lost token for hours. Where none would be served, a bad one is no worse; but a forwarded
                // request would not be served without one.
                Err(_) if !imds::is_forwarded(&head.headers) && self.takes_v1_now(connection, &caller) => {
                    self.parties.metrics.imds_v1("bad_token");
                    None
                }
                Err(bad) => return Err(bad),
            },
            SessionToken::Absent => {
                // Only the namespace can allow this, so the pod must be known first.
                if !self.parties.imds_v1 && !self.owned(connection, &mut caller, deadline).await?.namespace.imds_v1 {
                    return Err(Outcome::TokenRequired);
                }
                self.parties.metrics.imds_v1("no_token");
                None
            }
        };
        match route {
            Route::Token { .. } | Route::Unknown => Ok(Outcome::NotFound),
            Route::Fact(fact) => {
                if self.parties.facts.load().get(*fact).is_none() {
                    self.complete(&mut caller, deadline).await?;
                }
                let fact = self.parties.facts.load().get(*fact).map(str::to_owned);
                fact.map_or(Err(Outcome::NotFound), |body| Ok(Outcome::Text { body, ttl }))
            }
            Route::IdentityDocument => {
                self.complete(&mut caller, deadline).await?;
                let document = imds::identity_document(&self.parties.facts.load());
                document.map_or(Err(Outcome::NotFound), |body| Ok(Outcome::Text { body, ttl }))
            }
            Route::Listing(Listing::Iam) => {
                self.granted(connection, &mut caller, deadline).await?;
                Ok(Outcome::Text { body: Listing::Iam.body(), ttl })
            }
            Route::Listing(listing) => Ok(Outcome::Text { body: listing.body(), ttl }),
            Route::RoleList { .. } => {
                let (_, grant) = self.granted(connection, &mut caller, deadline).await?;
                Ok(Outcome::Text { body: grant.role.name().to_owned(), ttl })
            }
            Route::IamInfo => {
                let (_, grant) = self.granted(connection, &mut caller, deadline).await?;
                Ok(Outcome::Text { body: imds::iam_info(&grant.role, self.parties.clock.wall()), ttl })
            }
            Route::Credentials { role, extended } => {
                let (owned, grant) = self.granted(connection, &mut caller, deadline).await?;
                if grant.role.name() != &**role {
                    self.audit_denial(&owned.pod, owned.container(), Denial::WrongRole, || {
                        format!("the pod asked for another role's name than its own, {}", grant.role.name())
                    });
                    return Err(Outcome::WrongRole);
                }
                let issued = self.credentials(connection, &mut caller, &owned, &grant, deadline).await?;
                // Who asks for the head alone has been given nothing.
                if head.method != Method::HEAD {
                    self.record_delivery(&owned, &grant, &issued);
                }
                let document = &issued.document;
                let body = if *extended { document.extended.clone() } else { document.plain.clone() };
                Ok(Outcome::Credentials { body, last_modified: document.last_modified.clone(), ttl })
            }
        }
    }

    async fn identify(&self, connection: &Connection, deadline: Instant) -> Result<Caller, Outcome> {
        match &self.parties.identity {
            Identity::Address => Ok(Caller { proofs: None, waited: false }),
            Identity::Kernel(resolver) => {
                let started = self.parties.clock.boot();
                let (proofs, waited) = resolver.prove(connection, deadline).await.map_err(Outcome::Unproven)?;
                self.parties.metrics.identity(self.parties.clock.boot().saturating_sub(started));
                Ok(Caller { proofs: Some(proofs), waited })
            }
        }
    }

    /// Local and instant: no watch, no API server, no STS. A token is worth nothing by itself.
    fn issue_token(&self, connection: &Connection, caller: &Caller, ttl: u32) -> Result<Outcome, Outcome> {
        let identity = self.token_identity(connection, caller)?;
        let binding =
            identity.as_ref().map_or_else(|| TokenBinding::Address(connection.peer.ip()), TokenBinding::Kernel);
        let token = self.parties.keys.load().issue(binding, ttl, self.parties.clock.boot(), (self.parties.nonce)());
        Ok(Outcome::Token { token, ttl })
    }

    /// Whose a new token will be; `None` in address mode.
    fn token_identity(&self, connection: &Connection, caller: &Caller) -> Result<Option<KernelIdentity>, Outcome> {
        match &caller.proofs {
            None => Ok(None),
            Some(Proofs::One(proof)) => Ok(Some(proof.identity.clone())),
            // Which of the claimants it is, only the watch can tell; without its word nobody gets one.
            Some(Proofs::Several(_)) => match owner::of(&self.parties.store.snapshot(), caller, connection) {
                Ownership::Owned { proof, .. } => Ok(proof.map(|proof| proof.identity.clone())),
                Ownership::NotYet(what) => Err(Outcome::NotReady(what)),
                Ownership::Refused { why, .. } => Err(Outcome::NotOwner(why)),
            },
        }
    }

    fn verify_token(&self, connection: &Connection, caller: &Caller, token: &[u8]) -> Result<u32, Outcome> {
        let now = self.parties.clock.boot();
        let ring = self.parties.keys.load();
        // A token of any of the claimants will do here: who the caller really is gets decided before anything is given.
        let bindings: Vec<TokenBinding<'_>> = match &caller.proofs {
            None => vec![TokenBinding::Address(connection.peer.ip())],
            Some(Proofs::One(proof)) => vec![TokenBinding::Kernel(&proof.identity)],
            Some(Proofs::Several(proofs)) => proofs.iter().map(|proof| TokenBinding::Kernel(&proof.identity)).collect(),
        };
        let mut verdict = Err(imds::TokenError::Malformed);
        for binding in bindings {
            verdict = ring.verify(token, binding, now);
            if verdict.is_ok() {
                break;
            }
        }
        verdict.map_err(Outcome::BadToken)
    }

    /// Whether the caller may do without a token, as far as is known at this moment. Nothing is waited for: a client whose token is
    /// refused asks for a new one, and that is quicker.
    fn takes_v1_now(&self, connection: &Connection, caller: &Caller) -> bool {
        if self.parties.imds_v1 {
            return true;
        }
        let index = self.parties.store.snapshot();
        let Ownership::Owned { pod, .. } = owner::of(&index, caller, connection) else { return false };
        index.namespace(&pod.namespace).is_some_and(|namespace| namespace.imds_v1)
    }

    /// The pod that calls and its namespace, as soon as the watch has shown both.
    async fn owned(&self, connection: &Connection, caller: &mut Caller, deadline: Instant) -> Result<Owned, Outcome> {
        self.until(caller, deadline, |bridge, index, caller| match owner::of(index, caller, connection) {
            Ownership::Refused { why, by } => {
                if let Some((pod, proof)) = by {
                    bridge.audit_denial(pod, Some(&proof.identity.container), why.denial(), || why.explain().into());
                }
                Err(Outcome::NotOwner(why))
            }
            Ownership::NotYet(what) => Ok(Err(what)),
            Ownership::Owned { pod, proof } => Ok(match index.namespace(&pod.namespace) {
                None => Err(Unready::Namespace),
                Some(namespace) => Ok(Owned {
                    pod: pod.clone(),
                    namespace: namespace.clone(),
                    proof: proof.cloned(),
                    service_account: bridge.service_account(index, pod),
                }),
            }),
        })
        .await
    }

    /// The same, and what policy grants it.
    async fn granted(
        &self,
        connection: &Connection,
        caller: &mut Caller,
        deadline: Instant,
    ) -> Result<(Owned, Grant), Outcome> {
        loop {
            let owned = self.owned(connection, caller, deadline).await?;
            let Some(ruling) = self.parties.ruling.load_full() else {
                self.pause(caller, deadline, Unready::Rules).await?;
                continue;
            };
            match self.decide(&ruling, &owned) {
                Decision::Allow(grant) => return Ok((owned, grant)),
                Decision::Deny(reason) => return Err(self.denied(&owned, reason)),
                Decision::NotYet(what) => {
                    let seen = owned.pod.clone();
                    // Nothing but a change of the index can change this answer.
                    self.until(caller, deadline, |bridge, index, caller| match owner::of(index, caller, connection) {
                        Ownership::Owned { pod, .. }
                            if Arc::ptr_eq(pod, &seen)
                                && index
                                    .namespace(&pod.namespace)
                                    .is_some_and(|ns| Arc::ptr_eq(ns, &owned.namespace))
                                && same(&bridge.service_account(index, pod), &owned.service_account) =>
                        {
                            Ok(Err(Unready::from(what)))
                        }
                        Ownership::Owned { .. } | Ownership::NotYet(_) | Ownership::Refused { .. } => Ok(Ok(())),
                    })
                    .await?;
                }
            }
        }
    }

    fn decide(&self, ruling: &Ruling, owned: &Owned) -> Decision {
        let service_account = match (&owned.service_account, self.parties.service_accounts) {
            (_, false) => ServiceAccount::Off,
            (None, true) => ServiceAccount::Unseen,
            (Some(account), true) => ServiceAccount::Seen(account),
        };
        let container = owned.container();
        ruling.rules.decide(Subject { pod: &owned.pod, container, namespace: Some(&owned.namespace), service_account })
    }

    fn denied(&self, owned: &Owned, reason: DenyReason) -> Outcome {
        self.audit_denial(&owned.pod, owned.container(), reason.denial(), || reason.explain());
        Outcome::Denied(reason)
    }

    fn audit_denial(&self, pod: &PodEntry, container: Option<&ContainerId>, reason: Denial, why: impl Fn() -> String) {
        self.parties.audit.denial(&AuditSubject { pod, container }, reason, &why);
        self.tell_denial(pod, reason, why);
    }

    /// The call to STS that was refused has its audit line, and everybody who asks meanwhile shares it.
    fn tell_refusal(&self, owned: &Owned, grant: &Grant, miss: &Miss) {
        if let Miss::Failed(IssueError::Denied { code, hint }) = miss {
            let why = || format!("STS refuses role {} ({code}): {hint}", grant.role);
            self.tell_denial(&owned.pod, Denial::AssumeRoleRefused, why);
        }
    }

    fn tell_denial(&self, pod: &PodEntry, reason: Denial, why: impl FnOnce() -> String) {
        self.parties.metrics.denial(reason);
        if let Some(events) = &self.parties.events {
            events.denied(pod, reason, why);
        }
    }

    /// Credentials of `grant`; after any wait, only if the very same socket is still there and still has the same right.
    async fn credentials(
        &self,
        connection: &Connection,
        caller: &mut Caller,
        owned: &Owned,
        grant: &Grant,
        deadline: Instant,
    ) -> Result<Arc<Issued>, Outcome> {
        let (cache, terms) = loop {
            match (self.parties.cache.load_full(), self.parties.ruling.load_full()) {
                (Some(cache), Some(ruling)) => break (cache, ruling.terms.clone()),
                (None, _) | (_, None) => self.pause(caller, deadline, Unready::Rules).await?,
            }
        };
        let request = IssueRequest {
            source: terms.source,
            role: grant.role.clone(),
            session_name: grant.session_name.clone(),
            external_id: grant.external_id.clone(),
            duration: terms.duration,
            region: terms.region,
        };
        let settled = match cache.get(&request, &owned.pod.uid) {
            Ok(settled) => settled,
            Err(wait) => {
                caller.waited = true;
                cache.wait(wait, deadline).await
            }
        };
        // What cannot be delivered need not be checked.
        let issued = settled.map_err(|miss| {
            self.tell_refusal(owned, grant, &miss);
            Outcome::NotIssued { miss, role: grant.role.clone() }
        })?;
        if caller.waited {
            self.check_again(connection, caller, owned, grant)?;
        }
        Ok(issued)
    }

    /// Invariant: between the request and the answer the connection has not become somebody else's, and the pod has not lost its
    /// right. Needed only where something was awaited.
    fn check_again(
        &self,
        connection: &Connection,
        caller: &Caller,
        owned: &Owned,
        grant: &Grant,
    ) -> Result<(), Outcome> {
        if let (Identity::Kernel(resolver), Some(proof)) = (&self.parties.identity, &owned.proof)
            && !resolver.still_holds(connection, proof)
        {
            return Err(Outcome::IdentityChanged);
        }
        let snapshot = self.parties.store.snapshot();
        let Ownership::Owned { pod, .. } = owner::of(&snapshot, caller, connection) else {
            return Err(Outcome::IdentityChanged);
        };
        let namespace = snapshot.namespace(&pod.namespace).ok_or(Outcome::IdentityChanged)?;
        let now = Owned {
            pod: pod.clone(),
            namespace: namespace.clone(),
            proof: owned.proof.clone(),
            service_account: self.service_account(&snapshot, pod),
        };
        let ruling = self.parties.ruling.load_full().ok_or(Outcome::IdentityChanged)?;
        match self.decide(&ruling, &now) {
            Decision::Allow(again) if again == *grant && now.pod.uid == owned.pod.uid => Ok(()),
            Decision::Allow(_) | Decision::Deny(_) | Decision::NotYet(_) => Err(Outcome::IdentityChanged),
        }
    }

    fn record_delivery(&self, owned: &Owned, grant: &Grant, issued: &Issued) {
        let key = (owned.pod.uid.clone(), owned.container().cloned());
        let access_key_id = &issued.credentials.access_key_id;
        let mut delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        if delivered.get(&key) == Some(access_key_id) {
            return;
        }
        delivered.insert(key, access_key_id.clone());
        drop(delivered);
        self.parties.audit.delivery(&Delivery {
            subject: AuditSubject { pod: &owned.pod, container: owned.container() },
            role: grant.role.as_str(),
            session_name: grant.session_name.as_str(),
            access_key_id,
            identity: match &self.parties.identity {
                Identity::Kernel(_) => "kernel",
                Identity::Address => "ip",
            },
        });
    }

    fn service_account(&self, index: &Index, pod: &PodEntry) -> Option<Arc<crate::types::ServiceAccountEntry>> {
        if !self.parties.service_accounts {
            return None;
        }
        index.service_account(&pod.namespace, &pod.service_account).cloned()
    }

    /// Asks `look` now and after every change of the index, until it has an answer or the time is up.
    async fn until<T>(
        &self,
        caller: &mut Caller,
        deadline: Instant,
        mut look: impl FnMut(&Self, &Index, &Caller) -> Result<Result<T, Unready>, Outcome>,
    ) -> Result<T, Outcome> {
        if let Ok(answer) = look(self, &self.parties.store.snapshot(), caller)? {
            return Ok(answer);
        }
        caller.waited = true;
        let mut changes = self.parties.store.changes();
        loop {
            // Seen first, looked at second: a change in between wakes us once more.
            changes.borrow_and_update();
            let not_yet = match look(self, &self.parties.store.snapshot(), caller)? {
                Ok(answer) => return Ok(answer),
                Err(not_yet) => not_yet,
            };
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(Outcome::NotReady(not_yet)),
            }
        }
    }

    /// Waits until the start has brought all the facts there are. A fact that is missing before may still come, and clients take a
    /// 404 for "there is none" and do not ask again.
    async fn complete(&self, caller: &mut Caller, deadline: Instant) -> Result<(), Outcome> {
        while self.parties.ruling.load().is_none() {
            self.pause(caller, deadline, Unready::Rules).await?;
        }
        Ok(())
    }

    /// Waits a moment for what the start has not brought yet.
    async fn pause(&self, caller: &mut Caller, deadline: Instant, what: Unready) -> Result<(), Outcome> {
        caller.waited = true;
        let next = Instant::now() + Duration::from_millis(20);
        if next >= deadline {
            return Err(Outcome::NotReady(what));
        }
        tokio::time::sleep_until(next).await;
        Ok(())
    }
}

fn same<T>(a: &Option<Arc<T>>, b: &Option<Arc<T>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

impl<K, I, C> std::fmt::Debug for Bridge<K, I, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bridge")
    }
}
