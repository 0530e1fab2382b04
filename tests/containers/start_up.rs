//! Pods that request credentials as soon as they start, one and many at a time. Earlier agents of this kind lost this race.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podrole_lab::effort::PODS_AT_ONCE;
use podrole_lab::real::RealNode;
use podrole_lab::rig::ROLE;
use podrole_lab::runtime::Network;
use podrole_lab::world::Trial;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::support::{ASKER, TEAM, asker_image, create, delete, installed, leaks, no_leak, node, role_of};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("start_up::pods_that_ask_at_once_get_their_own_role_or_503", ask_at_once).timeout(LIMIT).alone(),
    Trial::new("start_up::without_podrole_they_are_all_the_node", without_podrole).timeout(LIMIT),
];

const LIMIT: Duration = Duration::from_secs(300);
/// Two cores start about ten pods a second at most.
const FINISH: Duration = Duration::from_secs(120);

/// Longer than the 800 ms after which podrole answers 503.
const SLOW: Duration = Duration::from_secs(2);

/// One line of output of the asking program.
#[derive(Debug, Deserialize)]
struct Answer {
    ms: u64,
    what: String,
    status: u16,
    #[serde(default)]
    role: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    error: String,
}

fn ask_at_once() -> Result<()> {
    let site = node(Network::PointToPoint)?;
    installed(&site)?;
    asker_image(&site)?;
    site.namespace(TEAM, &["*"])?;
    // In the last burst STS takes longer than podrole lets a client wait, so the first answers are 503.
    let most = PODS_AT_ONCE.count();
    for (count, delay) in [(1, Duration::ZERO), (10, Duration::ZERO), (most, Duration::ZERO), (9, SLOW)] {
        site.sts.set_delay(delay);
        let begin = Instant::now();
        let said = burst(&site, count)?;
        let took = begin.elapsed();
        let (mut own, mut later, mut first) = (0, 0, Vec::new());
        for (role, answers) in &said {
            let asked = answers.first().with_context(|| format!("the pod of {role} said nothing"))?;
            // By the program's own clock. It does nothing before its first request.
            ensure!(asked.ms < 100, "the pod of {role} asked after {} ms only", asked.ms);
            for answer in answers {
                judge(&site, role, answer)?;
                later += usize::from(answer.status == 503);
                own += usize::from(!answer.key.is_empty());
            }
            let served = answers.iter().find(|answer| !answer.key.is_empty());
            first.push(served.with_context(|| format!("the pod of {role} was never served: {answers:?}"))?.ms);
        }
        first.sort_unstable();
        ensure!(own >= 3 * count, "every pod is served three times, not {own} of {count} pods");
        ensure!(
            delay.is_zero() || later >= count,
            "each is told to come again while STS takes {delay:?}, not {later} times"
        );
        println!(
            "figure: {count} pods at once, STS after {delay:?}: {own} answers with their own role, {later} times 503, 0 others; first credentials \
             after {} ms (median), {} ms (worst); all ended after {took:?}",
            first[first.len() / 2],
            first[first.len() - 1],
        );
    }
    no_leak(&site)
}

/// Control: without podrole the same pods get the node's role, and `judge` detects it.
fn without_podrole() -> Result<()> {
    let site = node(Network::PointToPoint)?;
    asker_image(&site)?;
    site.namespace(TEAM, &["*"])?;
    for (role, answers) in burst(&site, 10)? {
        let bad = answers.iter().filter(|answer| judge(&site, &role, answer).is_err()).count();
        let node = answers.iter().filter(|answer| role_of(&site, &answer.key).as_deref() == Some("the node's")).count();
        ensure!(bad > 0 && node == 3, "the pod of {role}: {answers:?}");
    }
    leaks(&site)
}

/// Asserts that an answer is the pod's own role or a 503.
fn judge(site: &RealNode, role: &str, answer: &Answer) -> Result<()> {
    ensure!([200, 503].contains(&answer.status), "the pod of {role} was told {answer:?}");
    ensure!(answer.error.is_empty() || answer.status == 503, "the pod of {role} was told {answer:?}");
    if answer.what == "credentials" && answer.status == 200 {
        let real = role_of(site, &answer.key);
        ensure!(real.as_deref() == Some(role), "the pod of {role} got the credentials of {real:?}: {answer:?}");
    }
    if answer.what == "credentials" {
        ensure!(answer.role == role, "the pod of {role} was offered the role {}: {answer:?}", answer.role);
    }
    Ok(())
}

/// Creates `count` pods at once, each with its own role, waits until all have ended, deletes them, and returns each pod's answers.
fn burst(site: &RealNode, count: usize) -> Result<Vec<(String, Vec<Answer>)>> {
    for number in 0..count {
        let name = format!("asker-{count}-{number}");
        let containers = json!([{"name": "app", "image": ASKER, "imagePullPolicy": "IfNotPresent"}]);
        create(site, &name, json!({ROLE: role_name(&name)}), containers)?;
    }
    let ended = |pods: &[Value]| pods.len() == count && pods.iter().all(RealNode::is_finished);
    let pods = site.until_pods("all pods to end", TEAM, FINISH, ended)?;
    let mut said = Vec::new();
    for pod in &pods {
        let name = pod["metadata"]["name"].as_str().context("a pod has a name")?;
        let log = site.container_log(pod, "app")?;
        let answers: Result<Vec<Answer>, _> = log.lines().map(serde_json::from_str).collect();
        said.push((role_name(name), answers.with_context(|| format!("{name} said {log}"))?));
    }
    for pod in &pods {
        delete(site, pod["metadata"]["name"].as_str().context("a pod has a name")?)?;
    }
    Ok(said)
}

fn role_name(pod: &str) -> String {
    format!("role-of-{pod}")
}
