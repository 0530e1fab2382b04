//! Logs, as text or JSON, on standard error. Audit lines go to standard output (see `audit`).

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Plain text.
    Text,
}

/// `--log`. The default passes errors only.
#[derive(Debug, Default)]
pub struct LogFilter(EnvFilter);

impl LogFilter {
    /// Parses a filter such as `info,podrole=debug`.
    pub fn parse(text: &str) -> Result<Self, String> {
        EnvFilter::try_new(text).map(Self).map_err(|error| error.to_string())
    }
}

/// Starts logging. A second call has no effect.
///
/// At levels below `info` only podrole's modules are logged, regardless of the filter: HTTP libraries and SDKs trace whole requests
/// and answers, which contain secrets.
pub fn init(format: LogFormat, LogFilter(filter): LogFilter) {
    let ours = |meta: &Metadata<'_>| *meta.level() <= Level::INFO || meta.target().starts_with("podrole");
    let registry = tracing_subscriber::registry().with(filter).with(filter_fn(ours));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let _ = match format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry.with(layer.with_ansi(false)).try_init(),
    };
}
