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

/// A pod as it comes over the wire, without the fields that are not used.
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
    init_containers: Option<Vec<Container>>,
    containers: Option<Vec<Container>>,
    ephemeral_containers: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    security_context: Option<SecurityContext>,
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
        can_sniff: spec.all_containers().any(Container::can_sniff),
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
    fn all_containers(&self) -> impl Iterator<Item = &Container> {
        [&self.init_containers, &self.containers, &self.ephemeral_containers].into_iter().flatten().flatten()
    }
}

impl Container {
    /// Whether the container has NET_RAW, which runtimes grant unless it is dropped.
    fn can_sniff(&self) -> bool {
        let Some(context) = &self.security_context else { return true };
        let named = |list: &Option<Vec<String>>, names: &[&str]| {
            list.iter().flatten().any(|name| {
                let name = name.strip_prefix("CAP_").unwrap_or(name);
                names.iter().any(|n| n.eq_ignore_ascii_case(name))
            })
        };
        let Some(capabilities) = &context.capabilities else { return true };
        context.privileged == Some(true)
            || named(&capabilities.add, &["NET_RAW", "NET_ADMIN", "ALL"])
            || !named(&capabilities.drop, &["NET_RAW", "ALL"])
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
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const ROLE: &str = AnnotationKey::Role.name();
    const EXTERNAL_ID: &str = AnnotationKey::ExternalId.name();
    const SESSION_NAME: &str = AnnotationKey::SessionName.name();

    fn entry(object: Value) -> PodEntry {
        pod_entry(&serde_json::from_value(object).unwrap()).unwrap()
    }

    fn minimal(annotations: Value) -> Value {
        json!({"metadata": {"name": "p", "namespace": "n", "uid": "u-1", "annotations": annotations}})
    }

    #[test]
    fn keeps_what_a_decision_needs() {
        let pod = entry(json!({
            "metadata": {
                "name": "web-1", "namespace": "shop", "uid": "u-1", "managedFields": [{"x": 1}], "labels": {"a": "b"},
                "annotations": {ROLE: "web", "podrole.dev/role.side": "", "podrole.dev/role.log": "log", "foreign/x": "y"}
            },
            "spec": {
                "serviceAccountName": "sa",
                "containers": [{"name": "app", "image": "i", "securityContext": {"capabilities": {"drop": ["ALL"]}}}]
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd88::1"}],
                "containerStatuses": [{"name": "app", "containerID": "containerd://abc"}, {"name": "side"}],
                "ephemeralContainerStatuses": [{"name": "dbg", "containerID": "cri-o://def"}]
            }
        }));
        assert_eq!(pod.service_account.as_ref(), "sa");
        assert_eq!(pod.ips.len(), 2);
        assert!(!pod.can_sniff && !pod.finished && !pod.host_network);
        assert_eq!(pod.role, Some(Ok(RoleRef::Name("web".into()))));
        assert_eq!(pod.container_roles.len(), 2);
        assert_eq!(pod.container_roles[1].role, Ok(None));
        let named = |id: &str| pod.container_name(&ContainerId::parse(id).unwrap()).map(|n| n.to_string());
        assert_eq!((named("abc"), named("def"), named("x")), (Some("app".into()), Some("dbg".into()), None));
    }

    #[test]
    fn foreign_annotations_are_not_kept() {
        let pod: SlimPod = serde_json::from_value(minimal(json!({"a/b": "x".repeat(2_000_000), ROLE: "web"}))).unwrap();
        assert_eq!(pod.metadata.annotations.unwrap().len(), 1);
    }

    #[test]
    fn bad_annotations_hurt_one_field() {
        let pod = entry(minimal(json!({ROLE: "a b", EXTERNAL_ID: "x y", SESSION_NAME: "s".repeat(2000)})));
        assert!(matches!(pod.role, Some(Err(BadAnnotation::Role { .. }))));
        assert!(matches!(pod.external_id, Some(Err(BadAnnotation::Session { .. }))));
        assert!(matches!(pod.session_name, Some(Err(BadAnnotation::Session { .. }))));
    }

    #[test]
    fn a_container_may_sniff_unless_told_otherwise() {
        for (context, expected) in [
            (json!(null), true),
            (json!({"capabilities": {"drop": ["NET_RAW"]}}), false),
            (json!({"capabilities": {"drop": ["CAP_NET_RAW"]}}), false),
            (json!({"capabilities": {"drop": ["all"]}}), false),
            (json!({"capabilities": {"drop": ["ALL"], "add": ["NET_RAW"]}}), true),
            (json!({"capabilities": {"drop": ["ALL"]}, "privileged": true}), true),
            (json!({"capabilities": {"drop": ["SYS_TIME"]}}), true),
        ] {
            let mut object = minimal(json!({}));
            object["spec"] = json!({"containers": [{"securityContext": context}]});
            assert_eq!(entry(object).can_sniff, expected, "{context}");
        }
    }

    #[test]
    fn only_a_hash_is_an_alias() {
        let alias = |text: &str| entry(minimal(json!({"kubernetes.io/config.mirror": text}))).cgroup_uid;
        assert!(alias("0123456789abcdef0123456789abcdef").is_some());
        assert_eq!(alias("3f0c9a52-1111-2222-3333-444455556666"), None);
        assert_eq!(alias("../../x"), None);
    }

    #[test]
    fn null_and_missing_fields_are_fine() {
        let pod = entry(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u-1", "annotations": null},
            "spec": {"containers": null}, "status": {"podIPs": null}
        }));
        assert_eq!((pod.service_account.as_ref(), pod.ips.len()), ("default", 0));
        assert!(pod_entry(&serde_json::from_value(json!({"metadata": {"name": "p"}})).unwrap()).is_none());
    }
}
