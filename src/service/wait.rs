//! The slow path: waits, within a request's deadline, until the watch or discovery has provided the missing information.

use std::sync::Arc;
use std::time::Duration;

use super::outcome::Failure;
use super::request::Request;
use super::unresolved::{NotReady, Unresolved};
use super::{ActivePolicy, MetadataService};
use crate::caller::Kernel;
use crate::clock::Clock;
use crate::issuer::Issuer;
use crate::pods::index::Index;

/// How often a request checks whether discovery has finished.
const POLL: Duration = Duration::from_millis(20);

impl<K: Kernel, I: Issuer, C: Clock + Clone> MetadataService<K, I, C> {
    /// Calls `find` after every change of the index, until `find` finds something or returns a denial, or until the deadline
    /// passes.
    pub(super) async fn wait_for_index<T>(
        &self,
        request: &mut Request<'_>,
        find: impl Fn(&Index, &Request<'_>) -> Result<T, Unresolved>,
    ) -> Result<T, Failure> {
        let mut changes = self.deps.store.changes();
        loop {
            // Mark the change as seen before reading the snapshot: a change in between then wakes this request again.
            changes.borrow_and_update();
            let not_ready = match find(&self.deps.store.snapshot(), request) {
                Ok(found) => return Ok(found),
                Err(Unresolved::Denied(denied)) => return Err(denied.into()),
                Err(Unresolved::NotReady(what)) => what,
            };
            match request.deadline.wait(changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(Failure::NotReady(not_ready)),
            }
        }
    }

    /// Waits until discovery has finished.
    pub(super) async fn wait_for_policy(&self, request: &mut Request<'_>) -> Result<Arc<ActivePolicy<I, C>>, Failure> {
        loop {
            request.deadline.sleep(POLL).await.map_err(|_| Failure::NotReady(NotReady::Policy))?;
            if let Some(policy) = self.deps.active_policy.load_full() {
                return Ok(policy);
            }
        }
    }
}
