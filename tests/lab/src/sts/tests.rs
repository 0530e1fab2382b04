use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::*;
use crate::http::exchange;

const ACCOUNT: &str = "123456789012";
const ROLE: &str = "arn:aws:iam::123456789012:role/app";
const KEY: &str = "AKIALABUSER000000000";

fn sts() -> Sts {
    let sts = Sts::start(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    sts.register_base(KEY, "secret", None, Caller::user(ACCOUNT, "ada"));
    sts.register_base("ASIANODE000000000000", "s", Some("node-token"), Caller::assumed_role(ACCOUNT, "node", "i-0abc"));
    sts
}

/// Sends a call whose signature is only well-formed, which is all that the double checks. `token` defaults to that of
/// the node's key.
fn call(sts: &Sts, key: &str, token: Option<&str>, form: &[(&str, &str)]) -> std::io::Result<(u16, String)> {
    let escape = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let body: Vec<String> = form.iter().map(|(key, value)| format!("{}={}", escape(key), escape(value))).collect();
    let body = body.join("&");
    let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let token = token.map(|token| format!("X-Amz-Security-Token: {token}\r\n")).unwrap_or_default();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: sts\r\nConnection: close\r\nX-Amz-Date: {now}\r\n{token}User-Agent: raw\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential={key}/{}/eu-west-1/sts/aws4_request, SignedHeaders=host;x-amz-date, \
         Signature={}\r\n\r\n{body}",
        body.len(),
        &now[..8],
        "0".repeat(64)
    );
    let answer = String::from_utf8(exchange(sts.addr(), request.as_bytes())?).unwrap();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, answer))
}

fn assume(sts: &Sts, more: &[(&str, &str)]) -> (u16, String) {
    let mut form =
        vec![("Action", "AssumeRole"), ("Version", "2011-06-15"), ("RoleArn", ROLE), ("RoleSessionName", "web.s1")];
    for (name, value) in more {
        form.retain(|(key, _)| key != name);
        form.push((name, value));
    }
    call(sts, KEY, None, &form).unwrap()
}

/// Sends the unsigned call as an SDK does.
pub(crate) fn assume_with_token(sts: &Sts, token: &str) -> (u16, String) {
    let body = format!(
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn={ROLE}&RoleSessionName=web&WebIdentityToken={token}\
         &DurationSeconds=900"
    );
    let head = "POST / HTTP/1.1\r\nHost: sts\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded";
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let answer = String::from_utf8(exchange(sts.addr(), request.as_bytes()).unwrap()).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let start = xml.find(&format!("<{name}>")).unwrap_or_else(|| panic!("no {name} in {xml}")) + name.len() + 2;
    &xml[start..start + xml[start..].find("</").unwrap()]
}

#[test]
fn issues_credentials_and_records_the_call() {
    let sts = sts();
    let more = [
        ("DurationSeconds", "3600"),
        ("ExternalId", "ext:1"),
        ("Tags.member.1.Key", "ns"),
        ("Tags.member.1.Value", "web"),
        ("Policy", "{\"Statement\":[]}"),
    ];
    let (status, xml) = assume(&sts, &more);
    assert_eq!(status, 200, "{xml}");
    assert_eq!(element(&xml, "Arn"), "arn:aws:sts::123456789012:assumed-role/app/web.s1");
    assert!(xml.contains("PackedPolicySize") && xml.contains("x-amzn-requestid: ") && xml.contains("date: "));
    let key = element(&xml, "AccessKeyId");
    let issued = sts.who(key).unwrap();
    assert_eq!((issued.role_arn.as_str(), issued.session_name.as_str(), issued.duration), (ROLE, "web.s1", 3600));
    let left = issued.expiration.duration_since(SystemTime::now()).unwrap();
    assert!((3595..=3600).contains(&left.as_secs()));

    let [recorded] = &sts.calls()[..] else { panic!("one call") };
    assert_eq!(recorded.issued(), Some(key));
    assert_eq!(recorded.tags, [("ns".to_owned(), "web".to_owned())]);
    assert_eq!((recorded.external_id.as_deref(), recorded.region.as_deref()), (Some("ext:1"), Some("eu-west-1")));
    assert_eq!(recorded.caller.as_ref().unwrap().arn, "arn:aws:iam::123456789012:user/ada");
    assert_eq!(recorded.user_agent, "raw");

    let who = call(&sts, key, Some(&issued.session_token), &[("Action", "GetCallerIdentity")]).unwrap();
    assert_eq!(element(&who.1, "Arn"), issued.session.arn);
    assert_eq!((sts.calls().len(), sts.assume_calls().len()), (2, 1));
    sts.clear();
    assert!(sts.calls().is_empty() && sts.who(key).is_some());
}

#[test]
fn enforces_the_limits_of_the_real_one() {
    let sts = sts();
    sts.role(RoleSpec::new(ROLE).max_duration(43_200));
    let long = "x".repeat(65);
    let policy = format!("{{\"Statement\":\"{}\"}}", "x".repeat(2048));
    for (name, value, code) in [
        ("DurationSeconds", "899", "ValidationError"),
        ("DurationSeconds", "43201", "ValidationError"),
        ("RoleSessionName", "a", "ValidationError"),
        ("RoleSessionName", "ns/pod", "ValidationError"),
        ("RoleSessionName", &long, "ValidationError"),
        ("RoleArn", "app", "ValidationError"),
        ("RoleArn", "arn:aws:iam::12:role/application", "ValidationError"),
        ("ExternalId", "e", "ValidationError"),
        ("ExternalId", "a b", "ValidationError"),
        ("SourceIdentity", "aws:me", "ValidationError"),
        ("Policy", &policy, "ValidationError"),
        ("Policy", "{", "MalformedPolicyDocument"),
        ("PolicyArns.member.1.arn", "arn:aws:iam::999999999999:policy/p", "ValidationError"),
        ("Tags.member.1.Key", "a!b", "ValidationError"),
        ("TransitiveTagKeys.member.1", "absent", "InvalidParameterValue"),
    ] {
        let (status, xml) = assume(&sts, &[(name, value)]);
        assert_eq!((status, element(&xml, "Code")), (400, code), "{name}={value}: {xml}");
    }
    let twins = [("Tags.member.1.Key", "Team"), ("Tags.member.2.Key", "tEAM")];
    assert_eq!(element(&assume(&sts, &twins).1, "Code"), "InvalidParameterValue");
    let many: Vec<(String, String)> = (1..=51).map(|at| (format!("Tags.member.{at}.Key"), format!("k{at}"))).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(element(&assume(&sts, &many).1, "Code"), "ValidationError");
    assert_eq!(assume(&sts, &many[..50]).0, 200);
    assert_eq!(assume(&sts, &[("DurationSeconds", "43200")]).0, 200);
}

#[test]
fn caps_chained_sessions_and_long_roles() {
    let sts = sts();
    let long = [("Action", "AssumeRole"), ("RoleArn", ROLE), ("RoleSessionName", "s1"), ("DurationSeconds", "3601")];
    let (status, xml) = call(&sts, KEY, None, &long).unwrap();
    assert!(status == 400 && xml.contains("MaxSessionDuration set for this role"), "{xml}");
    sts.role(RoleSpec::new(ROLE).max_duration(43_200));
    assert_eq!(call(&sts, KEY, None, &long).unwrap().0, 200);
    let (status, xml) = call(&sts, "ASIANODE000000000000", Some("node-token"), &long).unwrap();
    assert!(status == 400 && xml.contains("role chaining"), "{xml}");
}

#[test]
fn knows_its_callers() {
    let sts = sts();
    let me = [("Action", "GetCallerIdentity")];
    let code = |key, token| element(&call(&sts, key, token, &me).unwrap().1, "Code").to_owned();
    assert_eq!(code("AKIANOBODY0000000000", None), "InvalidClientTokenId");
    assert_eq!(code("ASIANODE000000000000", None), "InvalidClientTokenId");
    assert_eq!(code("ASIANODE000000000000", Some("stale")), "InvalidClientTokenId");
    assert_eq!(call(&sts, "ASIANODE000000000000", Some("node-token"), &me).unwrap().0, 200);
    let bare = exchange(sts.addr(), b"GET /?Action=GetCallerIdentity HTTP/1.1\r\nHost: s\r\nConnection: close\r\n\r\n");
    assert!(String::from_utf8(bare.unwrap()).unwrap().contains("MissingAuthenticationToken"));

    sts.set_lifetime(1);
    let (_, xml) = assume(&sts, &[]);
    let issued = sts.who(element(&xml, "AccessKeyId")).unwrap();
    assert!(issued.expiration <= SystemTime::now() + Duration::from_secs(1));
    sts.set_clock_skew(2);
    assert_eq!(code(&issued.access_key_id, Some(&issued.session_token)), "ExpiredToken");
    sts.set_clock_skew(-3600);
    let (status, xml) = assume(&sts, &[]);
    assert_eq!((status, element(&xml, "Code")), (403, "SignatureDoesNotMatch"));
    sts.check_signature_date(false);
    assert_eq!(assume(&sts, &[]).0, 200);
    sts.forget_key(KEY);
    assert_eq!(element(&assume(&sts, &[]).1, "Code"), "InvalidClientTokenId");
}

#[test]
fn applies_trust_policies() {
    let sts = sts();
    let denied = format!(
        "User: arn:aws:iam::123456789012:user/ada is not authorized to perform: sts:AssumeRole on resource: {ROLE}"
    );
    let node_only = Trust::OnlyAccessKeysOf(vec![format!("arn:aws:iam::{ACCOUNT}:role/node")]);
    for trust in [Trust::Nobody, node_only] {
        sts.role(RoleSpec::new(ROLE).trusts(trust));
        let (status, xml) = assume(&sts, &[]);
        assert_eq!((status, element(&xml, "Code"), element(&xml, "Message")), (403, "AccessDenied", denied.as_str()));
    }
    let form = [("Action", "AssumeRole"), ("RoleArn", ROLE), ("RoleSessionName", "s1")];
    assert_eq!(call(&sts, "ASIANODE000000000000", Some("node-token"), &form).unwrap().0, 200);
    sts.role(RoleSpec::new(ROLE).external_id("right"));
    assert_eq!(assume(&sts, &[("ExternalId", "wrong")]).0, 403);
    assert_eq!(assume(&sts, &[("ExternalId", "right")]).0, 200);
    assert_eq!(assume(&sts, &[("RoleArn", "arn:aws:iam::999999999999:role/app")]).0, 403);
    let other = ("RoleArn", "arn:aws:iam::123456789012:role/other");
    assert_eq!(assume(&sts, &[other]).0, 200);
    sts.trust_any_role(false);
    assert_eq!(assume(&sts, &[other]).0, 403);
}

#[test]
fn web_identities_need_a_good_token_and_a_trusting_role() {
    let sts = sts();
    let kube = crate::kube::Kube::start(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let account = serde_json::json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "app", "namespace": "web"}});
    kube.apply(account).unwrap();
    let ask = r#"{"spec": {"audiences": ["sts.amazonaws.com"], "expirationSeconds": 3600}}"#;
    let path = "/api/v1/namespaces/web/serviceaccounts/app/token";
    let request =
        format!("POST {path} HTTP/1.1\r\nHost: k\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{ask}", ask.len());
    let answer = String::from_utf8(exchange(kube.addr(), request.as_bytes()).unwrap()).unwrap();
    let answer: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let token = answer["status"]["token"].as_str().unwrap();

    assert_eq!(element(&assume_with_token(&sts, token).1, "Code"), "InvalidIdentityToken");
    sts.oidc_provider(kube.issuer(), "sts.amazonaws.com", &kube.jwks()).unwrap();
    let (status, xml) = assume_with_token(&sts, token);
    assert_eq!((status, element(&xml, "Audience")), (200, "sts.amazonaws.com"), "{xml}");
    let issued = sts.who(element(&xml, "AccessKeyId")).unwrap();
    assert_eq!(issued.assumed_by.user_id, "system:serviceaccount:web:app");
    assert_eq!(sts.assume_calls()[1].subject.as_deref(), Some("system:serviceaccount:web:app"));

    for (trust, status) in [
        (Trust::OnlySubjects(vec!["system:serviceaccount:web:app".to_owned()]), 200),
        (Trust::OnlySubjects(vec!["system:serviceaccount:web:other".to_owned()]), 403),
        (Trust::OnlyAccessKeysOf(vec![]), 403),
        (Trust::Nobody, 403),
    ] {
        sts.role(RoleSpec::new(ROLE).trusts(trust));
        assert_eq!(assume_with_token(&sts, token).0, status);
    }
    sts.role(RoleSpec::new(ROLE));
    sts.fail_next(1, Fault::IdpUnreachable);
    assert_eq!(element(&assume_with_token(&sts, token).1, "Code"), "IDPCommunicationError");
    sts.set_clock_skew(7200);
    assert_eq!(element(&assume_with_token(&sts, token).1, "Code"), "ExpiredTokenException");
}

#[test]
fn hands_transitive_tags_and_source_identity_down() {
    let sts = sts();
    let more = [
        ("Tags.member.1.Key", "Team"),
        ("Tags.member.1.Value", "a"),
        ("TransitiveTagKeys.member.1", "Team"),
        ("SourceIdentity", "ada"),
    ];
    let first = sts.who(element(&assume(&sts, &more).1, "AccessKeyId")).unwrap();
    let next = |more: &[(&str, &str)]| {
        let mut form = vec![("Action", "AssumeRole"), ("RoleArn", ROLE), ("RoleSessionName", "s2")];
        form.extend(more);
        call(&sts, &first.access_key_id, Some(&first.session_token), &form).unwrap()
    };
    let second = sts.who(element(&next(&[]).1, "AccessKeyId")).unwrap();
    assert_eq!(
        (second.tags, second.source_identity.as_deref()),
        (vec![("Team".to_owned(), "a".to_owned())], Some("ada"))
    );
    assert_eq!(element(&next(&[("Tags.member.1.Key", "TEAM")]).1, "Code"), "InvalidParameterValue");
    assert_eq!(element(&next(&[("SourceIdentity", "bob")]).1, "Code"), "AccessDenied");
}

#[test]
fn fails_as_told() {
    let sts = sts();
    for (fault, status, code) in [
        (Fault::Throttling, 400, "Throttling"),
        (Fault::AccessDenied, 403, "AccessDenied"),
        (Fault::ExpiredToken, 403, "ExpiredToken"),
        (Fault::InternalFailure500, 500, "InternalFailure"),
        (Fault::ServiceUnavailable, 503, "ServiceUnavailable"),
        (Fault::RegionDisabled, 403, "RegionDisabledException"),
    ] {
        sts.fail_next(1, fault);
        assert_eq!(
            call(&sts, KEY, None, &[("Action", "GetCallerIdentity")]).unwrap().0,
            200,
            "only AssumeRole is counted"
        );
        let (got, xml) = assume(&sts, &[]);
        assert_eq!((got, element(&xml, "Code")), (status, code));
        assert_eq!(sts.calls().last().unwrap().error(), Some(code));
        assert_eq!(assume(&sts, &[]).0, 200);
    }
    sts.fail_next(1, Fault::Html500);
    let (status, page) = assume(&sts, &[]);
    assert!(status == 500 && page.contains("text/html"));
    sts.fail_next(1, Fault::MalformedXml);
    let (status, xml) = assume(&sts, &[]);
    assert!(status == 200 && xml.ends_with("<Credent"));
    assert_eq!(sts.calls().last().unwrap().outcome, Outcome::Broken(Fault::MalformedXml));

    let form = [("Action", "AssumeRole"), ("RoleArn", ROLE), ("RoleSessionName", "s1")];
    sts.fail_always(Some(Fault::ConnectionReset));
    assert_eq!(call(&sts, KEY, None, &form).unwrap_err().kind(), ErrorKind::ConnectionReset);
    sts.fail_always(None);
    sts.fail_role(ROLE, Some(Fault::Throttling));
    assert_eq!(assume(&sts, &[]).0, 400);
    assert_eq!(assume(&sts, &[("RoleArn", "arn:aws:iam::123456789012:role/other")]).0, 200);
    sts.fail_role(ROLE, None);
    assert_eq!(assume(&sts, &[]).0, 200);
    sts.down(true).unwrap();
    assert_eq!(call(&sts, KEY, None, &form).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    sts.down(false).unwrap();
    assert_eq!(assume(&sts, &[]).0, 200);
}

#[test]
fn stalls_and_delays() {
    let sts = sts();
    sts.fail_always(Some(Fault::Stall));
    std::thread::scope(|scope| {
        let stalled = scope.spawn(|| call(&sts, KEY, None, &[("Action", "AssumeRole"), ("RoleArn", ROLE)]));
        assert!(sts.wait(Duration::from_secs(5), |calls| {
            calls.iter().any(|call| call.outcome == Outcome::Broken(Fault::Stall))
        }));
        assert!(!stalled.is_finished());
        sts.down(true).unwrap();
        assert!(stalled.join().unwrap().map_or(true, |(status, _)| status == 0));
    });
    sts.down(false).unwrap();
    sts.fail_always(None);
    sts.set_delay(Duration::from_millis(80));
    let start = Instant::now();
    assert_eq!(assume(&sts, &[]).0, 200);
    assert!(start.elapsed() >= Duration::from_millis(80));
}

#[test]
fn plants_a_secret() {
    let sts = sts();
    sts.set_planted_secret(Some("PLANTED"));
    let issued = sts.who(element(&assume(&sts, &[]).1, "AccessKeyId")).unwrap();
    assert!(issued.secret_access_key.contains("PLANTED") && issued.session_token.contains("PLANTED"));
}

/// Runs a real client against the double. The clients are required: a test that cannot run must not pass.
fn client(sts: &Sts, program: &str, args: &[&str], token: Option<&Issued>) -> Output {
    let mut command = Command::new(program);
    command.args(args).env_remove("AWS_SESSION_TOKEN").env_remove("AWS_PROFILE");
    command.env("AWS_CONFIG_FILE", "/dev/null").env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null");
    command.env("AWS_ENDPOINT_URL_STS", sts.endpoint()).env("AWS_DEFAULT_REGION", "eu-west-1");
    command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", "secret");
    if let Some(issued) = token {
        command.env("AWS_ACCESS_KEY_ID", &issued.access_key_id).env("AWS_SECRET_ACCESS_KEY", &issued.secret_access_key);
        command.env("AWS_SESSION_TOKEN", &issued.session_token);
    }
    command
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed for this test (AWS CLI, python3 with boto3): {error}"))
}

#[test]
fn serves_boto3_and_the_aws_cli() {
    let sts = sts();
    let script = "import boto3\n\
        answer = boto3.client('sts').assume_role(RoleArn='arn:aws:iam::123456789012:role/app', RoleSessionName='boto',\n\
          Tags=[{'Key': 'ns', 'Value': 'web'}], TransitiveTagKeys=['ns'], DurationSeconds=900,\n\
          PolicyArns=[{'arn': 'arn:aws:iam::aws:policy/ReadOnlyAccess'}])\n\
        assert answer['Credentials']['Expiration'].tzinfo is not None\n\
        assert answer['ResponseMetadata']['RequestId']\n\
        print(answer['Credentials']['AccessKeyId'])\n";
    let boto = client(&sts, "python3", &["-c", script], None);
    assert!(boto.status.success(), "boto3: {}", String::from_utf8_lossy(&boto.stderr));
    let key = String::from_utf8(boto.stdout).unwrap();
    let issued = sts.who(key.trim()).unwrap();
    assert_eq!((issued.session_name.as_str(), issued.duration, issued.policy_arns.len()), ("boto", 900, 1));
    assert_eq!(sts.assume_calls()[0].transitive_tag_keys, ["ns"]);

    let endpoint = sts.endpoint();
    let args = ["sts", "get-caller-identity", "--endpoint-url", &endpoint, "--output", "json"];
    let cli = client(&sts, "aws", &args, Some(&issued));
    assert!(cli.status.success(), "aws: {}", String::from_utf8_lossy(&cli.stderr));
    let answer: Value = serde_json::from_slice(&cli.stdout).unwrap();
    assert_eq!(answer["Arn"], "arn:aws:sts::123456789012:assumed-role/app/boto");
    assert_eq!(answer["Account"], ACCOUNT);

    sts.role(RoleSpec::new(ROLE).trusts(Trust::Nobody));
    let denied = client(&sts, "aws", &["sts", "assume-role", "--role-arn", ROLE, "--role-session-name", "cli"], None);
    let said = String::from_utf8_lossy(&denied.stderr).into_owned();
    assert!(said.contains("(AccessDenied) when calling the AssumeRole operation: User: arn:aws:iam::"), "{said}");
}
