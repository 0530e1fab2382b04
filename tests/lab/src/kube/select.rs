//! Field and label selectors.

use serde_json::Value;

use super::resources::Kind;
use super::status::Status;
use crate::http::form::Form;

/// The objects that a list or a watch selects.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Selector {
    fields: Vec<(Vec<String>, bool, String)>,
    labels: Vec<(String, Rule)>,
}

#[derive(Debug, PartialEq, Eq)]
enum Rule {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

impl Selector {
    /// Parses `fieldSelector` and `labelSelector`.
    pub(super) fn parse(query: &Form, kind: &Kind) -> Result<Self, Status> {
        let mut selector = Self::default();
        for term in query.filled("fieldSelector").into_iter().flat_map(|text| text.split(',')) {
            selector.fields.push(field(term, kind)?);
        }
        for term in query.filled("labelSelector").into_iter().flat_map(terms) {
            selector.labels.push(label(term)?);
        }
        Ok(selector)
    }

    /// Whether all objects are selected.
    pub(super) fn is_empty(&self) -> bool {
        self.fields.is_empty() && self.labels.is_empty()
    }

    /// Whether an object is selected.
    pub(super) fn matches(&self, object: &Value) -> bool {
        let fields = self.fields.iter().all(|(path, equal, value)| {
            let found = path.iter().fold(object, |at, name| &at[name.as_str()]);
            let text = match found {
                Value::String(text) => text.clone(),
                Value::Bool(flag) => flag.to_string(),
                Value::Number(number) => number.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
            };
            (text == *value) == *equal
        });
        fields
            && self.labels.iter().all(|(key, rule)| {
                let value = object["metadata"]["labels"][key.as_str()].as_str();
                match rule {
                    Rule::Exists => value.is_some(),
                    Rule::Absent => value.is_none(),
                    Rule::In(values) => value.is_some_and(|value| values.iter().any(|known| known == value)),
                    Rule::NotIn(values) => value.is_none_or(|value| values.iter().all(|known| known != value)),
                }
            })
    }
}

fn field(term: &str, kind: &Kind) -> Result<(Vec<String>, bool, String), Status> {
    let (path, equal, value) = if let Some((path, value)) = term.split_once("!=") {
        (path, false, value)
    } else if let Some((path, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (path, true, value)
    } else {
        return Err(Status::new(400, format!("invalid selector: '{term}'; can't understand '{term}'")));
    };
    let known =
        path == "metadata.name" || (kind.namespaced && path == "metadata.namespace") || kind.fields.contains(&path);
    if !known {
        return Err(Status::new(400, format!("field label not supported: {path}")));
    }
    Ok((path.split('.').map(str::to_owned).collect(), equal, value.to_owned()))
}

/// The terms of a label selector, split at commas outside parentheses.
fn terms(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let split = text.split(move |letter| {
        depth += i32::from(letter == '(') - i32::from(letter == ')');
        letter == ',' && depth == 0
    });
    split.map(str::trim).filter(|term| !term.is_empty()).collect()
}

fn label(term: &str) -> Result<(String, Rule), Status> {
    let one = |value: &str| vec![value.trim().to_owned()];
    let set = |text: &str| -> Option<Vec<String>> {
        let inner = text.trim().strip_prefix('(')?.strip_suffix(')')?;
        Some(inner.split(',').map(|value| value.trim().to_owned()).collect())
    };
    let (key, rule) = if let Some((key, value)) = term.split_once("!=") {
        (key, Rule::NotIn(one(value)))
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (key, Rule::In(one(value)))
    } else if let Some((key, values)) = term.split_once(" notin ") {
        (key, set(values).map(Rule::NotIn).ok_or_else(|| unreadable(term))?)
    } else if let Some((key, values)) = term.split_once(" in ") {
        (key, set(values).map(Rule::In).ok_or_else(|| unreadable(term))?)
    } else if let Some(key) = term.strip_prefix('!') {
        (key, Rule::Absent)
    } else {
        (term, Rule::Exists)
    };
    let key = key.trim();
    if key.is_empty() || key.contains([' ', '(', ')']) {
        return Err(unreadable(term));
    }
    Ok((key.to_owned(), rule))
}

fn unreadable(term: &str) -> Status {
    Status::new(400, format!("unable to parse requirement: {term}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selects(query: &str, object: &Value) -> bool {
        Selector::parse(&Form::parse(query), Kind::named("pods").unwrap()).unwrap().matches(object)
    }

    #[test]
    fn selects_by_fields_and_labels() {
        let pod = json!({"metadata": {"name": "p", "labels": {"app": "web", "tier": "1"}}, "spec": {"nodeName": "n1", "hostNetwork": true}});
        for yes in [
            "fieldSelector=spec.nodeName%3Dn1",
            "fieldSelector=spec.nodeName==n1,metadata.name!=q",
            "fieldSelector=spec.hostNetwork=true",
            "fieldSelector=status.podIP=",
            "labelSelector=app",
            "labelSelector=app=web,!x",
            "labelSelector=app in (a, web),tier notin (2,3)",
            "labelSelector=app!=a",
        ] {
            assert!(selects(yes, &pod), "{yes}");
        }
        for no in [
            "fieldSelector=spec.nodeName=n2",
            "fieldSelector=metadata.name!=p",
            "labelSelector=!app",
            "labelSelector=app in (a)",
            "labelSelector=x",
        ] {
            assert!(!selects(no, &pod), "{no}");
        }
    }

    #[test]
    fn rejects_what_the_server_rejects() {
        for bad in [
            "fieldSelector=spec.priority=1",
            "fieldSelector=metadata.name",
            "labelSelector=a in b",
            "labelSelector=a b",
        ] {
            let error = Selector::parse(&Form::parse(bad), Kind::named("pods").unwrap()).unwrap_err();
            assert_eq!(error.code, 400, "{bad}");
        }
    }
}
