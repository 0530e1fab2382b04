//! Classifies a request by its request line and headers.
//!
//! Paths are not normalized. Only exact spellings are accepted, so no second spelling can slip past a check.

use std::net::IpAddr;

use http::header::{CONTENT_LENGTH, HOST, ORIGIN, TRANSFER_ENCODING, UPGRADE, VIA};
use http::request::Parts;
use http::{HeaderMap, Method, Version};

use super::{MAX_TTL, TOKEN, TOKEN_TTL, TokenError};
use crate::types::{METADATA_PORT, is_metadata};

/// The versions that EC2 lists at `/`. podrole treats each version as `latest`.
const VERSIONS: [&str; 25] = [
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "2011-01-01",
    "2011-05-01",
    "2012-01-12",
    "2014-02-25",
    "2014-11-05",
    "2015-10-20",
    "2016-04-19",
    "2016-06-30",
    "2016-09-02",
    "2018-03-28",
    "2018-08-17",
    "2018-09-24",
    "2019-10-01",
    "2020-10-27",
    "2021-01-03",
    "2021-03-23",
];

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `PUT /latest/api/token`.
    Token {
        /// The requested lifetime: 1 to 21600 seconds.
        ttl: u32,
    },
    /// A directory.
    Listing(Listing),
    /// The name of the caller's role.
    RoleList {
        /// Whether the path is that of the `-extended` list.
        extended: bool,
    },
    /// The caller's credentials.
    Credentials {
        /// The role name in the path.
        role: Box<str>,
        /// Whether the path is that of the `-extended` document, which also has the account.
        extended: bool,
    },
    /// `iam/info`.
    IamInfo,
    /// One static fact.
    Fact(Fact),
    /// The synthetic, unsigned identity document.
    IdentityDocument,
    /// A path that podrole does not serve.
    Unknown,
}

/// The directories that podrole serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// `/`
    Versions,
    /// `/latest`
    Latest,
    /// `/latest/meta-data`
    MetaData,
    /// `/latest/meta-data/iam`: exists only for a pod that has a role.
    Iam,
    /// `/latest/meta-data/placement`
    Placement,
    /// `/latest/meta-data/services`
    Services,
    /// `/latest/dynamic`
    Dynamic,
    /// `/latest/dynamic/instance-identity`
    InstanceIdentity,
}

/// The static facts that podrole serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// `placement/region`
    Region,
    /// `placement/availability-zone`
    Zone,
    /// `placement/availability-zone-id`
    ZoneId,
    /// `instance-type`
    InstanceType,
    /// `services/domain`
    Domain,
    /// `services/partition`
    Partition,
}

/// Why a request is not acceptable, whatever role its pod may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// 400: no metadata client sends such a request.
    Malformed(&'static str),
    /// 401: the request needs a session token and has none.
    TokenRequired,
    /// 401: the session token is invalid, expired, or belongs to another caller.
    BadToken(TokenError),
    /// 403: the request came through a program that forwards requests for others, or it names another host.
    Forwarded(&'static str),
    /// 403: a PUT to a path other than the token's.
    PutElsewhere,
    /// 405, with the methods that are allowed.
    Method {
        /// The `Allow` header.
        allow: &'static str,
    },
}

/// The session token of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionToken<'a> {
    /// No token: IMDSv1.
    Absent,
    /// A token, not verified yet.
    Present(&'a [u8]),
}

/// An acceptable request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classified<'a> {
    /// What the request asks for.
    pub route: Route,
    /// The request's session token, or the reason why the token makes the request unacceptable.
    pub token: Result<SessionToken<'a>, Rejection>,
}

/// Classifies a request or rejects it. Never panics, whatever the bytes.
pub fn classify(head: &Parts) -> Result<Classified<'_>, Rejection> {
    check_framing(head)?;
    check_origin(head)?;
    let route = route(head, check_path(head)?)?;
    Ok(Classified { route, token: session_token(&head.headers) })
}

fn route(head: &Parts, path: &str) -> Result<Route, Rejection> {
    if head.method == Method::PUT {
        return put(path, &head.headers);
    }
    if path == "/latest/api/token" {
        return Err(Rejection::Method { allow: "PUT" });
    }
    if head.method != Method::GET && head.method != Method::HEAD {
        return Err(Rejection::Method { allow: "GET, HEAD" });
    }
    Ok(get(path))
}

/// The session token of a request. A request with two tokens is rejected: either could be the valid one.
fn session_token(headers: &HeaderMap) -> Result<SessionToken<'_>, Rejection> {
    let mut tokens = headers.get_all(TOKEN).iter();
    let Some(token) = tokens.next() else {
        // Only the token stops forged requests, so a forwarded request without a token is rejected.
        return if is_forwarded(headers) {
            Err(Rejection::Forwarded("a forwarded request without a session token"))
        } else {
            Ok(SessionToken::Absent)
        };
    };
    if tokens.next().is_some() {
        return Err(Rejection::Malformed("more than one session token"));
    }
    Ok(SessionToken::Present(token.as_bytes()))
}

/// Rejects requests that hyper accepts but no metadata client sends, because they could be used for request smuggling.
fn check_framing(head: &Parts) -> Result<(), Rejection> {
    if head.version != Version::HTTP_11 && head.version != Version::HTTP_10 {
        return Err(Rejection::Malformed("not HTTP/1.1 or HTTP/1.0"));
    }
    if head.headers.contains_key(TRANSFER_ENCODING) {
        return Err(Rejection::Malformed("Transfer-Encoding"));
    }
    if head.headers.get_all(CONTENT_LENGTH).iter().any(|length| length != "0") {
        return Err(Rejection::Malformed("a request with a body"));
    }
    if head.headers.contains_key(UPGRADE) {
        return Err(Rejection::Malformed("Upgrade"));
    }
    if head.uri.scheme().is_some() || head.uri.authority().is_some() {
        return Err(Rejection::Malformed("a request target that is not a path"));
    }
    Ok(())
}

/// Rejects requests that were not meant for the metadata service. A browser or proxy that is tricked into sending such a request
/// names another host or adds headers of its own.
fn check_origin(head: &Parts) -> Result<(), Rejection> {
    let mut hosts = head.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(Rejection::Malformed("more than one Host")),
        (None, _) if head.version == Version::HTTP_11 => return Err(Rejection::Malformed("HTTP/1.1 without Host")),
        (None, _) => {}
        (Some(host), None) if host.to_str().is_ok_and(is_our_host) => {}
        (Some(_), None) => return Err(Rejection::Forwarded("another Host")),
    }
    if head.headers.contains_key(ORIGIN) || head.headers.keys().any(|name| name.as_str().starts_with("sec-fetch-")) {
        return Err(Rejection::Forwarded("sent by a browser"));
    }
    Ok(())
}

fn is_our_host(host: &str) -> bool {
    let (address, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        // Only IPv6 addresses have brackets.
        Some((address, port)) => (address.parse().ok().map(IpAddr::V6), port),
        None => {
            let address = host.split_once(':').map_or(host, |(address, _)| address);
            (address.parse().ok().map(IpAddr::V4), &host[address.len()..])
        }
    };
    let port_ok = port.is_empty() || port.strip_prefix(':').is_some_and(|p| p == METADATA_PORT.to_string());
    port_ok && address.is_some_and(is_metadata)
}

/// Whether a header says that the request was forwarded. Such a request needs a valid session token.
pub fn is_forwarded(headers: &HeaderMap) -> bool {
    ["x-forwarded-for", "forwarded", "x-real-ip"].iter().any(|name| headers.contains_key(*name))
        || headers.contains_key(VIA)
}

/// The path of the request, if it has only bytes that occur in podrole's paths.
fn check_path(head: &Parts) -> Result<&str, Rejection> {
    if head.uri.query().is_some() {
        return Err(Rejection::Malformed("a query"));
    }
    let path = head.uri.path();
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/._-+=,@".contains(&b);
    if !path.starts_with('/') || !path.bytes().all(allowed) {
        return Err(Rejection::Malformed("a path with characters that no path of ours has"));
    }
    if path.contains("//") || path.split('/').any(|segment| segment == "." || segment == "..") {
        return Err(Rejection::Malformed("a path that needs normalizing"));
    }
    Ok(path)
}

fn put(path: &str, headers: &HeaderMap) -> Result<Route, Rejection> {
    if is_forwarded(headers) {
        return Err(Rejection::Forwarded("X-Forwarded-For on the token's PUT"));
    }
    if path != "/latest/api/token" {
        return Err(Rejection::PutElsewhere);
    }
    let mut ttls = headers.get_all(TOKEN_TTL).iter();
    let (Some(ttl), None) = (ttls.next(), ttls.next()) else {
        return Err(Rejection::Malformed("needs one X-aws-ec2-metadata-token-ttl-seconds"));
    };
    let ttl = ttl.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    let ttl = ttl.and_then(|text| text.parse::<u32>().ok()).filter(|ttl| (1..=MAX_TTL).contains(ttl));
    ttl.map(|ttl| Route::Token { ttl }).ok_or(Rejection::Malformed("a lifetime outside 1 to 21600 seconds"))
}

fn get(path: &str) -> Route {
    let (version, rest) = path[1..].split_once('/').unwrap_or_else(|| (&path[1..], ""));
    if version.is_empty() {
        return Route::Listing(Listing::Versions);
    }
    if version != "latest" && !VERSIONS.contains(&version) {
        return Route::Unknown;
    }
    let (tree, rest) = rest.split_once('/').unwrap_or((rest, ""));
    match tree {
        "" if rest.is_empty() => Route::Listing(Listing::Latest),
        "meta-data" => meta_data(rest),
        "dynamic" => match rest {
            "" => Route::Listing(Listing::Dynamic),
            "instance-identity" | "instance-identity/" => Route::Listing(Listing::InstanceIdentity),
            "instance-identity/document" => Route::IdentityDocument,
            _ => Route::Unknown,
        },
        _ => Route::Unknown,
    }
}

fn meta_data(path: &str) -> Route {
    for (directory, extended) in [("iam/security-credentials", false), ("iam/security-credentials-extended", true)] {
        let Some(rest) = path.strip_prefix(directory) else { continue };
        let role = match rest.strip_prefix('/') {
            None if rest.is_empty() => "",
            None => continue,
            Some(role) => role,
        };
        // Clients put the role name from the list here, and some clients add a slash.
        let name = role.strip_suffix('/').unwrap_or(role);
        return match name {
            "" if role.is_empty() => Route::RoleList { extended },
            "" => Route::Unknown,
            name if name.contains('/') => Route::Unknown,
            name => Route::Credentials { role: name.into(), extended },
        };
    }
    // Paths of single values work with and without a final slash: boto asks for `availability-zone/`, the C++ SDK for
    // `availability-zone`.
    match path.strip_suffix('/').unwrap_or(path) {
        "" => Route::Listing(Listing::MetaData),
        "iam" => Route::Listing(Listing::Iam),
        "iam/info" => Route::IamInfo,
        "instance-type" => Route::Fact(Fact::InstanceType),
        "placement" => Route::Listing(Listing::Placement),
        "placement/availability-zone" => Route::Fact(Fact::Zone),
        "placement/availability-zone-id" => Route::Fact(Fact::ZoneId),
        "placement/region" => Route::Fact(Fact::Region),
        "services" => Route::Listing(Listing::Services),
        "services/domain" => Route::Fact(Fact::Domain),
        "services/partition" => Route::Fact(Fact::Partition),
        _ => Route::Unknown,
    }
}

// === impl Listing ===

impl Listing {
    /// The body: one name per line, no newline at the end.
    pub fn body(self) -> String {
        match self {
            Self::Versions => format!("{}\nlatest", VERSIONS.join("\n")),
            Self::Latest => "dynamic\nmeta-data".into(),
            Self::MetaData => "iam/\ninstance-type\nplacement/\nservices/".into(),
            Self::Iam => "info\nsecurity-credentials/".into(),
            Self::Placement => "availability-zone\navailability-zone-id\nregion".into(),
            Self::Services => "domain\npartition".into(),
            Self::Dynamic => "instance-identity/".into(),
            Self::InstanceIdentity => "document".into(),
        }
    }
}

// === impl Rejection ===

impl Rejection {
    /// The stable name, which is the outcome of a rejected request in `podrole_http_requests_total`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::TokenRequired => "token_required",
            Self::BadToken(_) => "bad_token",
            Self::Forwarded(_) => "forwarded",
            Self::PutElsewhere => "put_elsewhere",
            Self::Method { .. } => "method",
        }
    }
}

// === impl Route ===

impl Route {
    /// The stable name, which is the `route` label of `podrole_http_requests_total`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Token { .. } => "token",
            Self::Listing(_) => "listing",
            Self::RoleList { .. } => "role_list",
            Self::Credentials { .. } => "credentials",
            Self::IamInfo => "iam_info",
            Self::Fact(_) => "fact",
            Self::IdentityDocument => "identity_document",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests;
