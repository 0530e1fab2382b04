//! Session tokens: whose one is, and who may do without.

use super::owner::{self, Caller, Ownership};
use super::{Bridge, Outcome};
use crate::caller::resolver::Proofs;
use crate::caller::{Connection, Kernel};
use crate::clock::Clock;
use crate::imds::{TokenBinding, TokenError};
use crate::issuer::Issuer;
use crate::types::KernelIdentity;

impl<K: Kernel, I: Issuer, C: Clock + Clone> Bridge<K, I, C> {
    /// Local and instant: no watch, no API server, no STS. A token is worth nothing by itself.
    pub(super) fn issue_token(&self, connection: &Connection, caller: &Caller, ttl: u32) -> Result<Outcome, Outcome> {
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
                Ownership::Refused(refusal) => Err(self.not_owner(&refusal)),
            },
        }
    }

    /// What is left of `token`, in seconds.
    pub(super) fn verify_token(&self, connection: &Connection, caller: &Caller, token: &[u8]) -> Result<u32, Outcome> {
        let now = self.parties.clock.boot();
        let ring = self.parties.keys.load();
        let verdict = match &caller.proofs {
            None => ring.verify(token, TokenBinding::Address(connection.peer.ip()), now),
            Some(Proofs::One(proof)) => ring.verify(token, TokenBinding::Kernel(&proof.identity), now),
            // A token of any of the claimants will do here: who the caller really is gets decided before anything is given.
            Some(Proofs::Several(proofs)) => proofs
                .iter()
                .find_map(|proof| ring.verify(token, TokenBinding::Kernel(&proof.identity), now).ok())
                .ok_or(TokenError::Foreign),
        };
        verdict.map_err(Outcome::BadToken)
    }

    /// Whether the caller may do without a token, as far as is known at this moment. Nothing is waited for: a client whose token is
    /// refused asks for a new one, and that is quicker.
    pub(super) fn takes_v1_now(&self, connection: &Connection, caller: &Caller) -> bool {
        if self.parties.imds_v1 {
            return true;
        }
        let index = self.parties.store.snapshot();
        let Ownership::Owned { pod, .. } = owner::of(&index, caller, connection) else { return false };
        index.namespace(&pod.namespace).is_some_and(|namespace| namespace.imds_v1)
    }
}
