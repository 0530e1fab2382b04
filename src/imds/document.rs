//! Renders the documents byte for byte as EC2 does, because shell scripts take them apart with `grep` and `cut`.

use std::fmt::Write as _;
use std::time::SystemTime;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use super::Facts;
use crate::types::{Credentials, RoleArn};

/// The documents of one set of credentials, rendered once and shared by all requests. Wiped when the last reference is dropped.
#[derive(Clone)]
pub struct CredentialsDocument {
    /// The document for `security-credentials/<role>`.
    pub plain: Bytes,
    /// The document for `security-credentials-extended/<role>`, which also has the role's account.
    pub extended: Bytes,
    /// The `Last-Modified` header, also rendered once.
    pub last_modified: HeaderValue,
}

// === impl CredentialsDocument ===

impl CredentialsDocument {
    /// Renders `credentials` of `role`, which were received at `updated`.
    pub fn render(credentials: &Credentials, role: &RoleArn, updated: SystemTime) -> Self {
        let render = |account: Option<&str>| {
            let (key, token) = (credentials.secret_access_key.expose(), credentials.session_token.expose());
            // The buffer has room for everything, with escapes. A buffer that grows would leave a copy behind that is never wiped.
            let mut body = Zeroizing::new(String::with_capacity(512 + 6 * (key.len() + token.len())));
            body.push_str("{\n  \"Code\" : \"Success\",\n");
            field(&mut body, "LastUpdated", &imds_date(updated));
            body.push_str("  \"Type\" : \"AWS-HMAC\",\n");
            field(&mut body, "AccessKeyId", &credentials.access_key_id);
            field(&mut body, "SecretAccessKey", key);
            field(&mut body, "Token", token);
            field(&mut body, "Expiration", &imds_date(credentials.expiration));
            if let Some(account) = account {
                field(&mut body, "AccountId", account);
            }
            close(&mut body);
            Bytes::from_owner(Wiped(body))
        };
        Self { plain: render(None), extended: render(Some(role.account())), last_modified: http_date(updated) }
    }
}

impl std::fmt::Debug for CredentialsDocument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CredentialsDocument(** redacted **)")
    }
}

struct Wiped(Zeroizing<String>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The document that EC2 answers, with status 200, if a role cannot be assumed. SDKs show `message` to their users.
pub fn error_document(code: &str, message: &str, updated: SystemTime) -> String {
    let mut body = String::from("{\n");
    field(&mut body, "Code", code);
    field(&mut body, "Message", message);
    field(&mut body, "LastUpdated", &imds_date(updated));
    close(&mut body);
    body
}

/// The document of `iam/info`. The profile's ARN ends in the role's name, and some clients take the name from there. The id is derived
/// from the role's ARN.
pub fn iam_info(role: &RoleArn, updated: SystemTime) -> String {
    let hash = digest::digest(&digest::SHA256, role.as_str().as_bytes());
    let id: String = hash
        .as_ref()
        .iter()
        .take(17)
        .map(|b| char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[usize::from(b & 31)]))
        .collect();
    let mut body = String::from("{\n  \"Code\" : \"Success\",\n");
    field(&mut body, "LastUpdated", &imds_date(updated));
    let arn = format!("arn:{}:iam::{}:instance-profile/{}", role.partition(), role.account(), role.name());
    field(&mut body, "InstanceProfileArn", &arn);
    field(&mut body, "InstanceProfileId", &format!("AIPA{id}"));
    close(&mut body);
    body
}

/// The identity document, with the fields that SDKs read and without a signature that could prove the node's identity. Returns
/// `None` if the region is not known.
pub fn identity_document(facts: &Facts) -> Option<String> {
    facts.region.as_ref()?;
    let mut body = String::from("{\n");
    for (name, value) in [
        ("accountId", &facts.account),
        ("availabilityZone", &facts.zone),
        ("instanceType", &facts.instance_type),
        ("region", &facts.region),
    ] {
        if let Some(value) = value {
            field(&mut body, name, value);
        }
    }
    close(&mut body);
    Some(body)
}

/// The time as `2026-11-20T11:08:02Z`, the only form that all clients parse.
pub fn imds_date(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map_or_else(|_| String::new(), |t| t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// The time as `Fri, 20 Nov 2026 11:08:02 GMT`.
pub fn http_date(time: SystemTime) -> HeaderValue {
    let text = jiff::Timestamp::try_from(time).map(|t| t.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string());
    // Formatting fails only for a time far outside the range of real dates.
    text.ok().and_then(|text| HeaderValue::from_str(&text).ok()).unwrap_or(HeaderValue::from_static(""))
}

fn field(body: &mut String, name: &str, value: &str) {
    let _ = write!(body, "  \"{name}\" : \"");
    for c in value.chars() {
        match c {
            '"' => body.push_str("\\\""),
            '\\' => body.push_str("\\\\"),
            c if c.is_control() => {
                let _ = write!(body, "\\u{:04x}", u32::from(c));
            }
            c => body.push(c),
        }
    }
    body.push_str("\",\n");
}

/// Closes the JSON object: removes the comma after the last field and adds no newline.
fn close(body: &mut String) {
    body.truncate(body.len() - 2);
    body.push_str("\n}");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::types::Secret;

    fn role() -> RoleArn {
        RoleArn::parse("arn:aws:iam::111122223333:role/team/web").unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_layout_is_ec2s() {
        let credentials = Credentials {
            access_key_id: "ASIAEXAMPLE".into(),
            secret_access_key: Secret::new("wJalr/\"x".into()),
            session_token: Secret::new("IQoJ".into()),
            expiration: at(1_688_174_735),
            expires_at: Duration::from_secs(1),
            issued_at: Duration::ZERO,
        };
        let document = CredentialsDocument::render(&credentials, &role(), at(1_688_152_002));
        let expected = r#"{
  "Code" : "Success",
  "LastUpdated" : "2023-06-30T19:06:42Z",
  "Type" : "AWS-HMAC",
  "AccessKeyId" : "ASIAEXAMPLE",
  "SecretAccessKey" : "wJalr/\"x",
  "Token" : "IQoJ",
  "Expiration" : "2023-07-01T01:25:35Z"
}"#;
        assert_eq!(document.plain, expected);
        assert!(document.extended.ends_with(b"Z\",\n  \"AccountId\" : \"111122223333\"\n}"));
        assert!(!format!("{document:?}").contains("wJalr"));
    }

    #[test]
    fn info_names_the_role() {
        let info: serde_json::Value = serde_json::from_str(&iam_info(&role(), at(0))).unwrap();
        assert_eq!(info["InstanceProfileArn"], "arn:aws:iam::111122223333:instance-profile/web");
        assert_eq!(info["InstanceProfileId"].as_str().unwrap().len(), 21);
    }

    #[test]
    fn unknown_facts_are_left_out() {
        let facts = Facts { region: Some("eu-west-1".into()), ..Facts::default() };
        assert_eq!(identity_document(&facts).unwrap(), "{\n  \"region\" : \"eu-west-1\"\n}");
        assert_eq!(identity_document(&Facts::default()), None);
    }

    #[test]
    fn messages_cannot_break_out() {
        let body = error_document("AssumeRoleUnauthorizedAccess", "a\"b\\c\n\u{1b}[31m", at(0));
        let parsed: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(parsed["Message"], "a\"b\\c\n\u{1b}[31m");
    }
}
