//! The baseline: hyper alone, answering every request with the same bytes that podrole answers, on the same kind of runtime.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// The first argument that makes this program the bare server. The address and a file with the answer follow.
pub(crate) const ARGUMENT: &str = "--bare-server";

/// Runs the bare server if the first argument asks for it.
pub(crate) fn main() -> Option<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() != Some(ARGUMENT) {
        return None;
    }
    Some(match serve(arguments.next(), arguments.next()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            super::report::complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    })
}

fn serve(address: Option<String>, answer: Option<String>) -> Result<()> {
    let address: SocketAddr = address.context("an address")?.parse()?;
    let answer = std::fs::read_to_string(answer.context("a file with the answer")?)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
    let (headers, body) = (headers(head)?, Bytes::from(body.to_owned()));
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (headers, body) = (headers.clone(), body.clone());
            tokio::spawn(async move {
                let service = service_fn(|_| {
                    let mut response = Response::new(Full::new(body.clone()));
                    *response.headers_mut() = headers.clone();
                    async { Ok::<_, Infallible>(response) }
                });
                let mut http = http1::Builder::new();
                http.keep_alive(false).title_case_headers(true);
                // A client may close the connection early.
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}

/// The headers that hyper does not add by itself.
fn headers(head: &str) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in head.lines().skip(1) {
        let (name, value) = line.split_once(": ").context("a header")?;
        if !["connection", "content-length", "date"].contains(&name.to_ascii_lowercase().as_str()) {
            headers.insert(HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?);
        }
    }
    Ok(headers)
}
