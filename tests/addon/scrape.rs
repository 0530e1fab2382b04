//! Metrics can be scraped from other machines; nothing else is reachable.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podrole::redirect::{LISTEN_V4, LISTEN_V6};
use podrole_lab::agent::{Agent, Failure, Response, Target};
use podrole_lab::cluster::Cluster;
use podrole_lab::node::{NODE_V4, NODE_V6};
use podrole_lab::rig::Rig;
use podrole_lab::world::Trial;

use crate::support::{Applied, applied, served, with_role};

pub(crate) const TRIALS: &[Trial] = &[Trial::new("metrics_can_be_scraped_from_elsewhere_and_nothing_else", scrape)];

const ADMIN: u16 = 9441;
const METRICS: u16 = 9442;
/// Asks the listener to close the connection, because an answer is read to the end of the connection.
const CLOSE: (&str, &str) = ("Connection", "close");
const ELSEWHERE: [&str; 8] = [
    "/livez",
    "/readyz",
    "/readyz?verbose",
    "/",
    "/metrics/",
    "/debug",
    "/latest/meta-data/iam/security-credentials/",
    "/latest/api/token",
];

fn scrape() -> Result<()> {
    let Applied { mut rig, account, .. } = applied(".")?;
    for (number, node) in [IpAddr::V4(NODE_V4), IpAddr::V6(NODE_V6)].into_iter().enumerate() {
        // As the DaemonSet spells it, for IPv4 and IPv6 nodes.
        rig.start(&["--kubeconfig", &account, "--metrics-addr", &format!("[{node}]:{METRICS}")])?;
        let pod = with_role(&rig, &format!("web-{number}"), "web-role")?;
        let inside = pod.agent("app")?;
        served(&rig, inside.v4(), "web-role")?;
        let outside = rig.node.wan_agent()?;
        for (from, agent) in [("the network", &outside), ("a pod", &inside)] {
            only_metrics(&rig, agent, node).with_context(|| format!("from {from} to {node}"))?;
        }
        ensure!(served(&rig, inside.v4(), "web-role").is_ok(), "and pods are served as before");
    }
    // Control: a listener that is not bound to loopback would have been reached.
    rig.start(&["--kubeconfig", &account, "--admin-addr", &format!("0.0.0.0:{ADMIN}")])?;
    let answer = get(&rig.node.wan_agent()?, (NODE_V4, ADMIN), "/livez");
    ensure!(answer.as_ref().is_ok_and(|answer| answer.status == 200), "{answer:?}");
    Ok(())
}

fn only_metrics(rig: &Rig<Cluster>, agent: &Agent, node: IpAddr) -> Result<()> {
    let answer = get(agent, (node, METRICS), "/metrics").map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    ensure!(answer.status == 200 && answer.text().contains("podrole_build_info"), "{answer:?}");
    ensure!(!answer.text().contains("arn:") && !answer.text().contains("web-role"), "{}", answer.text());
    for path in ELSEWHERE {
        let answer = get(agent, (node, METRICS), path).map_err(|failure| anyhow::anyhow!("{path}: {failure:?}"))?;
        ensure!(answer.status == 404, "{path}: {answer:?}");
    }
    let headers = [("X-aws-ec2-metadata-token-ttl-seconds", "60"), CLOSE];
    let put = agent.to(Target::new((node, METRICS))).request("PUT", "/latest/api/token", &headers);
    let put = put.map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    ensure!(put.status == 405, "{put:?}");

    let refused = |address: IpAddr, port: u16| -> Result<()> {
        match agent.reach(SocketAddr::new(address, port), Duration::from_millis(500)) {
            Err(Failure::Refused | Failure::TimedOut | Failure::Unreachable) => Ok(()),
            other => anyhow::bail!("{address} port {port}: {other:?}"),
        }
    };
    for address in [IpAddr::V4(NODE_V4), IpAddr::V6(NODE_V6)] {
        refused(address, ADMIN)?;
        for port in 18181..=18188 {
            refused(address, port)?;
        }
        refused(address, 80)?;
    }
    // The listener's own addresses, for a client that knows them and routes packets through the node.
    for address in [IpAddr::V4(LISTEN_V4), IpAddr::V6(LISTEN_V6)] {
        let before = rig.daemon()?.metric("podrole_connections_refused_total", &[])?;
        let answer = get(agent, (address, 18181), "/latest/meta-data/");
        ensure!(answer.is_err(), "{address}: {answer:?}");
        // Not even a connection: the rules drop packets before the listener receives them.
        ensure!(rig.daemon()?.metric("podrole_connections_refused_total", &[])? == before, "{address} was accepted");
    }
    Ok(())
}

fn get(agent: &Agent, to: impl Into<SocketAddr>, path: &str) -> Result<Response, Failure> {
    agent.to(Target::new(to).timeout(Duration::from_secs(1))).get(path, &[CLOSE])
}
