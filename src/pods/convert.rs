//! Kubernetes objects, reduced while they are parsed: fields that no decision needs are skipped and never allocated.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::types::{
    AllowList, AllowListError, Annotation, AnnotationKey, BadAnnotation, ContainerId, ContainerRole, ExternalId,
    NamespaceEntry, PodEntry, PodUid, RoleRef, ServiceAccountEntry, SessionNameError,
};

/// A pod as the API server sends it, reduced to the fields that podrole uses.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SlimPod {
    /// The name, namespace, UID, resource version and the annotations that podrole reads.
    #[serde(deserialize_with = "slim_meta")]
    pub metadata: ObjectMeta,
    spec: Spec,
    status: Status,
}

/// An object of which only the metadata is requested: a namespace or a service account.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SlimMeta {
    /// The same fields as in [`SlimPod`].
    #[serde(deserialize_with = "slim_meta")]
    pub metadata: ObjectMeta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    service_account_name: Option<Arc<str>>,
    host_network: Option<bool>,
    #[serde(rename = "hostPID")]
    host_pid: Option<bool>,
    share_process_namespace: Option<bool>,
    init_containers: Option<Vec<Container>>,
    containers: Option<Vec<Container>>,
    ephemeral_containers: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    security_context: Option<SecurityContext>,
    /// The container whose process namespace an ephemeral container joins. Other containers lack this field. Only its presence
    /// matters.
    target_container_name: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct SecurityContext {
    privileged: Option<bool>,
    capabilities: Option<Capabilities>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Capabilities {
    add: Option<Vec<String>>,
    drop: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
    init_container_statuses: Option<Vec<ContainerStatus>>,
    container_statuses: Option<Vec<ContainerStatus>>,
    ephemeral_container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PodIp {
    ip: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus {
    name: Arc<str>,
    #[serde(rename = "containerID")]
    container_id: Option<String>,
}

/// The entry for `pod`; `None` if it has no name, no namespace or no valid UID, which no API server sends.
pub fn pod_entry(pod: &SlimPod) -> Option<PodEntry> {
    let SlimPod { metadata, spec, status } = pod;
    let uid = PodUid::parse(metadata.uid.as_deref()?)?;
    let annotations = Annotations(metadata.annotations.as_ref());
    Some(PodEntry {
        cgroup_uid: annotations.cgroup_uid(&uid),
        namespace: metadata.namespace.as_deref()?.into(),
        name: metadata.name.as_deref()?.into(),
        service_account: spec.service_account_name.clone().unwrap_or_else(|| "default".into()),
        ips: pod_ips(status),
        host_network: spec.host_network == Some(true),
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        siblings_may_read: spec.siblings_may_read(),
        role: annotations.role(AnnotationKey::Role),
        external_id: annotations.external_id(),
        session_name: annotations.get(AnnotationKey::SessionName).map(|text| match ExternalId::parse(text) {
            // Only the length is limited here, to bound the memory. The rules of session names need the namespace and the UID, and are
            // checked where the name is built.
            Err(error @ SessionNameError::Length) => {
                Err(BadAnnotation::Session { key: AnnotationKey::SessionName.name().into(), error })
            }
            Err(SessionNameError::Character | SessionNameError::NameTooLong { .. }) | Ok(_) => Ok(text.into()),
        }),
        container_roles: annotations.container_roles(),
        containers: status.container_ids().collect(),
        uid,
    })
}

/// The entry for a namespace.
pub fn namespace_entry(object: &SlimMeta) -> Option<NamespaceEntry> {
    let annotations = Annotations(object.metadata.annotations.as_ref());
    let list = |key: AnnotationKey, parse: fn(&str) -> Result<AllowList, AllowListError>| {
        annotations
            .get(key)
            .map(|text| parse(text).map_err(|error| BadAnnotation::AllowList { key: key.name().into(), error }))
    };
    Some(NamespaceEntry {
        name: object.metadata.name.as_deref()?.into(),
        allowed_roles: list(AnnotationKey::AllowedRoles, AllowList::from_json),
        permitted: list(AnnotationKey::Permitted, AllowList::from_regex),
        external_id: annotations.external_id(),
        imds_v1: annotations.get(AnnotationKey::ImdsV1) == Some("allow"),
    })
}

/// The entry for a service account.
pub fn service_account_entry(object: &SlimMeta) -> Option<ServiceAccountEntry> {
    Some(ServiceAccountEntry {
        namespace: object.metadata.namespace.as_deref()?.into(),
        name: object.metadata.name.as_deref()?.into(),
        role: Annotations(object.metadata.annotations.as_ref()).role(AnnotationKey::ServiceAccountRole),
    })
}

struct Annotations<'a>(Option<&'a BTreeMap<String, String>>);

impl<'a> Annotations<'a> {
    fn get(&self, key: AnnotationKey) -> Option<&'a str> {
        self.0?.get(key.name()).map(String::as_str)
    }

    fn role(&self, key: AnnotationKey) -> Option<Annotation<RoleRef>> {
        self.get(key)
            .map(|text| RoleRef::parse(text).map_err(|error| BadAnnotation::Role { key: key.name().into(), error }))
    }

    fn external_id(&self) -> Option<Annotation<ExternalId>> {
        let bad = |error| BadAnnotation::Session { key: AnnotationKey::ExternalId.name().into(), error };
        self.get(AnnotationKey::ExternalId).map(|text| ExternalId::parse(text).map_err(bad))
    }

    /// The kubelet names a static pod's cgroup by its config hash. Every user can write the annotation with the hash, so only a
    /// value that has the exact form of the hash counts, and the index never lets it shadow a real UID.
    fn cgroup_uid(&self, uid: &PodUid) -> Option<PodUid> {
        let hash = [AnnotationKey::ConfigHash, AnnotationKey::ConfigMirror]
            .into_iter()
            .find_map(|key| self.get(key))
            .and_then(PodUid::parse)?;
        (hash.is_config_hash() && hash != *uid).then_some(hash)
    }

    fn container_roles(&self) -> Box<[ContainerRole]> {
        let overrides = self.0.into_iter().flatten().filter_map(|(key, text)| {
            let container = key.strip_prefix(AnnotationKey::ContainerRole.name())?;
            let role = match text.trim() {
                "" => Ok(None),
                text => RoleRef::parse(text).map(Some),
            };
            let role = role.map_err(|error| BadAnnotation::Role { key: key.as_str().into(), error });
            Some(ContainerRole { container: container.into(), role })
        });
        overrides.collect()
    }
}

impl Spec {
    /// Whether one of the containers can read its siblings' credentials. In a shared process namespace, a container can do so
    /// without capturing packets, by copying a sibling's socket (`pidfd_getfd`).
    fn siblings_may_read(&self) -> bool {
        self.host_pid == Some(true)
            || self.share_process_namespace == Some(true)
            || self.all_containers().any(|container| container.can_sniff() || container.target_container_name.is_some())
    }

    fn all_containers(&self) -> impl Iterator<Item = &Container> {
        [&self.init_containers, &self.containers, &self.ephemeral_containers].into_iter().flatten().flatten()
    }
}

impl Container {
    /// Whether the container has NET_RAW, which runtimes grant unless it is dropped.
    fn can_sniff(&self) -> bool {
        let Some(context) = &self.security_context else { return true };
        let Some(capabilities) = &context.capabilities else { return true };
        context.privileged == Some(true)
            || capabilities.may_add(&["NET_RAW", "NET_ADMIN", "ALL"])
            || !capabilities.surely_drop(&["NET_RAW", "ALL"])
    }
}

/// Runtimes ignore the case of a capability's name. containerd always puts `CAP_` before it, so that `CAP_NET_RAW` becomes an unknown
/// name and has no effect; CRI-O accepts both forms. The node's runtime is not known here, so each list is read in the way that gives
/// the container more.
impl Capabilities {
    /// Whether some runtime adds one of `names`.
    fn may_add(&self, names: &[&str]) -> bool {
        self.add.iter().flatten().any(|name| {
            let bare = match name.split_at_checked("CAP_".len()) {
                Some((prefix, bare)) if prefix.eq_ignore_ascii_case("CAP_") => bare,
                Some(_) | None => name,
            };
            names.iter().any(|n| n.eq_ignore_ascii_case(bare))
        })
    }

    /// Whether every runtime drops one of `names`.
    fn surely_drop(&self, names: &[&str]) -> bool {
        self.drop.iter().flatten().any(|name| names.iter().any(|n| n.eq_ignore_ascii_case(name)))
    }
}

impl Status {
    fn container_ids(&self) -> impl Iterator<Item = (ContainerId, Arc<str>)> {
        let statuses = [&self.init_container_statuses, &self.container_statuses, &self.ephemeral_container_statuses];
        statuses.into_iter().flatten().flatten().filter_map(|status| {
            let (_, id) = status.container_id.as_deref()?.split_once("://")?;
            Some((ContainerId::parse(id)?, status.name.clone()))
        })
    }
}

fn pod_ips(status: &Status) -> Box<[IpAddr]> {
    let all = status.pod_ips.iter().flatten().map(|entry| entry.ip.as_str()).chain(status.pod_ip.as_deref());
    let ips: BTreeSet<IpAddr> = all.filter_map(|ip| ip.parse::<IpAddr>().ok()).map(|ip| ip.to_canonical()).collect();
    ips.into_iter().collect()
}

fn slim_meta<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase")]
    struct Wire {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
        #[serde(deserialize_with = "known_annotations")]
        annotations: BTreeMap<String, String>,
    }
    let wire = Wire::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: wire.name,
        namespace: wire.namespace,
        uid: wire.uid,
        resource_version: wire.resource_version,
        annotations: (!wire.annotations.is_empty()).then_some(wire.annotations),
        ..ObjectMeta::default()
    })
}

fn known_annotations<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    struct Known;
    impl<'de> Visitor<'de> for Known {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of annotations")
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(BTreeMap::new())
        }

        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
            let mut known = BTreeMap::new();
            while let Some(key) = map.next_key::<String>()? {
                if AnnotationKey::parse(&key).is_some() {
                    known.insert(key, map.next_value()?);
                } else {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            Ok(known)
        }
    }
    deserializer.deserialize_any(Known)
}

#[cfg(test)]
mod tests;
