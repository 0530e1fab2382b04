//! A minimal HTTP response parser. The raw bytes are kept, so that tests can inspect oddities.

use std::fmt;

use super::{End, Failure, Received};

/// A parsed response.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers in order, with their names spelled as received.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The whole response as received.
    pub raw: Vec<u8>,
}

impl Response {
    pub(super) fn parse(received: Received) -> Result<Self, Failure> {
        let Received { bytes: raw, end } = received;
        if raw.is_empty() {
            return Err(match end {
                End::Closed | End::Enough => Failure::NoAnswer,
                End::TimedOut => Failure::TimedOut,
                End::Reset => Failure::Reset,
            });
        }
        let garbled = |why: &str| Failure::Garbled(format!("{why}: {}", String::from_utf8_lossy(&raw)));
        let (head, body) = split(&raw).ok_or_else(|| garbled("no end of headers"))?;
        let head = std::str::from_utf8(head).map_err(|_| garbled("headers are not text"))?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(status_code).ok_or_else(|| garbled("no status line"))?;
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| garbled("a header without a colon"))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let response = Self { status, headers, body: body.to_vec(), raw: raw.clone() };
        let length = response.header("content-length").and_then(|length| length.parse().ok());
        match (end, length) {
            (End::TimedOut | End::Reset, Some(length)) if response.body.len() < length => Err(garbled("cut short")),
            (End::TimedOut | End::Reset, None) => Err(garbled("cut short")),
            (End::Closed | End::Enough | End::TimedOut | End::Reset, _) => Ok(response),
        }
    }

    /// The first value of a header. `name` is case-insensitive.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::from_slice(&self.body)
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.raw))
    }
}

/// Splits a response into its head, without the final empty line, and its body.
pub(super) fn split(raw: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = raw.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some((&raw[..end], &raw[end + 4..]))
}

/// The status code of a status line.
pub(super) fn status_code(line: &str) -> Option<u16> {
    let (version, rest) = line.split_once(' ')?;
    let code = rest.split(' ').next()?;
    if version.starts_with("HTTP/1.") && code.len() == 3 { code.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &[u8], end: End) -> Result<Response, Failure> {
        Response::parse(Received { bytes: raw.to_vec(), end })
    }

    #[test]
    fn an_answer_is_taken_apart() -> Result<(), Failure> {
        let response = parse(b"HTTP/1.1 200 OK\r\nServer: EC2ws\r\nContent-Length: 2\r\n\r\nhi", End::Closed)?;
        assert_eq!((response.status, response.header("SERVER"), response.text().as_str()), (200, Some("EC2ws"), "hi"));
        Ok(())
    }

    #[test]
    fn half_an_answer_is_none() {
        let half = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhi";
        assert!(matches!(parse(half, End::TimedOut), Err(Failure::Garbled(_))));
        assert_eq!(parse(b"", End::Closed), Err(Failure::NoAnswer));
        assert_eq!(parse(b"", End::Reset), Err(Failure::Reset));
        assert!(matches!(parse(b"SSH-2.0-x\r\n\r\n", End::Closed), Err(Failure::Garbled(_))));
    }
}
