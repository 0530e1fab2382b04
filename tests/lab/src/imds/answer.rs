//! Parses a request's head and renders the response as EC2 does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::{Mode, State};
use crate::ids;

const LONGEST: u64 = 21_600;

/// The response to a request.
pub(super) fn answer(state: &mut State, head: &[u8]) -> Vec<u8> {
    let reply = match Request::parse(&String::from_utf8_lossy(head)) {
        None => Reply::error(400),
        Some(request) if state.mode == Mode::Google => google(&request),
        Some(request) => ec2(state, &request),
    };
    reply.render(state.mode == Mode::Google)
}

struct Request {
    method: String,
    path: String,
    /// Names are in lower case.
    headers: BTreeMap<String, String>,
}

impl Request {
    fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, path, version) = (words.next()?, words.next()?, words.next()?);
        if !version.starts_with("HTTP/1.") || words.next().is_some() {
            return None;
        }
        let path = path.split('?').next().unwrap_or(path);
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Some(Self { method: method.to_owned(), path: path.to_owned(), headers })
    }
}

fn ec2(state: &mut State, request: &Request) -> Reply {
    match request.method.as_str() {
        "PUT" if request.path == "/latest/api/token" => put_token(state, request),
        "PUT" => Reply::error(403),
        "GET" | "HEAD" => get(state, request),
        _ => Reply::error(405),
    }
}

fn put_token(state: &mut State, request: &Request) -> Reply {
    if request.headers.contains_key("x-forwarded-for") {
        return Reply::error(403);
    }
    let seconds = request.headers.get("x-aws-ec2-metadata-token-ttl-seconds").and_then(|text| text.parse::<u64>().ok());
    let Some(seconds @ 1..=LONGEST) = seconds else {
        return Reply::error(400);
    };
    // 54 hexadecimal digits and `==`: 56 characters, the length of EC2's tokens.
    let Ok(random) = ids::hex(27) else {
        return Reply::error(503);
    };
    let token = format!("{random}==");
    state.tokens.insert(token.clone(), Instant::now() + Duration::from_secs(seconds));
    Reply { ttl: Some(seconds), ..Reply::ok(token) }
}

fn get(state: &State, request: &Request) -> Reply {
    let ttl = match request.headers.get("x-aws-ec2-metadata-token") {
        None if state.v1 => None,
        None => return Reply::error(401),
        Some(token) => match state.tokens.get(token).map(|until| until.saturating_duration_since(Instant::now())) {
            Some(left) if !left.is_zero() => Some(left.as_secs()),
            Some(_) | None => return Reply::error(401),
        },
    };
    let body = match request.path.strip_prefix("/latest") {
        Some(path) => state.facts.body(path, &state.credentials, state.since),
        None if request.path == "/" => Some("2021-07-15\nlatest".to_owned()),
        None => None,
    };
    match body {
        Some(body) => Reply { ttl, since: Some(state.since), head: request.method == "HEAD", ..Reply::ok(body) },
        None => Reply::error(404),
    }
}

/// Google's service rejects requests without the header `Metadata-Flavor: Google`.
fn google(request: &Request) -> Reply {
    let knows = request.headers.get("metadata-flavor").is_some_and(|flavor| flavor == "Google");
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/") => Reply::ok("computeMetadata/\n".into()),
        ("GET", path) if path.starts_with("/computeMetadata/") && !knows => Reply::error(403),
        ("GET", _) => Reply::error(404),
        _ => Reply::error(405),
    }
}

struct Reply {
    status: u16,
    body: String,
    ttl: Option<u64>,
    since: Option<Timestamp>,
    head: bool,
}

impl Reply {
    fn ok(body: String) -> Self {
        Self { status: 200, body, ttl: None, since: None, head: false }
    }

    fn error(status: u16) -> Self {
        let body = match status {
            400 => page("400 - Bad Request"),
            404 => page("404 - Not Found"),
            _ => String::new(),
        };
        Self { status, body, ttl: None, since: None, head: false }
    }

    fn render(&self, google: bool) -> Vec<u8> {
        let mut text = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        let mut header = |name: &str, value: &str| {
            write!(text, "{name}: {value}\r\n").expect("writing to a String cannot fail");
        };
        if let Some(ttl) = self.ttl {
            header("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", &ttl.to_string());
        }
        header("Content-Type", if matches!(self.status, 400 | 404) { "text/html" } else { "text/plain" });
        if let Some(since) = self.since {
            header("Accept-Ranges", "none");
            header("Last-Modified", &date(since));
        }
        if self.status == 405 {
            header("Allow", "GET, HEAD, PUT");
        }
        header("Content-Length", &self.body.len().to_string());
        header("Date", &date(Timestamp::now()));
        if google {
            header("Metadata-Flavor", "Google");
            header("Server", "Metadata Server for VM");
        } else {
            header("Server", "EC2ws");
        }
        header("Connection", "close");
        text.push_str("\r\n");
        if !self.head {
            text.push_str(&self.body);
        }
        text.into_bytes()
    }
}

fn page(title: &str) -> String {
    format!("<html>\n <head><title>{title}</title></head>\n <body><h1>{title}</h1></body>\n</html>\n")
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Service Unavailable",
    }
}

fn date(at: Timestamp) -> String {
    at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
