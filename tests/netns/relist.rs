//! The watch breaks: its history is gone, or it says nonsense. What the next list shows replaces everything, at once.

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
    Trial::new("a_pod_that_a_relist_replaced_by_one_of_its_name_never_gets_the_new_ones_role", replaced),
    Trial::new("control_by_address_a_pod_that_a_relist_replaced_gets_the_new_ones_role", replaced_by_address),
    Trial::new("a_watch_that_sends_nonsense_is_begun_anew", nonsense),
];

const SHAPE: Shape = Shape::PointToPoint;
/// No trial is that long: a change later than this is never shown by a watch.
const NEVER: Duration = Duration::from_secs(600);
/// An interrupted watch is begun anew after less than a second.
const SOON: Duration = Duration::from_secs(10);

fn replaced() -> Result<()> {
    let rig = ready()?;
    let Replaced { old, new, alive } = replace(&rig, None)?;
    let fresh = new.agent("app")?;
    for family in Family::BOTH {
        // The kernel's word is all that stands against the old one: the node leads there, so its packets are answered.
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
    ensure!(calls.len() == 2, "STS was asked for somebody else: {calls:?}");
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
    // What the watch shows is believed as before.
    rig.kube.annotate("Pod", TEAM, "before", ROLE, Some("other-role"))?;
    becomes(&rig, before.agent("app")?.v4(), "other-role", &["before-role"])?;
    rig.delete(before)?;
    no_leak(&rig)
}

/// A pod that is gone by the API's word and still lives, an agent in it, and another of the same name and addresses.
struct Replaced {
    old: Pod,
    new: Pod,
    alive: Agent,
}

/// Only a new list can show the change: the watch would, far too late, and its history is gone. `before` is what the new pod gets
/// until then; `None`: it is told to come again.
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
    // Nothing has told the daemon yet.
    ensure!(lists() == known, "it has listed pods by itself");
    let fresh = new.agent("app")?;
    match (fresh.v4().credentials(), before) {
        (Ok(credentials), Some(role)) if rig.role_of(&credentials).as_deref() == Some(role) => {}
        (Err(error), None) if error.status() == Some(503) => {}
        (answer, _) => bail!("{before:?} was to come before the list, and this did: {answer:?}"),
    }
    rig.kube.gone();
    rig.kube.cut();
    becomes(rig, fresh.v4(), "new-role", before.as_slice())?;
    ensure!(lists() > known, "nothing was listed: {:?}", rig.kube.requests());
    Ok(Replaced { old, new, alive })
}

fn is_list(sent: &Request) -> bool {
    sent.path.contains("/pods") && !sent.is_watch()
}

/// Waits until `client` is served with `role`. Until then it may be told to come again, or have one of `before`, and nothing else.
fn becomes(rig: &Rig, client: Client<'_>, role: &str, before: &[&str]) -> Result<()> {
    until(&format!("credentials of {role}"), SOON, || match client.credentials() {
        Err(error) if error.status() == Some(503) => Ok(None),
        // A client asks for the name first: a role that changes before it asks for the credentials is by then another's name.
        Err(error) if error.status() == Some(404) && !before.is_empty() => Ok(None),
        Err(error) => bail!("neither served nor told to come again: {error}"),
        Ok(credentials) => match rig.role_of(&credentials) {
            Some(now) if now == role => Ok(Some(())),
            Some(old) if before.contains(&old.as_str()) => Ok(None),
            other => bail!("on the way to {role} it got {other:?}"),
        },
    })
}
