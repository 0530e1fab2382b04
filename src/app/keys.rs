//! Loads the keys that seal session tokens at the start, and rotates them daily.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tracing::warn;

use crate::clock::{Clock as _, SystemClock};
use crate::imds::{Key, KeyRing};
use crate::metrics::{Fault, Metrics};
use crate::state::{self, StateError};

/// How often the newest key's age is checked. A key seals tokens for a day, so hourly checks replace it in time.
const CHECK: Duration = Duration::from_secs(3600);

/// Loads the key ring from `directory` and merges it with the keys `held` in memory. If the ring cannot be persisted, it is still
/// usable, and this function logs and counts the problem.
///
/// # Errors
///
/// Fails if no randomness is available for a new key.
pub(super) fn load(directory: &Path, held: &[Key], metrics: &Metrics) -> Result<KeyRing, StateError> {
    let (ring, problem) = state::load(directory, &state::boot_id(), SystemClock.boot(), held)?;
    if let Some(problem) = problem {
        metrics.fault(Fault::KeyRing);
        warn!(error = %problem, "Cannot use or save the persisted token keys; keeping keys in memory, so a restart may invalidate session tokens");
    }
    Ok(ring)
}

/// Replaces the newest key once it is a day old. Never ends.
pub(super) async fn rotate(directory: PathBuf, keys: Arc<ArcSwap<KeyRing>>, metrics: Arc<Metrics>) {
    loop {
        tokio::time::sleep(CHECK).await;
        let held: Vec<Key> = keys.load().keys().cloned().collect();
        match load(&directory, &held, &metrics) {
            Ok(ring) => keys.store(Arc::new(ring)),
            Err(problem) => {
                metrics.fault(Fault::KeyRing);
                warn!(error = %problem, "Key rotation failed; keeping existing keys");
            }
        }
    }
}
