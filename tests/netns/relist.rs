//! The watch breaks, because its history is gone or it sends invalid data. The next list replaces the whole index at once.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use podrole_lab::agent::{Agent, Client};
use podrole_lab::kube::Request;
use podrole_lab::pod::{Pod, PodSpec, Shape};
use podrole_lab::proc::until;
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::world::Trial;

use crate::claims::lead;
use crate::family::Family;
use crate::support::{TEAM, no_leak, ready, refused, rig, served_both};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("a_pod_that_a_relist_replaces_by_one_of_the_same_name_never_gets_its_role", replaced),
    Trial::new("control_by_address_a_pod_that_a_relist_replaced_gets_the_new_ones_role", replaced_by_address),
    Trial::new("a_watch_that_sends_invalid_data_is_restarted", nonsense),
];

const SHAPE: Shape = Shape::PointToPoint;
/// Longer than any trial: a change with this delay is never shown by the watch.
const NEVER: Duration = Duration::from_secs(600);
/// How long the daemon may take to restart an interrupted watch, which takes less than a second.
const SOON: Duration = Duration::from_secs(10);

fn replaced() -> Result<()> {
    let rig = ready()?;
    let Replaced { old, new, alive } = replace(&rig, None)?;
    let fresh = new.agent("app")?;
    for family in Family::BOTH {
        // The node routes to the old pod, so its packets are answered. Only the owner that the kernel reports prevents the attack.
        lead(&rig, &new, &old, family, SHAPE)?;
        let client = alive.to(family.target());
        let error = refused(&rig, client)?;
        ensure!(error.status() == Some(503), "{family}: {error}");
        let token = client.token()?;
        for role in ["old-role", "new-role"] {
            let path = format!("/latest/meta-data/iam/security-credentials/{role}");
            let answer = client.get(&path, &[("X-aws-ec2-metadata-token", &token)])?;
            ensure!(answer.status == 503 && !answer.text().contains("AccessKeyId"), "{family}, {role}: {answer:?}");
        }
        lead(&rig, &new, &new, family, SHAPE)?;
    }
    served_both(&rig, &fresh, "new-role")?;
    let calls = rig.sts.assume_calls();
    ensure!(calls.len() == 2, "STS was called for another pod: {calls:?}");
    no_leak(&rig)
}

fn replaced_by_address() -> Result<()> {
    let mut rig = rig()?;
    rig.start(&["--identity", "ip"])?;
    let Replaced { old, new, alive } = replace(&rig, Some("old-role"))?;
    for family in Family::BOTH {
        lead(&rig, &new, &old, family, SHAPE)?;
        let credentials = alive.to(family.target()).credentials().with_context(|| format!("{family}"))?;
        ensure!(rig.role_of(&credentials).as_deref() == Some("new-role"), "{family}: {credentials:?}");
    }
    Ok(())
}

fn nonsense() -> Result<()> {
    let rig = ready()?;
    let before = rig.pod_with_role(TEAM, "before", "before-role")?;
    served_both(&rig, &before.agent("app")?, "before-role")?;
    let errors = || rig.daemon()?.metric("podrole_watch_errors_total", &[("watch", "pods")]);
    for round in 1..=3_u8 {
        let name = format!("after-{round}");
        let known = errors()?;
        rig.kube.bad_bytes();
        until("the daemon to notice", SOON, || Ok((errors()? > known).then_some(())))?;
        let pod = rig.pod_with_role(TEAM, &name, &format!("{name}-role"))?;
        let agent = pod.agent("app")?;
        becomes(&rig, agent.v4(), &format!("{name}-role"), &[])?;
        served_both(&rig, &before.agent("app")?, "before-role")?;
    }
    // Later events of the watch count as before.
    rig.kube.annotate("Pod", TEAM, "before", ROLE, Some("other-role"))?;
    becomes(&rig, before.agent("app")?.v4(), "other-role", &["before-role"])?;
    rig.delete(before)?;
    no_leak(&rig)
}

/// A live pod with an agent that is deleted in the API, and another pod of the same name and addresses.
struct Replaced {
    old: Pod,
    new: Pod,
    alive: Agent,
}

/// Makes a change that only a new list can show: the watch would show it too late, and its history is gone. `before` is the role that
/// the new pod gets until then; `None` if it gets 503.
fn replace(rig: &Rig, before: Option<&str>) -> Result<Replaced> {
    let spec = |role: &str| PodSpec::new(TEAM, "web").shape(SHAPE).annotation(ROLE, role);
    let old = rig.pod(spec("old-role"))?;
    let alive = old.agent("app")?;
    served_both(rig, &alive, "old-role")?;
    let lists = || rig.kube.requests().iter().filter(|sent| is_list(sent)).count();
    let known = lists();
    rig.kube.set_watch_delay(NEVER);
    rig.kube.delete("Pod", TEAM, "web")?;
    let new = rig.node.pod(spec("new-role").v4(old.v4()).v6(old.v6()))?;
    rig.kube.apply(new.object())?;
    // The daemon has no reason to list yet.
    ensure!(lists() == known, "the daemon has listed pods without a reason");
    let fresh = new.agent("app")?;
    match (fresh.v4().credentials(), before) {
        (Ok(credentials), Some(role)) if rig.role_of(&credentials).as_deref() == Some(role) => {}
        (Err(error), None) if error.status() == Some(503) => {}
        (answer, _) => bail!("expected {before:?} before the list, got {answer:?}"),
    }
    rig.kube.gone();
    rig.kube.cut();
    becomes(rig, fresh.v4(), "new-role", before.as_slice())?;
    ensure!(lists() > known, "the daemon has not listed: {:?}", rig.kube.requests());
    Ok(Replaced { old, new, alive })
}

fn is_list(sent: &Request) -> bool {
    sent.path.contains("/pods") && !sent.is_watch()
}

/// Waits until `client` gets credentials of `role`. Until then it may only get 503 or one of the roles in `before`.
fn becomes(rig: &Rig, client: Client<'_>, role: &str, before: &[&str]) -> Result<()> {
    until(&format!("credentials of {role}"), SOON, || match client.credentials() {
        Err(error) if error.status() == Some(503) => Ok(None),
        // A client requests the role's name first. If the role changes before it requests the credentials, the name is no longer its own.
        Err(error) if error.status() == Some(404) && !before.is_empty() => Ok(None),
        Err(error) => bail!("neither credentials nor 503: {error}"),
        Ok(credentials) => match rig.role_of(&credentials) {
            Some(now) if now == role => Ok(Some(())),
            Some(old) if before.contains(&old.as_str()) => Ok(None),
            other => bail!("before {role} it got {other:?}"),
        },
    })
}
