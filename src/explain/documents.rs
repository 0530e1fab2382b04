//! Reads the objects that decisions need from YAML or JSON: pods, workloads, namespaces and service accounts.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ExplainError, Selection};
use crate::pods::convert::{SlimMeta, SlimPod, pod_entry};
use crate::types::{ContainerId, PodEntry};

/// The objects that were read, in the daemon's types.
#[derive(Debug, Default)]
pub struct Objects {
    pub(super) pods: Vec<InputPod>,
    pub(super) namespaces: Vec<SlimMeta>,
    pub(super) service_accounts: Vec<SlimMeta>,
    /// The kinds of the objects that were ignored.
    others: BTreeSet<String>,
}

/// A pod, or the pod that a workload's template would create.
#[derive(Debug)]
pub(super) struct InputPod {
    pub(super) kind: String,
    /// Whether the pod exists, which means that it has a UID. A pod that does not exist gets a placeholder UID, and its
    /// containers count as started.
    pub(super) created: bool,
    pub(super) node: Option<String>,
    /// The names of all containers, in the object's order.
    pub(super) containers: Vec<String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) entry: PodEntry,
}

/// Names that the daemon does not need but the explanation shows.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Names {
    spec: SpecNames,
    status: StatusNames,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct SpecNames {
    node_name: Option<String>,
    init_containers: Option<Vec<Named>>,
    containers: Option<Vec<Named>>,
    ephemeral_containers: Option<Vec<Named>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct StatusNames {
    init_container_statuses: Option<Vec<Named>>,
    container_statuses: Option<Vec<Named>>,
    ephemeral_container_statuses: Option<Vec<Named>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
}

// === impl Objects ===

impl Objects {
    /// Adds all documents in `text`, which is YAML or JSON. `from` names the source in errors. Objects without a namespace are put
    /// into `namespace`.
    pub fn read(&mut self, text: &str, from: &str, namespace: &str) -> Result<(), ExplainError> {
        let documents = parse(text).map_err(|error| ExplainError::Syntax { from: from.into(), error })?;
        documents.into_iter().try_for_each(|document| self.add(document, namespace))
    }

    /// Adds one object, or the items of a list.
    pub fn add(&mut self, object: Value, namespace: &str) -> Result<(), ExplainError> {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        let group = object["apiVersion"].as_str().unwrap_or("v1").to_owned();
        match (group.as_str(), kind.as_str()) {
            (_, "") if object.is_null() => {}
            ("v1", "Namespace") => self.namespaces.push(decode(&kind, object)?),
            ("v1", "ServiceAccount") => self.service_accounts.push(decode(&kind, with_namespace(object, namespace))?),
            ("v1", "Pod") => self.pod(kind, object, namespace)?,
            ("v1", "PodTemplate") => self.template(kind, &object, "/template", namespace)?,
            ("v1", "ReplicationController")
            | ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
            | ("batch/v1", "Job") => self.template(kind, &object, "/spec/template", namespace)?,
            ("batch/v1", "CronJob") => self.template(kind, &object, "/spec/jobTemplate/spec/template", namespace)?,
            _ => match (kind.strip_suffix("List"), object.get("items")) {
                (Some(of), Some(Value::Array(items))) => {
                    for item in items {
                        let mut item = item.clone();
                        // Items of a typed list have no kind or version.
                        if let (Some(fields), false) = (item.as_object_mut(), of.is_empty()) {
                            fields.entry("kind").or_insert_with(|| json!(of));
                            fields.entry("apiVersion").or_insert_with(|| json!(group));
                        }
                        self.add(item, namespace)?;
                    }
                }
                (Some(_) | None, _) => {
                    self.others.insert(if kind.is_empty() { "an object without a kind".into() } else { kind });
                }
            },
        }
        Ok(())
    }

    /// The pods that match `selection`. Fails if no pod matches.
    pub(super) fn select(&self, selection: Selection<'_>) -> Result<Vec<&InputPod>, ExplainError> {
        if self.pods.is_empty() {
            let found = [
                (!self.namespaces.is_empty()).then_some("Namespace"),
                (!self.service_accounts.is_empty()).then_some("ServiceAccount"),
            ];
            let found: Vec<&str> = found.into_iter().flatten().chain(self.others.iter().map(String::as_str)).collect();
            return Err(ExplainError::NoPod(if found.is_empty() { "nothing".into() } else { found.join(", ") }));
        }
        let Some(wanted) = selection.name else { return Ok(self.pods.iter().collect()) };
        let (kind, name) = wanted.split_once('/').map_or((None, wanted), |(kind, name)| (Some(kind), name));
        let matches = |pod: &&InputPod| {
            *pod.entry.name == *name
                && selection.namespace.is_none_or(|namespace| *pod.entry.namespace == *namespace)
                && kind.is_none_or(|kind| pod.has_kind(kind))
        };
        let found: Vec<&InputPod> = self.pods.iter().filter(matches).collect();
        if found.is_empty() {
            let available: Vec<String> = self.pods.iter().map(InputPod::title).collect();
            return Err(ExplainError::NotFound { wanted: wanted.into(), available: available.join(", ") });
        }
        Ok(found)
    }

    fn pod(&mut self, kind: String, object: Value, namespace: &str) -> Result<(), ExplainError> {
        let mut object = with_namespace(object, namespace);
        let created = object["metadata"]["uid"].is_string();
        if !created {
            object["metadata"]["uid"] = json!(self.placeholder_uid());
            if let Some(prefix) =
                object["metadata"]["generateName"].as_str().filter(|_| object["metadata"]["name"].is_null())
            {
                object["metadata"]["name"] = json!(prefix);
            }
        }
        let what = format!("{kind} {}", object["metadata"]["name"].as_str().unwrap_or("without a name"));
        let names: Names = decode(&what, object.clone())?;
        let slim: SlimPod = decode(&what, object)?;
        let bad = |error: &str| ExplainError::Object { what: what.clone(), error: error.into() };
        let mut entry = pod_entry(&slim).ok_or_else(|| bad("it has no name or an invalid UID"))?;
        if self.pods.iter().any(|other| other.entry.uid == entry.uid) {
            return Err(bad("another pod in the input has the same UID"));
        }
        let containers = names.containers();
        if containers.is_empty() {
            return Err(bad("it has no containers"));
        }
        if !created {
            entry.containers = containers.iter().enumerate().filter_map(|(at, name)| started(at, name)).collect();
        }
        let annotations = slim.metadata.annotations.unwrap_or_default();
        self.pods.push(InputPod { kind, created, node: names.spec.node_name, containers, annotations, entry });
        Ok(())
    }

    /// Adds the pod that a workload's template would create, under the workload's name, because the pod's own name is not known
    /// yet.
    fn template(&mut self, kind: String, owner: &Value, at: &str, namespace: &str) -> Result<(), ExplainError> {
        let mut metadata = owner["metadata"].clone();
        let template = owner.pointer(at).cloned().unwrap_or_default();
        if let Some(fields) = metadata.as_object_mut() {
            fields.remove("uid");
            fields.insert("annotations".into(), template["metadata"]["annotations"].clone());
        }
        self.pod(kind, json!({"metadata": metadata, "spec": template["spec"]}), namespace)
    }

    fn placeholder_uid(&self) -> String {
        format!("00000000-0000-0000-0000-{:012}", self.pods.len())
    }
}

// === impl InputPod ===

impl InputPod {
    /// The name to show in messages: `shop/web-1` or `Deployment shop/web`.
    pub(super) fn title(&self) -> String {
        let kind = if self.kind == "Pod" { String::new() } else { format!("{} ", self.kind) };
        format!("{kind}{}/{}", self.entry.namespace, self.entry.name)
    }

    /// Whether `kind`, as given to kubectl (plural and short forms too), is this object's kind.
    fn has_kind(&self, kind: &str) -> bool {
        let kind = kind.to_ascii_lowercase();
        let own = self.kind.to_ascii_lowercase();
        let short = match own.as_str() {
            "pod" => "po",
            "deployment" => "deploy",
            "statefulset" => "sts",
            "daemonset" => "ds",
            "replicaset" => "rs",
            "replicationcontroller" => "rc",
            "cronjob" => "cj",
            _ => "",
        };
        kind == own || kind == short || kind.strip_suffix('s') == Some(&own)
    }
}

// === impl Names ===

impl Names {
    /// The containers of the spec, then those that only the status shows because the spec has changed since.
    fn containers(&self) -> Vec<String> {
        let Self { spec, status } = self;
        let lists = [
            &spec.init_containers,
            &spec.containers,
            &spec.ephemeral_containers,
            &status.init_container_statuses,
            &status.container_statuses,
            &status.ephemeral_container_statuses,
        ];
        let mut names: Vec<String> = Vec::new();
        for Named { name } in lists.into_iter().flatten().flatten() {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }
}

/// The status entry of a container that counts as started.
pub(super) fn started(at: usize, name: &str) -> Option<(ContainerId, std::sync::Arc<str>)> {
    Some((ContainerId::parse(&format!("not-started-{at}"))?, name.into()))
}

/// Sets the namespace of an object that has none.
fn with_namespace(mut object: Value, namespace: &str) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut)
        && metadata.get("namespace").is_none_or(Value::is_null)
    {
        metadata.insert("namespace".into(), json!(namespace));
    }
    object
}

fn decode<T: for<'de> Deserialize<'de>>(what: &str, object: Value) -> Result<T, ExplainError> {
    serde_json::from_value(object).map_err(|error| ExplainError::Object { what: what.into(), error: error.to_string() })
}

fn parse(text: &str) -> Result<Vec<Value>, String> {
    // Error messages give the position but not the text, which may contain a secret or control characters.
    let options = serde_saphyr::options! { with_snippet: false };
    let yaml = || serde_saphyr::from_multiple_with_options::<Value>(text, options).map_err(|error| error.to_string());
    if !text.trim_start().starts_with('{') {
        return yaml();
    }
    let documents: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
    documents.or_else(|error| yaml().map_err(|_| error.to_string()))
}
