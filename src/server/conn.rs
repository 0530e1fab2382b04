//! One connection: one request, one answer, within bounds.

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

/// From the accept to the end of the head. Clients send theirs in one segment.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// A whole connection: the head, the service's own budget, and an answer of a few kilobytes to a slow reader.
const LIFETIME: Duration = Duration::from_secs(10);
/// Four headers are what clients send; a session token is 56 characters.
const MAX_HEADERS: usize = 32;
/// hyper's smallest.
const MAX_HEAD: usize = 8192;

/// Serves `stream` until it ends. Never more than one request: an identity is proven for one socket at one moment, and EC2's
/// own service closes as well.
pub(super) async fn serve<K: Kernel, I: Issuer, C: Clock + Clone>(
    stream: TcpStream,
    connection: Connection,
    service: &MetadataService<K, I, C>,
) {
    let service = service_fn(async |request: Request<Incoming>| {
        let (head, body) = request.into_parts();
        // Requests with a body are refused by their head; nothing reads it.
        drop(body);
        Ok::<_, Infallible>(service.handle(&connection, &head).await)
    });
    let serve = http1::Builder::new()
        // Without a timer hyper's head timeout is silently off.
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .title_case_headers(true)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(LIFETIME, serve).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(peer = %connection.peer, %error, "Connection ended early"),
        Err(_) => debug!(peer = %connection.peer, "Connection outlived its time"),
    }
}
