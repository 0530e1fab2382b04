//! Programs that find credentials by default settings find those of their pod's own role, and no others.

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::Target;
use podrole_lab::pod::{Driver, Pod, Shape};
use podrole_lab::rig::{ControlPlane, ROLE, Rig};
use podrole_lab::world::Trial;

use crate::programs::{ALL, Programs, Sdk};
use crate::support::{ACCOUNT, TEAM, double, no_leak, real, served, session_arn, spec};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("every_sdk_gets_its_pods_own_role", every_sdk),
    Trial::new("sdks_over_ipv6_and_mapped_sockets_get_their_pods_own_role", address_families),
    Trial::new("sdks_of_pods_without_a_role_get_no_credentials", without_role),
    Trial::new("control_without_podrole_sdks_get_the_nodes_role", control),
];

const NODE_ARN: &str = "arn:aws:sts::111122223333:assumed-role/node-role/i-0a1b2c3d4e5f60718";

fn every_sdk() -> Result<()> {
    let programs = Programs::find()?;
    let mut rig = real()?;
    let pods = pods(&rig)?;
    rig.start(&[])?;
    for (pod, role) in &pods {
        let expected = session_arn(pod, role)?;
        for sdk in ALL {
            let found = programs.run(&rig, pod, sdk)?;
            found.is(&expected).with_context(|| format!("{sdk:?} in {}", pod.name()))?;
            if sdk == Sdk::Go {
                // Its region comes only from the metadata service.
                ensure!(found.region.as_deref() == Some("us-west-2"), "{found:?}");
            }
        }
    }
    no_leak(&rig)
}

fn address_families() -> Result<()> {
    let programs = Programs::find()?;
    let mut rig = real()?;
    let pods = pods(&rig)?;
    rig.start(&[])?;
    for (pod, role) in &pods {
        let agent = pod.agent("app")?;
        // As the JVM does: an AF_INET6 socket with an IPv4-mapped address.
        let mapped = served(&rig, agent.to(Target::v4().mapped()), role).context("mapped")?;
        let v6 = served(&rig, agent.v6(), role).context("over IPv6")?;
        ensure!(mapped.access_key_id == v6.access_key_id, "two sessions of one pod");
        for sdk in ALL {
            let found = programs.run_with(&rig, pod, sdk, &[("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6")])?;
            found.is(&session_arn(pod, role)?).with_context(|| format!("{sdk:?} over IPv6 in {}", pod.name()))?;
        }
    }
    no_leak(&rig)
}

fn without_role() -> Result<()> {
    let programs = Programs::find()?;
    let mut rig = real()?;
    let pod = rig.pod(spec(TEAM, "plain"))?;
    rig.start(&[])?;
    for sdk in ALL {
        let found = programs.run(&rig, &pod, sdk)?;
        ensure!(found.arn.is_empty() && !found.error.is_empty(), "{sdk:?}: {found:?}");
    }
    no_leak(&rig)
}

fn control() -> Result<()> {
    let programs = Programs::find()?;
    let rig = double()?;
    ensure!(NODE_ARN.contains(ACCOUNT));
    for (pod, _) in pods(&rig)? {
        for sdk in ALL {
            programs.run(&rig, &pod, sdk)?.is(NODE_ARN).with_context(|| format!("{sdk:?} in {}", pod.name()))?;
        }
    }
    ensure!(rig.imds.leaked_packets()? > 0, "the control shows no leak, so the trials it controls show nothing");
    Ok(())
}

/// One pod behind a bridge and one with a point-to-point link, as the two families of CNI plugins connect them.
fn pods<A: ControlPlane>(rig: &Rig<A>) -> Result<Vec<(Pod, &'static str)>> {
    let web = spec(TEAM, "web").annotation(ROLE, "web-role");
    let batch = spec(TEAM, "batch").annotation(ROLE, "batch-role");
    let batch = batch.shape(Shape::PointToPoint).driver(Driver::Cgroupfs);
    Ok(vec![(rig.pod(web)?, "web-role"), (rig.pod(batch)?, "batch-role")])
}
