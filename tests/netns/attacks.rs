//! Attacks on podrole's addresses by a hostile pod or a hostile host next to the node: only port 80 of the metadata address is open.

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::{Failure, Target};
use podrole_lab::node::{METADATA_V4, METADATA_V6, NODE_V4, NODE_V6};
use podrole_lab::pod::{Pod, PodSpec, Shape};
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::world::Trial;

use crate::support::{
    LISTENERS, METADATA, NODE_ROLE, SERVICES, SHORT, TEAM, agents, connects, counted, leak, listener_port, nft,
    no_leak, node_is_well, on_node, on_wan, ready, refused, remove_routing_guard, served, served_both, silent,
};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("pods_cannot_reach_the_listener_itself", listener_from_pods),
    Trial::new("other_ports_of_the_metadata_address_are_closed", other_ports),
    Trial::new("control_other_ports_leak_without_podrole", other_ports_leak),
    Trial::new("the_node_itself_keeps_its_metadata", node_itself),
    Trial::new("a_host_next_to_the_node_cannot_use_the_metadata_address", off_node_metadata),
    Trial::new("a_host_next_to_the_node_cannot_reach_the_listener", off_node_listener),
    Trial::new("packets_with_another_pods_source_address_are_dropped", spoofed_source),
    Trial::new("a_service_that_points_to_the_listener_is_closed", service_to_listener),
    Trial::new("a_service_that_points_to_the_metadata_address_is_closed", service_to_metadata),
    Trial::new("a_dead_daemon_leaks_nothing", dead_daemon),
];

fn listener_from_pods() -> Result<()> {
    let rig = ready()?;
    let port = listener_port(&rig)?;
    let agents = agents(&rig)?;
    for (_, agent) in &agents {
        for address in LISTENERS {
            silent(agent, address, port)?;
            ensure!(!connects(agent, address, port), "{address}:{port} accepts connections from pods");
        }
        // On the node's other addresses nothing listens on the port.
        for address in [NODE_V4.into(), NODE_V6.into()] {
            silent(agent, address, port)?;
        }
        served_both(&rig, agent, "own-role")?;
    }
    // Control: podrole's chain drops them. Without it the daemon closes the connections, which were not for the metadata address.
    nft(&rig, "flush chain inet podrole guard_input")?;
    for address in LISTENERS {
        silent(&agents[0].1, address, port)?;
    }
    // The daemon is suspended because it would close the connections at once; the kernel still completes them.
    rig.daemon()?.suspend()?;
    for address in LISTENERS {
        ensure!(connects(&agents[0].1, address, port), "{address}:{port} is closed without podrole's chain too");
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
    // Another host, which has no metadata address of its own any more, routes packets for it to the node.
    for (address, length, node) in [(METADATA[0], 32, NODE_V4.to_string()), (METADATA[1], 128, NODE_V6.to_string())] {
        on_wan(&rig, &format!("ip addr del {address}/{length} dev lo"))?;
        on_wan(&rig, &format!("ip route add {address}/{length} via {node}"))?;
    }
    let wan = rig.node.wan_agent()?;
    for address in METADATA {
        ensure!(!connects(&wan, address, 80), "{address} answers to another host");
    }
    // Control: without the rule for uplinks the kernel accepts the connection.
    nft(&rig, "flush chain inet podrole checks")?;
    for address in METADATA {
        // The daemon then cannot identify the caller.
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
        ensure!(!connects(&wan, address, port), "{address}:{port} accepts another host's connection");
    }
    nft(&rig, "flush chain inet podrole guard_input")?;
    rig.daemon()?.suspend()?;
    for address in LISTENERS {
        ensure!(connects(&wan, address, port), "{address}:{port} is closed without podrole's chain too");
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
    // Counts packets with that source that pass podrole's checks, in the input hook.
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
            thief.interface().context("the pod has an interface")?,
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
    ensure!(counted(&rig, "v4")? == 0 && counted(&rig, "v6")? == 0, "packets with a spoofed source pass");
    served_both(&rig, &victim.agent("app")?, "victim-role")?;
    served(&rig, agent.to(Target::v4().from_address(thief.v4())), "thief-role")?;
    served(&rig, agent.to(Target::v6().from_address(thief.v6())), "thief-role")?;
    // Control: without the check they pass, but the pod still gets no answer.
    nft(&rig, "flush chain inet podrole antispoof")?;
    ensure!(spoofed(true).is_err() && spoofed(false).is_err(), "a spoofed source is answered");
    ensure!(counted(&rig, "v4")? > 0 && counted(&rig, "v6")? > 0, "the counter counts nothing");
    no_leak(&rig)
}

fn service_to_listener() -> Result<()> {
    let rig = ready()?;
    let port = listener_port(&rig)?;
    services(&rig, [format!("{}:{port}", LISTENERS[0]), format!("[{}]:{port}", LISTENERS[1])])?;
    let agents = agents(&rig)?;
    for (pod, agent) in &agents {
        for service in SERVICES {
            ensure!(!connects(agent, service, 80), "{}: {service} reaches the listener", pod.name());
        }
    }
    // Control: without podrole's chain the service works.
    nft(&rig, "flush chain inet podrole guard_input")?;
    for service in SERVICES {
        silent(&agents[0].1, service, 80)?;
    }
    rig.daemon()?.suspend()?;
    for service in SERVICES {
        ensure!(connects(&agents[0].1, service, 80), "{service} does not work without podrole's chain either");
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
    // Control: without podrole pods get the node's credentials through the service.
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
    // Control: without both guards the metadata leaks.
    on_node(&rig, "nft delete table inet podrole")?;
    remove_routing_guard(&rig)?;
    for address in METADATA {
        let credentials = agents[0].1.to(Target::new((address, 80))).credentials()?;
        ensure!(credentials.role == NODE_ROLE, "{address}: {credentials:?}");
    }
    leak(&rig)
}

/// Adds another program's rules, like those of kube-proxy, that rewrite two service addresses.
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
