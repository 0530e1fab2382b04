//! A raw HTTP client that sees every byte.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::exchange;
use crate::kube::Kube;

const LONG: Duration = Duration::from_secs(10);

pub(super) fn kube() -> Kube {
    Kube::start(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap()
}

/// A pod in namespace `web`.
pub(super) fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "web"},
        "spec": {"nodeName": node, "serviceAccountName": "app", "containers": [{"name": "main", "image": "i"}]},
        "status": {"phase": "Running"},
    })
}

/// Sends one request. Returns the status and the JSON body.
pub(super) fn send(
    kube: &Kube,
    method: &str,
    path: &str,
    headers: &[&str],
    body: &str,
) -> std::io::Result<(u16, Value)> {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: k\r\nConnection: close\r\nUser-Agent: raw\r\n{headers}Content-Length: \
            {}\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(kube.addr(), request.as_bytes())?;
    let answer = String::from_utf8(answer).map_err(Error::other)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| Error::other("no head"))?;
    let status =
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| Error::other("no status"))?;
    Ok((status, serde_json::from_str(body).unwrap_or(Value::Null)))
}

pub(super) fn get(kube: &Kube, path: &str) -> (u16, Value) {
    send(kube, "GET", path, &[], "").unwrap()
}

/// A watch stream, read chunk by chunk.
pub(super) struct Stream {
    reader: BufReader<TcpStream>,
    chunked: bool,
    buffer: Vec<u8>,
    ended: bool,
}

impl Stream {
    pub(super) fn open(kube: &Kube, path: &str) -> Self {
        Self::open_as(kube, path, "application/json")
    }

    /// Opens a stream. Returns once the response's head has arrived, so that whatever a test does next happens after
    /// the watch began.
    pub(super) fn open_as(kube: &Kube, path: &str, accept: &str) -> Self {
        let mut socket = TcpStream::connect(kube.addr()).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: k\r\nAccept: {accept}\r\n\r\n").as_bytes()).unwrap();
        let mut stream = Self { reader: BufReader::new(socket), chunked: false, buffer: Vec::new(), ended: false };
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(stream.reader.read_line(&mut head).unwrap(), 0, "no head");
        }
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        stream.chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        if !stream.chunked {
            let head = head.to_lowercase();
            let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
            stream.buffer.resize(length, 0);
            stream.reader.read_exact(&mut stream.buffer).unwrap();
            stream.ended = true;
        }
        stream
    }

    /// The next line, without its end. The end of the stream is an error: of kind `Other` if it is clean, otherwise
    /// `UnexpectedEof`.
    pub(super) fn line(&mut self) -> std::io::Result<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                return String::from_utf8(line[..end].to_vec()).map_err(Error::other);
            }
            if self.ended {
                return Err(Error::other("the stream ended"));
            }
            self.chunk()?;
        }
    }

    pub(super) fn take(&mut self, count: usize) -> Vec<(String, Value)> {
        (0..count)
            .map(|at| {
                let line = self.line().unwrap_or_else(|error| panic!("event {at} of {count}: {error}"));
                let mut event: Value = serde_json::from_str(&line).unwrap();
                (event["type"].as_str().unwrap().to_owned(), event["object"].take())
            })
            .collect()
    }

    /// Checks that nothing arrives for this long; otherwise returns the line that arrived.
    pub(super) fn quiet(&mut self, time: Duration) -> Result<(), String> {
        self.reader.get_ref().set_read_timeout(Some(time)).unwrap();
        let line = self.line();
        self.reader.get_ref().set_read_timeout(Some(LONG)).unwrap();
        match line {
            Ok(line) => Err(line),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Reads to the end. Returns whether the body ended as HTTP requires.
    pub(super) fn ended_cleanly(&mut self) -> bool {
        while self.line().is_ok() {}
        self.ended
    }

    fn chunk(&mut self) -> std::io::Result<()> {
        let mut size = String::new();
        if self.reader.read_line(&mut size)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let size = usize::from_str_radix(size.trim(), 16).map_err(Error::other)?;
        let mut chunk = vec![0; size + 2];
        self.reader.read_exact(&mut chunk)?;
        self.ended = size == 0;
        self.buffer.extend_from_slice(&chunk[..size]);
        Ok(())
    }
}
