//! What is served when nothing is wrong: every pod gets its own role, in every kind of network, and the node keeps its metadata.

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::Target;
use podrole_lab::pod::{Driver, Pod, PodSpec, Qos, Shape};
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::world::Trial;

use crate::support::{NODE_ROLE, TEAM, leak, no_leak, ready, refused, rig, served, served_both};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("pods_of_every_shape_get_their_own_role", every_shape),
    Trial::new("control_without_podrole_pods_get_the_nodes_role", without_podrole),
    Trial::new("host_network_pods_that_ask_for_nothing_keep_the_nodes_role", host_network),
    Trial::new("pods_without_a_role_get_none", no_role),
    Trial::new("roles_that_the_namespace_does_not_allow_are_denied", not_allowed),
];

fn every_shape() -> Result<()> {
    let mut rig = rig()?;
    let pods = pods(&rig)?;
    rig.start(&[])?;
    for (pod, role) in &pods {
        let agent = pod.agent("app")?;
        served_both(&rig, &agent, role).context(role.clone())?;
        // The JVM uses IPv6 sockets with a mapped IPv4 address.
        served(&rig, agent.to(Target::v4().mapped()), role).with_context(|| format!("{role}, mapped"))?;
    }
    // Programs on the node still get the node's role.
    let node = rig.node.agent()?;
    for client in [node.v4(), node.v6()] {
        ensure!(client.credentials()?.role == NODE_ROLE);
    }
    no_leak(&rig)
}

fn without_podrole() -> Result<()> {
    let rig = rig()?;
    for (pod, role) in pods(&rig)? {
        let agent = pod.agent("app")?;
        for client in [agent.v4(), agent.v6(), agent.to(Target::v4().mapped())] {
            ensure!(
                client.credentials()?.role == NODE_ROLE,
                "without podrole the pod of {role} does not get the node's role"
            );
        }
    }
    leak(&rig)
}

fn host_network() -> Result<()> {
    let mut rig = rig()?;
    let pod = rig.pod(PodSpec::new(TEAM, "cni").host_network())?;
    rig.start(&[])?;
    let agent = pod.agent("app")?;
    for client in [agent.v4(), agent.v6()] {
        ensure!(client.credentials()?.role == NODE_ROLE, "a host-network pod without a role lost the node's metadata");
    }
    no_leak(&rig)
}

fn no_role() -> Result<()> {
    let rig = ready()?;
    let pod = rig.pod(PodSpec::new(TEAM, "plain"))?;
    let agent = pod.agent("app")?;
    for client in [agent.v4(), agent.v6()] {
        let error = refused(&rig, client)?;
        ensure!(error.status() == Some(404), "{error}");
    }
    no_leak(&rig)
}

fn not_allowed() -> Result<()> {
    let rig = ready()?;
    rig.namespace("strict", &["good-*"])?;
    let (good, bad) = (rig.pod_with_role("strict", "good", "good-one")?, rig.pod_with_role("strict", "bad", "admin")?);
    served_both(&rig, &good.agent("app")?, "good-one")?;
    let error = refused(&rig, bad.agent("app")?.v4())?;
    ensure!(error.status() == Some(404), "{error}");
    // Requested by name, the node's role is denied too.
    let node = rig.pod_with_role(TEAM, "greedy", NODE_ROLE)?;
    let error = refused(&rig, node.agent("app")?.v4())?;
    ensure!(error.status() == Some(404), "{error}");
    ensure!(
        rig.sts
            .assume_calls()
            .iter()
            .all(|call| call.role_arn.as_deref().is_some_and(|arn| arn.ends_with("/good-one")))
    );
    Ok(())
}

/// A pod of each combination of network shape, cgroup driver and quality-of-service class, with its role.
fn pods(rig: &Rig) -> Result<Vec<(Pod, String)>> {
    let mut pods = Vec::new();
    for shape in [Shape::Bridge, Shape::PointToPoint] {
        for driver in [Driver::Cgroupfs, Driver::Systemd] {
            for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
                let role = format!("{shape:?}-{driver:?}-{qos:?}");
                let spec = PodSpec::new(TEAM, &role.to_lowercase()).shape(shape).driver(driver).qos(qos);
                pods.push((rig.pod(spec.annotation(ROLE, &role))?, role));
            }
        }
    }
    Ok(pods)
}
