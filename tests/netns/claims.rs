//! Attacks by which a pod claims to be another: it uses the other's address, or runs in the other's netns.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::{CredsError, Target};
use podrole_lab::pod::{Pod, PodSpec, Shape};
use podrole_lab::proc::{Process, until};
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::world::Trial;

use crate::family::Family;
use crate::support::{SHORT, TEAM, no_leak, on_node, ready, refused, rig, served, served_both, two_pods};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("a_pod_that_answers_for_anothers_address_is_not_served", spoof),
    Trial::new("control_by_address_a_pod_that_answers_for_anothers_address_gets_its_role", spoof_by_address),
    Trial::new("a_process_in_another_pods_network_gets_no_role", foreign_netns),
    Trial::new("control_by_address_a_process_in_another_pods_network_gets_its_role", foreign_netns_by_address),
    Trial::new("static_pods_are_identified_by_their_hash", static_pods),
    Trial::new("of_two_netns_with_one_address_the_owner_is_served", claimant),
    Trial::new("of_two_netns_with_one_address_the_claimant_is_denied_even_if_the_node_routes_to_it", misled),
    Trial::new("control_by_address_of_two_netns_the_one_the_node_routes_to_gets_the_role", misled_by_address),
];

fn spoof() -> Result<()> {
    let rig = ready()?;
    for family in Family::BOTH {
        let error = answer_for_another(&rig, family)?.err().with_context(|| format!("{family}: credentials"))?;
        // An answer arrived, so no packet was lost: the thief is not served because of what the kernel reports about the socket.
        ensure!(error.status() == Some(503), "{family}: {error}");
    }
    no_leak(&rig)
}

fn spoof_by_address() -> Result<()> {
    let mut rig = rig()?;
    rig.start(&["--identity", "ip"])?;
    for family in Family::BOTH {
        let got = answer_for_another(&rig, family)?;
        let role = got.map_err(|error| anyhow::anyhow!("{family}: the attack must succeed in the control: {error}"))?;
        ensure!(role == "victim-role", "{family}: {role}");
    }
    Ok(())
}

/// The role that a pod gets with the address of another pod on the same bridge, for which it answers ARP or neighbor discovery.
fn answer_for_another(rig: &Rig, family: Family) -> Result<Result<String, CredsError>> {
    let (victim, thief) = two_pods(rig, Shape::Bridge)?;
    let address = family.of(&victim);
    served(rig, victim.agent("app")?.to(family.target()), "victim-role")?;
    family.claim(&thief, address)?;
    let mut command = thief.command("app")?;
    command.args(["python3", "-c", include_str!("spoof.py"), &address.to_string(), "60"]);
    let mut liar = Process::start(&format!("spoof-{family}"), &mut command)?;
    // The kernel accepts a new ARP answer after about a second. Until then the thief sends only the forged answers.
    let link = link_address(&thief)?;
    until("the node to accept the thief's answer", Duration::from_secs(15), || {
        let known = on_node(rig, &format!("ip neigh show {address} dev cni0"))?;
        ensure!(liar.is_running()?, "the spoofing process has ended: {}", liar.log()?);
        Ok(known.contains(&link).then_some(()))
    })?;
    let agent = thief.agent("app")?;
    let client = agent.to(family.target().from_address(address).timeout(Duration::from_millis(1000)));
    let got = until("an answer to the spoofed address", Duration::from_secs(15), || {
        Ok(match client.credentials() {
            Err(CredsError::Connection(_)) => None,
            Err(error) => Some(Err(error)),
            Ok(credentials) => Some(Ok(rig.role_of(&credentials).unwrap_or_default())),
        })
    })?;
    drop((liar, agent));
    rig.delete(thief)?;
    rig.delete(victim)?;
    Ok(got)
}

fn foreign_netns() -> Result<()> {
    let rig = ready()?;
    for shape in [Shape::Bridge, Shape::PointToPoint] {
        let (host, guest) = two_pods(&rig, shape)?;
        served_both(&rig, &host.agent("app")?, "victim-role")?;
        served_both(&rig, &guest.agent("app")?, "thief-role")?;
        let agent = guest.agent_in("app", &host)?;
        for client in [agent.v4(), agent.v6()] {
            let error = refused(&rig, client)?;
            ensure!(error.status() == Some(503), "{error}");
        }
        rig.delete(host)?;
        rig.delete(guest)?;
    }
    // Neither does a process of the node, which is in no container.
    let (host, _) = two_pods(&rig, Shape::PointToPoint)?;
    let mut command = rig.node.command();
    command.arg("nsenter").arg(format!("--net={}", host.netns().context("a pod has one")?.display()));
    let agent = podrole_lab::agent::Agent::start(command)?;
    for client in [agent.v4(), agent.v6()] {
        refused(&rig, client)?;
    }
    no_leak(&rig)
}

fn foreign_netns_by_address() -> Result<()> {
    let mut rig = rig()?;
    rig.start(&["--identity", "ip"])?;
    let (host, guest) = two_pods(&rig, Shape::Bridge)?;
    served_both(&rig, &guest.agent_in("app", &host)?, "victim-role")
}

fn claimant() -> Result<()> {
    let rig = ready()?;
    let (owner, claimant) = two_pods(&rig, Shape::PointToPoint)?;
    Family::BOTH.into_iter().try_for_each(|family| family.claim(&claimant, family.of(&owner)))?;
    let (rightful, wrongful) = (owner.agent("app")?, claimant.agent("app")?);
    for _ in 0..3 {
        served_both(&rig, &rightful, "victim-role")?;
        served(&rig, wrongful.to(Target::v4().from_address(claimant.v4())), "thief-role")?;
        served(&rig, wrongful.to(Target::v6().from_address(claimant.v6())), "thief-role")?;
        refused(&rig, wrongful.to(Target::v4().from_address(owner.v4()).timeout(SHORT)))?;
        refused(&rig, wrongful.to(Target::v6().from_address(owner.v6()).timeout(SHORT)))?;
    }
    no_leak(&rig)
}

/// The node routes the owner's address to the claimant. Its packets then pass the antispoof rules and the handshake completes, so that
/// only the owner that the kernel reports for the socket prevents the attack.
fn misled() -> Result<()> {
    let rig = ready()?;
    for (family, shape) in everywhere() {
        let said = || format!("{family}, {shape:?}");
        let (owner, claimant) = two_pods(&rig, shape)?;
        let rightful = owner.agent("app")?;
        served_both(&rig, &rightful, "victim-role")?;
        for _ in 0..3 {
            let got = mislead(&rig, &owner, &claimant, family, shape)?;
            let error = got.err().with_context(|| format!("{}: the claimant got credentials", said()))?;
            // An answer arrived, so no packet was lost.
            ensure!(error.status() == Some(503), "{}: {error}", said());
            lead(&rig, &owner, &owner, family, shape)?;
            served_both(&rig, &rightful, "victim-role")
                .with_context(|| format!("{}: the owner is not served afterwards", said()))?;
        }
        let reason = until("the audit line that names the claimant", Duration::from_secs(5), || {
            let lines = rig.daemon()?.audit()?;
            let named = lines.iter().find(|line| line["action"] == "Deny" && line["pod"]["uid"] == claimant.uid());
            Ok(named.map(|line| line["reason"].clone()))
        })?;
        ensure!(reason == "ForeignNamespace", "{}: {reason}", said());
        rig.delete(claimant)?;
        rig.delete(owner)?;
    }
    no_leak(&rig)
}

fn misled_by_address() -> Result<()> {
    let mut rig = rig()?;
    rig.start(&["--identity", "ip"])?;
    for (family, shape) in everywhere() {
        let (owner, claimant) = two_pods(&rig, shape)?;
        let got = mislead(&rig, &owner, &claimant, family, shape)?;
        let role = got
            .map_err(|error| anyhow::anyhow!("{family}, {shape:?}: the attack must succeed in the control: {error}"))?;
        ensure!(role == "victim-role", "{family}, {shape:?}: {role}");
        rig.delete(claimant)?;
        rig.delete(owner)?;
    }
    Ok(())
}

/// The role that a claimant gets with the owner's address while the node's neighbor table or routes lead to the claimant.
fn mislead(rig: &Rig, owner: &Pod, claimant: &Pod, family: Family, shape: Shape) -> Result<Result<String, CredsError>> {
    let address = family.of(owner);
    family.claim(claimant, address)?;
    lead(rig, owner, claimant, family, shape)?;
    let agent = claimant.agent("app")?;
    // Without these rules only the claimant's identity prevents the attack, not the interface it uses.
    on_node(rig, "nft flush chain inet podrole antispoof")?;
    let got = agent.to(family.target().from_address(address).timeout(Duration::from_secs(2))).credentials();
    Ok(got.map(|credentials| rig.role_of(&credentials).unwrap_or_default()))
}

/// Routes the owner's address on the node to another pod, or back to the owner.
pub(crate) fn lead(rig: &Rig, owner: &Pod, to: &Pod, family: Family, shape: Shape) -> Result<()> {
    let address = family.of(owner);
    let link = link_address(to)?;
    let interface = match shape {
        Shape::Bridge => "cni0",
        Shape::PointToPoint => {
            let interface = to.interface().context("a pod has one")?;
            on_node(rig, &format!("ip route replace {} dev {interface}", family.host(address)))?;
            interface
        }
    };
    on_node(rig, &format!("ip neigh replace {address} lladdr {link} dev {interface} nud permanent")).map(drop)
}

fn link_address(pod: &Pod) -> Result<String> {
    let link = pod.configure(&["ip", "-br", "link", "show", "eth0"])?;
    link.split_whitespace().nth(2).map(str::to_owned).with_context(|| format!("no link address in {link}"))
}

/// Every address family in every shape of network.
fn everywhere() -> impl Iterator<Item = (Family, Shape)> {
    Family::BOTH.into_iter().flat_map(|family| [Shape::Bridge, Shape::PointToPoint].map(|shape| (family, shape)))
}

/// A static pod's cgroup has a hash of its manifest as UID, while its object in the API has another UID.
fn static_pods() -> Result<()> {
    let rig = ready()?;
    let hash = "0123456789abcdef0123456789abcdef";
    let mirror = |name: &str, uid: &str| {
        let spec = PodSpec::new(TEAM, name).cgroup_uid(uid).annotation(ROLE, &format!("{name}-role"));
        spec.annotation("kubernetes.io/config.hash", hash).annotation("kubernetes.io/config.mirror", hash)
    };
    let real = rig.pod(mirror("static", hash))?;
    served_both(&rig, &real.agent("app")?, "static-role")?;
    // Another pod gets an annotation with the same hash. Two pods then match the cgroup, so neither is served.
    let liar = rig.pod(mirror("liar", "11111111-2222-3333-4444-555555555555"))?;
    refused(&rig, liar.agent("app")?.v4())?;
    until("the daemon to see the liar's annotation", Duration::from_secs(5), || {
        Ok(real.agent("app")?.credentials().is_err().then_some(()))
    })?;
    refused(&rig, real.agent("app")?.v4())?;
    rig.delete(liar)?;
    until("the daemon to see the end of the liar", Duration::from_secs(5), || {
        Ok(served_both(&rig, &real.agent("app")?, "static-role").ok())
    })
}
