//! The supported kinds, their paths, and the discovery documents.

use serde_json::{Value, json};

/// A kind of object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// The API group; empty for the core group.
    pub(super) group: &'static str,
    pub(super) kind: &'static str,
    /// The name in paths and the storage key; events are therefore visible through both groups.
    pub(super) plural: &'static str,
    singular: &'static str,
    short: &'static str,
    pub(super) namespaced: bool,
    /// Supported field selectors besides `metadata.name` and `metadata.namespace`.
    pub(super) fields: &'static [&'static str],
}

const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
];
const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

static KINDS: [Kind; 6] = [
    kind("", "Pod", "pods", "pod", "po", true, POD_FIELDS),
    kind("", "Namespace", "namespaces", "namespace", "ns", false, &["status.phase"]),
    kind("", "ServiceAccount", "serviceaccounts", "serviceaccount", "sa", true, &[]),
    kind("", "Event", "events", "event", "ev", true, EVENT_FIELDS),
    kind("", "Node", "nodes", "node", "no", false, &["spec.unschedulable"]),
    kind("events.k8s.io", "Event", "events", "event", "ev", true, EVENT_FIELDS),
];

const fn kind(
    group: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short: &'static str,
    namespaced: bool,
    fields: &'static [&'static str],
) -> Kind {
    Kind { group, kind, plural, singular, short, namespaced, fields }
}

impl Kind {
    /// The kind of an object, by its `apiVersion` and `kind`.
    pub(super) fn of(object: &Value) -> Option<&'static Self> {
        let (version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
        KINDS.iter().find(|known| known.kind == kind && known.api_version() == version)
    }

    /// The kind with this name, plural or short name: `Pod`, `pods`, `po`.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        let name = name.to_lowercase();
        KINDS.iter().find(|kind| [kind.plural, kind.singular, kind.short].contains(&name.as_str()))
    }

    /// `v1` or `group/v1`.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", self.group) }
    }

    /// The resource with its group, as in the API server's messages.
    pub(super) fn resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }
}

/// The target of a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) kind: &'static Kind,
    /// Empty for all namespaces, or for a cluster-scoped kind.
    pub(super) namespace: String,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Target {
    /// Parses `/api/v1/...` and `/apis/<group>/v1/...`.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match parts.as_slice() {
            ["api", "v1", rest @ ..] => ("", rest),
            ["apis", group, "v1", rest @ ..] => (*group, rest),
            _ => return None,
        };
        let find = |plural: &str, namespaced: bool| {
            KINDS.iter().find(|kind| kind.group == group && kind.plural == plural && (kind.namespaced || !namespaced))
        };
        let (kind, namespace, rest) = match rest {
            ["namespaces", namespace, plural, rest @ ..] if find(plural, true).is_some() => {
                (find(plural, true)?, *namespace, rest)
            }
            [plural, rest @ ..] => (find(plural, false)?, "", rest),
            [] => return None,
        };
        let (name, subresource) = match rest {
            [] => (None, None),
            [name] => (Some(*name), None),
            [name, subresource] => (Some(*name), Some(*subresource)),
            _ => return None,
        };
        let nowhere = kind.namespaced && namespace.is_empty() && name.is_some();
        let owned = |text: Option<&str>| text.map(str::to_owned);
        let target = Self { kind, namespace: namespace.to_owned(), name: owned(name), subresource: owned(subresource) };
        (!nowhere).then_some(target)
    }
}

/// The discovery document at a path, if it exists.
pub(super) fn discovery(path: &str) -> Option<Value> {
    let group = json!({
        "name": "events.k8s.io",
        "versions": [{"groupVersion": "events.k8s.io/v1", "version": "v1"}],
        "preferredVersion": {"groupVersion": "events.k8s.io/v1", "version": "v1"},
    });
    Some(match path.trim_end_matches('/') {
        "/api" => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        "/apis" => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}),
        "/apis/events.k8s.io" => {
            let mut document = group;
            document["kind"] = json!("APIGroup");
            document["apiVersion"] = json!("v1");
            document
        }
        "/api/v1" => resource_list(""),
        "/apis/events.k8s.io/v1" => resource_list("events.k8s.io"),
        "/version" => json!({
            "major": "1", "minor": "33", "gitVersion": "v1.33.0", "gitCommit": "0", "gitTreeState": "clean",
            "buildDate": "2025-04-23T00:00:00Z", "goVersion": "go1.24", "compiler": "gc", "platform": "linux/amd64",
        }),
        _ => return None,
    })
}

fn resource_list(group: &str) -> Value {
    let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
    let of_group = || KINDS.iter().filter(|kind| kind.group == group);
    let resources: Vec<Value> = of_group()
        .map(|kind| {
            json!({
                "name": kind.plural, "singularName": kind.singular, "shortNames": [kind.short], "kind": kind.kind,
                "namespaced": kind.namespaced, "verbs": verbs,
            })
        })
        .collect();
    let version = of_group().next().map(Kind::api_version).unwrap_or_default();
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_paths() {
        let target = |path: &str| {
            let target = Target::parse(path)?;
            Some((target.kind.plural, target.namespace, target.name.unwrap_or_default(), target.subresource))
        };
        let some = |plural, namespace: &str, name: &str| Some((plural, namespace.to_owned(), name.to_owned(), None));
        assert_eq!(target("/api/v1/pods"), some("pods", "", ""));
        assert_eq!(target("/api/v1/namespaces/web/pods/p"), some("pods", "web", "p"));
        assert_eq!(target("/api/v1/namespaces/web"), some("namespaces", "", "web"));
        assert_eq!(target("/apis/events.k8s.io/v1/namespaces/web/events"), some("events", "web", ""));
        assert_eq!(target("/api/v1/namespaces/web/status").unwrap().3.as_deref(), Some("status"));
        for path in ["/api/v1/pods/p", "/api/v1/secrets", "/apis/apps/v1/pods", "/api/v2/pods", "/api/v1", "/"] {
            assert_eq!(target(path), None, "{path}");
        }
    }
}
