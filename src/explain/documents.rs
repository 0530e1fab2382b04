//! From texts to the objects that matter: pods, whatever makes pods, namespaces and service accounts.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{ExplainError, Selection};
use crate::pods::convert::{SlimMeta, SlimPod, pod_entry};
use crate::types::{ContainerId, PodEntry};

/// Objects that were read, in the daemon's own types.
#[derive(Debug, Default)]
pub struct Objects {
    pub(super) pods: Vec<Asked>,
    pub(super) namespaces: Vec<SlimMeta>,
    pub(super) service_accounts: Vec<SlimMeta>,
    /// Kinds of what was passed over.
    others: BTreeSet<String>,
}

/// A pod, or the pod that a template will make.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) kind: String,
    /// As the API server knows it: with a UID. Otherwise one is made up, and containers are taken as started.
    pub(super) created: bool,
    pub(super) node: Option<String>,
    /// Every container's name, in the order of the object.
    pub(super) containers: Vec<String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) entry: PodEntry,
}

/// What the daemon has no use for and people do.
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
    /// Adds the documents of `text`, YAML or JSON, any number of either. `from` names them in errors; objects that name no namespace
    /// are in `namespace`.
    pub fn read(&mut self, text: &str, from: &str, namespace: &str) -> Result<(), ExplainError> {
        let documents = parse(text).map_err(|error| ExplainError::Syntax { from: from.into(), error })?;
        documents.into_iter().try_for_each(|document| self.add(document, namespace))
    }

    /// Adds one object, or the members of a list.
    pub fn add(&mut self, object: Value, namespace: &str) -> Result<(), ExplainError> {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        let group = object["apiVersion"].as_str().unwrap_or("v1").to_owned();
        match (group.as_str(), kind.as_str()) {
            (_, "") if object.is_null() => {}
            ("v1", "Namespace") => self.namespaces.push(decode(&kind, object)?),
            ("v1", "ServiceAccount") => self.service_accounts.push(decode(&kind, within(object, namespace))?),
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
                        // Members of a typed list come without kind and version.
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

    /// The pods that are asked about; none is an error.
    pub(super) fn select(&self, selection: Selection<'_>) -> Result<Vec<&Asked>, ExplainError> {
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
        let matches = |pod: &&Asked| {
            *pod.entry.name == *name
                && selection.namespace.is_none_or(|namespace| *pod.entry.namespace == *namespace)
                && kind.is_none_or(|kind| pod.is_of(kind))
        };
        let found: Vec<&Asked> = self.pods.iter().filter(matches).collect();
        if found.is_empty() {
            let there: Vec<String> = self.pods.iter().map(Asked::title).collect();
            return Err(ExplainError::NotThere { asked: wanted.into(), there: there.join(", ") });
        }
        Ok(found)
    }

    fn pod(&mut self, kind: String, object: Value, namespace: &str) -> Result<(), ExplainError> {
        let mut object = within(object, namespace);
        let created = object["metadata"]["uid"].is_string();
        if !created {
            object["metadata"]["uid"] = json!(self.made_up_uid());
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
        let mut entry = pod_entry(&slim).ok_or_else(|| bad("it has no name, or a UID that is none"))?;
        if self.pods.iter().any(|other| other.entry.uid == entry.uid) {
            return Err(bad("another pod was given with the same UID"));
        }
        let containers = names.containers();
        if containers.is_empty() {
            return Err(bad("it has no containers"));
        }
        if !created {
            entry.containers = containers.iter().enumerate().filter_map(|(at, name)| started(at, name)).collect();
        }
        let annotations = slim.metadata.annotations.unwrap_or_default();
        self.pods.push(Asked { kind, created, node: names.spec.node_name, containers, annotations, entry });
        Ok(())
    }

    /// The pod that a workload's template makes. It goes by the workload's name: its own is not known.
    fn template(&mut self, kind: String, owner: &Value, at: &str, namespace: &str) -> Result<(), ExplainError> {
        let mut metadata = owner["metadata"].clone();
        let template = owner.pointer(at).cloned().unwrap_or_default();
        if let Some(fields) = metadata.as_object_mut() {
            fields.remove("uid");
            fields.insert("annotations".into(), template["metadata"]["annotations"].clone());
        }
        self.pod(kind, json!({"metadata": metadata, "spec": template["spec"]}), namespace)
    }

    fn made_up_uid(&self) -> String {
        format!("00000000-0000-0000-0000-{:012}", self.pods.len())
    }
}

// === impl Asked ===

impl Asked {
    /// `shop/web-1`, `Deployment shop/web`.
    pub(super) fn title(&self) -> String {
        let kind = if self.kind == "Pod" { String::new() } else { format!("{} ", self.kind) };
        format!("{kind}{}/{}", self.entry.namespace, self.entry.name)
    }

    fn is_of(&self, kind: &str) -> bool {
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
    /// Of the spec first; what only the status shows was there before the spec was changed.
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

/// A container's place in a pod's status, as if it had started.
pub(super) fn started(at: usize, name: &str) -> Option<(ContainerId, std::sync::Arc<str>)> {
    Some((ContainerId::parse(&format!("not-started-{at}"))?, name.into()))
}

fn within(mut object: Value, namespace: &str) -> Value {
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
    // Places in error messages without the text itself, which may be anything.
    let options = serde_saphyr::options! { with_snippet: false };
    let yaml = || serde_saphyr::from_multiple_with_options::<Value>(text, options).map_err(|error| error.to_string());
    if !text.trim_start().starts_with('{') {
        return yaml();
    }
    let documents: Result<Vec<Value>, _> = serde_json::Deserializer::from_str(text).into_iter().collect();
    documents.or_else(|error| yaml().map_err(|_| error.to_string()))
}
