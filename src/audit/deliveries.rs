//! Distinguishes the first delivery of credentials to a container from the many that follow.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Subject;
use crate::types::{ContainerId, PodUid};

/// The last access key that was delivered to each container. The number of the node's pods and containers limits the size.
#[derive(Debug, Default)]
pub(super) struct Deliveries(Mutex<HashMap<PodUid, Vec<Delivered>>>);

type Delivered = (Option<ContainerId>, Arc<str>);

// === impl Deliveries ===

impl Deliveries {
    /// Records a delivery of this key to `subject`. Returns whether this delivery of the key to `subject` is the first.
    pub(super) fn is_first(&self, subject: &Subject<'_>, access_key_id: &Arc<str>) -> bool {
        let mut all = self.lock();
        let known = all.get(&subject.pod.uid).into_iter().flatten();
        if known.into_iter().any(|(container, key)| container.as_ref() == subject.container && key == access_key_id) {
            return false;
        }
        let of_pod = all.entry(subject.pod.uid.clone()).or_default();
        // A restarted container has a new ID. Forget IDs that the pod's status no longer lists: their processes are gone.
        of_pod.retain(|(container, _)| {
            container.as_ref() != subject.container
                && container.as_ref().is_none_or(|id| subject.pod.container_name(id).is_some())
        });
        of_pod.push((subject.container.cloned(), access_key_id.clone()));
        true
    }

    /// Forgets a pod.
    pub(super) fn forget(&self, pod: &PodUid) {
        self.lock().remove(pod);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PodUid, Vec<Delivered>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::convert::{SlimPod, pod_entry};
    use crate::types::PodEntry;

    fn pod(containers: &[&str]) -> PodEntry {
        let statuses: Vec<_> = containers
            .iter()
            .map(|id| json!({"name": format!("of-{id}"), "containerID": format!("containerd://{id}")}))
            .collect();
        let object: SlimPod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "status": {"containerStatuses": statuses}
        }))
        .unwrap();
        pod_entry(&object).unwrap()
    }

    #[test]
    fn each_container_has_its_first_of_each_key() {
        let deliveries = Deliveries::default();
        let pod = pod(&["a", "b"]);
        let (a, b) = (ContainerId::parse("a").unwrap(), ContainerId::parse("b").unwrap());
        let first = |container, key: &str| deliveries.is_first(&Subject { pod: &pod, container }, &key.into());
        assert!(first(Some(&a), "1") && !first(Some(&a), "1"));
        assert!(first(Some(&b), "1") && first(None, "1"));
        assert!(first(Some(&a), "2") && !first(Some(&b), "1") && !first(Some(&a), "2"));
        deliveries.forget(&pod.uid);
        assert!(first(Some(&a), "2"));
    }

    /// A pod that crashes for months must not grow the record with every restart.
    #[test]
    fn containers_that_are_gone_are_forgotten() {
        let deliveries = Deliveries::default();
        for restart in 0..100 {
            let id = format!("run-{restart}");
            let pod = pod(&["sidecar", &id]);
            for container in ["sidecar", &id] {
                let container = ContainerId::parse(container).unwrap();
                let first = deliveries.is_first(&Subject { pod: &pod, container: Some(&container) }, &"1".into());
                assert_eq!(first, container.as_str() == id || restart == 0, "{container} at {restart}");
            }
        }
        assert_eq!(deliveries.lock()[&PodUid::parse("u").unwrap()].len(), 2);
    }
}
