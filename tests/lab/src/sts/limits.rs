//! The limits that STS applies to AssumeRole's parameters, according to its service model and documentation.

use std::collections::HashSet;

use super::identity::RoleArn;
use super::model::Call;
use super::wire::ErrorResponse;

/// Maximum duration of a session, and of a chained role's session, in seconds.
pub(super) const LONGEST: u32 = 43_200;
pub(super) const LONGEST_CHAINED: u32 = 3600;
const SHORTEST: u32 = 900;
const POLICY_CHARS: usize = 2048;

/// Maximum size of a packed policy. AWS publishes only the percentage, not the packing; this is close to what is
/// observed.
const PACKED_BYTES: usize = 4096;

/// Checks everything that depends only on the parameters. Returns the requested duration, if any.
pub(super) fn check(call: &Call) -> Result<Option<u32>, ErrorResponse> {
    let role = required(call.role_arn.as_deref(), "roleArn")?;
    let session = required(call.session_name.as_deref(), "roleSessionName")?;
    length(role, "roleArn", 20, 2048)?;
    name(session, "roleSessionName")?;
    if RoleArn::parse(role).is_none() {
        return Err(ErrorResponse::validation(format!("{role} is invalid")));
    }
    if let Some(id) = &call.external_id {
        length(id, "externalId", 2, 1224)?;
        pattern(id, "externalId", "[\\w+=,.@:\\/-]*", |c| word(c) || c == ':' || c == '/')?;
    }
    if let Some(source) = &call.source_identity {
        name(source, "sourceIdentity")?;
        if source.starts_with("aws:") {
            return Err(ErrorResponse::validation("SourceIdentity must not begin with aws:"));
        }
    }
    policies(call)?;
    tags(call)?;
    duration(call.duration.as_deref())
}

/// The token of a web identity call. Fails if it is missing or has an illegal size.
pub(super) fn web_identity_token(call: &Call) -> Result<&str, ErrorResponse> {
    let token = required(call.web_identity_token.as_deref(), "webIdentityToken")?;
    length(token, "webIdentityToken", 4, 20_000)?;
    Ok(token)
}

/// The percentage of the packed-policy limit that a call uses, or `None` if it packs nothing.
pub(super) fn packed(call: &Call) -> Result<Option<usize>, ErrorResponse> {
    let tags: usize = call.tags.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
    let arns: usize = call.policy_arns.iter().map(String::len).sum();
    let bytes = tags + arns + call.policy.as_ref().map_or(0, String::len);
    let percent = (bytes * 100).div_ceil(PACKED_BYTES);
    if percent > 100 {
        let message = format!("Packed policy consumes {percent}% of allotted space, please use smaller policy.");
        return Err(ErrorResponse::new(400, "PackedPolicyTooLarge", message));
    }
    Ok((bytes > 0).then_some(percent))
}

fn policies(call: &Call) -> Result<(), ErrorResponse> {
    if call.policy_arns.len() > 10 {
        return Err(invalid("policyArns", "<list>", "Member must have length less than or equal to 10"));
    }
    let account = call.role_arn.as_deref().and_then(RoleArn::parse).map(|role| role.account.to_owned());
    for arn in &call.policy_arns {
        length(arn, "policyArns", 20, 2048)?;
        let own = account.as_deref().is_some_and(|account| arn.contains(&format!(":iam::{account}:policy/")));
        if !own && !arn.contains(":iam::aws:policy/") {
            return Err(ErrorResponse::validation(format!("PolicyArns contains an ARN of another account: {arn}")));
        }
    }
    let Some(policy) = &call.policy else { return Ok(()) };
    let plain = policy.chars().count() + call.policy_arns.iter().map(String::len).sum::<usize>();
    if policy.is_empty() || plain > POLICY_CHARS {
        return Err(invalid("policy", policy, "Member must have length between 1 and 2048"));
    }
    let allowed = |c: char| matches!(c, '\u{9}' | '\u{a}' | '\u{d}' | '\u{20}'..='\u{ff}');
    pattern(policy, "policy", "[\\u0009\\u000A\\u000D\\u0020-\\u00FF]+", allowed)?;
    match serde_json::from_str::<serde_json::Value>(policy) {
        Ok(document) if document.get("Statement").is_some() => Ok(()),
        Ok(_) => Err(ErrorResponse::new(400, "MalformedPolicyDocument", "Syntax errors in policy.")),
        Err(_) => Err(ErrorResponse::new(400, "MalformedPolicyDocument", "This policy contains invalid Json")),
    }
}

fn tags(call: &Call) -> Result<(), ErrorResponse> {
    if call.tags.len() > 50 {
        return Err(invalid("tags", "<list>", "Member must have length less than or equal to 50"));
    }
    if call.transitive_tag_keys.len() > 50 {
        return Err(invalid("transitiveTagKeys", "<list>", "Member must have length less than or equal to 50"));
    }
    let allowed = |c: char| c.is_alphanumeric() || c.is_whitespace() || "_.:/=+-@".contains(c);
    let mut keys = HashSet::new();
    for (at, (key, value)) in call.tags.iter().enumerate() {
        let (key_field, value_field) = (format!("tags.{}.member.key", at + 1), format!("tags.{}.member.value", at + 1));
        length(key, &key_field, 1, 128)?;
        length(value, &value_field, 0, 256)?;
        pattern(key, &key_field, "[\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]+", allowed)?;
        pattern(value, &value_field, "[\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]*", allowed)?;
        if key.to_lowercase().starts_with("aws:") {
            return Err(parameter("Tag keys beginning with aws: are reserved for system use."));
        }
        if !keys.insert(key.to_lowercase()) {
            return Err(parameter("Duplicate tag keys found. Please note that Tag keys are case insensitive."));
        }
    }
    if call.transitive_tag_keys.iter().any(|key| !keys.contains(&key.to_lowercase())) {
        return Err(parameter("The specified transitive tag key must be included in the requested tags."));
    }
    Ok(())
}

fn duration(sent: Option<&str>) -> Result<Option<u32>, ErrorResponse> {
    let Some(sent) = sent else { return Ok(None) };
    let seconds: u32 = sent
        .parse()
        .map_err(|_| ErrorResponse::new(400, "MalformedInput", format!("{sent} is not an integer: DurationSeconds")))?;
    if seconds < SHORTEST {
        return Err(invalid("durationSeconds", sent, "Member must have value greater than or equal to 900"));
    }
    if seconds > LONGEST {
        return Err(invalid("durationSeconds", sent, "Member must have value less than or equal to 43200"));
    }
    Ok(Some(seconds))
}

/// The error for a parameter that has a valid form but an invalid meaning.
pub(super) fn parameter(message: &str) -> ErrorResponse {
    ErrorResponse::new(400, "InvalidParameterValue", message)
}

fn name(text: &str, field: &str) -> Result<(), ErrorResponse> {
    pattern(text, field, "[\\w+=,.@-]*", word)?;
    length(text, field, 2, 64)
}

fn word(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_+=,.@-".contains(c)
}

fn required<'a>(value: Option<&'a str>, field: &str) -> Result<&'a str, ErrorResponse> {
    let message = format!(
        "1 validation error detected: Value null at '{field}' failed to satisfy constraint: Member must not be null"
    );
    value.ok_or_else(|| ErrorResponse::validation(message))
}

fn length(text: &str, field: &str, least: usize, most: usize) -> Result<(), ErrorResponse> {
    let length = text.chars().count();
    if length < least {
        return Err(invalid(field, text, &format!("Member must have length greater than or equal to {least}")));
    }
    if length > most {
        return Err(invalid(field, text, &format!("Member must have length less than or equal to {most}")));
    }
    Ok(())
}

fn pattern(text: &str, field: &str, regex: &str, allowed: impl Fn(char) -> bool) -> Result<(), ErrorResponse> {
    if text.chars().all(allowed) {
        return Ok(());
    }
    Err(invalid(field, text, &format!("Member must satisfy regular expression pattern: {regex}")))
}

fn invalid(field: &str, value: &str, constraint: &str) -> ErrorResponse {
    ErrorResponse::validation(format!(
        "1 validation error detected: Value '{value}' at '{field}' failed to satisfy constraint: {constraint}"
    ))
}
