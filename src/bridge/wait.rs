//! Waiting, within a client's patience, for what the watch or the start has not brought yet.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::owner::Caller;
use super::{Bridge, Outcome, Ruling, Unready};
use crate::caller::Kernel;
use crate::clock::Clock;
use crate::issuer::Issuer;
use crate::pods::index::Index;

/// Between two looks for what the start brings.
const PAUSE: Duration = Duration::from_millis(20);

impl<K: Kernel, I: Issuer, C: Clock + Clone> Bridge<K, I, C> {
    /// Asks `look` now and after every change of the index, until it has an answer or the time is up.
    pub(super) async fn until<T>(
        &self,
        caller: &mut Caller,
        deadline: Instant,
        mut look: impl FnMut(&Index, &Caller) -> Result<Result<T, Unready>, Outcome>,
    ) -> Result<T, Outcome> {
        if let Ok(answer) = look(&self.parties.store.snapshot(), caller)? {
            return Ok(answer);
        }
        caller.waited = true;
        let mut changes = self.parties.store.changes();
        loop {
            // Seen first, looked at second: a change in between wakes us once more.
            changes.borrow_and_update();
            let not_yet = match look(&self.parties.store.snapshot(), caller)? {
                Ok(answer) => return Ok(answer),
                Err(not_yet) => not_yet,
            };
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(Outcome::NotReady(not_yet)),
            }
        }
    }

    /// The ruling, with which the start has brought all the facts there are as well. A fact that is missing before may still come,
    /// and clients take a 404 for "there is none" and do not ask again.
    pub(super) async fn ruling(&self, caller: &mut Caller, deadline: Instant) -> Result<Arc<Ruling<I, C>>, Outcome> {
        loop {
            if let Some(ruling) = self.parties.ruling.load_full() {
                return Ok(ruling);
            }
            caller.waited = true;
            let next = Instant::now() + PAUSE;
            if next >= deadline {
                return Err(Outcome::NotReady(Unready::Rules));
            }
            tokio::time::sleep_until(next).await;
        }
    }
}
