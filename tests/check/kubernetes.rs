//! API servers that do not answer, and ones that do not let us. Rights are those of a real API server.

use anyhow::{Result, ensure};
use podrole::cli::check::table::Check;
use podrole_lab::cluster::{Cluster, User};
use podrole_lab::proc;
use podrole_lab::rig::Rig;
use podrole_lab::world::{Trial, skip};
use serde_json::{Value, json};

use crate::Case;
use crate::support::{Node, SOON, TEAM, check, healthy, named, options, serve, silent};

pub(crate) const CASES: &[Case] = &[
    (Check::ApiServer, Trial::new("k01_no_api_server_or_one_that_does_not_know_us", api_server)),
    (Check::PodsAccess, Trial::new("k02_each_right_on_pods_missing", pods)),
    (Check::NamespacesAccess, Trial::new("k03_each_right_on_namespaces_missing", namespaces)),
    (Check::ServiceAccountsAccess, Trial::new("k04_each_right_on_service_accounts_missing", service_accounts)),
    (Check::EventsAccess, Trial::new("k05_each_right_on_events_missing", events)),
    (Check::NodePods, Trial::new("k06_a_node_name_that_no_pod_has", node_pods)),
];

fn api_server() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    silent(&rig, &[], Check::ApiServer)?;
    rig.kube.down(true)?;
    named(&rig, &[], Check::ApiServer, &[])?;
    rig.kube.down(false)?;
    silent(&rig, &[], Check::ApiServer)?;
    rig.kube.unauthorized(true);
    let said = named(&rig, &[], Check::ApiServer, &[])?;
    ensure!(said.found(Check::ApiServer)?.contains("Unauthorized"), "{}", said.found(Check::ApiServer)?);
    rig.kube.unauthorized(false);
    silent(&rig, &[], Check::ApiServer)?;
    let said = named(&rig, &["--kubeconfig", "/nonexistent"], Check::ApiServer, &[])?;
    ensure!(said.result(Check::PodsAccess)? == "skipped", "{:#}", said.report);
    Ok(())
}

/// What podrole needs, each right by itself.
const RIGHTS: [(&str, &str, [&str; 2]); 4] = [
    ("", "pods", ["list", "watch"]),
    ("", "namespaces", ["list", "watch"]),
    ("", "serviceaccounts", ["list", "watch"]),
    ("events.k8s.io", "events", ["create", "patch"]),
];

fn pods() -> Result<()> {
    without(Check::PodsAccess, 0)
}

fn namespaces() -> Result<()> {
    without(Check::NamespacesAccess, 1)
}

fn service_accounts() -> Result<()> {
    without(Check::ServiceAccountsAccess, 2)
}

fn events() -> Result<()> {
    without(Check::EventsAccess, 3)
}

/// A node that is right under exactly these rights, and then lacks each of the two of one resource.
fn without(wanted: Check, resource: usize) -> Result<()> {
    let rig = match Rig::real(options()) {
        Ok(rig) => rig,
        Err(error) => return skip(&format!("no real API server: {error:#}")),
    };
    rig.imds.set_v1(false);
    rig.namespace(TEAM, &["*"])?;
    let Node { rig, pod: _pod } = serve(rig)?;
    let flags = ["--service-account-roles", "true"];
    rig.kube.grant("podrole", rules(None))?;
    settled(&rig, &flags, wanted, "ok")?;
    silent(&rig, &flags, wanted)?;
    for verb in RIGHTS[resource].2 {
        rig.kube.grant("podrole", rules(Some((resource, verb))))?;
        settled(&rig, &flags, wanted, wanted.about().severity.name())?;
        let said = named(&rig, &flags, wanted, &[])?;
        let found = said.found(wanted)?;
        ensure!(found.contains(verb) && !found.contains("nor"), "{found}");
        ensure!(!said.report.to_string().contains(rig.kube.token(User::Podrole)), "the token is in the report");
    }
    if wanted == Check::ServiceAccountsAccess {
        // Not asked for where it is not used.
        ensure!(check(&rig, &[])?.result(wanted)? == "skipped");
    }
    rig.kube.grant("podrole", rules(None))?;
    settled(&rig, &flags, wanted, "ok")?;
    silent(&rig, &flags, wanted)
}

/// The API server's authorizer learns of new rules by a watch of its own.
fn settled(rig: &Rig<Cluster>, flags: &[&str], wanted: Check, result: &str) -> Result<()> {
    proc::until("the new rules to count", SOON, || Ok((check(rig, flags)?.result(wanted)? == result).then_some(())))
}

fn rules(without: Option<(usize, &str)>) -> Value {
    let rules = RIGHTS.iter().enumerate().map(|(number, (group, resource, verbs))| {
        let verbs: Vec<&str> = verbs.iter().copied().filter(|verb| without != Some((number, *verb))).collect();
        json!({"apiGroups": [group], "resources": [resource], "verbs": verbs})
    });
    rules.collect()
}

fn node_pods() -> Result<()> {
    let Node { rig, pod } = healthy()?;
    silent(&rig, &[], Check::NodePods)?;
    named(&rig, &["--node-name", "ip-10-0-0-77.ec2.internal"], Check::NodePods, &[])?;
    rig.delete(pod)?;
    named(&rig, &[], Check::NodePods, &[]).map(drop)
}
