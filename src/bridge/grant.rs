//! From a proven caller to what it may have, and to the credentials themselves.

use std::sync::Arc;

use tokio::time::Instant;

use super::owner::{self, Caller, Owned, Ownership, RefusedOwner};
use super::{Bridge, Identity, Outcome, Ruling, Unready};
use crate::audit::{Delivery, Subject as AuditSubject};
use crate::cache::{Issued, Miss};
use crate::caller::{Connection, Kernel};
use crate::clock::Clock;
use crate::issuer::{IssueError, IssueRequest, Issuer};
use crate::pods::index::{Index, Lookup};
use crate::policy::{Decision, Grant, ServiceAccount, Subject};
use crate::types::{ContainerId, Denial, PodEntry};

/// A caller, what it may have, and by what ruling.
pub(super) struct Granted<I, C> {
    pub(super) owned: Owned,
    pub(super) grant: Grant,
    ruling: Arc<Ruling<I, C>>,
}

impl<K: Kernel, I: Issuer, C: Clock + Clone> Bridge<K, I, C> {
    /// The pod that calls and its namespace, as soon as the watch has shown both.
    pub(super) async fn owned(
        &self,
        connection: &Connection,
        caller: &mut Caller,
        deadline: Instant,
    ) -> Result<Owned, Outcome> {
        self.until(caller, deadline, |index, caller| self.owned_in(index, caller, connection)).await
    }

    /// The same, and what policy grants it.
    pub(super) async fn granted(
        &self,
        connection: &Connection,
        caller: &mut Caller,
        deadline: Instant,
    ) -> Result<Granted<I, C>, Outcome> {
        let ruling = self.ruling(caller, deadline).await?;
        let (owned, grant) = self
            .until(caller, deadline, |index, caller| {
                let owned = match self.owned_in(index, caller, connection)? {
                    Ok(owned) => owned,
                    Err(not_yet) => return Ok(Err(not_yet)),
                };
                match self.decide(&ruling, &owned) {
                    Decision::Allow(grant) => Ok(Ok((owned, grant))),
                    Decision::NotYet(what) => Ok(Err(Unready::Decision(what))),
                    Decision::Deny(reason) => {
                        self.report_denial(&owned, reason.denial(), || reason.explain());
                        Err(Outcome::Denied(reason))
                    }
                }
            })
            .await?;
        Ok(Granted { owned, grant, ruling })
    }

    /// Credentials of what was granted; after any wait, only if the very same socket is still there and still has the same right.
    pub(super) async fn credentials(
        &self,
        connection: &Connection,
        caller: &mut Caller,
        granted: &Granted<I, C>,
        deadline: Instant,
    ) -> Result<Arc<Issued>, Outcome> {
        let Granted { owned, grant, ruling } = granted;
        let request = IssueRequest {
            source: ruling.terms.source.clone(),
            role: grant.role.clone(),
            session_name: grant.session_name.clone(),
            external_id: grant.external_id.clone(),
            duration: ruling.terms.duration,
            region: ruling.terms.region.clone(),
        };
        let asked = ruling.cache.get(&request, &owned.pod.uid);
        if !self.is_current(&owned.pod) {
            // Whoever took the pod out of the index may have had it forgotten before the cache learned of it just now.
            ruling.cache.forget(&owned.pod.uid);
        }
        let settled = match asked {
            Ok(settled) => settled,
            Err(wait) => {
                caller.waited = true;
                ruling.cache.wait(wait, deadline).await
            }
        };
        // What cannot be delivered need not be checked.
        let issued = settled.map_err(|miss| {
            // The call to STS that was refused has its audit line, and everybody who asks meanwhile shares it.
            if let Miss::Failed(IssueError::Denied { code, hint }) = &miss {
                let why = || format!("STS refuses role {} ({code}): {hint}", grant.role);
                self.tell_denial(&owned.pod, Denial::AssumeRoleRefused, why);
            }
            Outcome::NotIssued { miss, role: grant.role.clone() }
        })?;
        if caller.waited {
            self.check_again(connection, caller, granted)?;
        }
        Ok(issued)
    }

    /// Says that these credentials reach this caller.
    pub(super) fn report_delivery(&self, Granted { owned, grant, .. }: &Granted<I, C>, issued: &Issued) {
        self.parties.audit.delivery(&Delivery {
            subject: AuditSubject { pod: &owned.pod, container: owned.container() },
            role: grant.role.as_str(),
            session_name: grant.session_name.as_str(),
            access_key_id: &issued.credentials.access_key_id,
            identity: match &self.parties.identity {
                Identity::Kernel(_) => "kernel",
                Identity::Address => "ip",
            },
        });
    }

    /// Says why this caller gets nothing.
    pub(super) fn report_denial(&self, owned: &Owned, reason: Denial, why: impl Fn() -> String) {
        self.report(&owned.pod, owned.container(), reason, why);
    }

    /// Says of everybody who claims to be the caller why they get nothing.
    pub(super) fn not_owner(&self, RefusedOwner { why, claimants }: &RefusedOwner<'_>) -> Outcome {
        for (pod, proof) in claimants {
            let container = proof.map(|proof| &proof.identity.container);
            self.report(pod, container, why.denial(), || why.explain().into());
        }
        Outcome::NotOwner(*why)
    }

    fn report(&self, pod: &PodEntry, container: Option<&ContainerId>, reason: Denial, why: impl Fn() -> String) {
        self.parties.audit.denial(&AuditSubject { pod, container }, reason, &why);
        self.tell_denial(pod, reason, why);
    }

    fn tell_denial(&self, pod: &PodEntry, reason: Denial, why: impl FnOnce() -> String) {
        self.parties.metrics.denial(reason);
        if let Some(events) = &self.parties.events {
            events.denied(pod, reason, why);
        }
    }

    /// Who calls, by `index`; `Err` inside: what the watch must still show.
    fn owned_in(
        &self,
        index: &Index,
        caller: &Caller,
        connection: &Connection,
    ) -> Result<Result<Owned, Unready>, Outcome> {
        let (pod, proof) = match owner::of(index, caller, connection) {
            Ownership::Owned { pod, proof } => (pod, proof),
            Ownership::NotYet(what) => return Ok(Err(what)),
            Ownership::Refused(refusal) => return Err(self.not_owner(&refusal)),
        };
        let Some(namespace) = index.namespace(&pod.namespace) else { return Ok(Err(Unready::Namespace)) };
        // Not watched, none is in the index.
        let service_account = index.service_account(&pod.namespace, &pod.service_account).cloned();
        Ok(Ok(Owned { pod: pod.clone(), namespace: namespace.clone(), proof: proof.cloned(), service_account }))
    }

    fn decide(&self, ruling: &Ruling<I, C>, owned: &Owned) -> Decision {
        let service_account = ServiceAccount::of(self.parties.service_accounts, owned.service_account.as_deref());
        let container = owned.container();
        ruling.rules.decide(Subject { pod: &owned.pod, container, namespace: Some(&owned.namespace), service_account })
    }

    /// Invariant: between the request and the answer the connection has not become somebody else's, and the pod has not lost its
    /// right. Needed only where something was awaited.
    fn check_again(&self, connection: &Connection, caller: &Caller, before: &Granted<I, C>) -> Result<(), Outcome> {
        if let (Identity::Kernel(resolver), Some(proof)) = (&self.parties.identity, &before.owned.proof)
            && !resolver.still_holds(connection, proof)
        {
            return Err(Outcome::IdentityChanged);
        }
        let Ok(Ok(now)) = self.owned_in(&self.parties.store.snapshot(), caller, connection) else {
            return Err(Outcome::IdentityChanged);
        };
        match self.decide(&before.ruling, &now) {
            Decision::Allow(grant) if grant == before.grant && now.pod.uid == before.owned.pod.uid => Ok(()),
            Decision::Allow(_) | Decision::Deny(_) | Decision::NotYet(_) => Err(Outcome::IdentityChanged),
        }
    }

    /// Whether the index still has this very entry.
    fn is_current(&self, pod: &Arc<PodEntry>) -> bool {
        matches!(self.parties.store.snapshot().pod(&pod.uid), Lookup::Found(now) if Arc::ptr_eq(now, pod))
    }
}
