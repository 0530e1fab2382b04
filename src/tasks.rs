//! Tasks with an owner: each has a name, and the end of one that should not end ends the daemon.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info};

/// Says when to stop, and counts what still runs.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    stop: CancellationToken,
    running: TaskTracker,
}

/// Spawns tasks whose end is an event.
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

    /// Work that the drain waits for.
    pub fn track<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        self.running.track_future(work)
    }

    /// Begins the drain and waits until the tracked work has ended, `grace` at the most.
    pub async fn finish(&self, grace: Duration) {
        self.stop.cancel();
        self.running.close();
        let open = self.running.len();
        match tokio::time::timeout(grace, self.running.wait()).await {
            Ok(()) => info!(connections = open, "Drained"),
            Err(_) => error!(connections = self.running.len(), "Still open after the grace period; closing them"),
        }
    }
}

// === impl Supervisor ===

impl Supervisor {
    /// A supervisor that spawns on `runtime`, and where its tasks' ends are told.
    pub fn new(runtime: Handle) -> (Self, mpsc::Receiver<&'static str>) {
        let (ended, told) = mpsc::channel(16);
        (Self { runtime, ended }, told)
    }

    /// The runtime it spawns on.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Runs `task`, which is to run as long as the daemon: a panic in it, or its end, is told.
    pub fn forever(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.runtime.spawn(task);
        let ended = self.ended.clone();
        self.runtime.spawn(async move {
            if let Err(error) = task.await {
                error!(task = name, %error, "Task failed");
            }
            // The first to end decides; nobody listens to the others.
            let _ = ended.send(name).await;
        });
    }

    /// Runs `task`, which ends by itself.
    pub fn once(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }
}
