//! The port to whatever takes Events: what is told, and every way it can fail.

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;

use crate::types::{Denial, PodUid};

/// What one pod is told, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whom it is about: what remembers pods knows it by this.
    pub pod: PodUid,
    /// The UID that `kubectl describe` looks Events up by: a static pod's is the one of its cgroup.
    pub shown_uid: PodUid,
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// The pod's name.
    pub name: Arc<str>,
    /// Why it was denied.
    pub reason: Denial,
    /// The same for people, with what to do. Nothing in it differs from one time to the next, so that Events group.
    pub note: Arc<str>,
    /// The Event that said this before; it is only counted on.
    pub series: Option<Series>,
}

/// An Event that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Series {
    /// Its name.
    pub event: Arc<str>,
    /// How many denials it stands for by now.
    pub count: u32,
}

/// Why an Event was not written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SinkError {
    /// podrole has no right to.
    #[error("not allowed: {0}")]
    Forbidden(String),
    /// The Event that was to go on is gone: old ones are deleted.
    #[error("the earlier Event is gone")]
    Gone,
    /// Perhaps another time.
    #[error("{0}")]
    Later(String),
    /// This one will never be taken.
    #[error("refused: {0}")]
    Never(String),
}

/// Takes Events.
pub trait Sink: Send + Sync + 'static {
    /// One write, one attempt; the Event's name. `now` is the wall clock's.
    fn write(&self, report: &Report, now: SystemTime) -> impl Future<Output = Result<Arc<str>, SinkError>> + Send;
}
