//! One connection: one request, one answer, within limits.

use std::convert::Infallible;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tracing::debug;

use crate::caller::{Connection, Kernel};
use crate::clock::Clock;
use crate::issuer::Issuer;
use crate::service::MetadataService;

/// How long a client may take from accept to the end of its request head. Clients send the head in one segment.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a whole connection may take: the head, the time that the service may wait, and an answer of a few kilobytes to a slow
/// reader.
const LIFETIME: Duration = Duration::from_secs(10);
/// The most headers in a request. Clients send about four.
const MAX_HEADERS: usize = 32;
/// The buffer for a request head: the smallest that hyper allows. A session token has 56 characters.
const MAX_HEAD: usize = 8192;

/// Serves one request on `stream` and closes it, because an identity is proven for one socket at one moment. EC2's own service also
/// closes each connection.
pub(super) async fn serve<K: Kernel, I: Issuer, C: Clock + Clone>(
    stream: TcpStream,
    connection: Connection,
    service: &MetadataService<K, I, C>,
) {
    let service = service_fn(async |request: Request<Incoming>| {
        let (head, body) = request.into_parts();
        // A request with a body is rejected because of its head, so the body is never read.
        drop(body);
        Ok::<_, Infallible>(service.handle(&connection, &head).await)
    });
    let serve = http1::Builder::new()
        // Without a timer, hyper silently ignores the timeout for the head.
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        // Some clients close their sending half after the request. Without this setting, hyper drops the connection and these
        // clients get no answer.
        .half_close(true)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(LIFETIME, serve).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(peer = %connection.peer, %error, "Connection ended before the answer was sent"),
        Err(_) => debug!(peer = %connection.peer, "Connection took too long; closing it"),
    }
}
