//! Credentials are refreshed before they expire for as long as a pod has a right to them, and no longer.

use std::time::Duration;

use anyhow::{Result, ensure};
use podrole_lab::pod::{Pod, PodSpec};
use podrole_lab::proc;
use podrole_lab::rig::{ControlPlane as _, ROLE, Rig};
use podrole_lab::sts::Call;
use podrole_lab::world::Trial;

use crate::support::{TEAM, no_leak, rig, served};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("a_role_that_the_namespace_no_longer_allows_is_not_refreshed", by_namespace),
    Trial::new("a_role_that_the_service_account_no_longer_names_is_not_refreshed", by_service_account),
    Trial::new("a_role_that_a_relist_shows_to_be_unused_is_not_refreshed", by_relist),
];

/// Seconds until a session expires, so short that it is refreshed every other second.
const LIFE: u32 = 4;
const LIMIT: Duration = Duration::from_secs(60);

fn by_namespace() -> Result<()> {
    ends(
        |rig| {
            rig.namespace("narrow", &["lost-role"])?;
            rig.pod_with_role("narrow", "lost", "lost-role")
        },
        |rig| rig.namespace("narrow", &["other-*"]),
    )
}

fn by_service_account() -> Result<()> {
    let names = |rig: &Rig, role: &str| {
        let role = format!("arn:aws:iam::111122223333:role/{role}");
        rig.kube.service_account(TEAM, "worker", &[("eks.amazonaws.com/role-arn", &role)])
    };
    ends(
        |rig| {
            names(rig, "lost-role")?;
            rig.pod(PodSpec::new(TEAM, "lost").service_account("worker"))
        },
        |rig| names(rig, "other-role"),
    )
}

/// The watch never shows the change, only the list after it, which has another pod of that name.
fn by_relist() -> Result<()> {
    ends(
        |rig| rig.pod_with_role(TEAM, "lost", "lost-role"),
        |rig| {
            rig.kube.down(true)?;
            rig.kube.annotate("Pod", TEAM, "lost", ROLE, Some("other-role"))?;
            rig.kube.gone();
            rig.kube.down(false)
        },
    )
}

/// Asserts that the credentials of the pod from `make` are refreshed until `change` and not after it, while its neighbor's still are.
fn ends(make: impl FnOnce(&Rig) -> Result<Pod>, change: impl FnOnce(&Rig) -> Result<()>) -> Result<()> {
    let mut rig = rig()?;
    rig.sts.set_lifetime(LIFE);
    let kept = rig.pod_with_role(TEAM, "kept", "kept-role")?;
    let lost = make(&rig)?;
    rig.start(&["--service-account-roles", "true"])?;
    served(&rig, kept.agent("app")?.v4(), "kept-role")?;
    served(&rig, lost.agent("app")?.v4(), "lost-role")?;
    // The control: no pod requests them again, but both are refreshed.
    ensure!(
        rig.sts.wait(LIMIT, |calls| of(calls, "kept") >= 3 && of(calls, "lost") >= 3),
        "{:?}",
        rig.sts.assume_calls()
    );

    change(&rig)?;
    let other = || Ok(lost.agent("app")?.credentials().map_or(true, |now| now.role != "lost-role").then_some(()));
    proc::until("the daemon to see the change", LIMIT, other)?;
    // A call may have been in flight.
    rig.sts.clear();
    ensure!(rig.sts.wait(LIMIT, |calls| of(calls, "kept") >= 1), "{:?}", rig.sts.assume_calls());
    rig.sts.clear();
    ensure!(rig.sts.wait(LIMIT, |calls| of(calls, "kept") >= 4), "{:?}", rig.sts.assume_calls());
    ensure!(of(&rig.sts.calls(), "lost") == 0, "{:?}", rig.sts.assume_calls());
    no_leak(&rig)
}

fn of(calls: &[Call], who: &str) -> usize {
    let role = format!("role/{who}-role");
    calls.iter().filter(|call| call.role_arn.as_ref().is_some_and(|arn| arn.ends_with(&role))).count()
}
