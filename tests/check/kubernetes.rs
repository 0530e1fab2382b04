//! Nodes whose API server does not answer or denies podrole's requests. Rights are tested with a real API server.

use anyhow::{Context as _, Result, ensure};
use podrole::cli::check::table::Check;
use podrole_lab::cluster::{Cluster, User};
use podrole_lab::proc;
use podrole_lab::rig::Rig;
use podrole_lab::world::{Trial, skip};
use serde_json::{Value, json};

use crate::Case;
use crate::support::{Node, SOON, TEAM, check, fails, healthy, options, passes, serve};

pub(crate) const CASES: &[Case] = &[
    (Check::ApiServer, Trial::new("k01_no_api_server_or_one_that_does_not_know_us", api_server)),
    (Check::NodePods, Trial::new("k06_a_node_name_that_no_pod_has", node_pods)),
];

pub(crate) const TRIALS: &[Trial] = &[Trial::new("k02_to_k05_each_right_on_each_resource_missing", rights)];

fn api_server() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::ApiServer)?;
    rig.kube.down(true)?;
    fails(&rig, &[], Check::ApiServer, &[])?;
    rig.kube.down(false)?;
    passes(&rig, &[], Check::ApiServer)?;
    rig.kube.unauthorized(true);
    let said = fails(&rig, &[], Check::ApiServer, &[])?;
    ensure!(said.found(Check::ApiServer)?.contains("Unauthorized"), "{}", said.found(Check::ApiServer)?);
    rig.kube.unauthorized(false);
    passes(&rig, &[], Check::ApiServer)?;
    let said = fails(&rig, &["--kubeconfig", "/nonexistent"], Check::ApiServer, &[])?;
    ensure!(said.result(Check::PodsAccess)? == "skipped", "{:#}", said.report);
    Ok(())
}

/// The rights that podrole needs, each with the check that must find it missing.
pub(crate) const RIGHTS: [(Check, &str, &str, [&str; 2]); 4] = [
    (Check::PodsAccess, "", "pods", ["list", "watch"]),
    (Check::NamespacesAccess, "", "namespaces", ["list", "watch"]),
    (Check::ServiceAccountsAccess, "", "serviceaccounts", ["list", "watch"]),
    (Check::EventsAccess, "events.k8s.io", "events", ["create", "patch"]),
];

/// Uses one API server for all rights.
fn rights() -> Result<()> {
    let rig = match Rig::real(options()) {
        Ok(rig) => rig,
        Err(error) => return skip(&format!("no real API server: {error:#}")),
    };
    rig.imds.set_v1(false);
    rig.namespace(TEAM, &["*"])?;
    let Node { rig, pod: _pod } = serve(rig)?;
    for (wanted, _, resource, verbs) in RIGHTS {
        without(&rig, wanted, resource, verbs).with_context(|| format!("{} ({resource})", wanted.code()))?;
    }
    Ok(())
}

/// Grants exactly the needed rights, then takes away each of the two rights on one resource.
fn without(rig: &Rig<Cluster>, wanted: Check, resource: &str, verbs: [&str; 2]) -> Result<()> {
    let flags = ["--service-account-roles", "true"];
    rig.kube.grant("podrole", rules(None))?;
    settled(rig, &flags, wanted, "ok")?;
    passes(rig, &flags, wanted)?;
    for verb in verbs {
        rig.kube.grant("podrole", rules(Some((resource, verb))))?;
        settled(rig, &flags, wanted, wanted.about().severity.name())?;
        let said = fails(rig, &flags, wanted, &[])?;
        let found = said.found(wanted)?;
        ensure!(found.contains(verb) && !found.contains("nor"), "{found}");
        ensure!(!said.report.to_string().contains(rig.kube.token(User::Podrole)), "the token is in the report");
    }
    if wanted == Check::ServiceAccountsAccess {
        // Without the flag the right is not needed.
        ensure!(check(rig, &[])?.result(wanted)? == "skipped");
    }
    rig.kube.grant("podrole", rules(None))?;
    settled(rig, &flags, wanted, "ok")?;
    passes(rig, &flags, wanted)
}

/// Waits until new rules have reached the API server's authorizer, which watches them.
fn settled(rig: &Rig<Cluster>, flags: &[&str], wanted: Check, result: &str) -> Result<()> {
    proc::until("the new rules to take effect", SOON, || {
        Ok((check(rig, flags)?.result(wanted)? == result).then_some(()))
    })
}

fn rules(without: Option<(&str, &str)>) -> Value {
    let rules = RIGHTS.iter().map(|(_, group, resource, verbs)| {
        let verbs: Vec<&str> = verbs.iter().copied().filter(|verb| without != Some((resource, verb))).collect();
        json!({"apiGroups": [group], "resources": [resource], "verbs": verbs})
    });
    rules.collect()
}

fn node_pods() -> Result<()> {
    let Node { rig, pod } = healthy()?;
    passes(&rig, &[], Check::NodePods)?;
    fails(&rig, &["--node-name", "ip-10-0-0-77.ec2.internal"], Check::NodePods, &[])?;
    rig.delete(pod)?;
    fails(&rig, &[], Check::NodePods, &[]).map(drop)
}
