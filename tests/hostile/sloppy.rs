//! A deliberately bad metadata service, which tries to make sense of any request. Each of its habits has been a real
//! bug.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Bytes that arrive later are ignored.
const PATIENCE: Duration = Duration::from_millis(200);

/// A running server. Dropping it ends it.
pub(crate) struct Sloppy {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Starts a server.
pub(crate) fn start(address: SocketAddr) -> Result<Sloppy> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let thread = thread::Builder::new().name("sloppy".into()).spawn(move || {
        for stream in listener.incoming() {
            if stopped.load(Ordering::SeqCst) {
                return;
            }
            // Ignore errors: a client that breaks the connection gets no answer.
            stream.and_then(serve).ok();
        }
    });
    Ok(Sloppy { address, stop, thread: Some(thread.context("start a thread")?) })
}

impl Drop for Sloppy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // This wakes the accept. If it fails, the listener is already gone.
        TcpStream::connect(self.address).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    while !ends(&head) {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(n) => head.extend_from_slice(&buffer[..n]),
        }
    }
    stream.write_all(answer(&String::from_utf8_lossy(&head)).as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    // Unread bytes would turn the close into a reset, and the answer would be lost.
    while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
    Ok(())
}

fn ends(head: &[u8]) -> bool {
    head.windows(4).any(|end| end == b"\r\n\r\n") || head.windows(2).any(|end| end == b"\n\n")
}

/// Serves anything that resembles a path. It ignores hosts, tokens and relays.
fn answer(head: &str) -> String {
    let path = normal(head.lines().find(|line| line.contains('/') || line.contains('\\')).unwrap_or_default());
    let body = if path.contains("api/token") {
        "t".repeat(56)
    } else if path.contains("credentials") {
        "{\n  \"Code\" : \"Success\",\n  \"AccessKeyId\" : \"ASIACARELESS00000000\"\n}".to_owned()
    } else if path.contains("latest") || path.contains("meta") {
        "whatever the node has".to_owned()
    } else {
        return "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned();
    };
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// Decodes twice, folds case, converts backslashes, and drops parameters, dots and surplus slashes.
fn normal(line: &str) -> String {
    let text = decode(&decode(line)).to_lowercase().replace('\\', "/").replace(['\0', '\t'], "");
    let mut segments: Vec<&str> = Vec::new();
    for segment in text.split('/').map(|segment| segment.split([';', '?', '#']).next().unwrap_or_default()) {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    segments.join("/")
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        let code = (*first == b'%').then(|| others.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &others[2..];
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
