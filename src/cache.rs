//! Credentials that are ready before they are asked for again.
//!
//! One worker task owns each identity. It alone calls the issuer, so a thousand requests that miss together are one call, and a
//! client that hangs up cancels nothing. It publishes to a watch channel; requests read the channel, or wait on it.

pub mod slot;

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::imds::CredentialsDocument;
use crate::issuer::{IssueError, IssueRequest, Issuer};
use crate::metrics::{CacheLookup, Metrics};
use crate::types::{Credentials, PodUid};

/// Far above what a node's pods can use (one to a few identities each, at most some hundred pods). Beyond it the least recently
/// used identity goes: its pods ask STS once more.
const MAX_IDENTITIES: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Credentials this near their end are as good as ended: the client's own request would come too late.
const MIN_LEFT: Duration = Duration::from_secs(1);

/// Credentials and the bytes that deliver them.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The credentials.
    pub credentials: Credentials,
    /// Rendered once.
    pub document: CredentialsDocument,
}

/// Why there is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The issuer's last word.
    Failed(IssueError),
    /// It has not said anything in time.
    TimedOut,
}

/// The cache over an issuer.
pub struct CredentialCache<I, C> {
    shared: Arc<Shared<I, C>>,
    slots: Mutex<LruCache<IssueRequest, Slot>>,
    runtime: Handle,
    metrics: Arc<Metrics>,
}

struct Shared<I, C> {
    issuer: I,
    clock: C,
    chance: fn() -> f64,
    calls: TaskTracker,
}

#[derive(Clone, Debug)]
enum State {
    /// The first call is under way.
    Pending,
    /// Good until they end; the worker replaces them long before.
    Ready(Arc<Issued>),
    /// The last call failed and there is nothing good to serve.
    Failed(IssueError),
}

/// The worker ends by itself when nobody holds a receiver any more: never in mid-call, so that every call has its audit line.
struct Slot {
    state: watch::Receiver<State>,
    asked: Arc<Notify>,
    /// Pods that were served from here: with the last of them it ends.
    users: HashSet<PodUid>,
}

/// A place to wait for the issuer's word.
#[derive(Debug)]
pub struct Wait(watch::Receiver<State>);

// === impl CredentialCache ===

impl<I: Issuer, C: Clock + Clone> CredentialCache<I, C> {
    /// An empty cache whose workers run on `runtime`. `chance` gives numbers in `0..1`.
    pub fn new(issuer: I, clock: C, chance: fn() -> f64, runtime: Handle, metrics: Arc<Metrics>) -> Self {
        let shared = Arc::new(Shared { issuer, clock, chance, calls: TaskTracker::new() });
        Self { shared, slots: Mutex::new(LruCache::new(MAX_IDENTITIES)), runtime, metrics }
    }

    /// What can be answered for `request` without waiting, on behalf of `pod`: good credentials, or a fresh refusal. Otherwise the
    /// issuer has been asked, and this is where to [`wait`](Self::wait) for its word.
    pub fn get(&self, request: &IssueRequest, pod: &PodUid) -> Result<Result<Arc<Issued>, Miss>, Wait> {
        let mut slots = self.lock();
        let slot = self.slot(&mut slots, request);
        if !slot.users.contains(pod) {
            slot.users.insert(pod.clone());
        }
        let settled = self.settled(&slot.state.borrow());
        let result = match &settled {
            Some(Ok(_)) => CacheLookup::Hit,
            Some(Err(_)) => CacheLookup::Refused,
            None => CacheLookup::Wait,
        };
        self.metrics.cache_lookup(result);
        if result != CacheLookup::Hit {
            // A worker that rests after a failure tries again only for somebody.
            slot.asked.notify_one();
        }
        settled.ok_or_else(|| Wait(slot.state.clone()))
    }

    /// Waits for the issuer's word until `deadline`. What fails and may pass is waited out.
    pub async fn wait(&self, Wait(mut state): Wait, deadline: Instant) -> Result<Arc<Issued>, Miss> {
        let mut last = None;
        let settled = timeout_at(deadline, async {
            loop {
                {
                    let state = state.borrow_and_update();
                    if let Some(settled) = self.settled(&state) {
                        return Some(settled);
                    }
                    if let State::Failed(error) = &*state {
                        last = Some(error.clone());
                    }
                }
                // The worker is gone, which only the end of the runtime does to one that is waited for.
                state.changed().await.ok()?;
            }
        });
        match settled.await {
            Ok(Some(settled)) => settled,
            Ok(None) | Err(_) => Err(last.map_or(Miss::TimedOut, Miss::Failed)),
        }
    }

    /// Waits until calls that are under way have ended, `patience` at most: for the end of the process.
    pub async fn settle(&self, patience: Duration) {
        self.shared.calls.close();
        // What takes longer than any call may is not waited for.
        let _ = tokio::time::timeout(patience, self.shared.calls.wait()).await;
    }

    /// The pod is gone, or was promised something else: what only it used ends now.
    pub fn forget(&self, pod: &PodUid) {
        let mut slots = self.lock();
        let mut unused = Vec::new();
        for (request, slot) in slots.iter_mut() {
            if slot.users.remove(pod) && slot.users.is_empty() {
                unused.push(request.clone());
            }
        }
        for request in unused {
            slots.pop(&request);
        }
        self.metrics.cache_entries(slots.len());
    }

    /// What can be answered without waiting.
    fn settled(&self, state: &State) -> Option<Result<Arc<Issued>, Miss>> {
        match state {
            State::Pending => None,
            State::Ready(issued) => {
                (issued.credentials.remaining(self.shared.clock.boot()) >= MIN_LEFT).then(|| Ok(issued.clone()))
            }
            State::Failed(error @ IssueError::Denied { .. }) => Some(Err(Miss::Failed(error.clone()))),
            // These may pass before the caller's patience does.
            State::Failed(IssueError::Base { .. } | IssueError::Throttled { .. } | IssueError::Unavailable { .. }) => {
                None
            }
        }
    }

    fn slot<'a>(&self, slots: &'a mut LruCache<IssueRequest, Slot>, request: &IssueRequest) -> &'a mut Slot {
        let one_more = (slots.len() + 1).min(MAX_IDENTITIES.get());
        slots.get_or_insert_mut_ref(request, || {
            let (publish, state) = watch::channel(State::Pending);
            let asked = Arc::new(Notify::new());
            self.runtime.spawn(work(self.shared.clone(), request.clone(), publish, asked.clone()));
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

/// Owns one identity as long as anybody may ask for it.
async fn work<I: Issuer, C: Clock>(
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
                let until = slot::refresh_at(&credentials, (shared.chance)());
                let document = CredentialsDocument::render(&credentials, &request.role, shared.clock.wall());
                publish.send_replace(State::Ready(Arc::new(Issued { credentials, document })));
                // Whatever lives STS gives out, it is not asked in a loop.
                until.saturating_sub(shared.clock.boot()).max(MIN_LEFT)
            }
            Err(error) => {
                failures += 1;
                let pause = slot::pause(&error, failures, (shared.chance)());
                let boot = shared.clock.boot();
                publish.send_modify(|state| {
                    // Good credentials outlive every failure to replace them.
                    if !is_good(state, boot) {
                        *state = State::Failed(error);
                    }
                });
                pause
            }
        };
        tokio::select! {
            () = rest(&shared, &publish, &asked, pause) => {}
            () = publish.closed() => return,
        }
    }
}

/// Until the next call is due.
async fn rest<I, C: Clock>(shared: &Shared<I, C>, publish: &watch::Sender<State>, asked: &Notify, pause: Duration) {
    let pause = tokio::time::sleep(pause);
    tokio::pin!(pause);
    loop {
        let ready = matches!(&*publish.borrow(), State::Ready(_));
        tokio::select! {
            () = &mut pause => break,
            // Timers stand still while the machine is suspended, credentials do not: who asks for ended ones wakes us.
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
        // The refusal has had its time: who asks from now on waits for the new word.
        publish.send_replace(State::Pending);
    }
    // Nobody needs a retry that nobody waits for.
    asked.notified().await;
}

fn is_good(state: &State, boot: Duration) -> bool {
    matches!(state, State::Ready(issued) if issued.credentials.remaining(boot) >= MIN_LEFT)
}

#[cfg(test)]
mod tests;
