//! Other programs rewrite packets too, or a connection is older than podrole's rules.

use anyhow::{Result, ensure};
use podrole_lab::agent::{Connection, End, Target};
use podrole_lab::node::{METADATA_V4, METADATA_V6, WAN_V4, WAN_V6};
use podrole_lab::proc::until;
use podrole_lab::rig::Rig;
use podrole_lab::world::{Trial, scratch};

use crate::support::{NODE_ROLE, SHORT, agents, leak, nft, no_leak, on_wan, ready, refused, rig, served_both, soon};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("a_rewrite_after_podroles_has_no_effect", after_ours),
    Trial::new("a_rewrite_before_podroles_does_not_leak", before_ours),
    Trial::new("untracked_packets_are_served_or_dropped", untracked),
    Trial::new("a_connection_older_than_podrole_is_cut_off", older_than_the_rules),
    Trial::new("control_a_connection_goes_on_without_podrole", goes_on),
];

/// The rule has kube-proxy's priority, -100.
fn after_ours() -> Result<()> {
    let rig = ready()?;
    rewrite(&rig, -100)?;
    for (_, agent) in agents(&rig)? {
        served_both(&rig, &agent, "own-role")?;
    }
    ensure!(rig.imds.from_pods().is_empty(), "{:?}", rig.imds.from_pods());
    no_leak(&rig)
}

/// A chain before podrole's and after connection tracking decides where the packet goes.
fn before_ours() -> Result<()> {
    let rig = ready()?;
    rewrite(&rig, -195)?;
    let agents = agents(&rig)?;
    for (_, agent) in &agents {
        refused(&rig, agent.to(Target::v4().timeout(SHORT)))?;
        refused(&rig, agent.to(Target::v6().timeout(SHORT)))?;
    }
    ensure!(rig.imds.from_pods().is_empty(), "{:?}", rig.imds.from_pods());
    no_leak(&rig)?;
    // Control: the forward chain drops it, because of its original destination.
    nft(&rig, "flush chain inet podrole guard_forward")?;
    for client in [agents[0].1.v4(), agents[0].1.v6()] {
        ensure!(client.credentials()?.role == NODE_ROLE);
    }
    ensure!(!rig.imds.from_pods().is_empty());
    Ok(())
}

/// With `notrack` a packet bypasses every NAT chain, podrole's too; the metadata listener behind the routing guard serves it.
fn untracked() -> Result<()> {
    let rig = ready()?;
    nft(
        &rig,
        &format!(
            "table inet foreign {{
                chain raw {{
                    type filter hook prerouting priority -310;
                    ip daddr {METADATA_V4} notrack
                    ip6 daddr {METADATA_V6} notrack
                }}
            }}"
        ),
    )?;
    for (_, agent) in agents(&rig)? {
        served_both(&rig, &agent, "own-role")?;
    }
    no_leak(&rig)
}

fn older_than_the_rules() -> Result<()> {
    let mut rig = rig()?;
    let agents = agents(&rig)?;
    let mut open = Vec::new();
    for (_, agent) in &agents {
        for target in [Target::v4(), Target::v6()] {
            open.push((target, agent.open(&target)?));
        }
    }
    // These connections lead to the real metadata service, because podrole does not run yet.
    until("the metadata service to accept them", SHORT, || {
        Ok((rig.imds.from_pods().len() == open.len()).then_some(()))
    })?;
    rig.start(&[])?;
    rig.imds.clear()?;
    for (target, connection) in &open {
        let answer = ask(connection, target)?;
        ensure!(answer.is_empty(), "the old connection is answered: {}", String::from_utf8_lossy(&answer));
    }
    no_leak(&rig)?;
    for (_, agent) in &agents {
        served_both(&rig, agent, "own-role")?;
    }
    no_leak(&rig)
}

fn goes_on() -> Result<()> {
    let rig = rig()?;
    let agents = agents(&rig)?;
    for (_, agent) in &agents {
        for target in [Target::v4(), Target::v6()] {
            let connection = agent.open(&target)?;
            rig.imds.clear()?;
            let answer = ask(&connection, &target)?;
            ensure!(answer.starts_with(b"HTTP/1.1 200"), "{target:?}: {}", String::from_utf8_lossy(&answer));
            leak(&rig)?;
        }
    }
    Ok(())
}

/// The answer to one request on an open connection, if it arrives soon.
fn ask(connection: &Connection<'_>, target: &Target) -> Result<Vec<u8>> {
    let request =
        format!("GET /latest/meta-data/iam/security-credentials/ HTTP/1.1\r\nHost: {}\r\n\r\n", target.address());
    // The connection may be reset already; the answer is then empty.
    if connection.send(request.as_bytes()).is_err() {
        return Ok(Vec::new());
    }
    let received = connection.read(SHORT);
    Ok(received
        .map(|received| if received.end == End::Reset { Vec::new() } else { received.bytes })
        .unwrap_or_default())
}

/// Another program rewrites packets for the metadata address to a host behind the uplink, which forwards them to the metadata service.
fn rewrite(rig: &Rig, priority: i32) -> Result<()> {
    let chain = |priority: i32, from: [String; 2], to: [String; 2]| {
        format!(
            "table inet foreign {{ chain before {{ type nat hook prerouting priority {priority}; \
             ip daddr {} tcp dport 80 dnat ip to {}; ip6 daddr {} tcp dport 80 dnat ip6 to {}; }}; }}",
            from[0], to[0], from[1], to[1]
        )
    };
    let metadata = || [METADATA_V4.to_string(), METADATA_V6.to_string()];
    let host = || [WAN_V4.to_string(), WAN_V6.to_string()];
    nft(rig, &chain(priority, metadata(), host()))?;
    let beyond = chain(-100, host(), metadata());
    let file = scratch().join("beyond.nft");
    std::fs::write(&file, beyond)?;
    on_wan(rig, &format!("nft -f {}", file.display()))?;
    // The host does forward: the node's own packets, which are not rewritten, reach the service by the host's address.
    let node = rig.node.agent()?;
    ensure!(node.to(soon(WAN_V4.into())).credentials()?.role == NODE_ROLE);
    Ok(())
}
