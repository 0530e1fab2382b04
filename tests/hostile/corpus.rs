//! Hostile requests, as tables: what a caller may spell so that a careless server takes it for something it serves.
//!
//! `{role}` is the caller's own role, `{creds}` the one right path of its credentials, `{token}` a session token that is good for it;
//! `{foreign}`, `{sibling}` and `{expired}` are tokens of another pod, of the same pod's other container, and of a second ago.

#[path = "corpus/heads.rs"]
pub(crate) mod heads;
#[path = "corpus/lines.rs"]
pub(crate) mod lines;
#[path = "corpus/paths.rs"]
pub(crate) mod paths;
#[path = "corpus/puts.rs"]
pub(crate) mod puts;

/// What a table is about: a control must show, for each of these, that the check can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Group {
    /// The path of the caller's credentials in other spellings.
    Path,
    /// Things a node's metadata service has and no pod may see.
    Forbidden,
    /// The request line, its method and its version.
    Line,
    /// Where a request begins and ends.
    Framing,
    /// The `Host` header.
    Host,
    /// Requests that a browser or a proxy was talked into.
    Relayed,
    /// The session token of a GET.
    Token,
    /// The PUT that gives a session token.
    Put,
}

/// What may come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Anything but a success.
    Refused,
    /// A success is fine if it is the caller's own answer, byte for byte what the canonical spelling gets; the reason is given.
    Own(&'static str),
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// What it is about.
    pub(crate) group: Group,
    /// The bytes, with placeholders.
    pub(crate) bytes: Vec<u8>,
    /// What may come back.
    pub(crate) expect: Expect,
}

/// What the placeholders stand for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fill {
    pub(crate) role: String,
    pub(crate) token: String,
    pub(crate) foreign: String,
    pub(crate) sibling: String,
    pub(crate) expired: String,
}

/// Where the metadata service has the caller's credentials.
pub(crate) const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/";
const GOOD_HOST: &[u8] = b"Host: 169.254.169.254\r\n";
const GOOD_TOKEN: &[u8] = b"X-aws-ec2-metadata-token: {token}\r\n";

/// Every hostile request.
pub(crate) fn all() -> Vec<Case> {
    let refused = |group, bytes| Case { group, bytes, expect: Expect::Refused };
    let mut cases = Vec::new();
    let path = |target: &&[u8]| [b"GET ", *target, b" HTTP/1.1\r\n", GOOD_HOST, GOOD_TOKEN, b"\r\n"].concat();
    cases.extend(paths::CREDENTIALS.iter().map(|target| refused(Group::Path, path(target))));
    cases.extend(paths::FORBIDDEN.iter().map(|target| refused(Group::Forbidden, path(target))));
    cases.extend(
        lines::LINES.iter().map(|line| refused(Group::Line, [*line, b"\r\n", GOOD_HOST, GOOD_TOKEN, b"\r\n"].concat())),
    );
    cases.extend(lines::WHOLE.iter().map(|bytes| refused(Group::Line, bytes.to_vec())));
    let head = |lines: &[u8]| [b"GET {creds} HTTP/1.1\r\n", lines, b"\r\n"].concat();
    cases.extend(heads::HOSTS.iter().map(|host| refused(Group::Host, head(&[*host, GOOD_TOKEN].concat()))));
    cases.extend(heads::RELAYED.iter().map(|more| refused(Group::Relayed, head(&[GOOD_HOST, *more].concat()))));
    cases.extend(heads::TOKENS.iter().map(|token| refused(Group::Token, head(&[GOOD_HOST, *token].concat()))));
    cases.extend(heads::garbage_tokens().map(|token| refused(Group::Token, head(&[GOOD_HOST, &token].concat()))));
    let framed = |more: &[u8]| [b"GET {creds} HTTP/1.1\r\n", GOOD_HOST, GOOD_TOKEN, more].concat();
    cases.extend(heads::FRAMING.iter().map(|more| refused(Group::Framing, framed(more))));
    cases.extend(heads::oversized().map(|more| refused(Group::Framing, framed(&more))));
    cases.extend(puts::lifetimes().map(|bytes| refused(Group::Put, bytes)));
    cases.extend(puts::WHOLE.iter().map(|bytes| refused(Group::Put, bytes.to_vec())));
    cases.extend(puts::relayed().map(|bytes| refused(Group::Put, bytes)));
    cases.extend(heads::ACCEPTED.iter().map(|(bytes, why)| Case {
        group: Group::Framing,
        bytes: bytes.to_vec(),
        expect: Expect::Own(why),
    }));
    cases
}

impl Fill {
    /// The bytes to send.
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
