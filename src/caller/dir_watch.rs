//! Notifications about directories in which names appear and vanish, by inotify.

use std::collections::HashSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::inotify;
use rustix::io::Errno;

use super::scanner::Scanner;

/// A set of watched directories. Changes are reported to the scanner; [`DirWatch::take`] returns which directories have changed.
#[derive(Debug)]
pub(super) struct DirWatch {
    scanner: Scanner,
    /// `None` until the first directory is added, and again after a failure.
    events: Option<Arc<Events>>,
}

#[derive(Debug)]
struct Events {
    inotify: OwnedFd,
    changed: Mutex<Changed>,
}

/// The changes since the last call of [`DirWatch::take`].
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// The watches of changed directories, as [`DirWatch::add`] returned them.
    pub(super) watches: HashSet<i32>,
    /// Changes were lost: any directory may have changed.
    pub(super) lost: bool,
    /// No more changes will be reported, and all watches are void.
    pub(super) ended: bool,
}

// === impl DirWatch ===

impl DirWatch {
    /// Creates a set without directories.
    pub(super) fn new(scanner: Scanner) -> Self {
        Self { scanner, events: None }
    }

    /// Watches a directory. Returns the number of its watch, which stays the same if the directory is already watched.
    ///
    /// # Errors
    ///
    /// Fails if the node's inotify instances or watches are used up, or if the directory does not exist.
    pub(super) fn add(&mut self, directory: &Path) -> io::Result<i32> {
        let events = match &self.events {
            Some(events) => events.clone(),
            None => self.events.insert(Events::start(self.scanner.clone())?).clone(),
        };
        let watched = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::ONLYDIR;
        Ok(inotify::add_watch(&events.inotify, directory, watched)?)
    }

    /// Returns the changes since the last call.
    pub(super) fn take(&mut self) -> Changed {
        let Some(events) = &self.events else { return Changed::default() };
        let changed = std::mem::take(&mut *events.lock());
        if changed.ended {
            self.events = None;
        }
        changed
    }
}

// === impl Events ===

impl Events {
    fn start(scanner: Scanner) -> io::Result<Arc<Self>> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        let events = Arc::new(Self { inotify, changed: Mutex::default() });
        let thread = std::thread::Builder::new().name("podrole-inotify".into());
        let reading = events.clone();
        thread.spawn(move || reading.read(&scanner))?;
        Ok(events)
    }

    /// Reads events as long as the process runs.
    fn read(&self, scanner: &Scanner) {
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::INTR | Errno::AGAIN | Errno::NOMEM) => continue,
                Err(_) => break,
            };
            let mut changed = self.lock();
            let first = changed.watches.is_empty() && !changed.lost;
            if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) {
                changed.lost = true;
                scanner.lost();
            } else {
                changed.watches.insert(event.wd());
            }
            drop(changed);
            if first {
                scanner.changed();
            }
        }
        let mut changed = self.lock();
        (changed.ended, changed.lost) = (true, true);
        scanner.lost();
    }

    fn lock(&self) -> MutexGuard<'_, Changed> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
