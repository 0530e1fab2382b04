//! Metrics and probes. They have separate listeners: pods' requests are never served here, and pods' listeners never serve these
//! endpoints.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::clock::Clock;
use crate::metrics::Metrics;
use crate::readiness::Readiness;

/// The age of the last pulse beyond which the data plane counts as stuck.
const STUCK: Duration = Duration::from_secs(10);
/// How long a client may take to send the request head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a whole connection may last.
const LIFETIME: Duration = Duration::from_secs(30);
/// The most open connections per listener. Probes and scrapers need a handful, but anybody on the network may open any number of
/// connections.
const MAX_CONNECTIONS: usize = 32;
/// The smallest buffer that hyper allows.
const MAX_HEAD: usize = 8192;

/// The time of the data plane's last pulse, in seconds since boot. Clones share state.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<AtomicU64>);

/// The state that the endpoints show.
#[derive(Clone)]
pub struct Admin {
    /// The metrics that `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// The conditions that `/readyz` checks.
    pub readiness: Readiness,
    /// The pulse that `/livez` checks.
    pub pulse: Pulse,
    /// The clock that determines the age of the pulse.
    pub clock: Arc<dyn Clock>,
}

/// The set of endpoints that a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// All endpoints, for the listener at `--admin-addr`.
    All,
    /// Only the metrics, for the listener at `--metrics-addr`, whose address may be reachable from outside the node.
    MetricsOnly,
}

// === impl Pulse ===

impl Pulse {
    /// Records a pulse once a second. Must run on the data plane's runtime. Never ends.
    pub async fn beat(self, clock: Arc<dyn Clock>) {
        loop {
            self.0.store(clock.boot().as_secs(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn is_stuck(&self, now: Duration) -> bool {
        now.as_secs().saturating_sub(self.0.load(Ordering::Relaxed)) > STUCK.as_secs()
    }
}

// === impl Admin ===

impl Admin {
    /// Binds `address`. Call it on the runtime that will serve the listener.
    pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
        TcpListener::bind(address).await
    }

    /// Serves at most [`MAX_CONNECTIONS`] connections of `listener` at a time and closes further connections at once. Never ends.
    pub async fn serve(self, listener: TcpListener, endpoints: Endpoints) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
                    let connection = self.clone().connection(stream, endpoints);
                    tokio::spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    warn!(%error, "Cannot accept an admin connection; retrying");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream, endpoints: Endpoints) {
        let service = service_fn(async |request: Request<Incoming>| {
            Ok::<_, Infallible>(self.answer(request.method(), request.uri(), endpoints))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        // An error here means that the client closed the connection early, which is not worth a log line.
        let _ = tokio::time::timeout(LIFETIME, connection).await;
    }

    fn answer(&self, method: &Method, uri: &http::Uri, endpoints: Endpoints) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n");
        }
        match (endpoints, uri.path()) {
            (Endpoints::All | Endpoints::MetricsOnly, "/metrics") => {
                let (kind, body) = self.metrics.render();
                let mut response = Response::new(Full::new(body.into()));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
                response
            }
            (Endpoints::All, "/livez") if self.pulse.is_stuck(self.clock.boot()) => {
                text(StatusCode::INTERNAL_SERVER_ERROR, "the data plane is stuck\n")
            }
            (Endpoints::All, "/livez") => text(StatusCode::OK, "ok\n"),
            (Endpoints::All, "/readyz") => self.ready(uri.query() == Some("verbose")),
            (Endpoints::All | Endpoints::MetricsOnly, _) => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    fn ready(&self, verbose: bool) -> Response<Full<Bytes>> {
        let ready = self.readiness.is_ready();
        let mut body = String::new();
        for (name, holds) in self.readiness.conditions() {
            // The answer to a failed probe lists the unmet conditions even without `verbose`.
            if verbose || !holds {
                body.push_str(&format!("[{}] {name}\n", if holds { '+' } else { '-' }));
            }
        }
        for name in self.readiness.degradations() {
            body.push_str(&format!("[!] {name}\n"));
        }
        body.push_str(if ready { "ready\n" } else { "not ready\n" });
        text(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn admin() -> Admin {
        Admin {
            metrics: Arc::new(Metrics::new()),
            readiness: met(),
            pulse: Pulse::default(),
            clock: Arc::new(SystemClock),
        }
    }

    fn met() -> Readiness {
        let (readiness, start) = Readiness::new(false);
        drop(start);
        readiness
    }

    fn status(admin: &Admin, path: &str, endpoints: Endpoints) -> u16 {
        admin.answer(&Method::GET, &path.parse().unwrap(), endpoints).status().as_u16()
    }

    #[test]
    fn the_metrics_listener_serves_nothing_else() {
        let admin = admin();
        assert_eq!(status(&admin, "/metrics", Endpoints::MetricsOnly), 200);
        for path in ["/livez", "/readyz", "/", "/latest/meta-data/iam/security-credentials/"] {
            assert_eq!(status(&admin, path, Endpoints::MetricsOnly), 404, "{path}");
        }
    }

    /// Unfinished requests use memory, so the listener bounds their number. When they end, the listener serves other requests
    /// again.
    #[tokio::test]
    async fn connections_are_bounded() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

        let listener = Admin::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(admin().serve(listener, Endpoints::MetricsOnly));
        let ask = async || {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            let mut answer = Vec::new();
            // Both calls fail if the listener has already closed the connection.
            let _ = stream.write_all(request).await;
            let _ = stream.read_to_end(&mut answer).await;
            answer.starts_with(b"HTTP/1.1 200")
        };
        assert!(ask().await, "the control");
        let mut held = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            held.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(!ask().await);
        drop(held);
        // The listener notices the closed connections one after another.
        while !ask().await {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn readiness_and_liveness_are_independent() {
        let admin = admin();
        let guard = admin.readiness.block("pods");
        assert_eq!(status(&admin, "/readyz", Endpoints::All), 503);
        assert_eq!(status(&admin, "/livez", Endpoints::All), 500, "no beat yet");
        admin.pulse.0.store(SystemClock.boot().as_secs(), Ordering::Relaxed);
        assert_eq!(status(&admin, "/livez", Endpoints::All), 200);
        drop(guard);
        assert_eq!(status(&admin, "/readyz?verbose", Endpoints::All), 200);
    }
}
