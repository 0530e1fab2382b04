//! Watch streams: the position of each, and what it sends next.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Response;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::resources::Target;
use super::select::Selector;
use super::status::Status;
use super::store::{Entry, Key};
use super::view::View;
use super::{Shared, State};
use crate::http::Body;
use crate::http::form::Form;

/// Duration of a stream whose request has no timeout. A real server picks half an hour to an hour.
const UNLIMITED: Duration = Duration::from_secs(1800);

/// The line must not merely be cut short: kube-rs treats that as an ordinary end and reports no error.
const BAD_LINE: &[u8] = b"{\"type\":\"MODIFIED\",\"object\":{\"kind\":\"Pod\",\"metadata\":{nonsense}}}\n";

/// One open stream.
struct Cursor {
    target: Target,
    selector: Selector,
    view: View,
    /// All changes up to this version were processed.
    version: u64,
    initial: VecDeque<Arc<Value>>,
    /// The bookmark that ends the initial objects is still to be sent.
    owes_end: bool,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    cuts: u64,
    bad_lines: u64,
    bookmark_calls: u64,
}

/// The next step of a stream.
enum Step {
    Send(&'static str, Arc<Value>),
    Bookmark { initial_end: bool },
    BadLine,
    Wait(Instant),
    WaitForChange,
    Cut,
    End,
}

/// Opens a stream, or returns an error response.
pub(super) fn open(shared: &Arc<Shared>, target: Target, query: &Form, view: View) -> Result<Response<Body>, Status> {
    let selector = Selector::parse(query, target.kind)?;
    let mut state = shared.state();
    let (sender, receiver) = mpsc::channel(16);
    let cursor = Cursor::new(&state, target, selector, query, view)?;
    let cursor = match cursor {
        Ok(cursor) => cursor,
        Err(expired) => {
            // As the real server does: the stream opens, and the error is its only event.
            let line = line("ERROR", &expired.object());
            let mut response = Response::new(Body::from(line));
            mark(&mut response);
            return Ok(response);
        }
    };
    state.watchers += 1;
    drop(state);
    shared.told.notify_all();
    tokio::spawn(run(Arc::clone(shared), cursor, sender));
    let mut response = Response::new(Body::Stream(receiver));
    mark(&mut response);
    Ok(response)
}

fn mark(response: &mut Response<Body>) {
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
}

impl Cursor {
    fn new(
        state: &State,
        target: Target,
        selector: Selector,
        query: &Form,
        view: View,
    ) -> Result<Result<Self, Status>, Status> {
        let now = Instant::now();
        let streaming = initial_events(query, state.faults.streaming_lists)?;
        let since = match query.filled("resourceVersion") {
            None => 0,
            Some(text) => text.parse().map_err(|_| Status::new(400, format!("invalid resource version {text:?}")))?,
        };
        let mut cursor = Self {
            target,
            selector,
            view,
            version: since,
            initial: VecDeque::new(),
            owes_end: false,
            bookmarks: query.flag("allowWatchBookmarks"),
            next_bookmark: now + state.faults.bookmark_every,
            deadline: now + timeout(query),
            cuts: state.faults.cuts,
            bad_lines: state.faults.bad_lines,
            bookmark_calls: state.faults.bookmarks,
        };
        if streaming == Some(true) || since == 0 {
            cursor.version = state.store.version();
            if streaming != Some(false) {
                let objects = state.store.at(cursor.version);
                let wanted =
                    objects.into_iter().filter(|(key, object)| cursor.covers(key) && cursor.selector.matches(object));
                cursor.initial = wanted.map(|(_, object)| object).collect();
            }
            cursor.owes_end = streaming == Some(true) && cursor.bookmarks;
        } else if let Err(expired) = state.store.remembers(since) {
            return Ok(Err(expired));
        }
        Ok(Ok(cursor))
    }

    fn step(&mut self, state: &State, now: Instant) -> Step {
        let faults = &state.faults;
        if self.cuts != faults.cuts {
            return Step::Cut;
        }
        if faults.frozen {
            return Step::WaitForChange;
        }
        if self.bad_lines != faults.bad_lines {
            self.bad_lines = faults.bad_lines;
            return Step::BadLine;
        }
        if let Some(object) = self.initial.pop_front() {
            return Step::Send("ADDED", object);
        }
        if std::mem::take(&mut self.owes_end) {
            return Step::Bookmark { initial_end: true };
        }
        let mut wake = self.deadline;
        while let Some(entry) = state.store.after(self.version) {
            let due = entry.at + faults.watch_delay;
            if due > now {
                wake = wake.min(due);
                break;
            }
            self.version = entry.version;
            if let Some((kind, object)) = self.event(entry) {
                return Step::Send(kind, object);
            }
        }
        // A bookmark must not cover changes that are held back: `version` stays behind them.
        if state.store.after(self.version).is_none() {
            self.version = self.version.max(state.store.version());
        }
        if self.bookmarks
            && (self.bookmark_calls != faults.bookmarks || self.next_bookmark <= now || self.deadline <= now)
        {
            self.bookmark_calls = faults.bookmarks;
            self.next_bookmark = now + faults.bookmark_every;
            self.bookmarks = self.deadline > now;
            return Step::Bookmark { initial_end: false };
        }
        if self.deadline <= now {
            return Step::End;
        }
        if self.bookmarks {
            // A test may have shortened the interval since it was last read.
            self.next_bookmark = self.next_bookmark.min(now + faults.bookmark_every);
            wake = wake.min(self.next_bookmark);
        }
        Step::Wait(wake)
    }

    /// A change as this stream reports it: an object that enters the selection is added, one that leaves it is deleted.
    fn event(&self, entry: &Entry) -> Option<(&'static str, Arc<Value>)> {
        if !self.covers(&entry.key) {
            return None;
        }
        let selected = |object: &Option<Arc<Value>>| object.clone().filter(|object| self.selector.matches(object));
        match (selected(&entry.old), selected(&entry.new)) {
            (None, None) => None,
            (None, Some(new)) => Some(("ADDED", new)),
            (Some(_), Some(new)) => Some(("MODIFIED", new)),
            (Some(old), None) => {
                let mut last = Value::clone(&old);
                last["metadata"]["resourceVersion"] = json!(entry.version.to_string());
                Some(("DELETED", Arc::new(last)))
            }
        }
    }

    fn covers(&self, key: &Key) -> bool {
        key.plural == self.target.kind.plural
            && (self.target.namespace.is_empty() || self.target.namespace == key.namespace)
            && self.target.name.as_ref().is_none_or(|name| *name == key.name)
    }

    fn bookmark(&self, initial_end: bool) -> Bytes {
        let (kind, version) = self.view.bookmark(self.target.kind);
        let mut metadata = json!({"resourceVersion": self.version.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        line("BOOKMARK", &json!({"kind": kind, "apiVersion": version, "metadata": metadata}))
    }
}

async fn run(shared: Arc<Shared>, mut cursor: Cursor, sender: mpsc::Sender<io::Result<Bytes>>) {
    let mut changed = shared.changed.subscribe();
    loop {
        changed.borrow_and_update();
        let step = cursor.step(&shared.state(), Instant::now());
        let bytes = match step {
            Step::Send(kind, object) => Ok(line(kind, &cursor.view.object(cursor.target.kind, &object))),
            Step::Bookmark { initial_end } => Ok(cursor.bookmark(initial_end)),
            Step::BadLine => Ok(Bytes::from_static(BAD_LINE)),
            Step::Cut => Err(io::Error::other("cut by the test")),
            Step::End => break,
            Step::Wait(until) => {
                tokio::select! {
                    _ = changed.changed() => {}
                    () = tokio::time::sleep_until(until.into()) => {}
                    () = sender.closed() => break,
                }
                continue;
            }
            Step::WaitForChange => {
                tokio::select! {
                    _ = changed.changed() => {}
                    () = sender.closed() => break,
                }
                continue;
            }
        };
        let last = bytes.is_err();
        if sender.send(bytes).await.is_err() || last {
            break;
        }
    }
    shared.state().watchers -= 1;
    shared.told.notify_all();
}

/// An event as one line.
fn line(kind: &'static str, object: &Value) -> Bytes {
    #[derive(Serialize)]
    struct Event<'a> {
        r#type: &'a str,
        object: &'a Value,
    }
    // Serialization fails only for keys that are not strings, which a `Value` cannot have.
    let mut bytes = serde_json::to_vec(&Event { r#type: kind, object }).unwrap_or_default();
    bytes.push(b'\n');
    bytes.into()
}

/// The value of `sendInitialEvents`, validated as the API server does.
fn initial_events(query: &Form, supported: bool) -> Result<Option<bool>, Status> {
    let invalid = |why: &str| Status::new(422, format!("ListOptions.meta.k8s.io \"\" is invalid: {why}"));
    let Some(asked) = query.filled("sendInitialEvents") else {
        let matched = query.filled("resourceVersionMatch").is_some();
        let why = "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless \
            sendInitialEvents is provided";
        return if matched { Err(invalid(why)) } else { Ok(None) };
    };
    if !supported {
        let why = "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList \
            feature gate is enabled";
        return Err(invalid(why));
    }
    if query.get("resourceVersionMatch") != Some("NotOlderThan") {
        let why =
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(invalid(why));
    }
    Ok(Some(matches!(asked, "true" | "1")))
}

fn timeout(query: &Form) -> Duration {
    let seconds = query.filled("timeoutSeconds").and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0);
    seconds.map_or(UNLIMITED, Duration::from_secs)
}
