//! The query protocol on the wire: XML responses and the header of signed requests.

use std::fmt::Write as _;

use hyper::{Response, StatusCode};
use jiff::{SignedDuration, Timestamp};

use super::issue::Issued;
use super::web_identity::Claims;
use super::{Caller, Fault};
use crate::http::Body;

const NAMESPACE: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// An error response, worded as by STS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ErrorResponse {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl ErrorResponse {
    pub(super) fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// The error for parameters outside their limits.
    pub(super) fn validation(message: impl Into<String>) -> Self {
        Self::new(400, "ValidationError", message)
    }

    /// The error for a caller that may not assume the role. Without a caller, it is for a web identity.
    pub(super) fn denied(caller: Option<&Caller>, role_arn: &str) -> Self {
        let Some(who) = caller.map(|caller| caller.arn.as_str()) else {
            return Self::new(403, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity");
        };
        Self::new(
            403,
            "AccessDenied",
            format!("User: {who} is not authorized to perform: sts:AssumeRole on resource: {role_arn}"),
        )
    }

    /// The STS error of a fault, or `None` for faults that are not STS responses.
    pub(super) fn of(fault: Fault, caller: Option<&Caller>, role_arn: &str) -> Option<Self> {
        let expired = "The security token included in the request is expired";
        let region = "STS is not activated in this region for account. Your account administrator can activate STS in this \
                      region using the IAM Console.";
        let idp = "An error occurred when trying to communicate with your identity provider. Please retry the call.";
        let internal = "The request processing has failed because of an unknown error, exception or failure.";
        Some(match fault {
            Fault::Throttling => Self::new(400, "Throttling", "Rate exceeded"),
            Fault::AccessDenied => Self::denied(caller, role_arn),
            Fault::ExpiredToken => Self::new(403, "ExpiredToken", expired),
            Fault::InternalFailure500 => Self::new(500, "InternalFailure", internal),
            Fault::ServiceUnavailable => Self::new(503, "ServiceUnavailable", "Service is unavailable"),
            Fault::RegionDisabled => Self::new(403, "RegionDisabledException", region),
            Fault::IdpUnreachable => Self::new(400, "IDPCommunicationError", idp),
            Fault::Html500 | Fault::ConnectionReset | Fault::Stall | Fault::MalformedXml => return None,
        })
    }

    /// The error document.
    pub(super) fn xml(&self, request_id: &str) -> String {
        let party = if self.status < 500 { "Sender" } else { "Receiver" };
        format!(
            "<ErrorResponse xmlns=\"{NAMESPACE}\">\n  <Error>\n    <Type>{party}</Type>\n    <Code>{}</Code>\n    \
             <Message>{}</Message>\n  </Error>\n  <RequestId>{request_id}</RequestId>\n</ErrorResponse>\n",
            self.code,
            escape(&self.message)
        )
    }
}

/// An STS response: its XML, the request id, and the date by STS's clock.
pub(super) fn response(status: u16, xml: String, request_id: &str, now: Timestamp) -> Response<Body> {
    let mut response = Response::new(Body::from(xml));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    for (name, value) in [("x-amzn-requestid", request_id), ("content-type", "text/xml"), ("date", &date)] {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// The response of a failing proxy.
pub(super) fn html(now: Timestamp) -> Response<Body> {
    let page =
        "<html><head><title>500 Internal Server Error</title></head><body><h1>Internal Server Error</h1></body></html>";
    let mut response = response(500, page.to_owned(), "", now);
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("text/html"));
    response
}

/// The document for a role assumed by `action`, including a web identity's claims.
pub(super) fn assumed(
    action: &str,
    issued: &Issued,
    packed: Option<usize>,
    web: Option<&Claims>,
    request_id: &str,
) -> String {
    let expiration = Timestamp::try_from(issued.expiration).map(stamp).unwrap_or_default();
    let mut xml = format!(
        "<{action}Response xmlns=\"{NAMESPACE}\">\n  <{action}Result>\n    <AssumedRoleUser>\n      \
         <AssumedRoleId>{}</AssumedRoleId>\n      <Arn>{}</Arn>\n    </AssumedRoleUser>\n    <Credentials>\n      \
         <AccessKeyId>{}</AccessKeyId>\n      <SecretAccessKey>{}</SecretAccessKey>\n      \
         <SessionToken>{}</SessionToken>\n      <Expiration>{expiration}</Expiration>\n    </Credentials>\n",
        escape(&issued.session.user_id),
        escape(&issued.session.arn),
        issued.access_key_id,
        escape(&issued.secret_access_key),
        escape(&issued.session_token),
    );
    // Writing to a String cannot fail.
    if let Some(source) = &issued.source_identity {
        let _ = writeln!(xml, "    <SourceIdentity>{}</SourceIdentity>", escape(source));
    }
    if let Some(web) = web {
        let (subject, audience, issuer) = (escape(&web.subject), escape(&web.audience), escape(&web.issuer));
        let _ = writeln!(xml, "    <SubjectFromWebIdentityToken>{subject}</SubjectFromWebIdentityToken>");
        let _ = writeln!(xml, "    <Audience>{audience}</Audience>\n    <Provider>{issuer}</Provider>");
    }
    if let Some(packed) = packed {
        let _ = writeln!(xml, "    <PackedPolicySize>{packed}</PackedPolicySize>");
    }
    let _ = write!(
        xml,
        "  </{action}Result>\n  <ResponseMetadata>\n    <RequestId>{request_id}</RequestId>\n  \
         </ResponseMetadata>\n</{action}Response>\n"
    );
    xml
}

/// The response document of GetCallerIdentity.
pub(super) fn identity(caller: &Caller, request_id: &str) -> String {
    format!(
        "<GetCallerIdentityResponse xmlns=\"{NAMESPACE}\">\n  <GetCallerIdentityResult>\n    <Arn>{}</Arn>\n    \
         <UserId>{}</UserId>\n    <Account>{}</Account>\n  </GetCallerIdentityResult>\n  <ResponseMetadata>\n    \
         <RequestId>{request_id}</RequestId>\n  </ResponseMetadata>\n</GetCallerIdentityResponse>\n",
        escape(&caller.arn),
        escape(&caller.user_id),
        escape(&caller.account)
    )
}

/// The fields of a SigV4 `Authorization` header that the double uses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signature<'a> {
    pub(super) access_key: &'a str,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

impl<'a> Signature<'a> {
    /// Parses `AWS4-HMAC-SHA256 Credential=<key>/<day>/<region>/<service>/aws4_request, SignedHeaders=...,
    /// Signature=...`.
    pub(super) fn parse(header: &'a str) -> Option<Self> {
        let fields = header.strip_prefix("AWS4-HMAC-SHA256 ")?;
        let field = |name: &str| {
            let found = fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
            found.filter(|value| !value.is_empty())
        };
        let hex = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let signed = field("SignedHeaders")?.split(';').any(|name| name == "host");
        if !signed || !field("Signature").is_some_and(hex) {
            return None;
        }
        let mut scope = field("Credential")?.split('/');
        let (access_key, _day, region, service) = (scope.next()?, scope.next()?, scope.next()?, scope.next()?);
        (scope.next() == Some("aws4_request")).then_some(Self { access_key, region, service })
    }
}

/// Parses the date of a signature, `20260131T235959Z`.
pub(super) fn signed_at(text: &str) -> Option<Timestamp> {
    let time = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", text).ok()?;
    Some(time.to_zoned_datetime(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

/// The error if a signature's date is out of range at `now`.
pub(super) fn stale(signed: Timestamp, now: Timestamp) -> Option<ErrorResponse> {
    const WINDOW: SignedDuration = SignedDuration::from_mins(5);
    let age = now.duration_since(signed);
    let compact = |time: Timestamp| time.strftime("%Y%m%dT%H%M%SZ").to_string();
    let (signed, now_text) = (compact(signed), compact(now));
    let message = if age > WINDOW {
        let oldest = now.checked_sub(WINDOW).map(compact).unwrap_or_default();
        format!("Signature expired: {signed} is now earlier than {oldest} ({now_text} - 5 min.)")
    } else if age < -WINDOW {
        let newest = now.checked_add(WINDOW).map(compact).unwrap_or_default();
        format!("Signature not yet current: {signed} is still later than {newest} ({now_text} + 5 min.)")
    } else {
        return None;
    };
    Some(ErrorResponse::new(403, "SignatureDoesNotMatch", message))
}

fn stamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_signatures() {
        let signature = "a".repeat(64);
        let header = format!(
            "AWS4-HMAC-SHA256 Credential=AKIAX/20260101/eu-west-1/sts/aws4_request, SignedHeaders=host;x-amz-date, \
             Signature={signature}"
        );
        let read = Signature::parse(&header).unwrap();
        assert_eq!(read, Signature { access_key: "AKIAX", region: "eu-west-1", service: "sts" });
        assert_eq!(Signature::parse("Bearer x"), None);
        assert_eq!(Signature::parse(&header.replace("aws4_request", "aws5")), None);
        assert_eq!(Signature::parse(&header.replace("host;", "")), None);
    }

    #[test]
    fn rejects_stale_and_early_signatures() {
        let now = signed_at("20260101T120000Z").unwrap();
        assert_eq!(stale(signed_at("20260101T115501Z").unwrap(), now), None);
        let old = stale(signed_at("20260101T115459Z").unwrap(), now).unwrap();
        assert!(old.message.contains("earlier than 20260101T115500Z"), "{}", old.message);
        assert!(stale(signed_at("20260101T120501Z").unwrap(), now).unwrap().message.contains("not yet current"));
    }
}
