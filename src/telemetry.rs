//! Logs, as text or JSON, on standard error. Audit lines go to standard output (see `audit`).

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::line_writer::LineWriter;

/// The number of lines that may wait for a slow standard error. Further lines are lost and counted: a full pipe must not stop pods
/// from getting credentials.
const QUEUE: usize = 4096;
/// How long a stop waits for the last lines to be written.
pub const FLUSH: Duration = Duration::from_secs(2);
/// Libraries whose events are never logged. At WARN, kube's client logs whole answers of the API server that it cannot parse, and
/// with them the environment of pods. Its errors reach podrole, which logs them without the answer.
const SILENT: &str = "kube_client";

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Plain text.
    Text,
}

/// The filter of `--log`. The default filter lets only errors through.
#[derive(Debug, Default)]
pub struct LogFilter(EnvFilter);

/// The running log.
#[derive(Clone, Debug)]
pub struct Logs {
    lines: LineWriter,
    lost: Arc<AtomicU64>,
}

// === impl LogFilter ===

impl LogFilter {
    /// Parses a filter such as `info,podrole=debug`.
    pub fn parse(text: &str) -> Result<Self, String> {
        EnvFilter::try_new(text).map(Self).map_err(|error| error.to_string())
    }
}

// === impl Logs ===

impl Logs {
    /// Starts logging. The log that a second call returns receives nothing.
    ///
    /// # Errors
    ///
    /// Fails if the thread that writes the lines cannot be started.
    pub fn start(format: LogFormat, LogFilter(filter): LogFilter) -> io::Result<Self> {
        let lost = Arc::new(AtomicU64::new(0));
        let counted = lost.clone();
        let on_lost = Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let logs = Self { lines: LineWriter::start("podrole-log", QUEUE, io::stderr(), on_lost)?, lost };
        let registry = tracing_subscriber::registry().with(filter).with(filter_fn(is_safe));
        let layer = tracing_subscriber::fmt::layer().with_writer(logs.clone());
        let _ = match format {
            LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
            LogFormat::Text => registry.with(layer.with_ansi(false)).try_init(),
        };
        Ok(logs)
    }

    /// The number of lines that have been lost since the last call.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }

    /// Waits until all lines so far have been written, for at most [`FLUSH`]. Blocks. Called when the process ends.
    pub fn flush(&self) {
        self.lines.flush(FLUSH);
    }
}

impl<'a> MakeWriter<'a> for Logs {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

/// Each call of `write` receives one whole event, as the formatting layer writes it.
impl Write for &Logs {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.lines.write(event.to_vec());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether an event is certain to contain no secret and no pod's spec, regardless of the configured filter. At levels below `info`
/// only podrole's modules are logged: HTTP libraries and SDKs trace whole requests and answers.
fn is_safe(meta: &Metadata<'_>) -> bool {
    meta.target().starts_with("podrole") || (*meta.level() <= Level::INFO && !meta.target().starts_with(SILENT))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Emits events as each library would, and returns what is logged with or without the filter.
    fn logged(filtered: bool) -> String {
        let buffer = Buffer::default();
        let out = buffer.clone();
        let events = || {
            tracing::warn!(target: "kube_client::client", "an answer with SECRET-1");
            tracing::info!(target: "kube_client::client", "an answer with SECRET-2");
            tracing::debug!(target: "hyper::proto", "a body with SECRET-3");
            tracing::trace!(target: "aws_smithy_runtime", "a body with SECRET-4");
            tracing::warn!(target: "kube_runtime::watcher", "a status");
            tracing::debug!(target: "podrole::service", "our own");
        };
        let filter = filter_fn(move |meta| !filtered || is_safe(meta));
        let layer = tracing_subscriber::fmt::layer().with_writer(move || out.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(filter).with(layer), events);
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn libraries_cannot_log_what_they_received() {
        let text = logged(true);
        assert!(!text.contains("SECRET") && text.contains("a status") && text.contains("our own"), "{text}");
        assert_eq!(logged(false).matches("SECRET").count(), 4, "the control");
    }
}
