//! A double of the Kubernetes API over plain HTTP. kube-rs watchers and kubectl can use it, and it can misbehave on
//! demand.
//!
//! It treats resource versions, field and label selectors, paging, bookmarks, streaming lists and 410 as the real API
//! server does, because a daemon's correctness depends on them. It has no validation, admission, authorization or
//! controllers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::sync::watch as signal;

use crate::http::{Server, lock};

mod patch;
mod resources;
mod select;
mod serve;
mod status;
mod store;
mod token;
mod view;
mod watch;

#[cfg(test)]
mod tests;

use resources::Kind;
use store::{Change, Key, Store};
use token::Signer;

/// A running API double. Dropping it ends it.
pub struct Kube {
    shared: Arc<Shared>,
    server: Server,
}

/// A recorded request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path with its query, as sent.
    pub path: String,
    /// The client's `User-Agent`.
    pub user_agent: String,
    /// The `Accept` header.
    pub accept: String,
    /// The request body.
    pub body: String,
    /// Time of arrival.
    pub time: SystemTime,
    /// The client's address.
    pub peer: SocketAddr,
}

impl Request {
    /// Whether this request opens a watch stream.
    pub fn is_watch(&self) -> bool {
        self.path.contains("watch=true") || self.path.contains("watch=1")
    }
}

/// State shared between the handle and the server's thread.
struct Shared {
    signer: Signer,
    state: Mutex<State>,
    /// Wakes waiting tests.
    told: Condvar,
    /// Wakes waiting watch streams.
    changed: signal::Sender<()>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Wakes everything that waits for a change of state.
    fn tell(&self) {
        self.told.notify_all();
        self.changed.send_replace(());
    }
}

/// The state that tests and requests change.
struct State {
    store: Store,
    requests: Vec<Request>,
    watchers: usize,
    faults: Faults,
}

/// How the double misbehaves. Counters are epochs: a stream acts when one has changed since the stream last checked.
struct Faults {
    frozen: bool,
    watch_delay: Duration,
    latency: Duration,
    fail_all: Option<u16>,
    streaming_lists: bool,
    bookmark_every: Duration,
    cuts: u64,
    bad_lines: u64,
    bookmarks: u64,
    short_lists: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            frozen: false,
            watch_delay: Duration::ZERO,
            latency: Duration::ZERO,
            fail_all: None,
            streaming_lists: true,
            bookmark_every: Duration::from_secs(60),
            cuts: 0,
            bad_lines: 0,
            bookmarks: 0,
            short_lists: false,
        }
    }
}

impl Kube {
    /// Starts in the caller's network namespace, with the namespaces that every cluster has. Port 0 selects a free
    /// port.
    pub fn start(bind: SocketAddr) -> Result<Self> {
        let state = State { store: Store::default(), requests: Vec::new(), watchers: 0, faults: Faults::default() };
        let (told, changed) = (Condvar::new(), signal::channel(()).0);
        let shared = Arc::new(Shared { signer: Signer::new()?, state: Mutex::new(state), told, changed });
        let served = Arc::clone(&shared);
        let server = Server::start("kube", bind, move |request| serve::answer(Arc::clone(&served), request))?;
        server.runtime().spawn(publish_when_due(Arc::clone(&shared)));
        let kube = Self { shared, server };
        for namespace in ["default", "kube-system"] {
            kube.namespace(namespace, &[])?;
        }
        Ok(kube)
    }

    /// The base URL.
    pub fn endpoint(&self) -> String {
        self.server.endpoint()
    }

    /// The address on which it listens.
    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// The issuer of service account tokens, for `Sts::oidc_provider`.
    pub fn issuer(&self) -> &'static str {
        token::ISSUER
    }

    /// The key set that verifies service account tokens, for `Sts::oidc_provider`.
    pub fn jwks(&self) -> Value {
        self.shared.signer.jwks()
    }

    /// Writes a kubeconfig for this server.
    pub fn kubeconfig(&self, path: &Path) -> Result<()> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"server": self.endpoint()}}],
            "users": [{"name": "lab", "user": {}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": "default"}}],
            "current-context": "lab",
        });
        std::fs::write(path, serde_json::to_vec_pretty(&config)?).with_context(|| format!("write {}", path.display()))
    }

    /// Creates or replaces an object and returns it with the fields that the server sets. A `metadata.uid` that differs
    /// from the existing object's deletes and recreates it. If nothing changes, there is no event, as on a real server.
    pub fn apply(&self, object: Value) -> Result<Value> {
        let kind = Kind::of(&object)
            .ok_or_else(|| anyhow!("unsupported kind: {} {}", object["apiVersion"], object["kind"]))?;
        let mut state = self.shared.state();
        let stored =
            state.store.put(kind, object, None, Instant::now()).map_err(|status| anyhow!("{}", status.message))?;
        drop(state);
        self.shared.tell();
        Ok(stored)
    }

    /// Deletes an object. `kind` is a kind or a plural; `namespace` is empty for cluster-scoped kinds.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        let key = key(kind, namespace, name)?;
        let mut state = self.shared.state();
        if state.store.latest(&key).is_none() {
            bail!("no {kind} {namespace}/{name} to delete");
        }
        state.store.submit(Change::Delete(key), Instant::now());
        drop(state);
        self.shared.tell();
        Ok(())
    }

    /// Creates a namespace or replaces its annotations.
    pub fn namespace(&self, name: &str, annotations: &[(&str, &str)]) -> Result<Value> {
        let annotations: serde_json::Map<String, Value> =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let mut metadata = json!({"name": name, "labels": {"kubernetes.io/metadata.name": name}});
        if !annotations.is_empty() {
            metadata["annotations"] = Value::Object(annotations);
        }
        self.apply(
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata, "status": {"phase": "Active"}}),
        )
    }

    /// Sets an annotation; `None` removes it.
    pub fn annotate(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        annotation: &str,
        value: Option<&str>,
    ) -> Result<Value> {
        self.merge(kind, namespace, name, &json!({"metadata": {"annotations": {annotation: value}}}))
    }

    /// Changes an object by an RFC 7386 merge patch, for example to set a late `podIP`, a deletion timestamp or a new
    /// container status.
    pub fn merge(&self, kind: &str, namespace: &str, name: &str, change: &Value) -> Result<Value> {
        let key = key(kind, namespace, name)?;
        let present = self.shared.state().store.latest(&key);
        let present = present.ok_or_else(|| anyhow!("no {kind} {namespace}/{name} to change"))?;
        let mut object = Value::clone(&present);
        patch::merge(&mut object, change);
        self.apply(object)
    }

    /// The object as clients currently see it.
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let key = key(kind, namespace, name).ok()?;
        self.shared.state().store.get(&key).map(|object| Value::clone(&object))
    }

    /// All objects of a kind as clients currently see them.
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let Some(kind) = Kind::named(kind) else { return Vec::new() };
        let state = self.shared.state();
        state.store.present(kind.plural).map(|object| Value::clone(object)).collect()
    }

    /// All requests so far, in order of arrival.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// Clears the recorded requests.
    pub fn clear(&self) {
        self.shared.state().requests.clear();
    }

    /// The number of open watch streams.
    pub fn watchers(&self) -> usize {
        self.shared.state().watchers
    }

    /// Waits until `enough` accepts the requests and the number of open watch streams. Returns false on timeout.
    pub fn wait(&self, limit: Duration, enough: impl Fn(&[Request], usize) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut state = self.shared.state();
        while !enough(&state.requests, state.watchers) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = match self.shared.told.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }

    /// While frozen, watch streams stay open and deliver nothing. Once unfrozen, they deliver everything, in order.
    pub fn freeze(&self, frozen: bool) {
        self.fault(|faults| faults.frozen = frozen);
    }

    /// Delays the visibility of every later change to this object (given as UID, name, or `namespace/name`). Changes to
    /// other objects are not delayed.
    pub fn delay_object(&self, object: &str, delay: Duration) {
        self.shared.state().store.delays.insert(object.to_owned(), delay);
    }

    /// Delays each change on watch streams relative to lists.
    pub fn set_watch_delay(&self, delay: Duration) {
        self.fault(|faults| faults.watch_delay = delay);
    }

    /// Delays the answer to every request.
    pub fn set_latency(&self, latency: Duration) {
        self.fault(|faults| faults.latency = latency);
    }

    /// Breaks every open watch stream at once, in the middle of its body.
    pub fn cut(&self) {
        self.fault(|faults| faults.cuts += 1);
    }

    /// Sends a line that is not JSON on every open watch stream.
    pub fn bad_bytes(&self) {
        self.fault(|faults| faults.bad_lines += 1);
    }

    /// Forgets all history: a watch from any resource version handed out so far is answered with 410.
    pub fn gone(&self) {
        self.shared.state().store.compact();
        self.shared.tell();
    }

    /// Sends a bookmark at once on every open watch stream that allows bookmarks.
    pub fn bookmark(&self) {
        self.fault(|faults| faults.bookmarks += 1);
    }

    /// Sets the interval of bookmarks. A real server uses one minute.
    pub fn set_bookmark_interval(&self, every: Duration) {
        self.fault(|faults| faults.bookmark_every = every);
    }

    /// Whether `sendInitialEvents` is supported. If not, such a watch is rejected with 422, as a server without the
    /// feature gate does.
    pub fn streaming_lists(&self, supported: bool) {
        self.fault(|faults| faults.streaming_lists = supported);
    }

    /// Truncates every list to nine tenths in an otherwise complete response, so that the client cannot parse it.
    pub fn short_lists(&self, short: bool) {
        self.fault(|faults| faults.short_lists = short);
    }

    /// Answers every request with 401. Open streams continue.
    pub fn unauthorized(&self, unauthorized: bool) {
        self.fail_all(unauthorized.then_some(401));
    }

    /// Answers every request with this status (403, 429, 500, 503, ...) until called with `None`. Open streams
    /// continue.
    pub fn fail_all(&self, status: Option<u16>) {
        self.fault(|faults| faults.fail_all = status);
    }

    /// `true` refuses new connections and breaks open ones, `false` serves again.
    pub fn down(&self, down: bool) -> Result<()> {
        self.server.down(down)
    }

    fn fault(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.shared.state().faults);
        self.shared.tell();
    }
}

fn key(kind: &str, namespace: &str, name: &str) -> Result<Key> {
    let kind = Kind::named(kind).ok_or_else(|| anyhow!("unsupported kind: {kind}"))?;
    Ok(Key::new(kind, namespace, name))
}

/// Publishes delayed changes when they are due, so that waiting streams wake up.
async fn publish_when_due(shared: Arc<Shared>) {
    let mut changed = shared.changed.subscribe();
    loop {
        changed.borrow_and_update();
        let (published, next) = {
            let mut state = shared.state();
            (state.store.publish_due(Instant::now()), state.store.next_due())
        };
        if published {
            shared.tell();
        }
        let ended = match next {
            Some(due) => tokio::time::timeout_at(due.into(), changed.changed()).await.is_ok_and(|told| told.is_err()),
            None => changed.changed().await.is_err(),
        };
        if ended {
            return;
        }
    }
}
