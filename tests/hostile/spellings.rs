//! The corpus against the daemon, every canonical spelling as a control, and the same check on a server that is careless.

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

/// So many different ways to be refused. The table may grow, not shrink.
const AT_LEAST: usize = 150;
/// The careless server's port on the node.
const SLOPPY: u16 = 8099;
/// A group of which a careless server lets nothing through would be a check that cannot fail.
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
    ensure!(cases.iter().filter(|case| case.expect == Expect::Refused).count() >= AT_LEAST);
    let mut wrong = Vec::new();
    for case in &cases {
        let bytes = fill.render(&case.bytes);
        let received = exchange(app.to(target), &bytes).with_context(|| shown(&bytes))?;
        wrong.extend(judge(case, &bytes, &received, &own).err().map(|error| format!("{error:#}")));
    }
    ensure!(wrong.is_empty(), "{} of {} were answered wrongly:\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
    // And it is none the worse for it.
    ensure!(app.to(target).credentials()?.role == WEB);
    aftermath(&rig)
}

/// What came back; a connection that is cut while we still send is an answer too.
fn exchange(client: Client<'_>, bytes: &[u8]) -> Result<Received, Failure> {
    match client.exchange(bytes) {
        Err(Failure::Reset) => Ok(Received { bytes: Vec::new(), end: End::Reset }),
        other => other,
    }
}

/// Nothing but the pods' own roles was asked of STS, and nothing of any pod's reached the node's metadata service.
fn aftermath(rig: &Rig) -> Result<()> {
    for call in rig.sts.assume_calls() {
        ensure!(call.role_arn.as_deref() == Some(&format!("arn:aws:iam::{ACCOUNT}:role/{WEB}")), "{call:?}");
    }
    ensure!(rig.imds.leaked_packets()? == 0 && rig.imds.from_pods().is_empty(), "{:?}", rig.imds.from_pods());
    secrets::none_got_out(rig, &[])
}

/// What the caller gets by the canonical spelling.
struct Own {
    key: String,
    body: String,
}

/// May this have come back?
fn judge(case: &Case, sent: &[u8], received: &Received, own: &Own) -> Result<()> {
    let said = String::from_utf8_lossy(&received.bytes).into_owned();
    let show = || format!("{:?}: {} got {said:?}", case.group, shown(sent));
    // One connection, one request, whatever came on it.
    ensure!(said.matches("HTTP/1.").count() <= 1, "more than one answer: {}", show());
    ensure!(received.end != End::TimedOut, "left open: {}", show());
    let keys: Vec<&str> = said.match_indices("ASIA").map(|(at, _)| said.get(at..at + 20).unwrap_or_default()).collect();
    ensure!(keys.iter().all(|key| *key == own.key), "somebody else's credentials: {}", show());
    let good = status(&said) == Some(200);
    match case.expect {
        Expect::Own(reason) => {
            let whole = said.split_once("\r\n\r\n").is_some_and(|(_, body)| body == own.body);
            ensure!(good && whole, "this is accepted ({reason}), and must be answered in full: {}", show());
        }
        Expect::Refused => {
            ensure!(!said.contains("AccessKeyId") && keys.is_empty(), "credentials: {}", show());
            ensure!(!good, "a success: {}", show());
            // A body without a status line is HTTP/0.9's answer.
            ensure!(said.is_empty() || status(&said).is_some_and(|status| (400..600).contains(&status)), "{}", show());
        }
    }
    Ok(())
}

fn status(said: &str) -> Option<u16> {
    let rest = said.strip_prefix("HTTP/1.")?;
    rest.get(2..5)?.parse().ok()
}

/// A request as a failed test shows it.
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
    // Old clients: no host, and another word for the same protocol.
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

/// The check itself: the same requests, the same judgement, and a server that does what careless ones do.
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
    for case in corpus::all().iter().filter(|case| case.expect == Expect::Refused) {
        let bytes = fill.render(&case.bytes);
        // It may well choke on some.
        let Ok(received) = exchange(app.to(target), &bytes) else { continue };
        *all.entry(case.group).or_default() += 1;
        if judge(case, &bytes, &received, &own).is_err() {
            *caught.entry(case.group).or_default() += 1;
        }
    }
    println!("caught {caught:?} of {all:?}");
    for group in GROUPS {
        ensure!(caught.contains_key(&group), "the check finds nothing wrong with a careless server's {group:?}");
    }
    let (caught, all): (usize, usize) = (caught.values().sum(), all.values().sum());
    if caught * 2 < all {
        bail!("the check finds only {caught} of {all} wrong answers of a careless server");
    }
    Ok(())
}
