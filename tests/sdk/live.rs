//! Changes and deletions on the real API server take effect quickly, in both directions.

use std::time::Duration;

use anyhow::{Result, ensure};
use podrole_lab::agent::Agent;
use podrole_lab::cluster::Cluster;
use podrole_lab::pod::Pod;
use podrole_lab::proc;
use podrole_lab::rig::{ALLOWED_ROLES, ROLE, Rig};
use podrole_lab::world::Trial;

use crate::programs::{ALL, Programs};
use crate::support::{
    SOON, TEAM, becomes, becomes_refused, denial, figure, no_leak, real_ready, refused, served, session_arn, with_role,
};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("an_annotation_of_a_running_pod_takes_effect_at_once", pod_annotation),
    Trial::new("an_annotation_of_a_namespace_takes_effect_at_once", namespace_annotation),
    Trial::new("a_deleted_pod_has_no_right_and_its_credentials_are_forgotten", deleted),
    Trial::new("a_pod_that_terminates_is_served_to_its_end", terminating),
];

/// The longest time from the API server's answer to the pod's first answer that shows the change: one watch event, plus the time that
/// a request of an unknown pod is held. An idle machine needs 10 ms for the event, a busy one more.
const LIVE: Duration = Duration::from_secs(2);
const ENTRIES: &str = "podrole_credential_cache_entries";

fn pod_annotation() -> Result<()> {
    let programs = Programs::find()?;
    let rig = real_ready()?;
    let (pod, agent) = served_pod(&rig, "web", "first-role")?;
    rig.kube.annotate("Pod", TEAM, "web", ROLE, Some("second-role"))?;
    soon("another role, pod annotation", becomes(&rig, agent.v4(), "second-role", &["first-role"])?)?;
    // From now on the old role is never served again, over any address family.
    for client in [agent.v4(), agent.v6()] {
        served(&rig, client, "second-role")?;
    }
    let token = agent.v4().token()?;
    let old = agent.get(
        "/latest/meta-data/iam/security-credentials/first-role",
        &[("X-aws-ec2-metadata-token", token.as_str())],
    )?;
    ensure!(old.status == 404, "{old:?}");
    for sdk in ALL {
        programs.run(&rig, &pod, sdk)?.is(&session_arn(&pod, "second-role")?)?;
    }
    rig.kube.annotate("Pod", TEAM, "web", ROLE, None)?;
    soon("no role, pod annotation", becomes_refused(&rig, agent.v4(), 404)?)?;
    denial(&rig, &pod, "NoRole")?;
    no_leak(&rig)
}

fn namespace_annotation() -> Result<()> {
    let rig = real_ready()?;
    let (pod, agent) = served_pod(&rig, "web", "web-role")?;
    rig.kube.annotate("Namespace", "", TEAM, ALLOWED_ROLES, Some(r#"["other-*"]"#))?;
    // The pod had these credentials, but its rights decide, not the cache.
    soon("forbidden, namespace annotation", becomes_refused(&rig, agent.v4(), 404)?)?;
    denial(&rig, &pod, "NamespaceNotPermitted")?;
    rig.kube.annotate("Namespace", "", TEAM, ALLOWED_ROLES, Some(r#"["web-*"]"#))?;
    soon("allowed, namespace annotation", becomes(&rig, agent.v4(), "web-role", &[])?)?;
    rig.kube.annotate("Namespace", "", TEAM, ALLOWED_ROLES, None)?;
    soon("no list, namespace annotation", becomes_refused(&rig, agent.v4(), 404)?)?;
    no_leak(&rig)
}

fn deleted() -> Result<()> {
    let rig = real_ready()?;
    let (_kept, kept) = served_pod(&rig, "kept", "kept-role")?;
    let (pod, agent) = served_pod(&rig, "web", "web-role")?;
    let entries = || rig.daemon()?.metric(ENTRIES, &[]);
    let before = entries()?;
    ensure!(before >= 2.0, "{before} entries are in the cache");
    // The pod's processes keep running, because deletion on the API server precedes the kubelet.
    rig.kube.delete("Pod", TEAM, "web")?;
    soon("deleted, including the hold", becomes_refused(&rig, agent.v4(), 503)?)?;
    proc::until("its credentials to be forgotten", SOON, || Ok((entries()? == before - 1.0).then_some(())))?;
    // A new pod of the same name is served, and the old one still is not.
    let again = with_role(&rig, TEAM, "web", "web-role")?;
    ensure!(again.uid() != pod.uid());
    let of_new = served(&rig, again.agent("app")?.v4(), "web-role")?;
    ensure!(rig.sts.who(&of_new.access_key_id).is_some_and(|who| who.session_name.ends_with(&again.uid()[..8])));
    refused(&rig, agent.v4())?;
    refused(&rig, agent.v6())?;
    served(&rig, kept.v4(), "kept-role")?;
    no_leak(&rig)
}

fn terminating() -> Result<()> {
    let rig = real_ready()?;
    let (_pod, agent) = served_pod(&rig, "web", "web-role")?;
    rig.kube.delete_with_grace("Pod", TEAM, "web", 30)?;
    // A terminating pod may need its role to save its state. When the next pod is served, the watch has also delivered the deletion
    // mark.
    let kept = with_role(&rig, TEAM, "kept", "kept-role")?;
    becomes(&rig, kept.agent("app")?.v4(), "kept-role", &[])?;
    served(&rig, agent.v4(), "web-role")?;
    rig.kube.delete("Pod", TEAM, "web")?;
    soon("deleted after its grace period, including the hold", becomes_refused(&rig, agent.v4(), 503)?)?;
    no_leak(&rig)
}

fn served_pod(rig: &Rig<Cluster>, name: &str, role: &str) -> Result<(Pod, Agent)> {
    let pod = with_role(rig, TEAM, name, role)?;
    let agent = pod.agent("app")?;
    becomes(rig, agent.v4(), role, &[])?;
    Ok((pod, agent))
}

fn soon(what: &str, took: Duration) -> Result<()> {
    figure(what, format_args!("{:.1} ms", took.as_secs_f64() * 1e3));
    ensure!(took < LIVE, "{what}: {took:?}");
    Ok(())
}
