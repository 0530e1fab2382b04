//! A thread that scans on request: concurrent requests share one scan, and the rate of scans is bounded.

use std::future::pending;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::Coverage;
use crate::clock::{Clock as _, SystemClock};
use crate::token_bucket::{Rate, TokenBucket};

/// The shortest time between the end of a scan and the next scan that notifications cause, so that a burst of notifications
/// causes only one scan.
const SETTLE: Duration = Duration::from_millis(10);
/// The shortest time is at least this multiple of the first scan's duration, so that scans never use more than a fifth of a core.
const SETTLE_FACTOR: u32 = 4;

/// A handle to the thread, which ends when its last handle is dropped.
#[derive(Clone, Debug)]
pub(super) struct Scanner {
    requests: mpsc::Sender<Request>,
}

/// The thread's end of the channel, before the thread is started.
#[derive(Debug)]
pub(super) struct Requests(mpsc::Receiver<Request>);

#[derive(Debug)]
enum Request {
    /// A lookup found nothing. The thread answers the request at the end of a scan that began after the request.
    Miss(oneshot::Sender<Coverage>),
    /// A notification has reported a change.
    Changed,
    /// Notifications were lost, so any object may have changed.
    Lost,
}

/// How much one scan must read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// Only what has changed; results for the rest may be reused. Runs whenever pods come and go, so it must be cheap.
    Incremental,
    /// Everything, as it is now. Any pod can cause lookups of things that do not exist, so each full scan takes a token.
    Full,
}

/// The result of one scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Scanned {
    /// For a full scan, whether everything could be read.
    pub(super) coverage: Coverage,
    /// The delay after which the thread runs another scan without a request.
    pub(super) again: Option<Duration>,
}

/// The requests that the thread has not handled yet.
#[derive(Debug)]
struct Queue {
    received: mpsc::Receiver<Request>,
    bucket: TokenBucket,
    /// Requesters to answer after the next scan.
    waiting: Vec<oneshot::Sender<Coverage>>,
    /// Whether notifications were lost since the last full scan.
    lost: bool,
    /// When an incremental scan is due.
    incremental_at: Option<Duration>,
    /// The earliest time for a scan that notifications cause.
    settled_at: Duration,
}

// === impl Scanner ===

impl Scanner {
    /// A handle and the requests that are made through it.
    pub(super) fn new() -> (Self, Requests) {
        let (requests, received) = mpsc::channel();
        (Self { requests }, Requests(received))
    }

    /// Waits for a scan that starts after this call, and returns what that scan has covered. After an incremental scan, the
    /// caller repeats its lookup, and requests another scan if the lookup still finds nothing. A change that a notification has
    /// reported must not cost a token.
    pub(super) async fn rescan(&self) -> Coverage {
        let (done, wait) = oneshot::channel();
        if self.requests.send(Request::Miss(done)).is_ok()
            && let Ok(coverage) = wait.await
        {
            return coverage;
        }
        // The thread has ended, so nothing more will be found. The caller's deadline ends the wait.
        pending().await
    }

    /// Requests an incremental scan, which runs soon.
    pub(super) fn changed(&self) {
        let _ = self.requests.send(Request::Changed);
    }

    /// Requests a full scan as soon as there is a token for it.
    pub(super) fn lost(&self) {
        let _ = self.requests.send(Request::Lost);
    }
}

// === impl Requests ===

impl Requests {
    /// Starts the thread `name`, which runs a full scan at the start and then scans on request. `rate` limits the full scans.
    /// Returns after the first scan has ended.
    pub(super) fn run(
        self,
        name: &str,
        rate: Rate,
        mut scan: impl FnMut(Scan) -> Scanned + Send + 'static,
    ) -> io::Result<()> {
        let mut queue = Queue::new(self.0, rate);
        let (first_done, first) = mpsc::channel();
        let thread = std::thread::Builder::new().name(name.into());
        thread.spawn(move || {
            queue.run(Scan::Full, &mut scan);
            let _ = first_done.send(());
            while let Some(next) = queue.next() {
                queue.run(next, &mut scan);
            }
        })?;
        let _ = first.recv();
        Ok(())
    }
}

// === impl Queue ===

impl Queue {
    fn new(received: mpsc::Receiver<Request>, rate: Rate) -> Self {
        Self {
            received,
            bucket: TokenBucket::full(rate),
            waiting: Vec::new(),
            lost: false,
            incremental_at: None,
            settled_at: Duration::ZERO,
        }
    }

    /// Waits until a scan is due. A token is taken only for a full scan, and only when it runs: a requester that another scan has
    /// answered, or that has given up, costs nothing. `None` when every handle is gone.
    fn next(&mut self) -> Option<Scan> {
        loop {
            while let Ok(request) = self.received.try_recv() {
                self.add(request);
            }
            self.waiting.retain(|requester| !requester.is_closed());
            let now = SystemClock.boot();
            let full_at = (self.lost || !self.waiting.is_empty()).then(|| self.bucket.next_at(now));
            if full_at.is_some_and(|at| at <= now) {
                self.bucket.take(now);
                return Some(Scan::Full);
            }
            if self.incremental_at.is_some_and(|at| at <= now) {
                return Some(Scan::Incremental);
            }
            let request = match full_at.into_iter().chain(self.incremental_at).min() {
                None => self.received.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => self.received.recv_timeout(due - now),
            };
            match request {
                Ok(request) => self.add(request),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn add(&mut self, request: Request) {
        match request {
            Request::Miss(done) => self.waiting.push(done),
            Request::Changed => {
                let at = self.settled_at.max(SystemClock.boot());
                self.incremental_at = Some(self.incremental_at.map_or(at, |other| other.min(at)));
            }
            Request::Lost => self.lost = true,
        }
    }

    fn run(&mut self, next: Scan, scan: &mut impl FnMut(Scan) -> Scanned) {
        let begin = SystemClock.boot();
        let scanned = scan(next);
        let end = SystemClock.boot();
        self.settled_at = end + SETTLE.max((end - begin) * SETTLE_FACTOR);
        self.incremental_at = scanned.again.map(|again| end + again);
        let coverage = match next {
            Scan::Incremental => Coverage::Partial,
            Scan::Full => {
                self.lost = scanned.coverage == Coverage::Partial && self.lost;
                scanned.coverage
            }
        };
        for done in self.waiting.drain(..) {
            // The send fails if the requester has given up in the meantime.
            let _ = done.send(coverage);
        }
    }
}

#[cfg(test)]
mod tests;
