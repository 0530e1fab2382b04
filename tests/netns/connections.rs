//! Attacks by which a pod claims another pod's connection: one that the other left open, or a forged twin of an open one.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::pod::{PodSpec, Shape};
use podrole_lab::proc::Process;
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::world::Trial;

use crate::family::Family;
use crate::support::{no_leak, python, ready, rig, said, served, served_both, two_pods};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("a_connection_that_the_last_pod_left_open_is_useless", stale_connection),
    Trial::new("control_by_address_the_thief_of_a_connection_gets_the_last_pods_role", stale_connection_by_address),
    Trial::new("a_forged_twin_of_a_connection_changes_nothing", twin),
];

const OLD_PORT: u16 = 40_100;
/// How the thief keeps its kernel from sending a reset (see `takeover.py`), and the status of the answer. With the first two there is
/// no such socket in the thief's netns; with the third there is one, but the watch has not shown the thief yet.
const WAYS: [(&str, &str); 3] = [("filter", "404"), ("drop", "404"), ("repair", "503")];

fn stale_connection() -> Result<()> {
    let rig = ready()?;
    for family in Family::BOTH {
        for (way, status) in WAYS {
            let said = take_over(&rig, family, way)?;
            ensure!(
                said.contains("INJECTED") && !said.contains("NOT INJECTED"),
                "{family}, {way}: the attack did not happen: {said}"
            );
            ensure!(!said.contains("AccessKeyId"), "{family}, {way}: {said}");
            ensure!(said.contains(&format!("HTTP/1.1 {status} ")), "{family}, {way}: {said}");
        }
    }
    no_leak(&rig)
}

fn stale_connection_by_address() -> Result<()> {
    let mut rig = rig()?;
    rig.start(&["--identity", "ip"])?;
    for family in Family::BOTH {
        for (way, _) in WAYS {
            let said = take_over(&rig, family, way)?;
            let key = said.split("\"AccessKeyId\" : \"").nth(1).and_then(|rest| rest.split('"').next());
            let key =
                key.with_context(|| format!("{family}, {way}: the attack must succeed in the control: {said}"))?;
            ensure!(rig.role_of_key(key).as_deref() == Some("old-role"), "{family}, {way}: {said}");
        }
    }
    Ok(())
}

/// A pod leaves a connection open. Another pod gets its address while the watch is late, and sends a request on that connection.
fn take_over(rig: &Rig, family: Family, way: &str) -> Result<String> {
    // IMDSv1 is allowed, so that the request needs no session token, which the thief cannot have.
    let v1 = [("iam.amazonaws.com/allowed-roles", "[\"*\"]"), ("podrole.dev/imds-v1", "allow")];
    rig.kube.namespace("old", &v1)?;
    let shape = |spec: PodSpec| spec.shape(Shape::PointToPoint);
    let old = rig.pod(shape(PodSpec::new("old", &format!("old-{way}"))).annotation(ROLE, "old-role"))?;
    let agent = old.agent("app")?;
    served(rig, agent.to(family.target()), "old-role")?;
    rig.kube.freeze(true);
    let connection = agent.open(&family.target().from_port(OLD_PORT))?;
    // Removing the network first prevents the pod's kernel from closing the connection.
    old.unplug()?;
    drop(connection);
    drop(agent);
    let (v4, v6, address) = (old.v4(), old.v6(), family.of(&old).to_string());
    rig.kube.delete("Pod", "old", old.name())?;
    old.delete()?;
    let thief = rig.pod(shape(PodSpec::new("old", &format!("thief-{way}"))).v4(v4).v6(v6))?;
    let path = "/latest/meta-data/iam/security-credentials/old-role";
    let output = python(&thief, include_str!("takeover.py"), &[&address, &OLD_PORT.to_string(), path, way])?;
    rig.kube.freeze(false);
    rig.delete(thief)?;
    Ok(said(&output))
}

fn twin() -> Result<()> {
    const FIRST: u16 = 42_000;
    const HALF: u16 = 20;
    let mut rig = ready()?;
    let (owner, forger) = two_pods(&rig, Shape::PointToPoint)?;
    let agent = owner.agent("app")?;
    served_both(&rig, &agent, "victim-role")?;
    let (first, count) = (FIRST.to_string(), (2 * HALF).to_string());
    let forge = |family: Family| -> Result<Process> {
        let address = family.of(&owner);
        family.claim(&forger, address)?;
        let mut command = forger.command("app")?;
        command.args(["python3", "-c", include_str!("twin.py"), &address.to_string(), &first, &count]);
        let mut process = Process::start(&format!("twin-{family}"), &mut command)?;
        process.wait_for_log("ready", Duration::from_secs(10))?;
        Ok(process)
    };
    let mut forged = Family::BOTH.into_iter().map(forge).collect::<Result<Vec<_>>>()?;
    let ask = |ports: Range<u16>| -> Result<()> {
        for family in Family::BOTH {
            let token = agent.to(family.target()).token()?;
            let headers = [("X-aws-ec2-metadata-token", token.as_str())];
            for port in ports.clone() {
                let client = agent.to(family.target().from_port(port));
                let answer = client.get("/latest/meta-data/iam/security-credentials/", &headers)?;
                ensure!(answer.status == 200 && answer.text() == "victim-role", "{family}, port {port}: {answer:?}");
            }
        }
        Ok(())
    };
    ask(FIRST..FIRST + HALF)?;
    // A daemon that starts now finds two netns with the address, each with a socket of the connection.
    rig.daemon_mut()?.kill9()?;
    rig.restart()?;
    ask(FIRST + HALF..FIRST + 2 * HALF)?;
    for process in &mut forged {
        ensure!(process.is_running()?, "the forged twins were gone before the end: {}", process.log()?);
    }
    no_leak(&rig)
}
