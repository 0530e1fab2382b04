//! Supervised tasks: each has a name, and the daemon stops when a task ends that should never end. This module also has the drain
//! of connections.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

/// Signals the drain and tracks the work that the drain waits for. Clones share state.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    stop: CancellationToken,
    running: TaskTracker,
}

/// Spawns tasks and reports the end of those that should never end.
#[derive(Clone, Debug)]
pub struct Supervisor {
    runtime: Handle,
    ended: mpsc::Sender<&'static str>,
}

// === impl Drain ===

impl Drain {
    /// Resolves when the drain has begun.
    pub async fn begun(&self) {
        self.stop.cancelled().await;
    }

    /// Wraps `work` so that the drain waits for it.
    pub fn track<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        self.running.track_future(work)
    }

    /// Begins the drain and waits for the tracked work, for at most `grace`.
    pub async fn finish(&self, grace: Duration) {
        self.stop.cancel();
        self.running.close();
        let open = self.running.len();
        match tokio::time::timeout(grace, self.running.wait()).await {
            Ok(()) => info!(connections = open, "All connections drained"),
            Err(_) => error!(connections = self.running.len(), "Drain timed out; closing remaining connections"),
        }
    }
}

// === impl Supervisor ===

impl Supervisor {
    /// Creates a supervisor that spawns tasks on `runtime`, and the channel that receives the names of tasks that have ended.
    pub fn new(runtime: Handle) -> (Self, mpsc::Receiver<&'static str>) {
        let (ended, told) = mpsc::channel(16);
        (Self { runtime, ended }, told)
    }

    /// The runtime that tasks are spawned on.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Runs `task`, which should run as long as the daemon does. If it ends, even by a panic, its end is reported under `name`.
    pub fn forever(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.runtime.spawn(task);
        let ended = self.ended.clone();
        self.runtime.spawn(async move {
            if let Err(error) = task.await {
                error!(task = name, %error, "Task panicked; stopping podrole");
            }
            // The send fails after the first report, which already stops the daemon.
            let _ = ended.send(name).await;
        });
    }

    /// Runs `task`, which may end.
    pub fn once(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }
}
