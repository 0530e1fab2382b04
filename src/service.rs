//! The metadata service receives a connection and a request, and returns a reply. Only this module brings caller, pods, policy,
//! cache and protocol together.
//!
//! ```text
//! handle -> classify -> identify -> session -> one function per route -> report -> reply
//! ```

mod active_policy;
mod caller_pod;
mod changes;
mod grant;
mod outcome;
mod owner;
mod request;
mod session;
mod unresolved;
mod wait;

pub use active_policy::{ActivePolicy, IssueTerms};
pub use changes::on_pod_change;
pub use outcome::Reply;

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::Method;
use http::request::Parts;
use tracing::{debug, error};

use crate::audit::{Audit, Delivery, Subject};
use crate::caller::resolver::{IdentityError, Resolver};
use crate::caller::{Connection, Kernel};
use crate::clock::Clock;
use crate::deadline::Deadline;
use crate::events::Events;
use crate::imds::{self, Classified, Fact, Facts, KeyRing, Listing, Route, classify};
use crate::issuer::Issuer;
use crate::metrics::{IdentityMode, Metrics};
use crate::pods::store::Store;
use crate::types::DenialReason;

use outcome::{Answer, Failure, Outcome};
use request::{BUDGET, Caller, Request};
use unresolved::Denied;

/// Answers the requests of pods.
pub struct MetadataService<K, I, C> {
    deps: Deps<K, I, C>,
}

/// Everything needed to answer requests.
pub struct Deps<K, I, C> {
    /// How callers are identified.
    pub identity: Identity<K>,
    /// The watched objects.
    pub store: Arc<Store>,
    /// The policy in force. It is empty until discovery has finished, then set once and kept.
    pub active_policy: Arc<ArcSwapOption<ActivePolicy<I, C>>>,
    /// The keys that seal session tokens.
    pub keys: Arc<ArcSwap<KeyRing>>,
    /// Static facts about the node that pods may read.
    pub facts: Arc<ArcSwap<Facts>>,
    /// Whether pods of every namespace may send requests without a session token (`--imds-v1=allow`).
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

// === impl MetadataService ===

impl<K: Kernel, I: Issuer, C: Clock + Clone> MetadataService<K, I, C> {
    /// Creates a metadata service that works with `deps`.
    pub fn new(deps: Deps<K, I, C>) -> Self {
        Self { deps }
    }

    /// Answers one request that came in on `connection`.
    pub async fn handle(&self, connection: &Connection, head: &Parts) -> Reply {
        let started = self.deps.clock.boot();
        let (route, outcome) = match classify(head) {
            Ok(classified) => (classified.route.name(), self.outcome(connection, head, classified).await),
            Err(rejection) => ("rejected", Err(rejection.into())),
        };
        self.report(head, &outcome);
        debug!(peer = %connection.peer, route, outcome = outcome::name(&outcome), why = outcome::detail(&outcome), "Answered a request");
        let (name, reply) = outcome::render(outcome, self.deps.clock.wall());
        self.deps.metrics.request(route, name, self.deps.clock.boot().saturating_sub(started));
        reply
    }

    async fn outcome(
        &self,
        connection: &Connection,
        head: &Parts,
        Classified { route, token }: Classified<'_>,
    ) -> Outcome {
        let token = token?;
        let mut request = self.identify(connection, head).await?;
        if let Route::Token { ttl } = route {
            return self.issue_token(&request, ttl);
        }
        let ttl = self.check_session(&mut request, token).await?;
        match route {
            Route::Token { .. } | Route::Unknown => Err(Failure::NotFound),
            Route::Fact(fact) => self.fact(&mut request, fact, ttl).await,
            Route::IdentityDocument => self.identity_document(&mut request, ttl).await,
            Route::Listing(listing) => self.listing(&mut request, listing, ttl).await,
            Route::RoleList { .. } => self.role_list(&mut request, ttl).await,
            Route::IamInfo => self.iam_info(&mut request, ttl).await,
            Route::Credentials { role, extended } => self.credentials(&mut request, &role, extended, ttl).await,
        }
    }

    async fn identify<'a>(&self, connection: &'a Connection, head: &'a Parts) -> Result<Request<'a>, Failure> {
        let mut deadline = Deadline::after(BUDGET);
        let caller = match &self.deps.identity {
            Identity::Address => Caller::Address,
            Identity::Kernel(resolver) => {
                let started = self.deps.clock.boot();
                let proofs = resolver.prove(connection, &mut deadline).await.map_err(Failure::Unidentified)?;
                self.deps.metrics.identity(self.deps.clock.boot().saturating_sub(started));
                Caller::Kernel(proofs)
            }
        };
        Ok(Request { connection, head, caller, deadline })
    }

    async fn fact(&self, request: &mut Request<'_>, fact: Fact, ttl: Option<u32>) -> Outcome {
        let known = || self.deps.facts.load().get(fact).map(str::to_owned);
        let body = match known() {
            Some(body) => body,
            None => {
                // Discovery stores all facts before it stores the policy, so a fact that is still missing then does not exist on
                // this node.
                self.active_policy(request).await?;
                known().ok_or(Failure::NotFound)?
            }
        };
        Ok(Answer::Text { body, ttl })
    }

    async fn identity_document(&self, request: &mut Request<'_>, ttl: Option<u32>) -> Outcome {
        self.active_policy(request).await?;
        let body = imds::identity_document(&self.deps.facts.load()).ok_or(Failure::NotFound)?;
        Ok(Answer::Text { body, ttl })
    }

    async fn listing(&self, request: &mut Request<'_>, listing: Listing, ttl: Option<u32>) -> Outcome {
        match listing {
            // Only a pod that has a role gets this listing.
            Listing::Iam => drop(self.granted(request).await?),
            Listing::Versions
            | Listing::Latest
            | Listing::MetaData
            | Listing::Placement
            | Listing::Services
            | Listing::Dynamic
            | Listing::InstanceIdentity => {}
        }
        Ok(Answer::Text { body: listing.body(), ttl })
    }

    async fn role_list(&self, request: &mut Request<'_>, ttl: Option<u32>) -> Outcome {
        let granted = self.granted(request).await?;
        Ok(Answer::Text { body: granted.issue.role.name().to_owned(), ttl })
    }

    async fn iam_info(&self, request: &mut Request<'_>, ttl: Option<u32>) -> Outcome {
        let granted = self.granted(request).await?;
        Ok(Answer::Text { body: imds::iam_info(&granted.issue.role, self.deps.clock.wall()), ttl })
    }

    async fn credentials(&self, request: &mut Request<'_>, role: &str, extended: bool, ttl: Option<u32>) -> Outcome {
        let (granted, issued) = self.issued(request, role).await?;
        Ok(Answer::Credentials { granted, issued, extended, ttl })
    }

    /// Reports the outcome of a request to the audit log, the metrics and the pod's Events. Nothing else on the request path reports a
    /// denial or a delivery.
    fn report(&self, head: &Parts, outcome: &Outcome) {
        match outcome {
            // The answer to a HEAD request delivers no credentials.
            Ok(Answer::Credentials { granted, issued, .. }) if head.method != Method::HEAD => {
                self.deps.audit.delivery(&Delivery {
                    subject: Subject { pod: granted.caller.pod(), container: granted.caller.container() },
                    role: granted.issue.role.as_str(),
                    session_name: granted.issue.session_name.as_str(),
                    access_key_id: &issued.credentials.access_key_id,
                    identity: self.deps.identity.mode().name(),
                });
            }
            Ok(Answer::Credentials { .. } | Answer::Token { .. } | Answer::Text { .. }) => {}
            Err(Failure::Denied(denied)) => self.report_denial(denied),
            Err(Failure::Unidentified(IdentityError::Kernel(error))) => {
                error!(%error, "Kernel lookup failed; cannot identify the caller, telling it to retry");
            }
            Err(
                Failure::Rejected(_)
                | Failure::Unidentified(_)
                | Failure::NotReady(_)
                | Failure::NotFound
                | Failure::Issuer(_),
            ) => {}
        }
    }

    fn report_denial(&self, denied: &Denied) {
        let (denial, explain) = (denied.reason.denial(), || denied.reason.to_string());
        for claimant in &denied.claimants {
            // A denial by STS has the audit line of its call, which all requests that wait for it share.
            if !matches!(denied.reason, DenialReason::AssumeRoleRefused { .. }) {
                let subject = Subject { pod: &claimant.pod, container: claimant.container.as_ref() };
                self.deps.audit.denial(&subject, denial, explain);
            }
            self.deps.metrics.denial(denial);
            if let Some(events) = &self.deps.events {
                events.denied(&claimant.pod, denial, explain);
            }
        }
    }
}

impl<K, I, C> std::fmt::Debug for MetadataService<K, I, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MetadataService")
    }
}

// === impl Identity ===

impl<K> Identity<K> {
    /// The mode in force.
    pub fn mode(&self) -> IdentityMode {
        match self {
            Self::Kernel(_) => IdentityMode::Kernel,
            Self::Address => IdentityMode::Ip,
        }
    }
}
