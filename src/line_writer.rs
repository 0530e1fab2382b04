//! A bounded queue of lines in front of a writer that may be slow, such as a pipe that nobody reads. A line is lost and counted if
//! the queue is full, because logs and audit lines must never hold up credentials.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Sends lines to a writer on a thread of its own. Clones share the queue.
#[derive(Clone)]
pub struct LineWriter {
    queue: SyncSender<Item>,
    on_lost: OnLost,
}

/// Called for each line that is lost, on any thread.
pub type OnLost = Arc<dyn Fn() + Send + Sync>;

#[derive(Debug)]
enum Item {
    /// A line with its newline.
    Line(Vec<u8>),
    /// A request to report when all earlier items have been written.
    Flush(SyncSender<()>),
}

// === impl LineWriter ===

impl LineWriter {
    /// Starts the thread `name`, which writes to `out` from a queue of `capacity` lines.
    ///
    /// # Errors
    ///
    /// Fails if the thread cannot be started.
    pub fn start(name: &str, capacity: usize, out: impl Write + Send + 'static, on_lost: OnLost) -> io::Result<Self> {
        let (queue, items) = sync_channel(capacity);
        let told = on_lost.clone();
        std::thread::Builder::new().name(name.into()).spawn(move || write_all(&items, out, &told))?;
        Ok(Self { queue, on_lost })
    }

    /// Queues a line, which must end with a newline. Returns at once; `false` if the line is lost.
    pub fn write(&self, line: Vec<u8>) -> bool {
        let queued = self.queue.try_send(Item::Line(line)).is_ok();
        if !queued {
            (self.on_lost)();
        }
        queued
    }

    /// Waits until everything queued so far has been written, for at most `patience`. Blocks.
    pub fn flush(&self, patience: Duration) {
        let (done, wait) = sync_channel(1);
        // The send blocks while the queue is full, so it runs on its own thread, which may outlive this call.
        let queue = self.queue.clone();
        let sent = std::thread::Builder::new().spawn(move || drop(queue.send(Item::Flush(done))));
        if sent.is_ok() {
            let _ = wait.recv_timeout(patience);
        }
    }
}

impl std::fmt::Debug for LineWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LineWriter")
    }
}

fn write_all(items: &Receiver<Item>, mut out: impl Write, on_lost: &OnLost) {
    for item in items {
        match item {
            Item::Line(line) => {
                if out.write_all(&line).and_then(|()| out.flush()).is_err() {
                    on_lost();
                }
            }
            // The requester may have given up.
            Item::Flush(done) => drop(done.try_send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{self, Sender};

    use super::*;

    /// A writer in which each write waits for permission from `allowed`.
    struct Gate {
        allowed: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.allowed.recv().is_err() {
                return Err(io::Error::other("closed"));
            }
            self.written.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn counter() -> (OnLost, Arc<AtomicUsize>) {
        let lost = Arc::new(AtomicUsize::new(0));
        let counted = lost.clone();
        let on_lost = Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        (on_lost, lost)
    }

    fn gate() -> (Gate, Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (allow, allowed) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        (Gate { allowed, written: written.clone() }, allow, written)
    }

    #[test]
    fn a_stuck_writer_costs_lines_and_stops_nobody() {
        let (gate, allow, written) = gate();
        let (on_lost, lost) = counter();
        let lines = LineWriter::start("test", 2, gate, on_lost).unwrap();
        // One line is with the writer and two are in the queue, so at least 97 of a hundred are lost.
        let queued = (0..100).filter(|_| lines.write(b"x\n".to_vec())).count();
        assert!((2..=3).contains(&queued), "{queued}");
        assert_eq!(lost.load(Ordering::SeqCst), 100 - queued);
        for _ in 0..queued {
            allow.send(()).unwrap();
        }
        lines.flush(Duration::from_secs(10));
        assert_eq!(written.lock().unwrap().len(), 2 * queued);
        // The positive control: without the queue, the same writer stops its caller.
        let (mut gate, allow, _) = self::gate();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || tell.send(gate.write(b"x\n").is_ok()));
        assert!(told.recv_timeout(Duration::from_millis(50)).is_err());
        allow.send(()).unwrap();
        assert_eq!(told.recv(), Ok(true));
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted() {
        let (gate, allow, _) = gate();
        drop(allow);
        let (on_lost, lost) = counter();
        let lines = LineWriter::start("test", 2, gate, on_lost).unwrap();
        assert!(lines.write(b"x\n".to_vec()));
        lines.flush(Duration::from_secs(10));
        assert_eq!(lost.load(Ordering::SeqCst), 1);
    }
}
