//! What a hostile pod, or a hostile host beside the node, can do to the addresses: everything but the one way in is closed.

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::{Failure, Target};
use podrole_lab::node::{METADATA_V4, METADATA_V6, NODE_V4, NODE_V6};
use podrole_lab::pod::{Pod, PodSpec, Shape};
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::world::Trial;

use crate::support::{
    LISTENERS, METADATA, NODE_ROLE, SERVICES, SHORT, TEAM, agents, connects, counted, leak, listener_port, nft,
    no_leak, node_is_well, on_node, on_wan, open_second_lock, ready, refused, served, served_both, silent,
};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("pods_cannot_reach_the_listener_itself", listener_from_pods),
    Trial::new("other_ports_of_the_metadata_address_lead_nowhere", other_ports),
    Trial::new("control_other_ports_leak_without_podrole", other_ports_leak),
    Trial::new("the_node_itself_keeps_its_metadata", node_itself),
    Trial::new("a_host_beside_the_node_cannot_use_the_metadata_address", off_node_metadata),
    Trial::new("a_host_beside_the_node_cannot_reach_the_listener", off_node_listener),
    Trial::new("a_source_address_of_another_pod_does_not_get_in", spoofed_source),
    Trial::new("a_service_that_leads_to_the_listener_leads_nowhere", service_to_listener),
    Trial::new("a_service_that_leads_to_the_metadata_address_gives_nothing", service_to_metadata),
    Trial::new("a_dead_daemon_leaks_nothing", dead_daemon),
];

fn listener_from_pods() -> Result<()> {
    let rig = ready()?;
    let port = listener_port(&rig)?;
    let agents = agents(&rig)?;
    for (_, agent) in &agents {
        for address in LISTENERS {
            silent(agent, address, port)?;
            ensure!(!connects(agent, address, port), "{address}:{port} takes connections from pods");
        }
        // By the node's other addresses the port is not there at all.
        for address in [NODE_V4.into(), NODE_V6.into()] {
            silent(agent, address, port)?;
        }
        served_both(&rig, agent, "own-role")?;
    }
    // Control: it is our chain that stops them. And behind it, a second check: the connection was not for the metadata address.
    nft(&rig, "flush chain inet podrole guard_input")?;
    for address in LISTENERS {
        silent(&agents[0].1, address, port)?;
    }
    // The kernel completes connections also for a daemon that does not look at them; this one would cut them at once.
    rig.daemon()?.suspend()?;
    for address in LISTENERS {
        ensure!(connects(&agents[0].1, address, port), "{address}:{port} is closed without our chain too");
    }
    Ok(())
}

fn other_ports() -> Result<()> {
    let rig = ready()?;
    for (pod, agent) in agents(&rig)? {
        for address in METADATA {
            for port in [53, 443, 8080] {
                ensure!(!connects(&agent, address, port), "{}: {address}:{port} answers", pod.name());
            }
            let question = agent.datagram(&Target::new((address, 53)).timeout(SHORT), b"question");
            ensure!(question.is_err(), "{}: udp {address}:53 answers", pod.name());
        }
    }
    no_leak(&rig)
}

fn other_ports_leak() -> Result<()> {
    let rig = crate::support::rig()?;
    let (_, agent) = agents(&rig)?.swap_remove(1);
    for address in METADATA {
        ensure!(connects(&agent, address, 8080));
        ensure!(agent.datagram(&Target::new((address, 53)).timeout(SHORT), b"question").is_ok());
    }
    leak(&rig)
}

fn node_itself() -> Result<()> {
    let rig = ready()?;
    node_is_well(&rig)?;
    ensure!(rig.imds.own_packets()? > 0);
    no_leak(&rig)
}

fn off_node_metadata() -> Result<()> {
    let rig = ready()?;
    // Another host sends to our MAC what is for the metadata address, which is not its own any more.
    for (address, length, node) in [(METADATA[0], 32, NODE_V4.to_string()), (METADATA[1], 128, NODE_V6.to_string())] {
        on_wan(&rig, &format!("ip addr del {address}/{length} dev lo"))?;
        on_wan(&rig, &format!("ip route add {address}/{length} via {node}"))?;
    }
    let wan = rig.node.wan_agent()?;
    for address in METADATA {
        ensure!(!connects(&wan, address, 80), "{address} answers to another host");
    }
    // Control: without the check for uplinks the kernel would take the connection.
    nft(&rig, "flush chain inet podrole checks")?;
    for address in METADATA {
        // And then nobody knows whose it is.
        let error = refused(&rig, wan.to(Target::new((address, 80))))?;
        ensure!(error.status() == Some(503), "{address}: {error}");
    }
    Ok(())
}

fn off_node_listener() -> Result<()> {
    let rig = ready()?;
    let port = listener_port(&rig)?;
    for (address, length, node) in [(LISTENERS[0], 32, NODE_V4.to_string()), (LISTENERS[1], 128, NODE_V6.to_string())] {
        on_wan(&rig, &format!("ip route add {address}/{length} via {node}"))?;
    }
    let wan = rig.node.wan_agent()?;
    for address in LISTENERS {
        ensure!(!connects(&wan, address, port), "{address}:{port} takes another host's connection");
    }
    nft(&rig, "flush chain inet podrole guard_input")?;
    rig.daemon()?.suspend()?;
    for address in LISTENERS {
        ensure!(connects(&wan, address, port), "{address}:{port}: something else closed it");
    }
    Ok(())
}

fn spoofed_source() -> Result<()> {
    let rig = ready()?;
    let pods: Vec<Pod> = ["victim", "thief"]
        .iter()
        .map(|name| {
            let spec = PodSpec::new(TEAM, name).shape(Shape::PointToPoint);
            rig.pod(spec.annotation(ROLE, &format!("{name}-role")))
        })
        .collect::<Result<_>>()?;
    let (victim, thief) = (&pods[0], &pods[1]);
    thief.configure(&["ip", "addr", "add", &format!("{}/32", victim.v4()), "dev", "eth0"])?;
    thief.configure(&["ip", "addr", "add", &format!("{}/128", victim.v6()), "dev", "eth0", "nodad"])?;
    // What comes past our checks with that source, counted where packets for the node itself arrive.
    nft(
        &rig,
        &format!(
            "table inet probe {{
                counter v4 {{ }}
                counter v6 {{ }}
                chain in {{
                    type filter hook input priority -299;
                    iifname {0} ip saddr {1} tcp dport != 0 counter name v4
                    iifname {0} ip6 saddr {2} tcp dport != 0 counter name v6
                }}
            }}",
            thief.interface().context("a cable")?,
            victim.v4(),
            victim.v6()
        ),
    )?;
    let agent = thief.agent("app")?;
    let spoofed = |ours: bool| {
        let (to, from) =
            if ours { (Target::v4(), victim.v4().into()) } else { (Target::v6(), std::net::IpAddr::from(victim.v6())) };
        agent.to(to.from_address(from).timeout(SHORT)).credentials()
    };
    ensure!(spoofed(true).is_err() && spoofed(false).is_err(), "a spoofed source is answered");
    ensure!(counted(&rig, "v4")? == 0 && counted(&rig, "v6")? == 0, "spoofed packets come in");
    served_both(&rig, &victim.agent("app")?, "victim-role")?;
    served(&rig, agent.to(Target::v4().from_address(thief.v4())), "thief-role")?;
    served(&rig, agent.to(Target::v6().from_address(thief.v6())), "thief-role")?;
    // Control: without the check they do, and then there is still nobody to answer to.
    nft(&rig, "flush chain inet podrole antispoof")?;
    ensure!(spoofed(true).is_err() && spoofed(false).is_err(), "a spoofed source is answered");
    ensure!(counted(&rig, "v4")? > 0 && counted(&rig, "v6")? > 0, "the counter sees nothing");
    no_leak(&rig)
}

fn service_to_listener() -> Result<()> {
    let rig = ready()?;
    let port = listener_port(&rig)?;
    services(&rig, [format!("{}:{port}", LISTENERS[0]), format!("[{}]:{port}", LISTENERS[1])])?;
    let agents = agents(&rig)?;
    for (pod, agent) in &agents {
        for service in SERVICES {
            ensure!(!connects(agent, service, 80), "{}: {service} leads to the listener", pod.name());
        }
    }
    // Control: our chain stops it, not a mistake in the service.
    nft(&rig, "flush chain inet podrole guard_input")?;
    for service in SERVICES {
        silent(&agents[0].1, service, 80)?;
    }
    rig.daemon()?.suspend()?;
    for service in SERVICES {
        ensure!(connects(&agents[0].1, service, 80), "{service} leads nowhere anyhow");
    }
    Ok(())
}

fn service_to_metadata() -> Result<()> {
    let mut rig = ready()?;
    services(&rig, [format!("{METADATA_V4}:80"), format!("[{METADATA_V6}]:80")])?;
    let agents = agents(&rig)?;
    for (_, agent) in &agents {
        for service in SERVICES {
            refused(&rig, agent.to(Target::new((service, 80)).timeout(SHORT)))?;
        }
    }
    no_leak(&rig)?;
    // Control: without podrole the service leads to the node's credentials.
    rig.daemon_mut()?.kill9()?;
    rig.podrole(&["cleanup"])?;
    for service in SERVICES {
        let credentials = agents[0].1.to(Target::new((service, 80))).credentials()?;
        ensure!(credentials.role == NODE_ROLE, "{credentials:?}");
    }
    leak(&rig)
}

fn dead_daemon() -> Result<()> {
    let mut rig = ready()?;
    let agents = agents(&rig)?;
    rig.daemon_mut()?.kill9()?;
    for (pod, agent) in &agents {
        for address in METADATA {
            let failure = silent(agent, address, 80)?;
            ensure!(failure == Failure::Refused, "{}: {address}: {failure}", pod.name());
        }
    }
    no_leak(&rig)?;
    // Control: the table is gone, and so is the second lock.
    on_node(&rig, "nft delete table inet podrole")?;
    open_second_lock(&rig)?;
    for address in METADATA {
        let credentials = agents[0].1.to(Target::new((address, 80))).credentials()?;
        ensure!(credentials.role == NODE_ROLE, "{address}: {credentials:?}");
    }
    leak(&rig)
}

/// Somebody else's rules, as kube-proxy makes them, send two service addresses elsewhere.
fn services(rig: &Rig, to: [String; 2]) -> Result<()> {
    let [v4, v6] = to;
    nft(
        rig,
        &format!(
            "table inet services {{
                chain before {{
                    type nat hook prerouting priority -100;
                    ip daddr {} tcp dport 80 dnat ip to {v4}
                    ip6 daddr {} tcp dport 80 dnat ip6 to {v6}
                }}
            }}",
            SERVICES[0], SERVICES[1]
        ),
    )
}
