//! The rights in the manifests are sufficient, and each is necessary: without any one of them something specific breaks.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::cluster::{Cluster, User};
use podrole_lab::pod::Pod;
use podrole_lab::proc;
use podrole_lab::rig::{ALLOWED_ROLES, ControlPlane, Rig};
use podrole_lab::world::Trial;
use serde_json::{Value, json};

use crate::api::Api;
use crate::support::{Applied, Kubectl, SOON, SYSTEM, TEAM, applied, object, render, served, spec, with_role};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("the_shipped_rights_suffice", suffice),
    Trial::new("without_any_one_right_something_named_breaks", each).timeout(Duration::from_secs(300)),
    Trial::new("without_create_on_events_no_denial_is_told_there", no_create).timeout(Duration::from_secs(300)).waits(),
    Trial::new("without_patch_on_events_a_denial_is_told_once", no_patch).timeout(Duration::from_secs(300)).waits(),
];

/// A right: (API group, resource, verb).
pub(crate) type Right = (String, String, String);

/// These have trials of their own, because their effects come a minute apart.
const EVENTS: [(&str, &str, &str); 2] = [("events.k8s.io", "events", "create"), ("events.k8s.io", "events", "patch")];
/// A repetition is written after a minute; a rejected write is retried after a pause that doubles.
const TOLD_AGAIN: Duration = Duration::from_secs(120);
const ROLE_PATH: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/podrole";

fn suffice() -> Result<()> {
    let Applied { mut rig, kubectl, account } = applied(".")?;
    rig.start(&["--kubeconfig", &account])?;
    let early = with_role(&rig, "early", "web-role")?;
    served(&rig, early.agent("app")?.v4(), "web-role")?;
    // A later namespace and pod, and a change: the watches work as well as the lists.
    rig.namespace("later", &["late-*"])?;
    let late = rig.pod(spec("later", "late").annotation(podrole_lab::rig::ROLE, "late-role"))?;
    served(&rig, late.agent("app")?.v4(), "late-role")?;
    ensure!(rig.daemon()?.metric("podrole_watch_errors_total", &[])? == 0.0, "{}", rig.daemon()?.logs());

    // No other rights: no other role is bound to the account, and the most sensitive operations are rejected.
    let bound = kubectl.run(&["get", "clusterrolebindings,rolebindings", "-A", "-o", "json"])?;
    let bound: Value = serde_json::from_str(&bound.out)?;
    let to_it = |binding: &&Value| {
        list(&binding["subjects"]).any(|subject| subject["name"] == "podrole" && subject["namespace"] == SYSTEM)
    };
    let names: Vec<&Value> = list(&bound["items"]).filter(to_it).map(|binding| &binding["roleRef"]["name"]).collect();
    ensure!(names == ["podrole"], "bound to {names:?}");
    for (verb, resource) in
        [("list", "secrets"), ("get", "pods"), ("create", "serviceaccounts/token"), ("patch", "nodes")]
    {
        ensure!(!may(&kubectl, "", resource, verb)?, "it may {verb} {resource}");
    }

    // A denial creates an Event, under the controller name of the manifest.
    let denied = rig.pod(spec(TEAM, "denied"))?;
    ensure!(denied.agent("app")?.credentials().is_err(), "a pod without a role has credentials");
    proc::until("the Event", SOON, || {
        let events = kubectl.run(&["get", "events.events.k8s.io", "-n", TEAM, "-o", "jsonpath={..reason}"])?;
        Ok((events.out.trim() == "RoleDenied").then_some(()))
    })?;
    Ok(())
}

fn each() -> Result<()> {
    // The rights of the base, and those that its only option adds.
    let Applied { mut rig, kubectl, account } = applied("overlays/service-account-roles")?;
    let api = Api::new(&rig)?;
    let flags = ["--kubeconfig", account.as_str(), "--service-account-roles", "true"];
    let objects = render("overlays/service-account-roles")?;
    let role = object(&objects, "ClusterRole", "podrole")?;
    let all = rights(role)?;
    let base = render(".")?;
    let more: Vec<Right> = rights(object(&base, "ClusterRole", "podrole")?)?;
    ensure!(more.iter().all(|right| all.contains(right)), "the option takes rights away: {more:?}, {all:?}");

    let mut proven = Vec::new();
    for right in &all {
        let (group, resource, verb) = (right.0.as_str(), right.1.as_str(), right.2.as_str());
        if EVENTS.contains(&(group, resource, verb)) {
            continue;
        }
        set(&api, role, &all.iter().filter(|other| *other != right).cloned().collect::<Vec<_>>())?;
        let gone = format!("the loss of {verb} {resource}");
        proc::until(&gone, SOON, || Ok((!may(&kubectl, group, resource, verb)?).then_some(())))?;
        breaks(&mut rig, &flags, resource, verb).with_context(|| gone.clone())?;
        // Control: with the right restored, the same daemon recovers by itself.
        set(&api, role, &all)?;
        recovers(&rig, resource, verb).with_context(|| format!("after {gone}"))?;
        proven.push(right);
    }
    ensure!(proven.len() + EVENTS.len() == all.len(), "{all:?} are granted, {proven:?} are used");
    ensure!(proven.len() == 6, "{proven:?}");
    Ok(())
}

fn no_create() -> Result<()> {
    let site = Untold::without("create")?;
    site.until_refused()?;
    ensure!(site.told()?.is_none(), "an Event without the right to make one");
    // Control: with both rights the same daemon writes the Event.
    site.with_all()?;
    proc::until("the Event, once it may be made", TOLD_AGAIN, || site.told())?;
    site.serves_others()
}

fn no_patch() -> Result<()> {
    let site = Untold::without("patch")?;
    proc::until("the first Event", SOON, || {
        site.ask()?;
        site.told()
    })?;
    site.until_refused()?;
    ensure!(site.told()? == Some(1), "a series without the right to patch: {:?}", site.told()?);
    site.with_all()?;
    proc::until("the series", TOLD_AGAIN, || {
        site.ask()?;
        Ok(site.told()?.filter(|count| *count > 1))
    })?;
    site.serves_others()
}

/// A daemon without a right on Events, a denied pod and an allowed pod.
struct Untold {
    applied: Applied,
    role: Value,
    denied: Pod,
    bystander: Pod,
}

impl Untold {
    fn without(verb: &str) -> Result<Self> {
        let mut applied = applied(".")?;
        let role = object(&render(".")?, "ClusterRole", "podrole")?.clone();
        let mut left = rights(&role)?;
        let granted = left.len();
        left.retain(|right| right.1 != "events" || right.2 != verb);
        ensure!(left.len() + 1 == granted, "{verb} events is not granted: {role}");
        set(&Api::new(&applied.rig)?, &role, &left)?;
        let gone = format!("the loss of {verb} events");
        let may = || may(&applied.kubectl, "events.k8s.io", "events", verb);
        proc::until(&gone, SOON, || Ok((!may()?).then_some(())))?;
        applied.rig.start(&["--kubeconfig", &applied.account])?;
        let denied = applied.rig.pod(spec(TEAM, "denied"))?;
        let bystander = with_role(&applied.rig, "bystander", "web-role")?;
        Ok(Self { applied, role, denied, bystander })
    }

    fn with_all(&self) -> Result<()> {
        set(&Api::new(&self.applied.rig)?, &self.role, &rights(&self.role)?)
    }

    /// Requests credentials, as a program without any does repeatedly.
    fn ask(&self) -> Result<()> {
        ensure!(self.denied.agent("app")?.credentials().is_err(), "a pod without a role has credentials");
        Ok(())
    }

    fn until_refused(&self) -> Result<()> {
        proc::until("a refused Event", TOLD_AGAIN, || {
            self.ask()?;
            let refused = self.applied.rig.daemon()?.metric("podrole_events_total", &[("result", "forbidden")])?;
            Ok((refused >= 1.0).then_some(()))
        })?;
        self.serves_others()
    }

    /// The count in the pod's Event, if there is one.
    fn told(&self) -> Result<Option<u64>> {
        let events = self.applied.rig.kube.list(User::Admin, "Event", TEAM, "")?;
        Ok(list(&events["items"]).next().map(|event| event["series"]["count"].as_u64().unwrap_or(1)))
    }

    fn serves_others(&self) -> Result<()> {
        served(&self.applied.rig, self.bystander.agent("app")?.v4(), "web-role").map(drop)
    }
}

/// Starts a daemon and asserts what fails without the right.
fn breaks(rig: &mut Rig<Cluster>, flags: &[&str], resource: &str, verb: &str) -> Result<()> {
    rig.launch(flags)?;
    let label = if resource == "serviceaccounts" { "service_accounts" } else { resource };
    let watch = [("watch", label)];
    proc::until(&format!("an error of the watch of {resource}"), SOON, || {
        // The admin address may not be bound yet.
        Ok(rig.daemon()?.metric("podrole_watch_errors_total", &watch).is_ok_and(|count| count >= 1.0).then_some(()))
    })
    .with_context(|| rig.daemon().map(|daemon| daemon.recently()).unwrap_or_default())?;
    // Pauses grow, so that thousands of nodes with a wrong role do not overload the API server.
    proc::until("longer pauses", SOON, || Ok(rig.daemon()?.logs().contains("retry_in=800ms").then_some(())))?;
    // Nothing else fails.
    let sum = rig.daemon()?.metric("podrole_watch_errors_total", &[])?;
    ensure!(sum == rig.daemon()?.metric("podrole_watch_errors_total", &watch)?, "{}", rig.daemon()?.metrics()?);
    if verb == "list" {
        let (status, body) = rig.daemon()?.admin("/readyz")?;
        ensure!(status == 503 && body.contains(&format!("[-] {label}")), "{status} {body}");
    } else {
        rig.daemon_mut()?.wait_ready(SOON)?;
    }
    // For a new pod with a new account in a new namespace, one of the three stays unknown.
    let pod = newcomer(rig, &format!("{resource}-{verb}"))?;
    // Longer than a watch takes to deliver the objects.
    for _ in 0..3 {
        match pod.agent("app")?.credentials() {
            Err(error) => ensure!(error.status() == Some(503), "not \"not yet\": {error}"),
            Ok(credentials) => anyhow::bail!("served: {:?}", rig.role_of(&credentials)),
        }
    }
    Ok(())
}

fn recovers(rig: &Rig<Cluster>, resource: &str, verb: &str) -> Result<()> {
    let pod = newcomer(rig, &format!("after-{resource}-{verb}"))?;
    served(rig, pod.agent("app")?.v4(), "sa-role").map(drop)
}

/// A pod in a new namespace that gets its role from its service account.
fn newcomer(rig: &Rig<Cluster>, namespace: &str) -> Result<Pod> {
    rig.kube.namespace(namespace, json!({ALLOWED_ROLES: "[\"*\"]"}))?;
    let role = [("eks.amazonaws.com/role-arn", "arn:aws:iam::111122223333:role/sa-role")];
    ControlPlane::service_account(&rig.kube, namespace, "deploy", &role)?;
    rig.pod(spec(namespace, "web").service_account("deploy"))
}

/// The rights of a role, sorted and without duplicates.
pub(crate) fn rights(role: &Value) -> Result<Vec<Right>> {
    let mut rights = Vec::new();
    for rule in list(&role["rules"]) {
        let texts =
            |key: &str| -> Vec<String> { list(&rule[key]).filter_map(Value::as_str).map(str::to_owned).collect() };
        ensure!(rule["resourceNames"].is_null() && rule["nonResourceURLs"].is_null(), "{rule}");
        for group in texts("apiGroups") {
            for resource in texts("resources") {
                for verb in texts("verbs") {
                    let wild = [&group, &resource, &verb].iter().any(|text| text.contains('*'));
                    ensure!(!wild, "a wildcard: {rule}");
                    rights.push((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    Ok(rights)
}

/// Gives the role these rights and no others.
pub(crate) fn set(api: &Api, role: &Value, rights: &[Right]) -> Result<()> {
    let mut role = role.clone();
    let rule =
        |(group, resource, verb): &Right| json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]});
    role["rules"] = rights.iter().map(rule).collect();
    let answer = api.put(ROLE_PATH, &role)?;
    ensure!(answer.is_admitted(), "{answer:?}");
    Ok(())
}

/// Whether the API server's RBAC allows the manifests' account an operation.
pub(crate) fn may(kubectl: &Kubectl, group: &str, resource: &str, verb: &str) -> Result<bool> {
    let what = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
    let who = format!("--as=system:serviceaccount:{SYSTEM}:podrole");
    // kubectl exits with 1 for "no".
    match kubectl.try_run(&["auth", "can-i", verb, &what, &who, "-A", "-q"], "")? {
        Ok(_) => Ok(true),
        Err(error) if error.is_empty() => Ok(false),
        Err(error) => anyhow::bail!("{error}"),
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
