//! Plants secrets in every source from which the daemon gets some, and searches all its output for them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::Response;
use podrole_lab::http::{Body, Reply, Server};
use podrole_lab::imds::NodeCredentials;
use podrole_lab::pod::Pod;
use podrole_lab::rig::Rig;
use podrole_lab::secrets::{self, Form, Planted};
use podrole_lab::sts::Fault;
use podrole_lab::world::Trial;

use crate::support::{TEAM, TOKEN, WEB, arn, path_of, rig, web};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("planted_secrets_do_not_leak_at_trace_level", as_text),
    Trial::new("planted_secrets_do_not_leak_at_trace_level_in_json", as_json),
    Trial::new("control_a_leaked_secret_is_found", found),
    Trial::new("control_a_secret_leaked_by_another_daemon_is_found", found_in_another),
    Trial::new("control_a_secret_on_the_admin_address_is_found", found_on_the_admin_address),
    Trial::new("control_a_secret_that_a_subcommand_printed_is_found", found_in_a_subcommand),
];

/// Contains characters that occur in secrets and that some encodings escape. STS puts the marker into everything that
/// it issues.
const MARKER: &str = "Planted/by+the=Lab/0123";

fn as_text() -> Result<()> {
    nothing(&["--log", "trace", "--log-format", "text"])
}

fn as_json() -> Result<()> {
    nothing(&["--log", "trace", "--log-format", "json"])
}

fn nothing(flags: &[&str]) -> Result<()> {
    let mut rig = plant()?;
    rig.start(flags)?;
    let pod = web(&rig)?;
    let (mut more, mut said) = (vec![Planted::new("the marker", MARKER)?], Vec::new());
    work(&rig, &pod, &mut more, &mut said)?;
    // The daemon's run, with a first hop and a drained end.
    rig.start(&[flags, &["--assume-role-arn", "arn:aws:iam::111122223333:role/hop"]].concat())?;
    work(&rig, &pod, &mut more, &mut said)?;
    secrets::none_got_out(&rig, &more)?;
    rig.daemon_mut()?.terminate()?;
    secrets::none_got_out(&rig, &more)?;
    let needles = secrets::planted(&rig)?.into_iter().chain(more).collect::<Vec<_>>();
    let sent: String = rig.kube.requests().iter().map(|sent| format!("{} {}\n", sent.path, sent.body)).collect();
    ensure!(sent.contains("Event") && sent.contains("AssumeRoleRefused"), "no Event was written: {sent}");
    for (place, text) in [("the answers", said.concat()), ("what the API server was sent", sent.into_bytes())] {
        let hits = secrets::search(&needles, place, &text);
        ensure!(hits.is_empty(), "{hits:?}");
    }
    ensure!(!rig.daemon()?.logs().is_empty() && !rig.daemon()?.audit()?.is_empty(), "there was nothing to search");
    Ok(())
}

/// A rig whose STS and metadata service issue secrets that contain the marker.
fn plant() -> Result<Rig> {
    let rig = rig()?;
    rig.sts.set_planted_secret(Some(MARKER));
    let NodeCredentials { access_key_id, .. } = rig.imds.credentials();
    let (secret_access_key, token) = (format!("{MARKER}/node/secret"), format!("{MARKER}/node/token"));
    let caller = podrole_lab::sts::Caller::assumed_role("111122223333", "node-role", "i-0a1b2c3d4e5f60718");
    rig.sts.register_base(&access_key_id, &secret_access_key, Some(&token), caller);
    rig.imds.set_credentials(NodeCredentials { access_key_id, secret_access_key, token });
    Ok(rig)
}

/// Makes the daemon do everything that it does with secrets, including every failure. Adds the responses to rejected
/// and denied requests to `said`, and the issued session tokens to `more`.
fn work(rig: &Rig, pod: &Pod, more: &mut Vec<Planted>, said: &mut Vec<Vec<u8>>) -> Result<()> {
    let app = pod.agent("app")?;
    let own = app.credentials()?;
    ensure!(own.secret_access_key.contains(MARKER) && own.token.contains(MARKER), "nothing is planted");
    let token = app.v4().token()?;
    more.push(Planted::new("a session token", &token)?);
    let mut record = |answer: Response| {
        // Some responses rightly contain a secret: a session token, or the caller's own credentials.
        if !(answer.status == 200 && answer.text().contains("Success")) {
            said.push(answer.raw);
        }
    };
    for path in [path_of("other-role"), "/latest/user-data".into(), "/x?".into(), path_of(WEB) + "?x", path_of("")] {
        record(app.get(&path, &[(TOKEN, &token)])?);
    }
    for bad in [token.replace(|c: char| c.is_ascii_digit(), "x"), format!("{token}{token}"), own.token.clone()] {
        record(app.get(&path_of(WEB), &[(TOKEN, &bad)])?);
    }
    // If a caller sends a secret in the wrong place, no response repeats it.
    for secret in [own.secret_access_key.replace('+', "-"), own.secret_access_key.clone()] {
        record(app.get(&path_of(&secret), &[(TOKEN, &token)])?);
        record(app.get("/", &[(TOKEN, &token), ("Host", &secret)])?);
    }
    let raw = format!("GET /\0{} HTTP/1.1\r\nX{}: y\r\n\r\n", own.secret_access_key, own.token);
    record(app.raw(raw.as_bytes())?);
    for fault in [
        Fault::AccessDenied,
        Fault::ExpiredToken,
        Fault::Throttling,
        Fault::Html500,
        Fault::MalformedXml,
        Fault::ConnectionReset,
        Fault::RegionDisabled,
    ] {
        let role = format!("{fault:?}");
        for arn in [arn(&role), arn(&role).replace("role/", "role/path/")] {
            rig.sts.fail_role(&arn, Some(fault));
        }
        let pod = rig.pod_with_role(TEAM, &role.to_lowercase(), &role)?;
        let app = pod.agent("app")?;
        let token = app.v4().token()?;
        record(app.get(&path_of(&role), &[(TOKEN, &token)])?);
        rig.delete(pod)?;
    }
    for path in ["/metrics", "/readyz?verbose", "/livez", "/nothing", "/latest/meta-data/iam/security-credentials/"] {
        said.push(rig.daemon()?.admin(path)?.1.into_bytes());
    }
    Ok(())
}

fn found() -> Result<()> {
    let mut rig = plant()?;
    // Leak the marker through the daemon itself: it is a valid role name and base path.
    let base = format!("arn:aws:iam::111122223333:role/{MARKER}/");
    rig.start(&["--log", "trace", "--base-role-arn", &base])?;
    let pod = rig.pod_with_role(TEAM, "marked", "marked-role")?;
    let answer = pod.agent("app")?.credentials()?.response;
    let planted = [Planted::new("the marker", MARKER)?];
    ensure!(secrets::none_got_out(&rig, &planted).is_err());
    let hits = secrets::search_rig(&rig, &planted)?;
    for place in ["log", "audit"] {
        ensure!(
            hits.iter().any(|hit| hit.place == place && hit.form == Form::Raw),
            "not found in the {place}: {hits:?}"
        );
    }
    // The marker is also found in a response, where it belongs: the key and the token.
    let hits = secrets::search(&planted, "answer", &answer.raw);
    ensure!(hits.len() >= 2, "{hits:?}");
    // The secrets that STS issued are also known without the marker.
    let hits = secrets::search(&secrets::planted(&rig)?, "answer", &answer.raw);
    ensure!(hits.len() >= 2, "{hits:?}");
    Ok(())
}

/// The search also covers the output of earlier daemons and of daemons beside the rig's current one.
fn found_in_another() -> Result<()> {
    let mut rig = plant()?;
    let base = format!("arn:aws:iam::111122223333:role/{MARKER}/");
    let planted = [Planted::new("the marker", MARKER)?];
    rig.start(&["--base-role-arn", &base])?;
    let pod = rig.pod_with_role(TEAM, "marked", "marked-role")?;
    pod.agent("app")?.credentials()?;
    rig.start(&[])?;
    let mut beside = rig.beside("127.0.0.1:9442".parse()?, &["--base-role-arn", &base])?;
    beside.wait_ready(Duration::from_secs(20))?;
    ensure!(secrets::none_got_out(&rig, &planted).is_err());
    let hits = secrets::search_rig(&rig, &planted)?;
    ensure!(hits.iter().any(|hit| hit.place == "podrole-0.log"), "not found in the earlier daemon's log: {hits:?}");
    ensure!(hits.iter().any(|hit| hit.place == "podrole-0.audit"), "not found in the earlier daemon's audit: {hits:?}");
    ensure!(hits.iter().any(|hit| hit.place == "podrole-2.log"), "not found in the other daemon's log: {hits:?}");
    // The current daemon never saw it.
    ensure!(!hits.iter().any(|hit| hit.place == "log" || hit.place == "audit"), "{hits:?}");
    drop(beside);
    Ok(())
}

/// A double of the admin listener that leaks the marker in every response must be caught. If a running daemon's admin
/// listener does not answer, the search must fail.
fn found_on_the_admin_address() -> Result<()> {
    let mut rig = plant()?;
    let planted = [Planted::new("the marker", MARKER)?];
    let admin: SocketAddr = "127.0.0.1:9450".parse()?;
    let teller = Server::start("teller", admin, |_| async {
        Reply::Answer(hyper::Response::new(Body::from(format!("podrole_x{{y=\"{MARKER}\"}} 1\n"))))
    })?;
    rig.start(&[])?;
    ensure!(secrets::search_rig(&rig, &planted)?.is_empty(), "found before it was leaked");
    rig.options_mut().admin = admin;
    rig.start(&[])?;
    let hits = secrets::search_rig(&rig, &planted)?;
    for place in ["/metrics", "/readyz?verbose", "/livez"] {
        ensure!(hits.iter().any(|hit| hit.place == place && hit.form == Form::Raw), "not found in {place}: {hits:?}");
    }
    teller.down(true)?;
    let error =
        secrets::search_rig(&rig, &planted).err().context("the search passed although the daemon did not answer")?;
    ensure!(format!("{error:#}").contains("of a running daemon"), "{error:#}");
    rig.daemon_mut()?.terminate()?;
    ensure!(secrets::search_rig(&rig, &planted)?.is_empty(), "a daemon that has ended has no output");
    Ok(())
}

fn found_in_a_subcommand() -> Result<()> {
    let rig = plant()?;
    let planted = [Planted::new("the marker", MARKER)?];
    let printed = rig.podrole(&["run", "--platform", MARKER])?;
    ensure!(!printed.status.success(), "{printed:?}");
    let hits = secrets::search_rig(&rig, &planted)?;
    ensure!(hits.iter().any(|hit| hit.place == "podrole-0.said" && hit.form == Form::Raw), "{hits:?}");
    Ok(())
}
