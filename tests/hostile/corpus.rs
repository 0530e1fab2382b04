//! Tables of hostile requests: spellings that a careless server might treat as a valid request.
//!
//! `{role}` is the caller's own role, `{creds}` the canonical path of its credentials, and `{token}` a session token
//! that is valid for it. `{foreign}`, `{sibling}` and `{expired}` are tokens of another pod, of the same pod's other
//! container, and one that expired a second ago.

#[path = "corpus/heads.rs"]
pub(crate) mod heads;
#[path = "corpus/lines.rs"]
pub(crate) mod lines;
#[path = "corpus/paths.rs"]
pub(crate) mod paths;
#[path = "corpus/puts.rs"]
pub(crate) mod puts;

/// The subject of a table. For each one, a control must show that the check can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// Other spellings of the path to the caller's credentials.
    Path,
    /// Paths that a node's metadata service has and no pod may read.
    Forbidden,
    /// The request line: target, method and version.
    Line,
    /// The boundaries of a request.
    Framing,
    /// The `Host` header.
    Host,
    /// Requests that an attacker made a browser or a proxy send.
    Relayed,
    /// The session token of a GET request.
    Token,
    /// The PUT request for a session token.
    Put,
}

/// The permitted response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Any response except a success.
    Failure,
    /// A success is permitted if it is byte for byte the response to the canonical spelling. The text says why.
    Own(&'static str),
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Its subject.
    pub(crate) group: Group,
    /// The bytes, with placeholders.
    pub(crate) bytes: Vec<u8>,
    /// The permitted response.
    pub(crate) expect: Expect,
}

/// The values of the placeholders.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fill {
    pub(crate) role: String,
    pub(crate) token: String,
    pub(crate) foreign: String,
    pub(crate) sibling: String,
    pub(crate) expired: String,
}

/// The path of the caller's credentials, up to the role.
pub(crate) const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/";
const GOOD_HOST: &[u8] = b"Host: 169.254.169.254\r\n";
const GOOD_TOKEN: &[u8] = b"X-aws-ec2-metadata-token: {token}\r\n";

/// Every hostile request.
pub(crate) fn all() -> Vec<Case> {
    let failing = |group, bytes| Case { group, bytes, expect: Expect::Failure };
    let mut cases = Vec::new();
    let path = |target: &&[u8]| [b"GET ", *target, b" HTTP/1.1\r\n", GOOD_HOST, GOOD_TOKEN, b"\r\n"].concat();
    cases.extend(paths::CREDENTIALS.iter().map(|target| failing(Group::Path, path(target))));
    cases.extend(paths::FORBIDDEN.iter().map(|target| failing(Group::Forbidden, path(target))));
    cases.extend(
        lines::LINES.iter().map(|line| failing(Group::Line, [*line, b"\r\n", GOOD_HOST, GOOD_TOKEN, b"\r\n"].concat())),
    );
    cases.extend(lines::WHOLE.iter().map(|bytes| failing(Group::Line, bytes.to_vec())));
    let head = |lines: &[u8]| [b"GET {creds} HTTP/1.1\r\n", lines, b"\r\n"].concat();
    cases.extend(heads::HOSTS.iter().map(|host| failing(Group::Host, head(&[*host, GOOD_TOKEN].concat()))));
    cases.extend(heads::RELAYED.iter().map(|more| failing(Group::Relayed, head(&[GOOD_HOST, *more].concat()))));
    cases.extend(heads::TOKENS.iter().map(|token| failing(Group::Token, head(&[GOOD_HOST, *token].concat()))));
    cases.extend(heads::garbage_tokens().map(|token| failing(Group::Token, head(&[GOOD_HOST, &token].concat()))));
    let framed = |more: &[u8]| [b"GET {creds} HTTP/1.1\r\n", GOOD_HOST, GOOD_TOKEN, more].concat();
    cases.extend(heads::FRAMING.iter().map(|more| failing(Group::Framing, framed(more))));
    cases.extend(heads::oversized().map(|more| failing(Group::Framing, framed(&more))));
    cases.extend(puts::lifetimes().map(|bytes| failing(Group::Put, bytes)));
    cases.extend(puts::WHOLE.iter().map(|bytes| failing(Group::Put, bytes.to_vec())));
    cases.extend(puts::relayed().map(|bytes| failing(Group::Put, bytes)));
    cases.extend(heads::ACCEPTED.iter().map(|(bytes, why)| Case {
        group: Group::Framing,
        bytes: bytes.to_vec(),
        expect: Expect::Own(why),
    }));
    cases
}

impl Fill {
    /// Replaces the placeholders.
    pub(crate) fn render(&self, bytes: &[u8]) -> Vec<u8> {
        let creds = format!("{CREDENTIALS}{}", self.role);
        let values: [(&[u8], &str); 6] = [
            (b"{creds}", &creds),
            (b"{role}", &self.role),
            (b"{token}", &self.token),
            (b"{foreign}", &self.foreign),
            (b"{sibling}", &self.sibling),
            (b"{expired}", &self.expired),
        ];
        let (mut out, mut rest) = (Vec::with_capacity(bytes.len() + 128), bytes);
        while let Some((first, others)) = rest.split_first() {
            match values.iter().find(|(name, _)| rest.starts_with(name)) {
                Some((name, value)) => {
                    out.extend_from_slice(value.as_bytes());
                    rest = &rest[name.len()..];
                }
                None => {
                    out.push(*first);
                    rest = others;
                }
            }
        }
        out
    }
}
