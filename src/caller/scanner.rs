//! A thread that looks again when asked: many askers share one look, and looks are bounded in number.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::{Clock as _, SystemClock};

/// Between two looks that the kernel's own notifications ask for: a burst of them is one look.
const SETTLE: Duration = Duration::from_millis(10);

/// A handle to the thread; the thread ends with its last handle.
#[derive(Clone, Debug)]
pub(super) struct Scanner {
    asks: mpsc::Sender<Ask>,
}

#[derive(Debug)]
enum Ask {
    /// A request missed something. Bounded in rate: anybody can ask for what does not exist.
    Miss(oneshot::Sender<()>),
    /// The kernel said that something changed.
    Changed,
}

/// How much a look must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// What is new. What was seen before may be taken from memory: such looks are as frequent as pods come and go.
    News,
    /// Everything, as it is now: somebody missed something.
    Everything,
}

/// When misses may cause a look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Looks at once after a quiet time.
    pub(super) burst: u32,
    /// Time to earn one more.
    pub(super) every: Duration,
}

// === impl Scanner ===

impl Scanner {
    /// Starts the thread `name`. `look` runs on it once at the start, then when asked; it may ask for another look itself by
    /// returning the time until then.
    pub(super) fn spawn(
        name: &str,
        rate: Rate,
        mut look: impl FnMut(Look) -> Option<Duration> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (asks, asked) = mpsc::channel();
        let (first_done, first) = mpsc::channel();
        let thread = std::thread::Builder::new().name(name.into());
        thread.spawn(move || {
            let mut again = look(Look::Everything);
            let _ = first_done.send(());
            let mut bucket = Bucket::full(rate);
            let mut last_look = SystemClock.boot();
            while let Some(waiting) = next(&asked, &mut bucket, again, last_look) {
                again = look(if waiting.is_empty() { Look::News } else { Look::Everything });
                last_look = SystemClock.boot();
                for asker in waiting {
                    // One that gave up meanwhile is not there to be told.
                    let _ = asker.send(());
                }
            }
        })?;
        // Whoever holds a scanner may rely on a first look having been made.
        let _ = first.recv();
        Ok(Self { asks })
    }

    /// Returns when a look at everything that began after the call has ended.
    pub(super) async fn look(&self) {
        let (done, wait) = oneshot::channel();
        if self.asks.send(Ask::Miss(done)).is_ok() {
            let _ = wait.await;
        }
    }

    /// Something changed: look for news soon.
    pub(super) fn changed(&self) {
        let _ = self.asks.send(Ask::Changed);
    }
}

/// Waits until a look is due and returns who waits for it; `None` when nobody can ask any more.
fn next(
    asked: &mpsc::Receiver<Ask>,
    bucket: &mut Bucket,
    again: Option<Duration>,
    last_look: Duration,
) -> Option<Vec<oneshot::Sender<()>>> {
    let mut waiting = Vec::new();
    let mut due = again.map(|again| last_look + again);
    loop {
        let now = SystemClock.boot();
        if due.is_some_and(|due| due <= now) {
            // Everything that was asked before the look begins is answered by it.
            waiting.extend(asked.try_iter().filter_map(|ask| match ask {
                Ask::Miss(asker) => Some(asker),
                Ask::Changed => None,
            }));
            return Some(waiting);
        }
        let ask = match due {
            None => asked.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(due) => asked.recv_timeout(due - now),
        };
        let at = match ask {
            Ok(Ask::Changed) => (last_look + SETTLE).max(SystemClock.boot()),
            Ok(Ask::Miss(asker)) => {
                waiting.push(asker);
                // The first of a group pays for it; the others share its look.
                if waiting.len() == 1 { bucket.take(SystemClock.boot()) } else { continue }
            }
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return None,
        };
        due = Some(due.map_or(at, |due| due.min(at)));
    }
}

struct Bucket {
    rate: Rate,
    /// When the bucket will be full again.
    full_at: Duration,
}

impl Bucket {
    fn full(rate: Rate) -> Self {
        Self { rate, full_at: Duration::ZERO }
    }

    /// Takes one token and returns when it is there.
    fn take(&mut self, now: Duration) -> Duration {
        self.full_at = self.full_at.max(now) + self.rate.every;
        self.full_at.saturating_sub(self.rate.every * self.rate.burst).max(now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_bucket_allows_a_burst_and_then_its_rate() {
        let ms = Duration::from_millis;
        let mut bucket = Bucket::full(Rate { burst: 3, every: ms(200) });
        let at: Vec<Duration> = (0..5).map(|_| bucket.take(ms(1000))).collect();
        assert_eq!(at, [ms(1000), ms(1000), ms(1000), ms(1200), ms(1400)]);
        assert_eq!(bucket.take(ms(10_000)), ms(10_000));
    }

    #[tokio::test]
    async fn askers_share_a_look_that_begins_after_they_asked() {
        let looks = Arc::new(AtomicUsize::new(0));
        let counted = looks.clone();
        let rate = Rate { burst: 1, every: Duration::from_millis(50) };
        let look = move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            None
        };
        let scanner = Scanner::spawn("test", rate, look).unwrap();
        assert_eq!(looks.load(Ordering::SeqCst), 1, "the first look precedes the handle");
        scanner.look().await;
        assert_eq!(looks.load(Ordering::SeqCst), 2);
        // The bucket is empty now: these fifty wait for one look together.
        futures_util::future::join_all((0..50).map(|_| scanner.look())).await;
        assert_eq!(looks.load(Ordering::SeqCst), 3);
    }

    #[tokio::test]
    async fn only_an_asker_is_worth_a_look_at_everything() {
        let (said, looks) = mpsc::channel();
        let rate = Rate { burst: 1, every: Duration::from_millis(50) };
        let look = move |how| {
            let _ = said.send(how);
            None
        };
        let scanner = Scanner::spawn("test", rate, look).unwrap();
        assert_eq!(looks.recv(), Ok(Look::Everything), "the first");
        scanner.changed();
        assert_eq!(looks.recv(), Ok(Look::News));
        scanner.changed();
        scanner.look().await;
        let all: Vec<Look> = looks.try_iter().collect();
        assert_eq!(all.last(), Some(&Look::Everything), "{all:?}");
    }
}
