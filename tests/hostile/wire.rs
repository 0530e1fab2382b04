//! The responses, byte for byte as EC2 sends them: scripts cut them with `grep`, SDKs parse dates with fixed formats,
//! scanners look at header names.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::{Client, Response};
use podrole_lab::world::Trial;

use crate::support::{ACCOUNT, TEAM, TOKEN, WEB, expect, get, path_of, ready, web};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("good_answers_are_byte_for_byte_ec2s", good),
    Trial::new("errors_are_byte_for_byte_ec2s", errors),
    Trial::new("head_has_the_same_headers_and_no_body", head),
    Trial::new("facts_and_lists_are_what_the_node_has", facts),
];

const TTL: &str = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds";
/// The headers of every response.
const ALL: [&str; 5] = ["Connection", "Content-Length", "Content-Type", "Date", "Server"];

fn good() -> Result<()> {
    let rig = ready(&[])?;
    let pod = web(&rig)?;
    let app = pod.agent("app")?;
    for client in [app.v4(), app.v6()] {
        let put = client.put_token(21_600)?;
        headers(&put, &[TTL], "text/plain")?;
        ensure!(put.header(TTL) == Some("21600") && put.body.len() == 56, "{put:?}");
        let token = put.text();
        ensure!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=".contains(&b)), "{token}");
        for path in ["", "-extended"].map(|twin| format!("/latest/meta-data/iam/security-credentials{twin}/")) {
            let list = get(client, &token, &path)?;
            resource(&list)?;
            ensure!(list.body == WEB.as_bytes(), "{list:?}");
        }
        let answer = get(client, &token, &path_of(WEB))?;
        resource(&answer)?;
        document(&answer, None)?;
        let answer = get(client, &token, &path_of(WEB).replace("credentials/", "credentials-extended/"))?;
        resource(&answer)?;
        document(&answer, Some(ACCOUNT))?;
        info(&get(client, &token, "/latest/meta-data/iam/info")?)?;
    }
    // The remaining TTL of the token, not its original TTL.
    let short = app.v4().put_token(100)?.text();
    let left = get(app.v4(), &short, "/latest/meta-data/")?.header(TTL).and_then(|left| left.parse::<u32>().ok());
    ensure!(left.is_some_and(|left| (90..=100).contains(&left)), "{left:?}");
    Ok(())
}

/// A successful response to a GET with a token.
fn resource(answer: &Response) -> Result<()> {
    ensure!(answer.status == 200, "{answer:?}");
    headers(answer, &[TTL, "Accept-Ranges", "Last-Modified"], "text/plain")?;
    ensure!(answer.header("Accept-Ranges") == Some("none"), "{answer:?}");
    ensure!(answer.header("Last-Modified").is_some_and(is_http_date), "{answer:?}");
    let left = answer.header(TTL).and_then(|left| left.parse::<u32>().ok());
    ensure!(left.is_some_and(|left| (21_500..=21_600).contains(&left)), "{answer:?}");
    Ok(())
}

/// Checks that the response has exactly the headers of every response plus `more`, spelled as given, each once.
fn headers(answer: &Response, more: &[&str], content_type: &str) -> Result<()> {
    let mut names: Vec<&str> = answer.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    let mut wanted: Vec<&str> = ALL.into_iter().chain(more.iter().copied()).collect();
    wanted.sort_unstable();
    ensure!(names == wanted, "expected {wanted:?}, got {names:?}: {answer:?}");
    let values: BTreeMap<&str, &str> =
        answer.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    ensure!(values["Connection"] == "close" && values["Server"] == "EC2ws", "{answer:?}");
    ensure!(values["Content-Type"] == content_type && is_http_date(values["Date"]), "{answer:?}");
    ensure!(values["Content-Length"] == answer.body.len().to_string(), "{answer:?}");
    // On the wire: no folded lines, one blank after each colon.
    let raw = String::from_utf8_lossy(&answer.raw);
    for (name, value) in &answer.headers {
        ensure!(raw.contains(&format!("\r\n{name}: {value}\r\n")), "{name}: {answer:?}");
    }
    Ok(())
}

/// `Wed, 30 Jul 2025 23:22:04 GMT`
fn is_http_date(text: &str) -> bool {
    shaped(text, "Aaa, 00 Aaa 0000 00:00:00 GMT")
}

/// `2026-11-20T11:08:02Z`
fn is_date(text: &str) -> bool {
    shaped(text, "0000-00-00T00:00:00Z")
}

/// Whether `text` matches `shape`, in which `0` stands for a digit, `a` and (in `Aaa`) `A` for letters, and other
/// characters for themselves.
fn shaped(text: &str, shape: &str) -> bool {
    let (literal, fits) = (shape.replace("Aaa", "aaa"), |(c, s): (char, char)| match s {
        '0' => c.is_ascii_digit(),
        'a' => c.is_ascii_alphabetic(),
        literal => c == literal,
    });
    text.len() == literal.len() && text.chars().zip(literal.chars()).all(fits)
}

/// Two blanks, blanks around colons, one key per line in EC2's order, no newline at the end.
fn document(answer: &Response, account: Option<&str>) -> Result<()> {
    let body = answer.json()?;
    let text = |key: &str| body[key].as_str().map(str::to_owned).with_context(|| format!("no {key}: {answer:?}"));
    let (updated, expiration) = (text("LastUpdated")?, text("Expiration")?);
    ensure!(is_date(&updated) && is_date(&expiration) && updated < expiration, "{answer:?}");
    let account = account.map(|account| format!(",\n  \"AccountId\" : \"{account}\"")).unwrap_or_default();
    let wanted = format!(
        "{{\n  \"Code\" : \"Success\",\n  \"LastUpdated\" : \"{updated}\",\n  \"Type\" : \"AWS-HMAC\",\n  \"AccessKeyId\" : \"{}\",\n  \
         \"SecretAccessKey\" : \"{}\",\n  \"Token\" : \"{}\",\n  \"Expiration\" : \"{expiration}\"{account}\n}}",
        text("AccessKeyId")?,
        text("SecretAccessKey")?,
        text("Token")?,
    );
    ensure!(answer.text() == wanted, "expected:\n{wanted}\ngot:\n{}", answer.text());
    Ok(())
}

fn info(answer: &Response) -> Result<()> {
    resource(answer)?;
    let body = answer.json()?;
    ensure!(body["Code"] == "Success" && body["LastUpdated"].as_str().is_some_and(is_date), "{answer:?}");
    let arn = body["InstanceProfileArn"].as_str().unwrap_or_default();
    ensure!(arn == format!("arn:aws:iam::{ACCOUNT}:instance-profile/{WEB}"), "{arn}");
    let id = body["InstanceProfileId"].as_str().unwrap_or_default();
    ensure!(id.starts_with("AIPA") && id.len() == 21, "{id}");
    let text = answer.text();
    let keys: Vec<&str> = text.lines().filter_map(|line| line.split('"').nth(1)).collect();
    ensure!(keys == ["Code", "LastUpdated", "InstanceProfileArn", "InstanceProfileId"], "{answer:?}");
    ensure!(!text.ends_with('\n'), "{answer:?}");
    Ok(())
}

fn errors() -> Result<()> {
    let rig = ready(&[])?;
    let (pod, plain) = (web(&rig)?, rig.pod(podrole_lab::pod::PodSpec::new(TEAM, "plain"))?);
    let app = pod.agent("app")?;
    let client = app.v4();
    let token = client.token()?;
    let with = [(TOKEN, token.as_str())];
    let ttl = ("X-aws-ec2-metadata-token-ttl-seconds", "60");
    let cases: Vec<(Response, u16)> = vec![
        (client.get(&path_of(WEB), &[])?, 401),
        (client.get("/latest/meta-data/", &[])?, 401),
        (client.get("/latest/meta-data/", &[(TOKEN, "x")])?, 401),
        (client.request("PUT", "/latest/api/token", &[ttl, ("X-Forwarded-For", "10.0.0.9")])?, 403),
        (client.request("PUT", "/latest/api/token/", &[ttl])?, 403),
        (client.request("PUT", "/2021-03-23/api/token", &[ttl])?, 403),
        (client.request("PUT", &path_of(WEB), &[ttl])?, 403),
        (client.raw(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")?, 403),
    ];
    for (answer, status) in cases {
        ensure!(answer.status == status && answer.body.is_empty(), "{status}: {answer:?}");
        headers(&answer, &[], "text/plain")?;
    }
    let missing = [
        get(client, &token, "/latest/meta-data/nothing")?,
        get(client, &token, "/latest/user-data")?,
        get(client, &token, &path_of("other-role"))?,
        plain.agent("app")?.v4().get("/latest/meta-data/iam/", &[(TOKEN, &plain.agent("app")?.v4().token()?)])?,
    ];
    for answer in missing {
        page(&answer, 404, "404 - Not Found")?;
    }
    for lifetime in ["0", "21601", "abc"] {
        page(&client.request("PUT", "/latest/api/token", &[(ttl.0, lifetime)])?, 400, "400 - Bad Request")?;
    }
    page(&client.request("PUT", "/latest/api/token", &[])?, 400, "400 - Bad Request")?;
    for (method, path, allow) in [
        ("GET", "/latest/api/token", "PUT"),
        ("POST", "/latest/api/token", "PUT"),
        ("HEAD", "/latest/api/token", "PUT"),
        ("POST", "/latest/meta-data/", "GET, HEAD"),
        ("DELETE", "/", "GET, HEAD"),
        ("OPTIONS", "/", "GET, HEAD"),
    ] {
        let answer = expect(client.request(method, path, &with), 405, &format!("{method} {path}"))?;
        headers(&answer, &["Allow"], "text/plain")?;
        ensure!(answer.header("Allow") == Some(allow) && answer.body.is_empty(), "{answer:?}");
    }
    Ok(())
}

/// An error response with an HTML page, which people may read and clients do not.
fn page(answer: &Response, status: u16, title: &str) -> Result<()> {
    ensure!(answer.status == status && answer.text().contains(title), "{status}: {answer:?}");
    headers(answer, &[], "text/html")
}

fn head() -> Result<()> {
    let rig = ready(&[])?;
    let pod = web(&rig)?;
    let app = pod.agent("app")?;
    let token = app.v4().token()?;
    let paths = ["/", "/latest/meta-data/iam/security-credentials/", "/latest/meta-data/iam/info", "/latest/user-data"];
    for path in paths.map(str::to_owned).into_iter().chain([path_of(WEB), path_of("other-role")]) {
        let with = [(TOKEN, token.as_str())];
        let (get, head) = (app.get(&path, &with)?, app.v4().request("HEAD", &path, &with)?);
        ensure!(head.status == get.status && head.body.is_empty(), "{path}: {head:?}");
        let steady = |answer: &Response| -> Vec<(String, String)> {
            let changing = ["Date", "Last-Modified", TTL];
            answer.headers.iter().filter(|(name, _)| !changing.contains(&name.as_str())).cloned().collect()
        };
        ensure!(steady(&head) == steady(&get), "{path}: {get:?}\n{head:?}");
        ensure!(head.headers.len() == get.headers.len(), "{path}: {get:?}\n{head:?}");
    }
    Ok(())
}

fn facts() -> Result<()> {
    let rig = ready(&[])?;
    let pod = web(&rig)?;
    let app = pod.agent("app")?;
    let token = app.v4().token()?;
    let real = rig.imds.facts();
    let body = |client: Client<'_>, path: &str| -> Result<String> {
        let answer = expect(get(client, &token, path), 200, path)?;
        resource(&answer)?;
        ensure!(!answer.text().ends_with('\n'), "{answer:?}");
        Ok(answer.text())
    };
    for (path, fact) in [
        ("placement/region", &real.region),
        ("placement/availability-zone", &real.zone),
        ("placement/availability-zone-id", &real.zone_id),
        ("instance-type", &real.instance_type),
        ("services/domain", &real.domain),
        ("services/partition", &real.partition),
    ] {
        for slash in ["", "/"] {
            let told = body(app.v4(), &format!("/latest/meta-data/{path}{slash}"))?;
            ensure!(told == *fact, "{path}{slash}: {told}");
        }
    }
    let document = body(app.v4(), "/latest/dynamic/instance-identity/document")?;
    let document: BTreeMap<String, String> = serde_json::from_str(&document)?;
    let wanted = [
        ("accountId", real.account),
        ("availabilityZone", real.zone),
        ("instanceType", real.instance_type),
        ("region", real.region),
    ];
    ensure!(document == wanted.map(|(key, value)| (key.to_owned(), value)).into(), "{document:?}");
    let iam = body(app.v4(), "/latest/meta-data/iam/")?;
    ensure!(iam == "info\nsecurity-credentials/", "{iam}");
    // Every page that the listings contain exists.
    let mut queue = vec!["/latest/".to_owned()];
    let mut seen = 0;
    while let Some(path) = queue.pop() {
        let listed = body(app.v4(), &path)?;
        seen += 1;
        ensure!(seen < 100, "the tree is endless");
        if path.ends_with('/') && !path.ends_with("security-credentials/") {
            queue.extend(listed.lines().map(|name| {
                let slash = if ["dynamic", "meta-data"].contains(&name) { "/" } else { "" };
                format!("{path}{name}{slash}")
            }));
        }
    }
    ensure!(seen >= 15, "only {seen} pages");
    Ok(())
}
