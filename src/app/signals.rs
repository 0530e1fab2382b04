//! The signals that end the daemon.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info};

/// Catches SIGTERM and SIGINT from the moment this value exists.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl Signals ===

impl Signals {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("cannot handle SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("cannot handle SIGINT")?,
        })
    }

    /// Waits for a signal, which ends the daemon cleanly, or for the end of a task that should never end, which is an error.
    /// `ended` receives the names of such tasks.
    pub(super) async fn wait(mut self, ended: &mut mpsc::Receiver<&'static str>) -> anyhow::Result<()> {
        tokio::select! {
            signal = self.next() => info!(signal, "Signal received; draining connections"),
            Some(name) = ended.recv() => anyhow::bail!("the {name} task has ended, and podrole cannot run without it"),
        }
        // A second signal means that the sender does not want to wait for the drain.
        tokio::spawn(async move {
            let signal = self.next().await;
            error!(signal, "Second signal received; aborting without draining");
            std::process::abort();
        });
        Ok(())
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
