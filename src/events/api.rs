//! Events as the API server takes them: `events.k8s.io/v1`, created once and then only counted on.

use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::sink::{Report, Sink, SinkError};
use crate::types::causes;

/// Who reports.
const CONTROLLER: &str = "podrole.dev/agent";
/// What was tried.
const ACTION: &str = "AssumeRole";
/// What the API server takes of a reporter's name, in bytes.
const INSTANCE: usize = 128;
/// What it takes of a name that it completes.
const PREFIX: usize = 58;

/// Writes to the API server.
#[derive(Clone)]
pub struct KubeEvents {
    client: Client,
    instance: String,
}

// === impl KubeEvents ===

impl KubeEvents {
    /// A writer that signs as `instance`. A `client` that repeats failed calls by itself would make more of them than are counted.
    pub fn new(client: Client, instance: &str) -> Self {
        Self { client, instance: instance[..instance.floor_char_boundary(INSTANCE)].to_owned() }
    }

    /// The whole Event, for the first time.
    fn event(&self, report: &Report, now: MicroTime) -> Event {
        let text = |text: &str| Some(text.to_owned());
        Event {
            metadata: ObjectMeta {
                // The server completes it: a daemon that starts anew cannot run into its own.
                generate_name: Some(prefix(&report.name)),
                namespace: text(&report.namespace),
                ..ObjectMeta::default()
            },
            regarding: Some(ObjectReference {
                api_version: text("v1"),
                kind: text("Pod"),
                namespace: text(&report.namespace),
                name: text(&report.name),
                uid: text(report.shown_uid.as_str()),
                ..ObjectReference::default()
            }),
            type_: text("Warning"),
            reason: text(report.reason.class().name()),
            action: text(ACTION),
            note: text(&report.note),
            event_time: Some(now),
            reporting_controller: text(CONTROLLER),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}

impl Sink for KubeEvents {
    async fn write(&self, report: &Report, now: SystemTime) -> Result<Arc<str>, SinkError> {
        let now = jiff::Timestamp::try_from(now).map_err(|error| SinkError::Later(error.to_string()))?;
        let now = MicroTime(now);
        let api: Api<Event> = Api::namespaced(self.client.clone(), &report.namespace);
        match &report.series {
            None => {
                let event = self.event(report, now);
                let created = api.create(&PostParams::default(), &event).await.map_err(|error| sorted(&error))?;
                created.metadata.name.map(Into::into).ok_or_else(|| SinkError::Never("it got no name".into()))
            }
            Some(series) => {
                let count = i32::try_from(series.count).unwrap_or(i32::MAX);
                let patch = json!({"series": {"count": count, "lastObservedTime": now}});
                let patched = api.patch_metadata(&series.event, &PatchParams::default(), &Patch::Merge(patch)).await;
                patched
                    .map(|_| series.event.clone())
                    .map_err(|error| if is_not_found(&error) { SinkError::Gone } else { sorted(&error) })
            }
        }
    }
}

impl std::fmt::Debug for KubeEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KubeEvents")
    }
}

/// Without what follows it must be a name as well; a dash at the end is overlooked.
fn prefix(name: &str) -> String {
    let start = &name[..name.floor_char_boundary(PREFIX - 1)];
    format!("{}-", start.trim_end_matches(['-', '.']))
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// What an error means for the next attempt.
fn sorted(error: &kube::Error) -> SinkError {
    let kube::Error::Api(status) = error else { return SinkError::Later(causes(error)) };
    let told = format!("{} {}: {}", status.code, status.reason, status.message);
    match status.code {
        // A namespace on its way out takes nothing new, whatever our rights.
        403 if status.message.contains("because it is being terminated") => SinkError::Never(told),
        403 => SinkError::Forbidden(told),
        400 | 404 | 405 | 410 | 413 | 415 | 422 => SinkError::Never(told),
        _ => SinkError::Later(told),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_name_starts_as_the_pods() {
        for (name, expected) in [("web", "web-"), ("web-0.a", "web-0.a-"), ("web-", "web-")] {
            assert_eq!(prefix(name), expected);
        }
        let long = format!("{}.{}", "a".repeat(56), "b".repeat(100));
        assert_eq!(prefix(&long), format!("{}-", "a".repeat(56)));
        assert_eq!(prefix(&"x".repeat(253)).len(), PREFIX);
    }

    #[test]
    fn errors_say_whether_another_attempt_is_worth_it() {
        let class = |code: u16, message: &str| {
            let status: kube::core::Status =
                serde_json::from_value(json!({"status": "Failure", "code": code, "message": message, "reason": "R"}))
                    .unwrap();
            match sorted(&kube::Error::Api(Box::new(status))) {
                SinkError::Forbidden(_) => "forbidden",
                SinkError::Gone => "gone",
                SinkError::Later(_) => "later",
                SinkError::Never(_) => "never",
            }
        };
        for (code, message, expected) in [
            (403, "User \"podrole\" cannot create resource \"events\"", "forbidden"),
            (403, "unable to create new content in namespace a because it is being terminated", "never"),
            (404, "namespaces \"a\" not found", "never"),
            (422, "is invalid", "never"),
            (401, "Unauthorized", "later"),
            (409, "already exists", "later"),
            (429, "too many requests", "later"),
            (500, "failed calling webhook", "later"),
            (503, "unavailable", "later"),
        ] {
            assert_eq!(class(code, message), expected, "{code} {message}");
        }
    }
}
