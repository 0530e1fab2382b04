//! Writes Events to the API server, as `events.k8s.io/v1`. podrole creates each Event once and then updates only its count.

use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::sink::{Report, Sink, SinkError};
use crate::types::causes;

/// The reporting controller.
const CONTROLLER: &str = "podrole.dev/agent";
/// The action that was denied.
const ACTION: &str = "AssumeRole";
/// The longest name of a reporting instance that the API server accepts, in bytes.
const INSTANCE: usize = 128;
/// The longest `generateName` that the API server uses in full, in bytes.
const PREFIX: usize = 58;

/// A sink that writes to the API server.
#[derive(Clone)]
pub struct KubeEvents {
    client: Client,
    instance: String,
}

// === impl KubeEvents ===

impl KubeEvents {
    /// A sink that reports as `instance`. `client` must not retry by itself: its retries would bypass the schedule's limits.
    pub fn new(client: Client, instance: &str) -> Self {
        Self { client, instance: instance[..instance.floor_char_boundary(INSTANCE)].to_owned() }
    }

    /// A new Event.
    fn event(&self, report: &Report, now: MicroTime) -> Event {
        let text = |text: &str| Some(text.to_owned());
        Event {
            metadata: ObjectMeta {
                // The server adds a suffix, so a restarted daemon cannot collide with its own earlier Events.
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
        let now = Timestamp::try_from(now).map_err(|error| SinkError::Retry(error.to_string()))?;
        let now = MicroTime(now);
        let api: Api<Event> = Api::namespaced(self.client.clone(), &report.namespace);
        match &report.series {
            None => {
                let event = self.event(report, now);
                let created = api.create(&PostParams::default(), &event).await.map_err(|error| classify(&error))?;
                created
                    .metadata
                    .name
                    .map(Into::into)
                    .ok_or_else(|| SinkError::Rejected("the API server returned it without a name".into()))
            }
            Some(series) => {
                let count = i32::try_from(series.count).unwrap_or(i32::MAX);
                let patch = json!({"series": {"count": count, "lastObservedTime": now}});
                let patched = api.patch_metadata(&series.event, &PatchParams::default(), &Patch::Merge(patch)).await;
                patched
                    .map(|_| series.event.clone())
                    .map_err(|error| if is_not_found(&error) { SinkError::Gone } else { classify(&error) })
            }
        }
    }
}

impl std::fmt::Debug for KubeEvents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KubeEvents")
    }
}

/// A `generateName` for a pod's name. The prefix must be a valid name even without its final dash; otherwise the API server
/// rejects it.
fn prefix(name: &str) -> String {
    let start = &name[..name.floor_char_boundary(PREFIX - 1)];
    format!("{}-", start.trim_end_matches(['-', '.']))
}

fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// Classifies an error by its consequence for the next attempt.
fn classify(error: &kube::Error) -> SinkError {
    let kube::Error::Api(status) = error else { return SinkError::Retry(causes(error)) };
    let message = format!("{} {}: {}", status.code, status.reason, status.message);
    match status.code {
        // A terminating namespace accepts no new objects; this is not a lack of rights.
        403 if status.message.contains("because it is being terminated") => SinkError::Rejected(message),
        403 => SinkError::Forbidden(message),
        400 | 404 | 405 | 410 | 413 | 415 | 422 => SinkError::Rejected(message),
        _ => SinkError::Retry(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_name_starts_like_the_pods_name() {
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
            match classify(&kube::Error::Api(Box::new(status))) {
                SinkError::Forbidden(_) => "forbidden",
                SinkError::Gone => "gone",
                SinkError::Retry(_) => "retry",
                SinkError::Rejected(_) => "rejected",
            }
        };
        for (code, message, expected) in [
            (403, "User \"podrole\" cannot create resource \"events\"", "forbidden"),
            (403, "unable to create new content in namespace a because it is being terminated", "rejected"),
            (404, "namespaces \"a\" not found", "rejected"),
            (422, "is invalid", "rejected"),
            (401, "Unauthorized", "retry"),
            (409, "already exists", "retry"),
            (429, "too many requests", "retry"),
            (500, "failed calling webhook", "retry"),
            (503, "unavailable", "retry"),
        ] {
            assert_eq!(class(code, message), expected, "{code} {message}");
        }
    }
}
