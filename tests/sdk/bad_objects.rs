//! An invalid object, by mistake or on purpose, affects only its own pod or namespace, and the audit log contains the reason.

use anyhow::{Context as _, Result, ensure};
use podrole_lab::cluster::Cluster;
use podrole_lab::effort::HUGE_ANNOTATIONS;
use podrole_lab::pod::Pod;
use podrole_lab::proc;
use podrole_lab::rig::{ALLOWED_ROLES, ControlPlane, ROLE, Rig};
use podrole_lab::world::Trial;
use serde_json::json;

use crate::bystander::Bystander;
use crate::support::{
    SOON, TEAM, becomes, becomes_refused, denial, double, figure, no_leak, real_ready, served, spec, with_role,
};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("unreadable_annotations_of_a_pod_hurt_that_pod_only", bad_pods),
    Trial::new("unreadable_lists_of_a_namespace_hurt_that_namespace_only", bad_namespaces),
    Trial::new("annotations_at_the_api_servers_limit_affect_no_other_pod", at_the_limit),
    Trial::new("annotations_of_two_megabytes_affect_no_other_pod", far_above_the_limit),
];

const EXTERNAL_ID: &str = "iam.amazonaws.com/external-id";
const SESSION_NAME: &str = "iam.amazonaws.com/session-name";
const PERMITTED: &str = "iam.amazonaws.com/permitted";
/// The API server's limit on the size of one object's annotations, keys and values: `TotalAnnotationSizeLimitB`.
const LIMIT: usize = 256 * 1024;
/// The memory that the buffers of one large event may leave behind in the allocator.
const GROWTH_KIB: u64 = 6 * 1024;

fn bad_pods() -> Result<()> {
    let rig = real_ready()?;
    let bystander = Bystander::start(&rig)?;
    let long = "x".repeat(4096);
    let cases: [(&[(&str, &str)], &str); 9] = [
        (&[(ROLE, "not a role")], "BadRole"),
        (&[(ROLE, "arn:aws:iam::1:role/")], "BadRole"),
        (&[(ROLE, "r\r\nX-Injected: 1")], "BadRole"),
        (&[(ROLE, &long)], "BadRole"),
        (&[(ROLE, "r"), ("podrole.dev/role.app", "{}")], "BadRole"),
        (&[(ROLE, "r"), (EXTERNAL_ID, "a b")], "BadExternalId"),
        (&[(ROLE, "r"), (EXTERNAL_ID, &long)], "BadExternalId"),
        (&[(ROLE, "r"), (SESSION_NAME, "a/b")], "BadSessionName"),
        (&[(ROLE, "r"), (SESSION_NAME, &long)], "BadSessionName"),
    ];
    bystander.served_while(&rig, || {
        for (number, (annotations, reason)) in cases.iter().enumerate() {
            let spec = spec(TEAM, &format!("bad-{number}"));
            let spec = annotations.iter().fold(spec, |spec, (key, value)| spec.annotation(key, value));
            let pod = rig.pod(spec)?;
            hurt(&rig, &pod, reason).with_context(|| format!("{annotations:.80?}"))?;
        }
        Ok(())
    })?;
    no_leak(&rig)
}

fn bad_namespaces() -> Result<()> {
    let rig = real_ready()?;
    let bystander = Bystander::start(&rig)?;
    let many = |count: usize| {
        let patterns: Vec<String> = (0..count).map(|number| format!("web-{number}")).collect();
        json!(patterns).to_string()
    };
    let (too_many, most) = (many(5000), many(4096));
    let cases: [(&str, &str, &str); 8] = [
        (ALLOWED_ROLES, "web-*", "BadAllowList"),
        (ALLOWED_ROLES, "{\"web-*\": true}", "BadAllowList"),
        (ALLOWED_ROLES, "[\"web-*\", 7]", "BadAllowList"),
        (ALLOWED_ROLES, "[\"web-*\", \"a b\"]", "BadAllowList"),
        (ALLOWED_ROLES, "[\"\"]", "BadAllowList"),
        (ALLOWED_ROLES, &too_many, "BadAllowList"),
        (PERMITTED, "web-(", "BadAllowList"),
        (PERMITTED, "(((w{1,100}){1,100}){1,100})", "BadAllowList"),
    ];
    bystander.served_while(&rig, || {
        for (number, (key, value, reason)) in cases.iter().enumerate() {
            let name = format!("bad-{number}");
            ControlPlane::namespace(&rig.kube, &name, &[(*key, *value)])?;
            let pod = with_role(&rig, &name, "web", "web-1")?;
            hurt(&rig, &pod, reason).with_context(|| format!("{key}: {value:.80}"))?;
        }
        // Control: the longest valid list.
        ControlPlane::namespace(&rig.kube, "long", &[(ALLOWED_ROLES, &most)])?;
        let pod = with_role(&rig, "long", "web", "web-4095")?;
        becomes(&rig, pod.agent("app")?.v4(), "web-4095", &[]).map(drop)
    })?;
    // A namespace whose list is corrected is served without a restart.
    rig.kube.annotate("Namespace", "", "bad-5", ALLOWED_ROLES, Some("[\"web-*\"]"))?;
    let pod = with_role(&rig, "bad-5", "again", "web-1")?;
    becomes(&rig, pod.agent("app")?.v4(), "web-1", &[])?;
    no_leak(&rig)
}

fn at_the_limit() -> Result<()> {
    let rig: Rig<Cluster> = real_ready()?;
    let bystander = Bystander::start(&rig)?;
    let before = rig.daemon()?.rss_kib()?;
    bystander.served_while(&rig, || {
        for number in 0..4 {
            // Many keys, and a long one.
            let many = (0..40).map(|key| (format!("example.com/filler-{key}"), "f".repeat(5 * 1024)));
            let filled = to_the_limit(&[(ROLE, "big-role")], many.collect());
            let spec = spec(TEAM, &format!("big-{number}")).annotation(ROLE, "big-role");
            let pod = rig.pod(filled.iter().fold(spec, |spec, (key, value)| spec.annotation(key, value)))?;
            becomes(&rig, pod.agent("app")?.v4(), "big-role", &[])?;
        }
        let own = [(ALLOWED_ROLES, "[\"*\"]")];
        let filled = to_the_limit(&own, Vec::new());
        let big = |name: &str, rest: &str| {
            let filler = format!("{}{rest}", filled[0].1);
            ControlPlane::namespace(&rig.kube, name, &[own[0], (&filled[0].0, &filler)])
        };
        big("big", "")?;
        let pod = with_role(&rig, "big", "web", "web-role")?;
        becomes(&rig, pod.agent("app")?.v4(), "web-role", &[])?;
        // Control: one byte more exceeds the limit.
        let refused = big("bigger", "f").err().context("the API server accepts one byte more")?;
        ensure!(format!("{refused:#}").contains("Too long"), "{refused:#}");
        Ok(())
    })?;
    grown(&rig, before, GROWTH_KIB, "four pods and a namespace of 256 KiB")?;
    no_leak(&rig)
}

/// Adds an annotation that fills the API server's limit to the last byte.
fn to_the_limit(own: &[(&str, &str)], mut more: Vec<(String, String)>) -> Vec<(String, String)> {
    let key = "example.com/filler";
    let own: usize = own.iter().map(|(key, value)| key.len() + value.len()).sum();
    let all: usize = more.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() + own + key.len();
    more.push((key.to_owned(), "f".repeat(LIMIT.saturating_sub(all))));
    more
}

fn far_above_the_limit() -> Result<()> {
    let mut rig = double()?;
    rig.start(&[])?;
    let bystander = Bystander::start(&rig)?;
    let huge = "h".repeat(2_000_000);
    let start = rig.daemon()?.rss_kib()?;
    bystander.served_while(&rig, || foreign(&rig, &huge, "first"))?;
    grown(&rig, start, GROWTH_KIB, "one foreign annotation of 2 MB")?;
    bystander.served_while(&rig, || everywhere(&rig, &huge, 0))?;
    grown(&rig, start, 3 * GROWTH_KIB, "2 MB in every annotation that is read")?;
    // The buffers of the two watches keep the size of the largest event. More such events must not add to it.
    let first = rig.daemon()?.rss_kib()?;
    let more = HUGE_ANNOTATIONS.count();
    for round in 1..=more {
        bystander.served_while(&rig, || everywhere(&rig, &huge, round))?;
    }
    grown(&rig, first, GROWTH_KIB, &format!("{more} times as many more"))?;
    // All of them at once, in the first list after a restart.
    rig.daemon_mut()?.terminate()?;
    rig.restart()?;
    figure("RSS after a first list of 50 MB", format_args!("{} KiB", rig.daemon()?.rss_kib()?));
    served(&rig, with_role(&rig, TEAM, "last", "last-role")?.agent("app")?.v4(), "last-role")?;
    no_leak(&rig)
}

fn foreign(rig: &Rig, huge: &str, name: &str) -> Result<()> {
    let spec = spec(TEAM, name).annotation(ROLE, "huge-role").annotation("example.com/filler", huge);
    becomes(rig, rig.pod(spec)?.agent("app")?.v4(), "huge-role", &[]).map(drop)
}

/// Puts 2 MB into every annotation that podrole reads, and into one that it does not.
fn everywhere(rig: &Rig, huge: &str, round: usize) -> Result<()> {
    foreign(rig, huge, &format!("foreign-{round}"))?;
    let huge_role = |name: &str| spec(TEAM, &format!("{name}-{round}")).annotation(ROLE, "huge-role");
    hurt(rig, &rig.pod(huge_role("role").annotation(ROLE, huge))?, "BadRole")?;
    hurt(rig, &rig.pod(huge_role("external").annotation(EXTERNAL_ID, huge))?, "BadExternalId")?;
    hurt(rig, &rig.pod(huge_role("session").annotation(SESSION_NAME, huge))?, "BadSessionName")?;
    hurt(rig, &rig.pod(huge_role("container").annotation("podrole.dev/role.app", huge))?, "BadRole")?;
    let list = json!(vec!["web-*"; 250_000]).to_string();
    // The class of all letters: three characters that a regular expression compiles to kilobytes.
    let classes = r"\pL".repeat(600_000);
    for (name, key, value) in [
        ("list", ALLOWED_ROLES, list.as_str()),
        ("text", ALLOWED_ROLES, huge),
        ("regex", PERMITTED, huge),
        ("classes", PERMITTED, &classes),
    ] {
        let namespace = format!("{name}-{round}");
        rig.kube.namespace(&namespace, &[(key, value)])?;
        hurt(rig, &with_role(rig, &namespace, "web", "web-role")?, "BadAllowList").context(namespace)?;
    }
    Ok(())
}

/// The pod is denied for `reason`, and its audit line is complete and short.
fn hurt<A: ControlPlane>(rig: &Rig<A>, pod: &Pod, reason: &str) -> Result<()> {
    let agent = pod.agent("app")?;
    becomes_refused(rig, agent.v4(), 404)?;
    let line = denial(rig, pod, reason)?;
    ensure!(line["decision"] == "deny" && line["pod"]["name"] == pod.name(), "{line}");
    ensure!(line["why"].as_str().is_some_and(|why| !why.is_empty()), "{line}");
    ensure!(line.to_string().len() < 2048, "a line of {} bytes: {line:.400}", line.to_string().len());
    Ok(())
}

/// The daemon's memory has grown by at most `growth` KiB.
fn grown<A: ControlPlane>(rig: &Rig<A>, before: u64, growth: u64, by: &str) -> Result<()> {
    let bound = before + growth;
    let settled = proc::until("the daemon's memory to settle", SOON, || {
        let now = rig.daemon()?.rss_kib()?;
        Ok((now <= bound).then_some(now))
    });
    let now = settled.with_context(|| {
        format!("{} KiB, from {before} KiB, by {by}", rig.daemon().and_then(|d| d.rss_kib()).unwrap_or(0))
    })?;
    figure(&format!("RSS grown by {by}"), format_args!("{} KiB of {before}", now.saturating_sub(before)));
    Ok(())
}
