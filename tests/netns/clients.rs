//! Clients whose sockets differ from the usual ones: half closed, or bound to a device.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use podrole_lab::agent::Target;
use podrole_lab::pod::PodSpec;
use podrole_lab::proc::until;
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::world::Trial;

use crate::family::Family;
use crate::support::{TEAM, agents, ask_role, no_leak, ready, served};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("a_client_that_closes_its_sending_half_is_served", || usual_and(Target::half_closing)),
    Trial::new("a_client_that_closes_its_sending_half_gets_an_answer_that_comes_late", late_answer).alone(),
    Trial::new("control_a_client_that_closes_its_socket_is_nobody", closed),
    Trial::new("a_client_that_is_bound_to_a_device_is_served", || usual_and(Target::on_device)),
    Trial::new("containers_that_are_bound_to_a_device_never_get_each_others_role", bound_containers),
    Trial::new("a_client_that_is_bound_to_one_of_several_devices_is_served", several_devices),
];

/// Serves the usual client and the other kind of client, many times, so that requests find the socket in different states.
fn usual_and(kind: fn(Target) -> Target) -> Result<()> {
    let rig = ready()?;
    for (pod, agent) in agents(&rig)? {
        for family in Family::BOTH {
            served(&rig, agent.to(family.target()), "own-role")?;
            for _ in 0..50 {
                served(&rig, agent.to(kind(family.target())), "own-role")?;
            }
            served(&rig, agent.to(kind(family.target()).from_address(family.of(&pod))), "own-role")?;
        }
        served(&rig, agent.to(kind(Target::v4().mapped())), "own-role")?;
    }
    ensure!(unidentified(&rig)? == 0.0, "some requests had no owner");
    no_leak(&rig)
}

/// The pod becomes known only while its request waits, so the owner of the half-closed socket is proven twice.
fn late_answer() -> Result<()> {
    let rig = ready()?;
    for family in Family::BOTH {
        let name = format!("late-{family}").to_lowercase();
        let pod = rig.node.pod(PodSpec::new(TEAM, &name).annotation(ROLE, "late-role"))?;
        let agent = pod.agent("app")?;
        let client = agent.to(family.target().half_closing());
        let token = client.token()?;
        let answer = thread::scope(|scope| {
            let asking = scope.spawn(|| ask_role(client, &token));
            thread::sleep(Duration::from_millis(300));
            rig.kube.apply(pod.object())?;
            asking.join().map_err(|_| anyhow::anyhow!("the asking thread panicked"))
        })??;
        ensure!(answer.status == 200 && answer.text() == "late-role", "{family}: {answer:?}");
    }
    no_leak(&rig)
}

/// Nobody can read from a socket that its owner has closed, so it has no owner.
fn closed() -> Result<()> {
    let rig = ready()?;
    for (_pod, agent) in agents(&rig)? {
        for family in Family::BOTH {
            let client = agent.to(family.target());
            served(&rig, client, "own-role")?;
            let before = unidentified(&rig)?;
            // The daemon answers each of these before or after the close; some of them must be seen after it.
            until("a request of a closed socket", Duration::from_secs(10), || {
                let connection = agent.open(&family.target())?;
                connection.send(&client.render("GET", "/latest/meta-data/", &[]))?;
                connection.close()?;
                Ok((unidentified(&rig)? > before).then_some(()))
            })?;
        }
    }
    no_leak(&rig)
}

fn bound_containers() -> Result<()> {
    let rig = ready()?;
    let roles = ["web", "batch"];
    let spec = PodSpec::new(TEAM, "pair").containers(&roles);
    let pod = rig.pod(
        roles
            .iter()
            .fold(spec, |spec, name| spec.annotation(&format!("podrole.dev/role.{name}"), &format!("{name}-role"))),
    )?;
    let (web, batch) = (pod.agent("web")?, pod.agent("batch")?);
    for _ in 0..20 {
        for family in Family::BOTH {
            // Both use the same port in turn.
            let target = family.target().on_device().from_port(41_000);
            for (agent, role) in [(&web, "web-role"), (&batch, "batch-role")] {
                let token = agent.to(family.target().on_device()).token()?;
                let answer = ask_role(agent.to(target), &token)?;
                ensure!(answer.status == 200 && answer.text() == role, "{family}, {role}: {answer:?}");
            }
        }
    }
    no_leak(&rig)
}

/// The pod gets more interfaces, before and after the daemon has listed them.
fn several_devices() -> Result<()> {
    let rig = ready()?;
    for (pod, agent) in agents(&rig)? {
        for number in 0..4 {
            let (name, v4) = (format!("more{number}"), format!("10.77.{number}.1/24"));
            pod.configure(&["ip", "link", "add", &name, "type", "bridge"])?;
            pod.configure(&["ip", "addr", "add", &v4, "dev", &name])?;
            pod.configure(&["ip", "link", "set", &name, "up"])?;
            for family in Family::BOTH {
                served(&rig, agent.to(family.target().on_device()), "own-role")?;
            }
        }
    }
    no_leak(&rig)
}

/// The number of requests whose socket had no owner.
fn unidentified(rig: &Rig) -> Result<f64> {
    let count = |outcome| rig.daemon()?.metric("podrole_http_requests_total", &[("outcome", outcome)]);
    Ok(count("socket_unowned")? + count("socket_not_in_pod")?)
}
