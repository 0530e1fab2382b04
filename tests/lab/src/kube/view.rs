//! The representations of objects that clients request: whole, metadata only, or rows of a table.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::{Value, json};

use super::resources::Kind;

/// The representation that the `Accept` header requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    Whole,
    Metadata,
    Table,
}

impl View {
    /// The first supported representation in the header.
    pub(super) fn accepted(accept: &str) -> Self {
        let shape = |range: &str| {
            let json = range.trim().starts_with("application/json");
            let asked = range.split(';').find_map(|part| part.trim().strip_prefix("as="));
            match asked {
                _ if !json => None,
                None => Some(Self::Whole),
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") => Some(Self::Metadata),
                Some("Table") => Some(Self::Table),
                Some(_) => None,
            }
        };
        accept.split(',').find_map(shape).unwrap_or(Self::Whole)
    }

    /// One object.
    pub(super) fn object<'a>(self, kind: &Kind, object: &'a Value) -> Cow<'a, Value> {
        match self {
            Self::Whole => of_group(kind, object),
            Self::Metadata => Cow::Owned(metadata(object)),
            Self::Table => Cow::Owned(table(kind, &json!({}), &[object])),
        }
    }

    /// A list, serialized.
    pub(super) fn list(self, kind: &Kind, about: &Value, objects: &[&Value]) -> serde_json::Result<Vec<u8>> {
        match self {
            Self::Whole => {
                let items = objects.iter().map(|object| Item(of_group(kind, object))).collect();
                let (name, version) = (format!("{}List", kind.kind), kind.api_version());
                serde_json::to_vec(&List { kind: &name, api_version: &version, metadata: about, items })
            }
            Self::Metadata => {
                let items: Vec<Value> = objects.iter().map(|object| metadata(object)).collect();
                let (name, version) = ("PartialObjectMetadataList", "meta.k8s.io/v1");
                serde_json::to_vec(&List { kind: name, api_version: version, metadata: about, items })
            }
            Self::Table => serde_json::to_vec(&table(kind, about, objects)),
        }
    }

    /// The `kind` and `apiVersion` of a bookmark's object.
    pub(super) fn bookmark(self, kind: &Kind) -> (String, String) {
        match self {
            Self::Whole => (kind.kind.to_owned(), kind.api_version()),
            Self::Metadata => ("PartialObjectMetadata".to_owned(), "meta.k8s.io/v1".to_owned()),
            Self::Table => ("Table".to_owned(), "meta.k8s.io/v1".to_owned()),
        }
    }
}

#[derive(Serialize)]
struct List<'a, T> {
    kind: &'a str,
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    metadata: &'a Value,
    items: Vec<T>,
}

/// An object in a list of its own kind. The API server omits `kind` and `apiVersion` in it.
struct Item<'a>(Cow<'a, Value>);

impl Serialize for Item<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.0.as_object().into_iter().flatten() {
            if name != "kind" && name != "apiVersion" {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

fn metadata(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// Names of an event's fields in the core group and in `events.k8s.io`.
const EVENT_NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// The object with the field names of the group through which it is requested.
pub(super) fn of_group<'a>(kind: &Kind, object: &'a Value) -> Cow<'a, Value> {
    let version = kind.api_version();
    if kind.plural != "events" || object["apiVersion"].as_str() == Some(version.as_str()) {
        return Cow::Borrowed(object);
    }
    let mut event = object.clone();
    event["apiVersion"] = json!(version);
    if let Some(fields) = event.as_object_mut() {
        for (core, grouped) in EVENT_NAMES {
            let (from, to) = if kind.group.is_empty() { (grouped, core) } else { (core, grouped) };
            if let Some(value) = fields.remove(from) {
                fields.insert(to.to_owned(), value);
            }
        }
    }
    Cow::Owned(event)
}

fn table(kind: &Kind, about: &Value, objects: &[&Value]) -> Value {
    let columns: &[(&str, u8)] = if kind.plural == "pods" {
        &[("Name", 0), ("Ready", 0), ("Status", 0), ("Restarts", 0), ("Age", 0), ("IP", 1), ("Node", 1)]
    } else {
        &[("Name", 0), ("Age", 0)]
    };
    let columns: Vec<Value> = columns
        .iter()
        .map(|(name, priority)| {
            let format = if *name == "Name" { "name" } else { "" };
            json!({"name": name, "type": "string", "format": format, "description": "", "priority": priority})
        })
        .collect();
    let rows: Vec<Value> =
        objects.iter().map(|object| json!({"cells": cells(kind, object), "object": metadata(object)})).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": about, "columnDefinitions": columns, "rows": rows,
    })
}

fn cells(kind: &Kind, object: &Value) -> Value {
    let (name, age) = (&object["metadata"]["name"], age(object));
    if kind.plural != "pods" {
        return json!([name, age]);
    }
    let statuses = object["status"]["containerStatuses"].as_array().map(Vec::as_slice).unwrap_or_default();
    let containers = object["spec"]["containers"].as_array().map_or(0, Vec::len);
    let ready = statuses.iter().filter(|status| status["ready"] == true).count();
    let restarts: u64 = statuses.iter().filter_map(|status| status["restartCount"].as_u64()).sum();
    let phase = object["status"]["phase"].as_str().unwrap_or("Pending");
    let phase = if object["metadata"]["deletionTimestamp"].is_string() { "Terminating" } else { phase };
    let or_none = |value: &Value| value.as_str().unwrap_or("<none>").to_owned();
    let (ip, node) = (or_none(&object["status"]["podIP"]), or_none(&object["spec"]["nodeName"]));
    json!([name, format!("{ready}/{containers}"), phase, restarts.to_string(), age, ip, node])
}

fn age(object: &Value) -> String {
    let born = object["metadata"]["creationTimestamp"].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let Some(born) = born else { return "<unknown>".to_owned() };
    let seconds = Timestamp::now().as_second().saturating_sub(born.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_accept() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(View::accepted(kubectl), View::Table);
        assert_eq!(View::accepted("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"), View::Metadata);
        assert_eq!(View::accepted("application/vnd.kubernetes.protobuf,application/json"), View::Whole);
        assert_eq!(View::accepted("*/*"), View::Whole);
    }

    #[test]
    fn shows_an_event_through_both_groups() {
        let core = Kind::named("events").unwrap();
        let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {}, "note": "n", "regarding": {"name": "p"}});
        let seen = of_group(core, &event);
        assert_eq!(
            (&seen["message"], &seen["involvedObject"]["name"], &seen["apiVersion"]),
            (&json!("n"), &json!("p"), &json!("v1"))
        );
        assert!(seen.get("note").is_none());
    }
}
