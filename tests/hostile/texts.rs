//! Texts that a pod's owner controls and that try to break out: newlines, terminal escapes, a megabyte.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use podrole_lab::effort::ODD_TEXTS;
use podrole_lab::pod::{Pod, PodSpec};
use podrole_lab::proc;
use podrole_lab::rig::{ALLOWED_ROLES, ROLE, Rig};
use podrole_lab::world::Trial;
use serde_json::{Value, json};

use crate::support::{TEAM, TOKEN, WEB, audit_lines, path_of, rig, web};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("odd_annotations_are_one_escaped_line_each", as_text),
    Trial::new("odd_annotations_are_one_escaped_line_each_in_json", as_json),
    Trial::new("control_raw_texts_are_noticed", raw),
];

/// The maximum length of a line, whatever the pod's owner writes.
const LONGEST: usize = 4096;
/// How long the watch may take to deliver all pods.
const KNOWN: Duration = Duration::from_secs(20);

fn as_text() -> Result<()> {
    escaped("text")
}

fn as_json() -> Result<()> {
    escaped("json")
}

/// Tests the check itself, on a log that prints texts unchanged.
fn raw() -> Result<()> {
    clean("good", "2026-11-20T18:00:00Z  INFO fine\n", |line| line.starts_with("20"))?;
    // These are harmless unchanged.
    let harmless = ["quote", "format"];
    for (name, text) in texts().into_iter().filter(|(name, _)| !harmless.contains(name)) {
        let line = format!("2026-11-20T18:00:00Z  WARN role={text}\n");
        ensure!(clean("control", &line, |line| line.starts_with("20")).is_err(), "{name} went unnoticed");
    }
    Ok(())
}

/// Values of annotations.
fn texts() -> Vec<(&'static str, String)> {
    vec![
        ("newline", "web-role\nERROR podrole: everything is lost".into()),
        ("crlf", "web-role\r\n{\"action\":\"Deliver\"}".into()),
        ("ansi", "\u{1b}[31mweb-role\u{1b}[0m\u{1b}]0;title\u{7}".into()),
        ("c1", "web-role\u{9b}31m\u{85}next".into()),
        ("nul", "web\0role".into()),
        ("bidi", "web-\u{202e}elor\u{2066}".into()),
        ("separator", "web\u{2028}role\u{2029}".into()),
        ("quote", "web\"role\\".into()),
        ("format", "{} %s ${jndi:ldap://x} <b>".into()),
        ("megabyte", "x".repeat(1 << 20)),
        ("megabyte-of-newlines", "\n".repeat(1 << 20)),
        ("megabyte-of-escapes", "\u{1b}[2J".repeat(1 << 18)),
    ]
}

fn escaped(format: &str) -> Result<()> {
    let mut rig = rig()?;
    rig.start(&["--log", "trace", "--log-format", format])?;
    let bystander = web(&rig)?;
    let mut denied = Vec::new();
    let cases = texts().into_iter().flat_map(|(name, text)| PLACES.map(|place| (place, name, text.clone())));
    for (place, name, text) in ODD_TEXTS.shard(cases.collect(), |(place, name, _)| vec![*place, *name]) {
        denied.push(pod(&rig, place, name, &text)?);
    }
    for pod in &denied {
        let app = pod.agent("app")?;
        let token = app.v4().token()?;
        let ask = || app.get(&path_of(""), &[(TOKEN, &token)]);
        // The watch may still be reading megabytes.
        proc::until("the pod to be known", KNOWN, || Ok((ask()?.status != 503).then_some(())))?;
        for _ in 0..3 {
            let answer = ask()?;
            ensure!(answer.status == 404, "{}: {answer:?}", pod.name());
        }
    }
    // Other pods are not affected.
    ensure!(bystander.agent("app")?.credentials()?.role == WEB);
    let lines = audit_lines(&rig, "Deny", |lines| lines.len() >= denied.len())?;
    for pod in &denied {
        let of: Vec<&Value> = lines.iter().filter(|line| line["pod"]["uid"] == pod.uid()).collect();
        ensure!(of.len() == 1, "{}: {of:?}", pod.name());
        ensure!(of[0]["pod"]["name"] == pod.name() && of[0]["why"].is_string(), "{}", of[0]);
    }
    ensure!(rig.sts.assume_calls().len() == 1, "{:?}", rig.sts.assume_calls());
    let daemon = rig.daemon()?;
    let events = rig.kube.list("Event");
    ensure!(!events.is_empty(), "no Event was written");
    for event in &events {
        let note = event["note"].as_str().context("an Event has a note")?;
        ensure!(note.lines().count() == 1 && note.len() <= 1024, "{}", note.escape_debug());
        clean("event", note, |_| true)?;
    }
    clean("audit", &daemon.audit_text()?, |line| line.starts_with("{\""))?;
    let begins: fn(&str) -> bool =
        if format == "json" { |line| line.starts_with("{\"") } else { |line| line.starts_with("20") };
    clean("log", &daemon.logs(), begins)?;
    clean("metrics", &daemon.metrics()?, |line| {
        line.starts_with("# ") || line.starts_with("podrole_") || line.starts_with("process_")
    })
}

/// The annotations that contain text: the pod's own, or a list of its namespace.
const PLACES: [&str; 6] = ["role", "external", "session", "container", "list", "regex"];

/// A pod with this text in one annotation of its own or of its namespace.
fn pod(rig: &Rig, place: &str, name: &str, text: &str) -> Result<Pod> {
    let name = format!("{name}-{place}");
    let web = |namespace: &str| PodSpec::new(namespace, &name).annotation(ROLE, WEB);
    let listed = |key: &str, value: &str| -> Result<PodSpec> {
        rig.kube.namespace(&name, &[(key, value)])?;
        Ok(web(&name))
    };
    let spec = match place {
        "role" => PodSpec::new(TEAM, &name).annotation(ROLE, text),
        "external" => web(TEAM).annotation("iam.amazonaws.com/external-id", text),
        "session" => web(TEAM).annotation("iam.amazonaws.com/session-name", text),
        "container" => web(TEAM).annotation("podrole.dev/role.app", text),
        "list" => listed(ALLOWED_ROLES, &json!([text]).to_string())?,
        "regex" => listed("iam.amazonaws.com/permitted", &format!("({text}"))?,
        other => bail!("unknown annotation {other}"),
    };
    rig.pod(spec).context(name)
}

/// Checks that every line begins properly, has a bounded length, and contains no control characters.
fn clean(place: &str, text: &str, begins: impl Fn(&str) -> bool) -> Result<()> {
    ensure!(!text.is_empty(), "{place} is empty");
    for line in text.lines() {
        let short: String = line.chars().take(300).collect();
        ensure!(begins(line), "{place}: {}", short.escape_debug());
        ensure!(line.len() <= LONGEST, "{place}: {} bytes: {}", line.len(), short.escape_debug());
        let odd = line.chars().find(|c| {
            c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        });
        ensure!(odd.is_none(), "{place}: {odd:?} in {}", line.escape_debug());
    }
    Ok(())
}
