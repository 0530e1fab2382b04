//! Finds the pod of an identified caller, the pod's grant, and the credentials.

use std::sync::Arc;

use super::active_policy::{PodObjects, Verdict};
use super::caller_pod::{CallerPod, Granted};
use super::outcome::Failure;
use super::owner::resolve_owner;
use super::request::Request;
use super::unresolved::{NotReady, Unresolved};
use super::{ActivePolicy, Identity, MetadataService};
use crate::cache::{Cached, Issued, WaitError};
use crate::caller::Kernel;
use crate::clock::Clock;
use crate::issuer::{IssueError, Issuer};
use crate::pods::index::Index;
use crate::types::DenialReason;

impl<K: Kernel, I: Issuer, C: Clock + Clone> MetadataService<K, I, C> {
    /// Returns the pod that calls and its namespace. Waits until the watch has shown both.
    pub(super) async fn caller_pod(&self, request: &mut Request<'_>) -> Result<CallerPod, Failure> {
        match self.find_pod(&self.deps.store.snapshot(), request) {
            Ok(found) => Ok(found),
            Err(Unresolved::Denied(denied)) => Err(denied.into()),
            Err(Unresolved::NotReady(_)) => {
                self.wait_for_index(request, |index, request| self.find_pod(index, request)).await
            }
        }
    }

    /// Returns the caller's grant. Waits until the watch and discovery have provided everything that the policy needs for its
    /// decision.
    pub(super) async fn granted(&self, request: &mut Request<'_>) -> Result<Granted, Failure> {
        let policy = self.active_policy(request).await?;
        self.granted_by(&policy, request).await
    }

    /// Returns the credentials of the caller, whose request names `role`. If the request has waited, the credentials are released
    /// only after the caller has been checked again.
    pub(super) async fn issued(
        &self,
        request: &mut Request<'_>,
        role: &str,
    ) -> Result<(Granted, Arc<Issued>), Failure> {
        let policy = self.active_policy(request).await?;
        let granted = self.granted_by(&policy, request).await?;
        if granted.issue.role.name() != role {
            let own = granted.issue.role.name().to_owned();
            return Err(granted.caller.denied(DenialReason::WrongRole { own }).into());
        }
        let pod = &granted.caller.pod().uid;
        let cached = policy.cache.get(&granted.issue, pod);
        let index = self.deps.store.snapshot();
        if index.version() != granted.version {
            // The pod may have been reconsidered just before the cache learned that it uses these credentials.
            policy.reconsider(&index, pod);
        }
        drop(index);
        let unchecked = match cached {
            Cached::Ready(unchecked) => unchecked,
            Cached::Denied(error) => return Err(issuer_failure(&granted, error)),
            Cached::Pending(pending) => match policy.cache.wait(pending, &mut request.deadline).await {
                Ok(unchecked) => unchecked,
                Err(WaitError::Issuer(error)) => return Err(issuer_failure(&granted, error)),
                Err(WaitError::TimedOut) => return Err(Failure::NotReady(NotReady::Credentials)),
            },
        };
        let issued = unchecked.release(|| match request.deadline.waited() {
            true => self.check_again(request, &granted, &policy),
            false => Ok(()),
        })?;
        Ok((granted, issued))
    }

    /// Returns the active policy. Waits until discovery has finished. Discovery also provides all facts about the node.
    pub(super) async fn active_policy(&self, request: &mut Request<'_>) -> Result<Arc<ActivePolicy<I, C>>, Failure> {
        match self.deps.active_policy.load_full() {
            Some(policy) => Ok(policy),
            None => self.wait_for_policy(request).await,
        }
    }

    async fn granted_by(&self, policy: &ActivePolicy<I, C>, request: &mut Request<'_>) -> Result<Granted, Failure> {
        match self.find_grant(&self.deps.store.snapshot(), request, policy) {
            Ok(granted) => Ok(granted),
            Err(Unresolved::Denied(denied)) => Err(denied.into()),
            Err(Unresolved::NotReady(_)) => {
                self.wait_for_index(request, |index, request| self.find_grant(index, request, policy)).await
            }
        }
    }

    fn find_pod(&self, index: &Index, request: &Request<'_>) -> Result<CallerPod, Unresolved> {
        let owner = resolve_owner(index, &request.caller, request.peer())?;
        let objects = PodObjects::of(index, owner.pod).ok_or(NotReady::Namespace)?;
        Ok(CallerPod { objects, proof: owner.proof.cloned() })
    }

    fn find_grant(
        &self,
        index: &Index,
        request: &Request<'_>,
        policy: &ActivePolicy<I, C>,
    ) -> Result<Granted, Unresolved> {
        let caller = self.find_pod(index, request)?;
        match policy.verdict(&caller.objects, caller.container()) {
            Verdict::Granted(issue) => Ok(Granted { caller, issue, version: index.version() }),
            Verdict::NotReady(what) => Err(NotReady::Decision(what).into()),
            Verdict::Denied(reason) => Err(caller.denied(reason).into()),
        }
    }

    /// Checks, after a wait, that the connection still belongs to the same socket and that its pod still has the same grant.
    fn check_again(&self, request: &Request<'_>, before: &Granted, policy: &ActivePolicy<I, C>) -> Result<(), Failure> {
        let changed = Failure::NotReady(NotReady::CallerChanged);
        if let (Identity::Kernel(resolver), Some(proof)) = (&self.deps.identity, &before.caller.proof)
            && !resolver.still_holds(request.connection, proof)
        {
            return Err(changed);
        }
        match self.find_grant(&self.deps.store.snapshot(), request, policy) {
            Ok(now) if now.issue == before.issue && now.caller.pod().uid == before.caller.pod().uid => Ok(()),
            Ok(_) | Err(_) => Err(changed),
        }
    }
}

fn issuer_failure(granted: &Granted, error: IssueError) -> Failure {
    match error {
        IssueError::Denied { code, hint } => {
            let role = granted.issue.role.clone();
            granted.caller.denied(DenialReason::AssumeRoleRefused { role, code: code.name(), hint }).into()
        }
        IssueError::Base { .. } | IssueError::Throttled { .. } | IssueError::Unavailable { .. } => {
            Failure::Issuer(error)
        }
    }
}
