//! Each of the two guards is enough, and with the routing guard pods are served even without nftables.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use podrole_lab::agent::{Load, Target};
use podrole_lab::effort::FLUSHES;
use podrole_lab::proc::Process;
use podrole_lab::world::Trial;

use crate::support::{
    METADATA, NODE_ROLE, SHORT, agents, answered, connects, leak, no_leak, node_is_well, on_node, ready,
    remove_routing_guard, rig, served_both, silent,
};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("pods_are_served_after_a_flush_of_all_rules", flushed),
    Trial::new("control_a_flush_without_the_routing_guard_leaks", flushed_without_routing_guard),
    Trial::new("a_flush_under_load_leaks_nothing", flushed_under_load),
    Trial::new("the_table_guard_by_itself_serves_and_guards", table_alone),
    Trial::new("without_table_and_daemon_no_connection_is_accepted", both_gone),
    Trial::new("pods_are_served_beside_a_web_server_on_the_node", port_80_taken),
    Trial::new("other_ports_stay_closed_after_a_flush", other_ports),
];

const FLUSH: &str = "nft flush ruleset";

fn flushed() -> Result<()> {
    let rig = ready()?;
    let agents = agents(&rig)?;
    for _ in 0..FLUSHES.count() {
        on_node(&rig, FLUSH)?;
        for (_, agent) in &agents {
            served_both(&rig, agent, "own-role")?;
        }
    }
    node_is_well(&rig)?;
    no_leak(&rig)
}

fn flushed_without_routing_guard() -> Result<()> {
    let rig = ready()?;
    let agents = agents(&rig)?;
    // A suspended daemon does not repair the rules.
    rig.daemon()?.suspend()?;
    on_node(&rig, FLUSH)?;
    remove_routing_guard(&rig)?;
    for (_, agent) in &agents {
        for client in [agent.v4(), agent.v6()] {
            ensure!(client.credentials()?.role == NODE_ROLE);
        }
    }
    leak(&rig)
}

fn flushed_under_load() -> Result<()> {
    let rig = ready()?;
    let agents = agents(&rig)?;
    let later = agents.iter().map(|(pod, _)| pod.agent("app")).collect::<Result<Vec<_>>>()?;
    let loads: Vec<(Target, Vec<u8>)> = [Target::v4(), Target::v6()]
        .into_iter()
        .zip(&agents)
        .map(|(target, (_, agent))| {
            // Clients retry quickly and do not wait for a request that the flush has interrupted.
            let target = target.timeout(Duration::from_millis(500));
            let ttl = [("X-aws-ec2-metadata-token-ttl-seconds", "60")];
            (target, agent.to(target).render("PUT", "/latest/api/token", &ttl))
        })
        .collect();
    thread::scope(|scope| -> Result<()> {
        let running: Vec<_> = loads
            .iter()
            .zip(&agents)
            .map(|((target, request), (_, agent))| {
                let load = Load::new(*target, request).workers(2).duration(Duration::from_millis(1500));
                scope.spawn(move || agent.load(&load))
            })
            .collect();
        answered(&rig, 100)?;
        on_node(&rig, FLUSH)?;
        // These connections have never passed podrole's table: the metadata listener serves them.
        let after: Vec<_> = loads
            .iter()
            .zip(&later)
            .map(|((target, request), agent)| {
                let load = Load::new(*target, request).workers(2).duration(Duration::from_millis(700));
                scope.spawn(move || agent.load(&load))
            })
            .collect();
        for thread in after {
            let report = thread.join().map_err(|_| anyhow::anyhow!("the later load's thread panicked"))??;
            ensure!(report.failed() == 0, "after the flush: {report:?}");
            ensure!(report.with_status(200) > 50 && report.answered() == report.with_status(200), "{report:?}");
        }
        let tables = on_node(&rig, "nft list tables")?;
        ensure!(!tables.contains("podrole"), "podrole's table is back, so it may have served the requests: {tables}");
        for thread in running {
            let report = thread.join().map_err(|_| anyhow::anyhow!("the load's thread panicked"))??;
            // Requests in flight at the flush lose their rewrite and fail; all later ones are served.
            ensure!(report.failed() <= 4, "{report:?}");
            ensure!(report.with_status(200) > 100 && report.answered() == report.with_status(200), "{report:?}");
        }
        Ok(())
    })?;
    no_leak(&rig)
}

fn table_alone() -> Result<()> {
    let mut rig = ready()?;
    let agents = agents(&rig)?;
    remove_routing_guard(&rig)?;
    for (_, agent) in &agents {
        served_both(&rig, agent, "own-role")?;
        for address in METADATA {
            ensure!(!connects(agent, address, 8080), "{address}:8080");
        }
    }
    rig.daemon_mut()?.kill9()?;
    for (_, agent) in &agents {
        for address in METADATA {
            ensure!(!connects(agent, address, 80), "{address}");
        }
    }
    no_leak(&rig)
}

fn both_gone() -> Result<()> {
    let mut rig = ready()?;
    let agents = agents(&rig)?;
    rig.daemon_mut()?.kill9()?;
    on_node(&rig, FLUSH)?;
    for (pod, agent) in &agents {
        for address in METADATA {
            // IPv4 connections time out: the kernel has no route for a reset from an address that it does not have.
            ensure!(!connects(agent, address, 80), "{}: {address}", pod.name());
        }
    }
    node_is_well(&rig)?;
    no_leak(&rig)
}

fn other_ports() -> Result<()> {
    let rig = ready()?;
    let agents = agents(&rig)?;
    on_node(&rig, FLUSH)?;
    for (_, agent) in &agents {
        for address in METADATA {
            for port in [53, 443, 8080] {
                silent(agent, address, port)?;
            }
            let question = agent.datagram(&Target::new((address, 53)).timeout(SHORT), b"question");
            ensure!(question.is_err(), "udp {address}:53 answers");
        }
    }
    no_leak(&rig)
}

/// If another program, such as an ingress controller on the host network, listens on port 80 of every address, the metadata listener
/// cannot bind; pods are served by the redirect all the same.
fn port_80_taken() -> Result<()> {
    let mut rig = rig()?;
    let program = "import signal, socket\n\
        servers = [socket.create_server((host, 80), family=family) for host, family in \
        (('0.0.0.0', socket.AF_INET), ('::', socket.AF_INET6))]\n\
        print('ready', flush=True)\n\
        signal.pause()";
    let mut server = Process::start("web", rig.node.command().args(["python3", "-c", program]))?;
    server.wait_for_log("ready", Duration::from_secs(5))?;
    rig.start(&[])?;
    for (_, agent) in agents(&rig)? {
        served_both(&rig, &agent, "own-role")?;
    }
    ensure!(
        rig.daemon()?.metric("podrole_faults_total", &[("fault", "metadata_listener")])? > 0.0,
        "the fault is not counted"
    );
    no_leak(&rig)
}
