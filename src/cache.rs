//! The credential cache fetches credentials once, shares them, and refreshes them before they are needed again.
//!
//! One worker task owns each key. Only that worker calls the issuer, so a thousand requests that miss at the same time cause one
//! call, and a client that disconnects cancels nothing. The worker publishes its state on a watch channel; requests read the
//! channel or wait on it.

pub mod slot;

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::deadline::Deadline;
use crate::imds::CredentialsDocument;
use crate::issuer::{IssueError, IssueRequest, Issuer};
use crate::metrics::{CacheLookup, Metrics};
use crate::types::{Credentials, PodUid};

/// The most keys in the cache. The pods of one node use far fewer: a few hundred pods have one to a few keys each. When the cache
/// is full, the least recently used key is evicted, and the next request for that key causes one more call to STS.
const MAX_KEYS: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Credentials that expire sooner than this are not served: they would expire before a request that the client signs with them
/// arrives.
const MIN_LEFT: Duration = Duration::from_secs(1);

/// Credentials and the documents that deliver them.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The credentials.
    pub credentials: Credentials,
    /// The documents, rendered once.
    pub document: CredentialsDocument,
}

/// The cache's immediate answer to a request.
#[derive(Debug)]
pub enum Cached {
    /// Valid credentials.
    Ready(Unchecked),
    /// A recent denial by the issuer.
    Denied(IssueError),
    /// No answer yet. The issuer has been asked, and [`wait`](CredentialCache::wait) waits for its answer.
    Pending(Pending),
}

/// Credentials that are not released yet. If the request has waited, the caller must be checked again before the release: in the
/// meantime, the connection may have passed to another socket, or the pod may have lost its role.
#[derive(Debug)]
pub struct Unchecked(Arc<Issued>);

/// An answer that the issuer has not given yet.
#[derive(Debug)]
pub struct Pending(watch::Receiver<State>);

/// Why a wait ended without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitError {
    /// The issuer's last answer was an error.
    Issuer(IssueError),
    /// The issuer did not answer before the deadline.
    TimedOut,
}

/// The cache in front of an issuer.
pub struct CredentialCache<I, C> {
    shared: Arc<Shared<I, C>>,
    slots: Mutex<LruCache<IssueRequest, Slot>>,
    runtime: Handle,
    metrics: Arc<Metrics>,
}

/// The state that all workers share.
struct Shared<I, C> {
    issuer: I,
    clock: C,
    jitter: fn() -> f64,
    calls: TaskTracker,
}

#[derive(Clone, Debug)]
enum State {
    /// The first call is under way.
    Pending,
    /// Credentials that are valid until they expire. The worker replaces them long before that.
    Ready(Arc<Issued>),
    /// The last call failed and no valid credentials are left.
    Failed(IssueError),
}

/// One key of the cache. The key's worker ends when nobody has a receiver of its channel any more, but never during a call, so
/// that every call gets its audit line.
struct Slot {
    state: watch::Receiver<State>,
    asked: Arc<Notify>,
    /// The pods that this slot has served. The cache drops the slot together with the last of these pods.
    users: HashSet<PodUid>,
}

// === impl Unchecked ===

impl Unchecked {
    /// Returns the credentials if `check` finds that the caller still has a right to them.
    pub fn release<E>(self, check: impl FnOnce() -> Result<(), E>) -> Result<Arc<Issued>, E> {
        check().map(|()| self.0)
    }
}

// === impl CredentialCache ===

impl<I: Issuer, C: Clock + Clone> CredentialCache<I, C> {
    /// Creates an empty cache whose workers run on `runtime`. `jitter` returns numbers in `0..1`.
    pub fn new(issuer: I, clock: C, jitter: fn() -> f64, runtime: Handle, metrics: Arc<Metrics>) -> Self {
        let shared = Arc::new(Shared { issuer, clock, jitter, calls: TaskTracker::new() });
        Self { shared, slots: Mutex::new(LruCache::new(MAX_KEYS)), runtime, metrics }
    }

    /// Returns what the cache has for `request` on behalf of `pod`, without waiting. Starts a worker for a new key.
    pub fn get(&self, request: &IssueRequest, pod: &PodUid) -> Cached {
        let mut slots = self.lock();
        let slot = self.slot(&mut slots, request);
        if !slot.users.contains(pod) {
            slot.users.insert(pod.clone());
        }
        let cached = match &*slot.state.borrow() {
            State::Ready(issued) if self.is_valid(issued) => Cached::Ready(Unchecked(issued.clone())),
            State::Failed(error @ IssueError::Denied { .. }) => Cached::Denied(error.clone()),
            State::Pending | State::Ready(_) | State::Failed(_) => Cached::Pending(Pending(slot.state.clone())),
        };
        self.metrics.cache_lookup(match &cached {
            Cached::Ready(_) => CacheLookup::Hit,
            Cached::Denied(_) => CacheLookup::Denied,
            Cached::Pending(_) => CacheLookup::Wait,
        });
        match &cached {
            Cached::Ready(_) => {}
            // After a failure, the worker retries only when someone asks.
            Cached::Denied(_) | Cached::Pending(_) => slot.asked.notify_one(),
        }
        cached
    }

    /// Waits for the issuer's answer until `deadline`. Errors that may pass do not end the wait.
    pub async fn wait(&self, Pending(mut state): Pending, deadline: &mut Deadline) -> Result<Unchecked, WaitError> {
        let mut last = WaitError::TimedOut;
        let answer = deadline.wait(async {
            loop {
                match &*state.borrow_and_update() {
                    State::Ready(issued) if self.is_valid(issued) => return Ok(Unchecked(issued.clone())),
                    State::Failed(error @ IssueError::Denied { .. }) => return Err(WaitError::Issuer(error.clone())),
                    State::Failed(error) => last = WaitError::Issuer(error.clone()),
                    State::Pending | State::Ready(_) => {}
                }
                // A worker lives as long as anyone waits on its slot, so the channel closes only when the runtime stops.
                if state.changed().await.is_err() {
                    return Err(last.clone());
                }
            }
        });
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(last),
        }
    }

    /// Waits until the calls under way have ended, for at most `patience`. Called when the process stops.
    pub async fn settle(&self, patience: Duration) {
        self.shared.calls.close();
        // A call that outlives its own time limit is abandoned.
        let _ = tokio::time::timeout(patience, self.shared.calls.wait()).await;
    }

    /// Drops the slots that only `pod` used, except those in `kept`. The pod is gone or has lost its right to the dropped
    /// credentials.
    pub fn forget_all_but(&self, pod: &PodUid, kept: &[Arc<IssueRequest>]) {
        let mut slots = self.lock();
        let mut unused = Vec::new();
        for (request, slot) in slots.iter_mut() {
            let is_kept = kept.iter().any(|kept| **kept == *request);
            if !is_kept && slot.users.remove(pod) && slot.users.is_empty() {
                unused.push(request.clone());
            }
        }
        for request in unused {
            slots.pop(&request);
        }
        self.metrics.cache_entries(slots.len());
    }

    fn is_valid(&self, issued: &Issued) -> bool {
        issued.credentials.remaining(self.shared.clock.boot()) >= MIN_LEFT
    }

    fn slot<'a>(&self, slots: &'a mut LruCache<IssueRequest, Slot>, request: &IssueRequest) -> &'a mut Slot {
        let one_more = (slots.len() + 1).min(MAX_KEYS.get());
        slots.get_or_insert_mut_ref(request, || {
            let (publish, state) = watch::channel(State::Pending);
            let asked = Arc::new(Notify::new());
            self.runtime.spawn(refresh_loop(self.shared.clone(), request.clone(), publish, asked.clone()));
            self.metrics.cache_entries(one_more);
            Slot { state, asked, users: HashSet::new() }
        })
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<IssueRequest, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I, C> std::fmt::Debug for CredentialCache<I, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CredentialCache")
    }
}

/// The worker of one key: fetches credentials and replaces them in time, until nobody reads its channel any more.
async fn refresh_loop<I: Issuer, C: Clock>(
    shared: Arc<Shared<I, C>>,
    request: IssueRequest,
    publish: watch::Sender<State>,
    asked: Arc<Notify>,
) {
    let mut failures = 0;
    while !publish.is_closed() {
        let pause = match shared.calls.track_future(shared.issuer.issue(&request)).await {
            Ok(credentials) => {
                failures = 0;
                let due = slot::refresh_at(&credentials, (shared.jitter)());
                let document = CredentialsDocument::render(&credentials, &request.role, shared.clock.wall());
                publish.send_replace(State::Ready(Arc::new(Issued { credentials, document })));
                // The worker always pauses before its next call, even if STS grants a very short lifetime.
                due.saturating_sub(shared.clock.boot()).max(MIN_LEFT)
            }
            Err(error) => {
                failures += 1;
                let pause = slot::pause(&error, failures, (shared.jitter)());
                let boot = shared.clock.boot();
                publish.send_modify(|state| {
                    // Valid credentials are served until they expire, even if their refresh keeps failing.
                    if !is_good(state, boot) {
                        *state = State::Failed(error);
                    }
                });
                pause
            }
        };
        tokio::select! {
            () = wait_until_due(&shared, &publish, &asked, pause) => {}
            () = publish.closed() => return,
        }
    }
}

/// Waits until the worker's next call is due.
async fn wait_until_due<I, C: Clock>(
    shared: &Shared<I, C>,
    publish: &watch::Sender<State>,
    asked: &Notify,
    pause: Duration,
) {
    let pause = tokio::time::sleep(pause);
    tokio::pin!(pause);
    loop {
        let ready = matches!(&*publish.borrow(), State::Ready(_));
        tokio::select! {
            () = &mut pause => break,
            // Timers stop while the machine is suspended, but credentials still expire. A request that finds expired credentials
            // therefore wakes the worker.
            () = asked.notified(), if ready => {
                if !is_good(&publish.borrow(), shared.clock.boot()) {
                    return;
                }
            }
        }
    }
    let denied = match &*publish.borrow() {
        State::Pending | State::Ready(_) => return,
        State::Failed(error) => matches!(error, IssueError::Denied { .. }),
    };
    if denied {
        // The denial is no longer cached: from now on, requests wait for a new answer.
        publish.send_replace(State::Pending);
    }
    // Retry only when someone asks.
    asked.notified().await;
}

fn is_good(state: &State, boot: Duration) -> bool {
    matches!(state, State::Ready(issued) if issued.credentials.remaining(boot) >= MIN_LEFT)
}

#[cfg(test)]
mod tests;
