//! The corpus against the daemon, every canonical spelling as a control, and the same check on a careless server.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use podrole_lab::agent::{Client, End, Failure, Received, Target};
use podrole_lab::node::NODE_V4;
use podrole_lab::rig::Rig;
use podrole_lab::secrets;
use podrole_lab::world::Trial;

use crate::corpus::{self, Case, Expect, Fill, Group};
use crate::sloppy;
use crate::support::{ACCOUNT, WEB, fill, get, path_of, ready, web};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("hostile_spellings_get_no_credentials_over_ipv4", over_v4),
    Trial::new("hostile_spellings_get_no_credentials_over_ipv6", over_v6),
    Trial::new("canonical_spellings_are_served", canonical),
    Trial::new("control_a_careless_server_fails_the_same_check", careless),
];

/// The minimum number of rejected spellings. The tables may grow but not shrink.
const AT_LEAST: usize = 150;
/// The careless server's port on the node.
const SLOPPY: u16 = 8099;
/// The groups. The careless server must fail in each one, otherwise that group's check could never fail.
const GROUPS: [Group; 8] =
    [Group::Path, Group::Forbidden, Group::Line, Group::Framing, Group::Host, Group::Relayed, Group::Token, Group::Put];

fn over_v4() -> Result<()> {
    daemon_withstands(Target::v4())
}

fn over_v6() -> Result<()> {
    daemon_withstands(Target::v6())
}

fn daemon_withstands(target: Target) -> Result<()> {
    let rig = ready(&[])?;
    let (pod, other) = (web(&rig)?, rig.pod_with_role("team", "other", "other-role")?);
    let app = pod.agent("app")?;
    let fill = fill(&pod, &app, &other)?;
    let own = app.v4().credentials()?;
    let own = Own { key: own.access_key_id, body: own.response.text() };
    let cases = corpus::all();
    ensure!(cases.iter().filter(|case| case.expect == Expect::Failure).count() >= AT_LEAST);
    let mut wrong = Vec::new();
    for case in &cases {
        let bytes = fill.render(&case.bytes);
        let received = exchange(app.to(target), &bytes).with_context(|| shown(&bytes))?;
        wrong.extend(judge(case, &bytes, &received, &own).err().map(|error| format!("{error:#}")));
    }
    ensure!(wrong.is_empty(), "{} of {} were answered wrongly:\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
    // The daemon still works.
    ensure!(app.to(target).credentials()?.role == WEB);
    aftermath(&rig)
}

/// The response. A connection that is cut while the client still sends counts as a response.
fn exchange(client: Client<'_>, bytes: &[u8]) -> Result<Received, Failure> {
    match client.exchange(bytes) {
        Err(Failure::Reset) => Ok(Received { bytes: Vec::new(), end: End::Reset }),
        other => other,
    }
}

/// STS was asked only for the pods' own roles, and no pod's request reached the node's metadata service.
fn aftermath(rig: &Rig) -> Result<()> {
    for call in rig.sts.assume_calls() {
        ensure!(call.role_arn.as_deref() == Some(&format!("arn:aws:iam::{ACCOUNT}:role/{WEB}")), "{call:?}");
    }
    ensure!(rig.imds.leaked_packets()? == 0 && rig.imds.from_pods().is_empty(), "{:?}", rig.imds.from_pods());
    secrets::none_got_out(rig, &[])
}

/// The response to the canonical spelling.
struct Own {
    key: String,
    body: String,
}

/// Checks a response against the permitted one.
fn judge(case: &Case, sent: &[u8], received: &Received, own: &Own) -> Result<()> {
    let said = String::from_utf8_lossy(&received.bytes).into_owned();
    let show = || format!("{:?}: {} got {said:?}", case.group, shown(sent));
    // One connection serves one request, whatever arrives on it.
    ensure!(said.matches("HTTP/1.").count() <= 1, "more than one answer: {}", show());
    ensure!(received.end != End::TimedOut, "left open: {}", show());
    let keys: Vec<&str> = said.match_indices("ASIA").map(|(at, _)| said.get(at..at + 20).unwrap_or_default()).collect();
    ensure!(keys.iter().all(|key| *key == own.key), "another caller's credentials: {}", show());
    let good = status(&said) == Some(200);
    match case.expect {
        Expect::Own(reason) => {
            let whole = said.split_once("\r\n\r\n").is_some_and(|(_, body)| body == own.body);
            ensure!(good && whole, "accepted ({reason}), so the response must be complete: {}", show());
        }
        Expect::Failure => {
            ensure!(!said.contains("AccessKeyId") && keys.is_empty(), "credentials: {}", show());
            ensure!(!good, "a success: {}", show());
            // A body without a status line would be an HTTP/0.9 response.
            ensure!(said.is_empty() || status(&said).is_some_and(|status| (400..600).contains(&status)), "{}", show());
        }
    }
    Ok(())
}

fn status(said: &str) -> Option<u16> {
    let rest = said.strip_prefix("HTTP/1.")?;
    rest.get(2..5)?.parse().ok()
}

/// A request as shown in the report of a failed test.
fn shown(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    if text.len() <= 600 { text } else { format!("{}... ({} bytes)", &text[..600], bytes.len()) }
}

fn canonical() -> Result<()> {
    let rig = ready(&[])?;
    let pod = web(&rig)?;
    let app = pod.agent("app")?;
    for (client, host) in [(app.v4(), "169.254.169.254"), (app.v6(), "[fd00:ec2::254]")] {
        served(client, host).with_context(|| host.to_owned())?;
    }
    Ok(())
}

fn served(client: Client<'_>, host: &str) -> Result<()> {
    let token = client.token()?;
    for seconds in [1, 2, 60, 21_599, 21_600] {
        let answer = client.put_token(seconds)?;
        ensure!(answer.status == 200 && answer.body.len() == 56, "{seconds}: {answer:?}");
    }
    let versions = get(client, &token, "/")?.text();
    let versions: Vec<&str> = versions.lines().collect();
    ensure!(versions.len() == 26 && versions.last() == Some(&"latest"), "{versions:?}");
    for version in versions {
        let base = format!("/{version}/meta-data/iam");
        for list in [
            "security-credentials",
            "security-credentials/",
            "security-credentials-extended",
            "security-credentials-extended/",
        ] {
            let answer = get(client, &token, &format!("{base}/{list}"))?;
            ensure!(answer.status == 200 && answer.text() == WEB, "{version} {list}: {answer:?}");
        }
        for path in ["security-credentials/web-role", "security-credentials/web-role/"] {
            let answer = get(client, &token, &format!("{base}/{path}"))?;
            ensure!(answer.status == 200 && answer.json()?["Code"] == "Success", "{version} {path}: {answer:?}");
            ensure!(answer.json()?.get("AccountId").is_none(), "{answer:?}");
        }
        for path in ["security-credentials-extended/web-role", "security-credentials-extended/web-role/"] {
            let answer = get(client, &token, &format!("{base}/{path}"))?;
            ensure!(answer.status == 200 && answer.json()?["AccountId"] == ACCOUNT, "{version} {path}: {answer:?}");
        }
        for path in ["", "/", "/info"] {
            let answer = get(client, &token, &format!("{base}{path}"))?;
            ensure!(answer.status == 200, "{version} {path}: {answer:?}");
        }
    }
    // Old clients: no host, or another notation of the same protocol.
    let path = path_of(WEB);
    let raw = |text: String| client.raw(text.as_bytes());
    for text in [
        format!("GET {path} HTTP/1.0\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n"),
        format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nx-aws-ec2-metadata-token: {token}\r\n\r\n"),
        format!("GET {path} HTTP/1.1\r\nhost: {host}:80\r\nX-AWS-EC2-METADATA-TOKEN: {token}\r\n\r\n"),
        format!(
            "GET {path} HTTP/1.1\r\nHOST:{host}\r\nx-aws-ec2-metadata-token:{token}\r\nAccept: */*\r\nUser-Agent: x\r\n\r\n"
        ),
    ] {
        let answer = raw(text.clone())?;
        ensure!(answer.status == 200 && answer.json()?["Code"] == "Success", "{text}: {answer:?}");
    }
    Ok(())
}

/// Tests the check itself: the same requests and the same check, against a careless server.
fn careless() -> Result<()> {
    let rig = crate::support::rig()?;
    let pod = web(&rig)?;
    let address = SocketAddr::from((NODE_V4, SLOPPY));
    let _server = sloppy::start(address)?;
    let app = pod.agent("app")?;
    let target = Target::new(address);
    let fill = Fill {
        role: WEB.to_owned(),
        token: "t".repeat(56),
        foreign: "f".repeat(56),
        sibling: "s".repeat(56),
        expired: "e".repeat(56),
    };
    let own = Own { key: "ASIANOTTHISONE000000".to_owned(), body: String::new() };
    let (mut caught, mut all) = (BTreeMap::<Group, usize>::new(), BTreeMap::<Group, usize>::new());
    for case in corpus::all().iter().filter(|case| case.expect == Expect::Failure) {
        let bytes = fill.render(&case.bytes);
        // The careless server may fail on some requests.
        let Ok(received) = exchange(app.to(target), &bytes) else { continue };
        *all.entry(case.group).or_default() += 1;
        if judge(case, &bytes, &received, &own).is_err() {
            *caught.entry(case.group).or_default() += 1;
        }
    }
    println!("caught {caught:?} of {all:?}");
    for group in GROUPS {
        ensure!(caught.contains_key(&group), "the check finds no wrong answer of a careless server in {group:?}");
    }
    let (caught, all): (usize, usize) = (caught.values().sum(), all.values().sum());
    if caught * 2 < all {
        bail!("the check finds only {caught} of {all} wrong answers of a careless server");
    }
    Ok(())
}
