//! What the metadata service works with.

use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};

use super::active_policy::ActivePolicy;
use crate::audit::Audit;
use crate::caller::resolver::Resolver;
use crate::events::Events;
use crate::imds::{Facts, KeyRing};

use crate::metrics::Metrics;
use crate::pods::store::Store;

/// Everything that answering requests takes.
pub struct Deps<K, I, C> {
    /// How callers are identified.
    pub identity: Identity<K>,
    /// The watched objects.
    pub store: Arc<Store>,
    /// Empty until discovery has finished; set once and kept.
    pub active_policy: Arc<ArcSwapOption<ActivePolicy<I, C>>>,
    /// The keys of session tokens.
    pub keys: Arc<ArcSwap<KeyRing>>,
    /// Static facts about the node that pods may read.
    pub facts: Arc<ArcSwap<Facts>>,
    /// Whether every namespace may ask without a session token (`--imds-v1=allow`).
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

// === impl Identity ===

impl<K> Identity<K> {
    /// The mode as audit lines and metrics spell it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kernel(_) => "kernel",
            Self::Address => "ip",
        }
    }
}
