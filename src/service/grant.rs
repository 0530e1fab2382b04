//! From an identified caller to its pod, to what policy grants the pod, and to the credentials.

use std::sync::Arc;

use super::caller_pod::{CallerPod, Granted, PodObjects};
use super::decisions::Verdict;
use super::outcome::Failure;
use super::owner::resolve_owner;
use super::request::Request;
use super::resolution::{NotReady, Resolution};
use super::{ActivePolicy, Identity, MetadataService};
use crate::cache::{Cached, Issued, WaitError};
use crate::caller::Kernel;
use crate::clock::Clock;
use crate::issuer::{IssueError, Issuer};
use crate::pods::index::Index;
use crate::types::DenialReason;

// === impl MetadataService ===

impl<K: Kernel, I: Issuer, C: Clock + Clone> MetadataService<K, I, C> {
    /// The pod that calls, and its namespace. Waits until the watch has shown both.
    pub(super) async fn caller_pod(&self, request: &mut Request<'_>) -> Result<CallerPod, Failure> {
        match self.find_pod(&self.deps.store.snapshot(), request) {
            Resolution::Found(found) => return Ok(found),
            Resolution::Denied(denied) => return Err(denied.into()),
            Resolution::NotReady(_) => {}
        }
        self.wait_for_index(request, |index, request| self.find_pod(index, request)).await
    }

    /// What policy grants the caller, and the policy. Waits until the watch and discovery have brought what the decision needs.
    pub(super) async fn granted(
        &self,
        request: &mut Request<'_>,
    ) -> Result<(Granted, Arc<ActivePolicy<I, C>>), Failure> {
        let policy = self.active_policy(request).await?;
        match self.find_grant(&self.deps.store.snapshot(), request, &policy) {
            Resolution::Found(granted) => return Ok((granted, policy)),
            Resolution::Denied(denied) => return Err(denied.into()),
            Resolution::NotReady(_) => {}
        }
        let find = |index: &Index, request: &Request<'_>| self.find_grant(index, request, &policy);
        let granted = self.wait_for_index(request, find).await?;
        Ok((granted, policy))
    }

    /// The active policy. Waits until discovery has finished; it brings all facts about the node as well.
    pub(super) async fn active_policy(&self, request: &mut Request<'_>) -> Result<Arc<ActivePolicy<I, C>>, Failure> {
        match self.deps.active_policy.load_full() {
            Some(policy) => Ok(policy),
            None => self.wait_for_policy(request).await,
        }
    }

    /// The credentials of a grant. If the request has waited for anything, they are released only after another look at the caller.
    pub(super) async fn issued(
        &self,
        request: &mut Request<'_>,
        granted: &Granted,
        policy: &ActivePolicy<I, C>,
    ) -> Result<Arc<Issued>, Failure> {
        let objects = &granted.caller.objects;
        let cached = policy.cache.get(&granted.request, &objects.pod.uid);
        let index = self.deps.store.snapshot();
        if !objects.are_current(&index) {
            // The pod may have been reconsidered just before the cache learned that the pod uses these credentials.
            policy.reconsider(&index, &objects.pod.uid);
        }
        drop(index);
        let unchecked = match cached {
            Cached::Ready(unchecked) => unchecked,
            Cached::Denied(error) => return Err(issuer_failure(granted, error)),
            Cached::Pending(pending) => match policy.cache.wait(pending, &mut request.deadline).await {
                Ok(unchecked) => unchecked,
                Err(WaitError::Issuer(error)) => return Err(issuer_failure(granted, error)),
                Err(WaitError::TimedOut) => return Err(Failure::NotReady(NotReady::Credentials)),
            },
        };
        unchecked.release(|| match request.deadline.waited() {
            true => self.check_again(request, granted, policy),
            false => Ok(()),
        })
    }

    fn find_pod(&self, index: &Index, request: &Request<'_>) -> Resolution<CallerPod> {
        resolve_owner(index, &request.caller, request.peer()).and_then(|owner| match PodObjects::of(index, owner.pod) {
            Some(objects) => Resolution::Found(CallerPod { objects, proof: owner.proof.cloned() }),
            None => Resolution::NotReady(NotReady::Namespace),
        })
    }

    fn find_grant(&self, index: &Index, request: &Request<'_>, policy: &ActivePolicy<I, C>) -> Resolution<Granted> {
        self.find_pod(index, request).and_then(|caller| match policy.verdict(&caller.objects, caller.container()) {
            Verdict::Granted(request) => Resolution::Found(Granted { caller, request }),
            Verdict::NotReady(what) => Resolution::NotReady(NotReady::Decision(what)),
            Verdict::Denied(reason) => Resolution::Denied(caller.denied(reason)),
        })
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
            Resolution::Found(now)
                if now.request == before.request && now.caller.pod().uid == before.caller.pod().uid =>
            {
                Ok(())
            }
            Resolution::Found(_) | Resolution::NotReady(_) | Resolution::Denied(_) => Err(changed),
        }
    }
}

fn issuer_failure(granted: &Granted, error: IssueError) -> Failure {
    match error {
        IssueError::Denied { code, hint } => {
            let role = granted.request.role.clone();
            granted.caller.denied(DenialReason::AssumeRoleRefused { role, code: code.name(), hint }).into()
        }
        IssueError::Base { .. } | IssueError::Throttled { .. } | IssueError::Unavailable { .. } => {
            Failure::Issuer(error)
        }
    }
}
