//! A thread that scans on request: concurrent requests share one scan, and the rate of scans is bounded.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::{Clock as _, SystemClock};
use crate::token_bucket::{Rate, TokenBucket};

/// Shortest time between two scans caused by kernel notifications: a burst of notifications causes one scan.
const SETTLE: Duration = Duration::from_millis(10);

/// A handle to the thread, which ends when its last handle is dropped.
#[derive(Clone, Debug)]
pub(super) struct Scanner {
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
enum Request {
    /// Run a full scan and answer when it has ended. Rate-limited, because any pod can cause lookups of things that do not exist.
    Rescan(oneshot::Sender<()>),
    /// The kernel reported a change.
    Changed,
}

/// How much one scan must read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// New objects only; results for known ones may be reused. Runs whenever pods come and go, so it must be cheap.
    Incremental,
    /// Everything, as it is now: a lookup found nothing.
    Full,
}

// === impl Scanner ===

impl Scanner {
    /// Starts the thread `name`, which runs `scan` once at the start and then on request. `scan` returns the delay after which it
    /// wants to run again without a request. `rate` limits how often requests may cause a full scan. Returns after the first scan
    /// has ended.
    pub(super) fn spawn(
        name: &str,
        rate: Rate,
        mut scan: impl FnMut(Scan) -> Option<Duration> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (requests, received) = mpsc::channel();
        let (first_done, first) = mpsc::channel();
        let thread = std::thread::Builder::new().name(name.into());
        thread.spawn(move || {
            let mut again = scan(Scan::Full);
            let _ = first_done.send(());
            let mut bucket = TokenBucket::full(rate);
            let mut last_scan = SystemClock.boot();
            while let Some(waiting) = next_scan(&received, &mut bucket, again, last_scan) {
                again = scan(if waiting.is_empty() { Scan::Incremental } else { Scan::Full });
                last_scan = SystemClock.boot();
                for done in waiting {
                    // Fails if the requester has given up meanwhile.
                    let _ = done.send(());
                }
            }
        })?;
        let _ = first.recv();
        Ok(Self { requests })
    }

    /// Returns when a full scan that began after the call has ended.
    pub(super) async fn rescan(&self) {
        let (done, wait) = oneshot::channel();
        if self.requests.send(Request::Rescan(done)).is_ok() {
            let _ = wait.await;
        }
    }

    /// Requests an incremental scan soon.
    pub(super) fn changed(&self) {
        let _ = self.requests.send(Request::Changed);
    }
}

/// Waits until a scan is due. Returns the requesters to notify after it, or `None` when every handle is gone.
fn next_scan(
    received: &mpsc::Receiver<Request>,
    bucket: &mut TokenBucket,
    again: Option<Duration>,
    last_scan: Duration,
) -> Option<Vec<oneshot::Sender<()>>> {
    let mut waiting = Vec::new();
    let mut due = again.map(|again| last_scan + again);
    loop {
        let now = SystemClock.boot();
        if due.is_some_and(|due| due <= now) {
            // The scan also answers every request that was queued before it begins.
            waiting.extend(received.try_iter().filter_map(|request| match request {
                Request::Rescan(done) => Some(done),
                Request::Changed => None,
            }));
            return Some(waiting);
        }
        let request = match due {
            None => received.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => received.recv_timeout(due - now),
        };
        let at = match request {
            Ok(Request::Changed) => (last_scan + SETTLE).max(SystemClock.boot()),
            Ok(Request::Rescan(done)) => {
                waiting.push(done);
                // The first requester takes a token; the others share its scan.
                if waiting.len() == 1 { bucket.take(SystemClock.boot()) } else { continue }
            }
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return None,
        };
        due = Some(due.map_or(at, |due| due.min(at)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn requesters_share_a_scan_that_begins_after_their_request() {
        let scans = Arc::new(AtomicUsize::new(0));
        let counted = scans.clone();
        let rate = Rate { burst: 1, every: Duration::from_millis(50) };
        let scan = move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            None
        };
        let scanner = Scanner::spawn("test", rate, scan).unwrap();
        assert_eq!(scans.load(Ordering::SeqCst), 1, "the first scan ends before the handle is returned");
        scanner.rescan().await;
        assert_eq!(scans.load(Ordering::SeqCst), 2);
        // The bucket is empty now, so these fifty requests share one scan.
        futures_util::future::join_all((0..50).map(|_| scanner.rescan())).await;
        assert_eq!(scans.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn only_a_request_causes_a_full_scan() {
        let (sent, scans) = mpsc::channel();
        let rate = Rate { burst: 1, every: Duration::from_millis(50) };
        let scan = move |scan| {
            let _ = sent.send(scan);
            None
        };
        let scanner = Scanner::spawn("test", rate, scan).unwrap();
        assert_eq!(scans.recv(), Ok(Scan::Full), "the first scan");
        scanner.changed();
        assert_eq!(scans.recv(), Ok(Scan::Incremental));
        scanner.changed();
        scanner.rescan().await;
        let all: Vec<Scan> = scans.try_iter().collect();
        assert_eq!(all.last(), Some(&Scan::Full), "{all:?}");
    }
}
