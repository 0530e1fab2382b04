//! Passes a change of a pod on to every part of the daemon that remembers the pod.

use std::sync::Arc;

use arc_swap::ArcSwapOption;

use super::active_policy::ActivePolicy;
use crate::audit::Audit;
use crate::clock::Clock;
use crate::events::Events;
use crate::issuer::Issuer;
use crate::pods::index::{ChangeKind, PodChange};
use crate::pods::store::OnChange;

/// The store's callback for a pod that is gone or has changed: the policy reconsiders the pod, and the audit log and Events forget
/// it.
pub fn on_pod_change<I: Issuer, C: Clock + Clone>(
    active_policy: Arc<ArcSwapOption<ActivePolicy<I, C>>>,
    audit: Arc<Audit>,
    events: Option<Arc<Events>>,
) -> OnChange {
    Box::new(move |index, PodChange { uid, kind }| match kind {
        ChangeKind::Added => {}
        ChangeKind::Changed | ChangeKind::Gone => {
            if let Some(policy) = active_policy.load_full() {
                policy.reconsider(index, uid);
            }
            audit.forget(uid);
            if let Some(events) = &events {
                events.forget(uid);
            }
        }
    })
}
