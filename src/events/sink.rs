//! The interface for writing Events, with the types of its reports and errors.

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;

use crate::types::{Denial, PodUid};

/// One Event to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The pod's UID, by which the schedule and the index know the pod.
    pub pod: PodUid,
    /// The UID by which `kubectl describe` finds Events. For a static pod, this is the UID in the name of its cgroup.
    pub shown_uid: PodUid,
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// The pod's name.
    pub name: Arc<str>,
    /// The reason of the denial.
    pub reason: Denial,
    /// The explanation and the fix, for people. The note is the same for every repetition, so that Kubernetes can group the
    /// Events.
    pub note: Arc<str>,
    /// The earlier Event with the same note, of which only the count is updated. If it is `None`, a new Event is created.
    pub series: Option<Series>,
}

/// An existing Event whose count is updated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// The Event's name.
    pub event: Arc<str>,
    /// The number of denials that the Event now stands for.
    pub count: u32,
}

/// Why an Event was not written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SinkError {
    /// podrole's service account may not write Events.
    #[error("not allowed: {0}")]
    Forbidden(String),
    /// The Event whose count was to be updated is gone, because the API server deletes old ones.
    #[error("the earlier Event is gone")]
    Gone,
    /// The write may succeed later.
    #[error("{0}")]
    Retry(String),
    /// The API server will never accept this Event.
    #[error("rejected: {0}")]
    Rejected(String),
}

/// Writes Events.
pub trait Sink: Send + Sync + 'static {
    /// Makes one attempt to write `report` and returns the Event's name. `now` is wall clock time.
    fn write(&self, report: &Report, now: SystemTime) -> impl Future<Output = Result<Arc<str>, SinkError>> + Send;
}
