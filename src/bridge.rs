//! The use case: a connection and a request in, a reply out. The one place where caller, pods, policy, cache and protocol meet.

mod grant;
mod outcome;
mod owner;
mod reply;
mod token;
mod wait;

pub use outcome::{Outcome, Unready};
pub use reply::Reply;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::Method;
use http::request::Parts;
use tokio::time::Instant;
use tracing::{debug, error};

use crate::audit::Audit;
use crate::cache::CredentialCache;
use crate::caller::resolver::{Resolver, Unproven};
use crate::caller::{Connection, Kernel};
use crate::clock::Clock;
use crate::events::Events;
use crate::imds::{self, Facts, KeyRing, Listing, Route, SessionToken, classify, session_token};
use crate::issuer::{Issuer, Source};
use crate::metrics::Metrics;
use crate::pods::store::Store;
use crate::policy::Rules;
use crate::types::Denial;

use owner::Caller;

/// Whoever is not known by then is told to come again. The patience of the common SDKs is one second, with one attempt; podrole
/// promises an answer within 800 ms as the client sees it, so the way there and back must fit in as well.
const BUDGET: Duration = Duration::from_millis(750);

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
pub struct Ruling<I, C> {
    /// The policy.
    pub rules: Rules,
    /// The constant part of every call.
    pub terms: IssueTerms,
    /// Credentials.
    pub cache: CredentialCache<I, C>,
}

/// Everything that answering takes.
pub struct Parties<K, I, C> {
    /// Who calls.
    pub identity: Identity<K>,
    /// What the watch has shown.
    pub store: Arc<Store>,
    /// Whether service accounts are a source of roles.
    pub service_accounts: bool,
    /// Empty until STS has told who we are. From then on it stays.
    pub ruling: Arc<ArcSwapOption<Ruling<I, C>>>,
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

/// Answers requests.
pub struct Bridge<K, I, C> {
    parties: Parties<K, I, C>,
}

// === impl Bridge ===

impl<K: Kernel, I: Issuer, C: Clock + Clone> Bridge<K, I, C> {
    /// A bridge between these parties.
    pub fn new(parties: Parties<K, I, C>) -> Self {
        Self { parties }
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
        debug!(peer = %connection.peer, route, outcome = outcome.name(), why = outcome.detail(), "Answered");
        self.parties.metrics.request(route, outcome.name(), self.parties.clock.boot().saturating_sub(started));
        reply::reply(outcome, self.parties.clock.wall())
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
                    self.ruling(&mut caller, deadline).await?;
                }
                let fact = self.parties.facts.load().get(*fact).map(str::to_owned);
                fact.map_or(Err(Outcome::NotFound), |body| Ok(Outcome::Text { body, ttl }))
            }
            Route::IdentityDocument => {
                self.ruling(&mut caller, deadline).await?;
                let document = imds::identity_document(&self.parties.facts.load());
                document.map_or(Err(Outcome::NotFound), |body| Ok(Outcome::Text { body, ttl }))
            }
            Route::Listing(Listing::Iam) => {
                self.granted(connection, &mut caller, deadline).await?;
                Ok(Outcome::Text { body: Listing::Iam.body(), ttl })
            }
            Route::Listing(listing) => Ok(Outcome::Text { body: listing.body(), ttl }),
            Route::RoleList { .. } => {
                let grant = self.granted(connection, &mut caller, deadline).await?.grant;
                Ok(Outcome::Text { body: grant.role.name().to_owned(), ttl })
            }
            Route::IamInfo => {
                let grant = self.granted(connection, &mut caller, deadline).await?.grant;
                Ok(Outcome::Text { body: imds::iam_info(&grant.role, self.parties.clock.wall()), ttl })
            }
            Route::Credentials { role, extended } => {
                let granted = self.granted(connection, &mut caller, deadline).await?;
                let own = granted.grant.role.name();
                if own != &**role {
                    self.report_denial(&granted.owned, Denial::WrongRole, || {
                        format!("the pod asked for another role's name than its own, {own}")
                    });
                    return Err(Outcome::WrongRole);
                }
                let issued = self.credentials(connection, &mut caller, &granted, deadline).await?;
                // Who asks for the head alone has been given nothing.
                if head.method != Method::HEAD {
                    self.report_delivery(&granted, &issued);
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
}

impl<K, I, C> std::fmt::Debug for Bridge<K, I, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bridge")
    }
}
