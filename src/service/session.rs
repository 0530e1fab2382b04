//! Issues and checks session tokens, and decides which callers may do without one.

use super::MetadataService;
use super::outcome::{Answer, Failure, Outcome};
use super::owner::resolve_owner;
use super::request::{Caller, Request};
use crate::caller::Kernel;
use crate::caller::resolver::Proofs;
use crate::clock::Clock;
use crate::imds::{self, Rejection, SessionToken, TokenBinding, TokenError};
use crate::issuer::Issuer;
use crate::metrics::ImdsV1Reason;
use crate::types::KernelIdentity;

impl<K: Kernel, I: Issuer, C: Clock + Clone> MetadataService<K, I, C> {
    /// Issues a session token. This is local and instant: it needs no watch, API server or STS, since a token alone gives no
    /// access.
    pub(super) fn issue_token(&self, request: &Request<'_>, ttl: u32) -> Outcome {
        let identity = self.token_identity(request)?;
        let binding = identity.as_ref().map_or_else(|| TokenBinding::Address(request.peer()), TokenBinding::Kernel);
        let token = self.deps.keys.load().issue(binding, ttl, self.deps.clock.boot(), (self.deps.nonce)());
        Ok(Answer::Token { token, ttl })
    }

    /// Checks the session token of a GET. Returns its remaining seconds; `None` if the caller may do without a token and has no
    /// valid one.
    pub(super) async fn check_session(
        &self,
        request: &mut Request<'_>,
        token: SessionToken<'_>,
    ) -> Result<Option<u32>, Failure> {
        match token {
            SessionToken::Present(token) => match self.verify_token(request, token) {
                Ok(left) => Ok(Some(left)),
                // Some SDKs use a token for hours after podrole has stopped accepting it. Where requests without a token are served, a
                // bad token does no harm; but a forwarded request is never served without a valid one.
                Err(_) if !imds::is_forwarded(&request.head.headers) && self.allows_v1_now(request) => {
                    self.deps.metrics.imds_v1(ImdsV1Reason::BadToken);
                    Ok(None)
                }
                Err(bad) => Err(Rejection::BadToken(bad).into()),
            },
            SessionToken::Absent => {
                // Only the pod's namespace can allow requests without a token, so the pod must be known first.
                if !self.deps.imds_v1 && !self.caller_pod(request).await?.allows_imds_v1() {
                    return Err(Rejection::TokenRequired.into());
                }
                self.deps.metrics.imds_v1(ImdsV1Reason::NoToken);
                Ok(None)
            }
        }
    }

    /// The identity that a new token is bound to; `None` if callers are identified by address.
    fn token_identity(&self, request: &Request<'_>) -> Result<Option<KernelIdentity>, Failure> {
        match &request.caller {
            Caller::Address => Ok(None),
            Caller::Kernel(Proofs::One(proof)) => Ok(Some(proof.identity.clone())),
            // Only the watch can tell which claimant is calling; until it does, no claimant gets a token.
            Caller::Kernel(Proofs::Several(_)) => {
                let index = self.deps.store.snapshot();
                let owner = resolve_owner(&index, &request.caller, request.peer())?;
                Ok(owner.proof.map(|proof| proof.identity.clone()))
            }
        }
    }

    fn verify_token(&self, request: &Request<'_>, token: &[u8]) -> Result<u32, TokenError> {
        let now = self.deps.clock.boot();
        let ring = self.deps.keys.load();
        match &request.caller {
            Caller::Address => ring.verify(token, TokenBinding::Address(request.peer()), now),
            Caller::Kernel(Proofs::One(proof)) => ring.verify(token, TokenBinding::Kernel(&proof.identity), now),
            // The token of any claimant is accepted here, because the calling pod is determined before anything is served.
            Caller::Kernel(Proofs::Several(proofs)) => proofs
                .iter()
                .find_map(|proof| ring.verify(token, TokenBinding::Kernel(&proof.identity), now).ok())
                .ok_or(TokenError::Foreign),
        }
    }

    /// Whether the caller may do without a token, as far as podrole knows at this moment. Does not wait: podrole rejects the
    /// token instead, because a new token takes the client less time than a wait.
    fn allows_v1_now(&self, request: &Request<'_>) -> bool {
        if self.deps.imds_v1 {
            return true;
        }
        let index = self.deps.store.snapshot();
        resolve_owner(&index, &request.caller, request.peer())
            .ok()
            .and_then(|owner| index.namespace(&owner.pod.namespace))
            .is_some_and(|namespace| namespace.imds_v1)
    }
}
