//! A namespace that denies egress by default, and the policy that lets its pods reach podrole.
//!
//! No CNI plugin runs here, only equivalent rules: packets of a pod's interface are dropped unless the policy, as kustomize renders it,
//! allows their destination. The rules check after DNAT, as Calico and most plugins do, and before it, as plugins at the pod's
//! interface do.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::{Agent, CredsError, Failure, Target};
use podrole_lab::cluster::Cluster;
use podrole_lab::node::WAN_V4;
use podrole_lab::pod::{Pod, Shape};
use podrole_lab::proc;
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::world::Trial;
use serde_json::Value;

use crate::support::{Applied, TEAM, applied, object, render, served, spec};

pub(crate) const TRIALS: &[Trial] =
    &[Trial::new("default_deny_egress_and_the_shipped_policy", default_deny).timeout(Duration::from_secs(240))];

/// Long enough for an answer, and short enough to wait for one that never comes.
const SHORT: Duration = Duration::from_millis(500);
/// The hooks and priorities at which CNI plugins enforce policies.
const AFTER_DNAT: (&str, &[&str], i32) = ("after", &["input", "forward"], 0);
const BEFORE_DNAT: (&str, &[&str], i32) = ("before", &["prerouting"], -350);

fn default_deny() -> Result<()> {
    let Applied { mut rig, kubectl, account } = applied(".")?;
    let path = crate::support::dir("networkpolicy");
    kubectl.run(&["apply", "-n", TEAM, "-k", path.to_str().context("a path that is text")?])?;
    let live = kubectl.run(&["get", "networkpolicy", "allow-podrole", "-n", TEAM, "-o", "json"])?;
    let live: Value = serde_json::from_str(&live.out)?;
    let shipped = render("networkpolicy")?;
    ensure!(live["spec"] == object(&shipped, "NetworkPolicy", "allow-podrole")?["spec"], "{live:#}");
    let allowed = allowed(&live["spec"])?;
    ensure!(allowed.len() == 4, "{allowed:?}");
    // Not only the first port of the range, because an instance may use any of them.
    for ports in ["18181-18188", "18188"] {
        rig.start(&["--kubeconfig", &account, "--port-range", ports])?;
        for (number, shape) in [Shape::Bridge, Shape::PointToPoint].into_iter().enumerate() {
            let pod = rig.pod(spec(TEAM, &format!("web-{number}-{ports}")).shape(shape).annotation(ROLE, "web"))?;
            let agent = pod.agent("app")?;
            served(&rig, agent.v4(), "web").context("without any policy")?;
            for place in [AFTER_DNAT, BEFORE_DNAT] {
                let what = || format!("{shape:?}, judged {} DNAT, {ports}", place.0);
                judge(&rig, &pod, place, &allowed)?;
                for client in [agent.v4(), agent.v6()] {
                    served(&rig, client, "web").with_context(what)?;
                }
                // Destinations that the policy does not name are blocked.
                let beyond = agent.reach((WAN_V4, 80).into(), SHORT);
                ensure!(matches!(beyond, Err(Failure::TimedOut)), "{}: {beyond:?}", what());

                // Control: without the policy the pod reaches nothing.
                judge(&rig, &pod, place, &[])?;
                for target in [Target::v4(), Target::v6()] {
                    dropped(&agent, target).with_context(|| format!("{}, no policy", what()))?;
                }
                // Each half of the policy serves one kind of CNI plugin.
                let half: Vec<String> = allowed
                    .iter()
                    .filter(|rule| rule.contains("dport 80 ") == (place == AFTER_DNAT))
                    .cloned()
                    .collect();
                ensure!(half.len() == 2, "{half:?}");
                judge(&rig, &pod, place, &half)?;
                dropped(&agent, Target::v4()).with_context(|| format!("{}, the other half", what()))?;
                on_node(&rig, "nft delete table inet cni")?;
            }
            served(&rig, agent.v4(), "web").context("with the rules gone")?;
            rig.delete(pod)?;
        }
    }
    Ok(())
}

/// Asserts that packets are dropped without an answer, as a policy does.
fn dropped(agent: &Agent, target: Target) -> Result<()> {
    match agent.to(target.timeout(SHORT)).credentials() {
        Err(CredsError::Connection(Failure::TimedOut)) => Ok(()),
        other => anyhow::bail!("not dropped: {other:?}"),
    }
}

/// The policy's egress rules in nft's syntax.
fn allowed(policy: &Value) -> Result<Vec<String>> {
    let mut rules = Vec::new();
    for rule in list(&policy["egress"]) {
        for peer in list(&rule["to"]) {
            let cidr = peer["ipBlock"]["cidr"].as_str().with_context(|| format!("a peer that is no block: {peer}"))?;
            ensure!(peer["ipBlock"]["except"].is_null(), "{peer}");
            let family = if cidr.contains(':') { "ip6" } else { "ip" };
            for port in list(&rule["ports"]) {
                ensure!(port["protocol"] == "TCP", "{port}");
                let first = port["port"].as_u64().with_context(|| format!("a port that is no number: {port}"))?;
                let last = port["endPort"].as_u64().map(|last| format!("-{last}")).unwrap_or_default();
                rules.push(format!("{family} daddr {cidr} tcp dport {first}{last} accept"));
            }
        }
    }
    Ok(rules)
}

/// Drops packets of the pod's interface unless a rule allows them: a default-deny policy plus these rules.
fn judge(rig: &Rig<Cluster>, pod: &Pod, (_, hooks, priority): (&str, &[&str], i32), allowed: &[String]) -> Result<()> {
    let interface = pod.interface().context("a pod with a cable")?;
    // On a bridge, packets arrive through the bridge, so the source address identifies the pod.
    let (from4, from6) = (pod.v4(), pod.v6());
    let mut text = String::from("add table inet cni; delete table inet cni; table inet cni {\n");
    for hook in hooks {
        writeln!(text, "chain {hook} {{ type filter hook {hook} priority {priority}; policy accept;")?;
        writeln!(text, "iifname != {{ \"{interface}\", \"cni0\" }} accept")?;
        // Policies do not cover neighbor discovery.
        writeln!(text, "meta l4proto icmpv6 accept\nip saddr != {from4} accept\nip6 saddr != {from6} accept")?;
        for rule in allowed {
            writeln!(text, "{rule}")?;
        }
        writeln!(text, "counter drop\n}}")?;
    }
    text.push('}');
    let mut command = rig.node.command();
    proc::feed(command.args(["nft", "-f", "-"]), text.as_bytes()).with_context(|| text.clone()).map(drop)
}

fn on_node(rig: &Rig<Cluster>, line: &str) -> Result<()> {
    proc::run(rig.node.command().args(line.split(' '))).map(drop)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
