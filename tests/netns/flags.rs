//! The administrator's flags on the real binary: what each allows and denies, and what the audit lines say about it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::{CredsError, Target};
use podrole_lab::node::NODE_V4;
use podrole_lab::pod::{Pod, PodSpec};
use podrole_lab::proc::until;
use podrole_lab::rig::{ControlPlane as _, ROLE, Rig};
use podrole_lab::sts::RoleSpec;
use podrole_lab::world::Trial;
use serde_json::{Value, json};

use crate::support::{TEAM, no_leak, refused, rig, served, served_both};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("the_administrators_lists_and_ceiling_apply", lists_and_ceiling),
    Trial::new("strict_container_roles_deny_containers_that_can_sniff", strict_container_roles),
    Trial::new("the_metrics_address_serves_only_metrics", metrics_address),
    Trial::new("service_accounts_give_roles_only_with_the_flag", service_account_roles),
    Trial::new("sessions_are_shared_within_their_scope", session_scope),
    Trial::new("external_ids_come_from_the_namespace_then_the_pod", external_ids),
];

/// The ARN prefix of all roles of the lab.
const ROLES: &str = "arn:aws:iam::111122223333:role/";
/// How long an audit line may take; another thread writes it.
const SOON: Duration = Duration::from_secs(5);

fn lists_and_ceiling() -> Result<()> {
    let mut rig = rig()?;
    rig.namespace("listed", &[])?;
    rig.namespace("bare", &[])?;
    let web = rig.pod_with_role("listed", "web", "web-one")?;
    let free = rig.pod_with_role("listed", "free", "free")?;
    let db = rig.pod_with_role("listed", "db", "db-one")?;
    let bare = rig.pod_with_role("bare", "bare", "free")?;
    let high = rig.pod_with_role("bare", "high", "admin")?;
    // This pod's namespace allows every role.
    let team = rig.pod_with_role(TEAM, "team", "admin")?;
    let ceiling = format!("{ROLES}web-*,{ROLES}free");
    rig.start(&["--allow", "listed=web-*,db-*", "--require-allow", "false", "--role-ceiling", &ceiling])?;
    served_both(&rig, &web.agent("app")?, "web-one")?;
    // A namespace with a list allows only that list, even if the flags let namespaces do without one.
    denied(&rig, &free, "app", "NamespaceNotPermitted")?;
    served_both(&rig, &bare.agent("app")?, "free")?;
    for pod in [&db, &high, &team] {
        denied(&rig, pod, "app", "AboveCeiling").with_context(|| pod.name().to_owned())?;
    }
    // Without the flags a namespace without a list allows no role, and only the account is the ceiling.
    rig.start(&[])?;
    for pod in [&web, &bare] {
        denied(&rig, pod, "app", "NamespaceNotPermitted").with_context(|| pod.name().to_owned())?;
    }
    served(&rig, team.agent("app")?.v4(), "admin")?;
    no_leak(&rig)
}

fn strict_container_roles() -> Result<()> {
    let mut rig = rig()?;
    let dropped = json!({"capabilities": {"drop": ["NET_RAW"]}});
    let loud = pair(&rig, "loud", &json!({}), "hostPID", false)?;
    let quiet = pair(&rig, "quiet", &dropped, "shareProcessNamespace", false)?;
    let prefixed =
        pair(&rig, "prefixed", &json!({"capabilities": {"drop": ["CAP_NET_RAW"]}}), "shareProcessNamespace", false)?;
    let shared = pair(&rig, "shared", &dropped, "shareProcessNamespace", true)?;
    let host = pair(&rig, "host", &dropped, "hostPID", true)?;
    let plain = rig.pod_with_role(TEAM, "plain", "plain-role")?;
    rig.start(&["--container-roles", "strict"])?;
    for container in ["web", "batch"] {
        for pod in [&loud, &prefixed, &shared, &host] {
            denied(&rig, pod, container, "ContainerRolesRefused").with_context(|| pod.name().to_owned())?;
        }
        served(&rig, quiet.agent(container)?.v4(), &format!("{container}-role"))?;
        ensure!(delivery(&rig, &quiet, container)?["siblings_may_read"] == json!(false));
    }
    served(&rig, plain.agent("app")?.v4(), "plain-role")?;
    ensure!(
        delivery(&rig, &plain, "app")?.get("siblings_may_read").is_none(),
        "the field is missing for a pod with one role"
    );
    // By default such a pod is served, and its audit lines say that its containers can read each other's credentials.
    rig.start(&[])?;
    for container in ["web", "batch"] {
        for pod in [&loud, &prefixed, &shared, &host] {
            served(&rig, pod.agent(container)?.v4(), &format!("{container}-role"))?;
            ensure!(delivery(&rig, pod, container)?["siblings_may_read"] == json!(true), "{}", pod.name());
        }
    }
    no_leak(&rig)
}

fn metrics_address() -> Result<()> {
    const PORT: u16 = 9442;
    let mut rig = rig()?;
    let pod = rig.pod_with_role(TEAM, "web", "web-role")?;
    rig.start(&["--metrics-addr", &format!("{NODE_V4}:{PORT}")])?;
    served(&rig, pod.agent("app")?.v4(), "web-role")?;
    let (node, inside) = (rig.node.agent()?, pod.agent("app")?);
    let credentials = "/latest/meta-data/iam/security-credentials/";
    let others =
        ["/", "/readyz", "/readyz?verbose", "/livez", "/latest/meta-data/", credentials, "/metrics/", "//metrics"];
    let close = [("Connection", "close")];
    let ttl = ("X-aws-ec2-metadata-token-ttl-seconds", "60");
    for agent in [&node, &inside] {
        let client = agent.to(Target::new((NODE_V4, PORT)));
        let answer = client.get("/metrics", &close)?;
        ensure!(answer.status == 200 && answer.text().contains("podrole_"), "{answer:?}");
        for path in others {
            let answer = client.get(path, &close)?;
            ensure!(answer.status == 404, "{path}: {answer:?}");
        }
        let answer = client.get(&format!("{credentials}web-role"), &close)?;
        ensure!(answer.status == 404, "{answer:?}");
        let answer = client.request("PUT", "/latest/api/token", &[ttl, close[0]])?;
        ensure!(answer.status == 405, "{answer:?}");
    }
    // The admin address serves all of these paths, but no credentials either.
    for (path, status) in [("/metrics", 200), ("/readyz", 200), ("/livez", 200), (credentials, 404)] {
        ensure!(rig.daemon()?.admin(path)?.0 == status, "{path}");
    }
    no_leak(&rig)
}

fn service_account_roles() -> Result<()> {
    let mut rig = rig()?;
    rig.namespace("narrow", &["web-*"])?;
    let irsa = |namespace: &str, name: &str, role: &str| {
        rig.kube.service_account(namespace, name, &[("eks.amazonaws.com/role-arn", &format!("{ROLES}{role}"))])
    };
    irsa(TEAM, "worker", "worker-role")?;
    irsa("narrow", "worker", "worker-role")?;
    rig.kube.service_account(TEAM, "default", &[])?;
    let pod = |namespace: &str, name: &str| PodSpec::new(namespace, name).service_account("worker");
    let inherits = rig.pod(pod(TEAM, "inherits"))?;
    let annotated = rig.pod(pod(TEAM, "annotated").annotation(ROLE, "own-role"))?;
    let narrow = rig.pod(pod("narrow", "narrow"))?;
    let plain = rig.pod(PodSpec::new(TEAM, "plain"))?;
    // Without the flag service accounts are no source of roles.
    rig.start(&[])?;
    denied(&rig, &inherits, "app", "NoRole")?;
    rig.start(&["--service-account-roles", "true"])?;
    served_both(&rig, &inherits.agent("app")?, "worker-role")?;
    served_both(&rig, &annotated.agent("app")?, "own-role")?;
    denied(&rig, &narrow, "app", "NamespaceNotPermitted")?;
    denied(&rig, &plain, "app", "NoRole")?;
    no_leak(&rig)
}

fn session_scope() -> Result<()> {
    let mut rig = rig()?;
    let pod = |name: &str, account: &str| PodSpec::new(TEAM, name).service_account(account).annotation(ROLE, "shared");
    let named = |name: &str| pod(name, "worker").annotation("iam.amazonaws.com/session-name", "mine");
    let one = rig.pod(pod("one", "worker"))?;
    let two = rig.pod(pod("two", "worker"))?;
    let other = rig.pod(pod("other", "cron"))?;
    let (first, second) = (rig.pod(named("first"))?, rig.pod(named("second"))?);
    let node = format!("podrole.{}", rig.node.name());
    let own = |pod: &Pod, name: &str| format!("{name}.{}", &pod.uid()[..8]);
    for scope in ["pod", "service-account", "role"] {
        rig.sts.clear();
        rig.start(&["--session-scope", scope])?;
        for (pod, account) in [(&one, "worker"), (&two, "worker"), (&other, "cron")] {
            let wanted = match scope {
                "pod" => own(pod, &format!("{TEAM}.{account}")),
                "service-account" => format!("{TEAM}.{account}"),
                _ => node.clone(),
            };
            ensure!(session(&rig, pod)? == wanted, "{scope}: {} got another session than {wanted}", pod.name());
        }
        // A session name from an annotation applies to its pod only, in every scope.
        for pod in [&first, &second] {
            ensure!(session(&rig, pod)? == own(pod, &format!("{TEAM}.mine")), "{scope}: {}", pod.name());
        }
        let mut names: Vec<_> = rig.sts.assume_calls().into_iter().filter_map(|call| call.session_name).collect();
        let calls = names.len();
        names.sort_unstable();
        names.dedup();
        let sessions = match scope {
            "pod" => 5,
            "service-account" => 4,
            _ => 3,
        };
        ensure!(names.len() == sessions && calls == sessions, "{scope}: {calls} calls for {names:?}");
    }
    no_leak(&rig)
}

fn external_ids() -> Result<()> {
    const EXTERNAL_ID: &str = "iam.amazonaws.com/external-id";
    let mut rig = rig()?;
    rig.sts.role(RoleSpec::new(&format!("{ROLES}guarded")).external_id("right-one"));
    let all = ("iam.amazonaws.com/allowed-roles", "[\"*\"]");
    rig.kube.namespace("vouched", &[all, (EXTERNAL_ID, "right-one")])?;
    rig.kube.namespace("disowned", &[all, (EXTERNAL_ID, "wrong-one")])?;
    rig.start(&[])?;
    let pod = |namespace: &str, id: &str| {
        let name = id.split('-').next().unwrap_or_default();
        let spec = PodSpec::new(namespace, name).annotation(ROLE, "guarded");
        rig.pod(spec.annotation(EXTERNAL_ID, id))
    };
    let (right, wrong) = (pod(TEAM, "right-one")?, pod(TEAM, "wrong-one")?);
    for _ in 0..3 {
        served(&rig, right.agent("app")?.v4(), "guarded")?;
        unauthorized(&rig, &wrong)?;
    }
    // Two ids are two cache keys, each with its own call to STS: a pod is never answered with another pod's result.
    let mut ids: Vec<_> = rig.sts.assume_calls().into_iter().filter_map(|call| call.external_id).collect();
    ids.sort_unstable();
    ensure!(ids == ["right-one", "wrong-one"], "{ids:?}");
    // The namespace's id wins, whether it is the right one or a wrong one.
    served(&rig, pod("vouched", "wrong-one")?.agent("app")?.v4(), "guarded")?;
    unauthorized(&rig, &pod("disowned", "right-one")?)?;
    let failed = line(&rig, "a failed call", |line| line["decision"] == "failed")?;
    ensure!(failed["error"] == "AccessDenied" && failed["external_id_set"] == json!(true), "{failed}");
    ensure!(!rig.daemon()?.audit_text()?.contains("right-one"), "an external id is in the audit lines");
    // An id that STS would reject is denied as the pod's mistake, without a call to STS.
    let calls = rig.sts.assume_calls().len();
    denied(&rig, &pod(TEAM, "bad-id!")?, "app", "BadExternalId")?;
    ensure!(rig.sts.assume_calls().len() == calls, "STS was called");
    no_leak(&rig)
}

/// A pod with two containers, each with its own role and this security context; `field` of its spec has this value.
fn pair(rig: &Rig, name: &str, context: &Value, field: &str, value: bool) -> Result<Pod> {
    let spec = PodSpec::new(TEAM, name).containers(&["web", "batch"]);
    let spec = spec.annotation("podrole.dev/role.web", "web-role").annotation("podrole.dev/role.batch", "batch-role");
    let pod = rig.node.pod(spec)?;
    let mut object = pod.object();
    for container in object["spec"]["containers"].as_array_mut().context("a pod has containers")? {
        container["securityContext"] = context.clone();
    }
    object["spec"][field] = json!(value);
    rig.kube.apply(object)?;
    Ok(pod)
}

/// The session name of the credentials that a pod gets.
fn session(rig: &Rig, pod: &Pod) -> Result<String> {
    let agent = pod.agent("app")?;
    let credentials = agent.v4().credentials()?;
    let issued = rig.sts.who(&credentials.access_key_id).context("STS never gave these")?;
    ensure!(issued.role_arn == format!("{ROLES}shared"), "{}", issued.role_arn);
    let line = delivery(rig, pod, "app")?;
    ensure!(line["session_name"] == issued.session_name.as_str(), "{line}");
    Ok(issued.session_name)
}

/// Asserts that the container gets nothing and that the audit line has this reason.
fn denied(rig: &Rig, pod: &Pod, container: &str, reason: &str) -> Result<()> {
    let error = refused(rig, pod.agent(container)?.v4())?;
    ensure!(error.status() == Some(404), "{error}");
    let is_it = |line: &Value| line["action"] == "Deny" && line["pod"]["uid"] == pod.uid();
    let line = line(rig, "the denial", is_it)?;
    ensure!(line["reason"] == reason && line["decision"] == "deny", "{line}");
    Ok(())
}

/// Asserts that STS denies this pod the role, and that the pod gets an error that its SDK understands.
fn unauthorized(rig: &Rig, pod: &Pod) -> Result<()> {
    let error = refused(rig, pod.agent("app")?.v4())?;
    let told = matches!(&error, CredsError::Code(code, _) if code == "AssumeRoleUnauthorizedAccess");
    ensure!(told && error.to_string().contains("AssumeRole"), "{error}");
    Ok(())
}

/// The audit line of the first delivery to a container.
fn delivery(rig: &Rig, pod: &Pod, container: &str) -> Result<Value> {
    let id = pod.container(container)?.id;
    line(rig, "the delivery", |line| {
        line["action"] == "Deliver" && line["pod"]["uid"] == pod.uid() && line["pod"]["container"]["id"] == id.as_str()
    })
}

/// The running daemon's first audit line that matches.
fn line(rig: &Rig, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
    until(what, SOON, || Ok(rig.daemon()?.audit()?.into_iter().find(|line| is_it(line))))
}
