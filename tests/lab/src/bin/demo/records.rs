//! Part 5: the records that podrole leaves for operators: audit lines and metrics.

use anyhow::{Context as _, Result};
use podrole_lab::node::Node;
use serde_json::Value;

use crate::cast::{CHECKOUT, ROGUE, Stage, WEB, is_about};

/// The metrics shown, with labels as podrole writes them.
const METRICS: [&str; 6] = [
    "podrole_http_requests_total{outcome=\"ok\",route=\"credentials\"}",
    "podrole_http_requests_total{outcome=\"wrong_role\",route=\"credentials\"}",
    "podrole_denials_total{reason=\"NamespaceNotPermitted\"}",
    "podrole_denials_total{reason=\"NoRole\"}",
    "podrole_credential_cache_lookups_total{result=\"hit\"}",
    "podrole_sts_requests_total{code=\"Success\"}",
];

pub(crate) fn play(stage: &mut Stage) -> Result<()> {
    audit(stage)?;
    metrics(stage)?;
    no_secrets(stage)
}

fn audit(stage: &mut Stage) -> Result<()> {
    stage.screen.heading("AUDIT", "JSON lines on podrole's standard output; the main fields of four of them");
    let delivered = stage.audit_line("Deliver", |line| is_about(line, WEB))?;
    let key = delivered["access_key_id"].as_str().context("delivery has no access key")?.to_owned();
    let assumed = stage.audit_line("AssumeRole", |line| line["access_key_id"] == key.as_str())?;
    let mailer =
        stage.audit_line("Deliver", |line| is_about(line, CHECKOUT) && line["pod"]["container"]["name"] == "mailer")?;
    let denied = stage.audit_line("Deny", |line| is_about(line, ROGUE))?;

    stage.checks.same(
        "role that STS issued the key of shop/web for",
        stage.rig.role_of_key(&key).as_deref(),
        Some("web"),
    );
    let joined = assumed["session_name"] == delivered["session_name"];
    stage.checks.that(joined, || {
        format!("audit lines of the STS call and the delivery have different sessions: {assumed} {delivered}")
    });
    let mailer_key = mailer["access_key_id"].as_str().unwrap_or_default();
    stage.checks.same(
        "role that STS issued the key of container mailer for",
        stage.rig.role_of_key(mailer_key).as_deref(),
        Some("mailer"),
    );
    for line in [&assumed, &delivered, &mailer, &denied] {
        stage.screen.line(&short(line));
    }
    Ok(())
}

/// The main fields of an audit line, on one line of the screen.
fn short(line: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let time = text(&line["time"]);
    let time = time.split('T').nth(1).and_then(|time| time.get(..12)).unwrap_or_default();
    let mut out = format!("   {time} {:10}", text(&line["action"]));
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            out.push_str(&format!(" {name}={value}"));
        }
    };
    add("key", shortened(&text(&line["access_key_id"])));
    add("role", text(&line["role"]).rsplit('/').next().unwrap_or_default().to_owned());
    let pod = &line["pod"];
    if pod.is_object() {
        add("pod", format!("{}/{}", text(&pod["namespace"]), text(&pod["name"])));
        add("container", text(&pod["container"]["name"]));
        add("reason", text(&line["reason"]));
    } else {
        add("session", text(&line["session_name"]));
        add("latency_ms", line["latency_ms"].to_string());
    }
    out
}

/// The first and last four characters of an access key id.
fn shortened(key: &str) -> String {
    match (key.get(..4), key.len().checked_sub(4).and_then(|from| key.get(from..))) {
        (Some(start), Some(end)) if key.len() > 8 => format!("{start}..{end}"),
        _ => key.to_owned(),
    }
}

fn metrics(stage: &mut Stage) -> Result<()> {
    let daemon = stage.rig.daemon()?;
    let text = daemon.metrics()?;
    let proofs = daemon.metric("podrole_identity_proof_seconds_count", &[])?;
    let seconds = daemon.metric("podrole_identity_proof_seconds_sum", &[])?;
    stage.screen.heading("METRICS", "a selection from http://127.0.0.1:9441/metrics on the node, in Prometheus format");
    for name in METRICS {
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        let value = line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse::<f64>().ok());
        stage.checks.that(value.is_some_and(|value| value > 0.0), || format!("metric {name} is {value:?}"));
        stage.screen.line(&format!("   {}", line.unwrap_or(name)));
    }
    stage.checks.that(proofs > 0.0, || "podrole identified no caller".to_owned());
    stage.screen.line(&stage.screen.dim(&format!(
        "   identifying a caller through the kernel took {:.1} microseconds on average, over {proofs} connections",
        seconds / proofs.max(1.0) * 1e6
    )));
    let counted = stage.rig.daemon()?.metric("podrole_sts_requests_total", &[("code", "Success")])?;
    // The pods' SDKs call STS too; count only calls from the node's address.
    let calls = stage.rig.sts.calls();
    let received = calls.iter().filter(|call| Node::is_own(call.peer.ip()) && call.error().is_none()).count();
    stage.checks.same("successful STS calls, counted by podrole and by STS", counted, received as f64);
    Ok(())
}

/// Neither issued credentials nor the node's credentials may appear in audit lines, logs or metrics.
fn no_secrets(stage: &mut Stage) -> Result<()> {
    let daemon = stage.rig.daemon()?;
    let lines: Vec<String> = daemon.audit()?.iter().map(Value::to_string).collect();
    let node = stage.rig.imds.credentials();
    for (what, text) in [("audit", lines.join("\n")), ("log", daemon.logs()), ("metrics", daemon.metrics()?)] {
        let issued = stage.rig.sts.issued();
        let found =
            issued.iter().any(|keys| text.contains(&keys.secret_access_key) || text.contains(&keys.session_token));
        let found = found || text.contains(&node.secret_access_key) || text.contains(&node.token);
        stage.checks.that(!found, || format!("podrole's {what} contains a secret"));
    }
    Ok(())
}
