//! Cgroups as kubelets and runtimes name them, and cgroups that pods forge.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::{Agent, Target};
use podrole_lab::pod::{Driver, Pod, PodSpec, Qos};
use podrole_lab::rig::{ControlPlane as _, ROLE};
use podrole_lab::world::{CGROUP_ROOT, Trial};

use crate::support::{TEAM, no_leak, ready, refused, served, served_both};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("a_pod_in_each_cgroup_layout_is_served", layouts),
    Trial::new("a_tree_that_a_pod_forges_below_its_own_cgroup_is_its_own", forged_below_own),
    Trial::new("a_tree_that_is_forged_below_another_programs_container_is_nobodys", forged_elsewhere),
];

/// Container ids that no runtime has given.
const FORGED: &str = "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff";

/// Each layout before and after the daemon has started, and after a container has been restarted.
fn layouts() -> Result<()> {
    let mut rig = crate::support::rig()?;
    let pods = |rig: &podrole_lab::rig::Rig, when: &str| -> Result<Vec<(Pod, String)>> {
        let all = Driver::ALL.into_iter().zip([Qos::BestEffort, Qos::Burstable, Qos::Guaranteed].into_iter().cycle());
        let pod = |(driver, qos): (Driver, Qos)| {
            let role = format!("{when}-{driver:?}");
            let spec = PodSpec::new(TEAM, &role.to_lowercase()).driver(driver).qos(qos).annotation(ROLE, &role);
            Ok((rig.pod(spec)?, role))
        };
        all.map(pod).collect()
    };
    let mut all = pods(&rig, "before")?;
    rig.start(&[])?;
    all.extend(pods(&rig, "after")?);
    for (pod, role) in all {
        served_both(&rig, &pod.agent("app")?, &role)?;
        pod.restart_container("app")?;
        rig.kube.update_pod(&pod)?;
        served_both(&rig, &pod.agent("app")?, &role)?;
        rig.delete(pod)?;
    }
    no_leak(&rig)
}

/// The cgroups of a victim as the runtimes would name them.
fn names(victim: &Pod) -> [String; 3] {
    let (uid, slice) = (victim.uid(), format!("kubepods-besteffort-pod{}.slice", victim.uid().replace('-', "_")));
    [
        format!("kubepods/besteffort/pod{uid}/{FORGED}"),
        format!("kubepods.slice/kubepods-besteffort.slice/{slice}/cri-containerd-{FORGED}.scope"),
        format!("{slice}:cri-containerd:{FORGED}"),
    ]
}

/// A process of the thief that has moved into another cgroup before it opens a socket.
fn agent_at(thief: &Pod, cgroup: &Path) -> Result<Agent> {
    fs::create_dir_all(cgroup).with_context(|| format!("create {}", cgroup.display()))?;
    let mut command = thief.command("app")?;
    command.args(["sh", "-c", r#"echo $$ >"$0" && exec "$@""#]).arg(cgroup.join("cgroup.procs"));
    Agent::start(command)
}

fn forged_below_own() -> Result<()> {
    let rig = ready()?;
    let victim = rig.pod_with_role(TEAM, "victim", "victim-role")?;
    for driver in Driver::ALL {
        let name = format!("thief-{driver:?}").to_lowercase();
        let thief = rig.pod(PodSpec::new(TEAM, &name).driver(driver).annotation(ROLE, "thief-role"))?;
        for forged in names(&victim) {
            let agent = agent_at(&thief, &thief.container_cgroup("app")?.join(forged))?;
            for target in [Target::v4(), Target::v6()] {
                served(&rig, agent.to(target), "thief-role").with_context(|| name.clone())?;
            }
        }
        rig.delete(thief)?;
    }
    no_leak(&rig)
}

fn forged_elsewhere() -> Result<()> {
    let rig = ready()?;
    let victim = rig.pod_with_role(TEAM, "victim", "victim-role")?;
    // The process is in the victim's network, so only its cgroup keeps it from the victim's role.
    let elsewhere = ["docker-X.scope", "system.slice/docker-X.scope", "docker/X", "X", "lxc.payload.web"];
    for container in elsewhere {
        let container = PathBuf::from(CGROUP_ROOT).join(container.replace('X', &FORGED.replace('f', "e")));
        for forged in names(&victim) {
            let agent = agent_at(&victim, &container.join(&forged))?;
            for client in [agent.v4(), agent.v6()] {
                let error = refused(&rig, client)?;
                ensure!(error.status() == Some(404), "{}/{forged}: {error}", container.display());
            }
        }
    }
    // The control: at the places where the kubelet and the runtime create them, these names are the victim's.
    let [cgroupfs, systemd, mixed] = names(&victim);
    for path in [cgroupfs, systemd, format!("system.slice/containerd.service/{mixed}")] {
        let agent = agent_at(&victim, &Path::new(CGROUP_ROOT).join(path))?;
        served_both(&rig, &agent, "victim-role")?;
    }
    no_leak(&rig)
}
