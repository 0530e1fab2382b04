//! Somebody claims to be another pod: by its address, by its old connection, or from inside its network.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::{CredsError, Target};
use podrole_lab::pod::{Pod, PodSpec, Shape};
use podrole_lab::proc::{Process, until};
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::world::Trial;

use crate::support::{SHORT, TEAM, no_leak, on_node, python, ready, refused, rig, said, served, served_both};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("a_connection_that_the_last_pod_left_open_is_worth_nothing", stale_connection),
    Trial::new("control_by_address_the_thief_of_a_connection_gets_the_last_pods_role", stale_connection_by_address),
    Trial::new("a_pod_that_answers_arp_for_another_is_refused", arp_spoof),
    Trial::new("control_by_address_an_arp_spoofer_gets_the_others_role", arp_spoof_by_address),
    Trial::new("a_process_in_another_pods_network_gets_nobodys_role", foreign_namespace),
    Trial::new("control_by_address_a_process_in_another_pods_network_gets_its_role", foreign_namespace_by_address),
    Trial::new("static_pods_are_known_by_their_hash_and_by_no_other", static_pods),
    Trial::new("of_two_namespaces_with_one_address_the_owner_is_served", squatter),
    Trial::new("of_two_namespaces_with_one_address_the_squatter_is_refused_also_where_the_node_leads_to_it", misled),
    Trial::new("control_by_address_of_two_namespaces_the_one_the_node_leads_to_gets_the_role", misled_by_address),
    Trial::new("a_forged_twin_of_a_connection_changes_nothing", twin),
];

const OLD_PORT: u16 = 40_100;

fn stale_connection() -> Result<()> {
    let rig = ready()?;
    for (way, status) in [("filter", "404"), ("drop", "404"), ("repair", "503")] {
        let said = take_over(&rig, way)?;
        ensure!(
            said.contains("INJECTED") && !said.contains("NOT INJECTED"),
            "{way}: the attack did not happen: {said}"
        );
        ensure!(!said.contains("AccessKeyId"), "{way}: {said}");
        // No such socket in the thief's network; or there is one, and it is the thief's, whom nobody knows yet.
        ensure!(said.contains(&format!("HTTP/1.1 {status} ")), "{way}: {said}");
    }
    no_leak(&rig)
}

fn stale_connection_by_address() -> Result<()> {
    let mut rig = rig()?;
    rig.start(&["--identity", "ip"])?;
    let said = take_over(&rig, "filter")?;
    let key = said.split("\"AccessKeyId\" : \"").nth(1).and_then(|rest| rest.split('"').next());
    let key = key.with_context(|| format!("the attack fails where it should not: {said}"))?;
    ensure!(rig.role_of_key(key).as_deref() == Some("old-role"), "{said}");
    Ok(())
}

/// A pod leaves a connection open; another one gets its address while the watch is behind, and speaks on the connection.
fn take_over(rig: &Rig, way: &str) -> Result<String> {
    // Without session tokens, so that the request needs nothing the thief cannot have.
    let v1 = [("iam.amazonaws.com/allowed-roles", "[\"*\"]"), ("podrole.dev/imds-v1", "allow")];
    rig.kube.namespace("old", &v1)?;
    let shape = |spec: PodSpec| spec.shape(Shape::PointToPoint);
    let old = rig.pod(shape(PodSpec::new("old", &format!("old-{way}"))).annotation(ROLE, "old-role"))?;
    let agent = old.agent("app")?;
    served(rig, agent.v4(), "old-role")?;
    rig.kube.freeze(true);
    let connection = agent.open(&Target::v4().from_port(OLD_PORT))?;
    // Its network goes first, so its end cannot be told to the server.
    old.unplug()?;
    drop(connection);
    drop(agent);
    let (v4, v6) = (old.v4(), old.v6());
    rig.kube.delete("Pod", "old", old.name())?;
    old.delete()?;
    let thief = rig.pod(shape(PodSpec::new("old", &format!("thief-{way}"))).v4(v4).v6(v6))?;
    let path = "/latest/meta-data/iam/security-credentials/old-role";
    let output = python(&thief, include_str!("takeover.py"), &[&v4.to_string(), &OLD_PORT.to_string(), path, way])?;
    rig.kube.freeze(false);
    rig.delete(thief)?;
    Ok(said(&output))
}

fn arp_spoof() -> Result<()> {
    let rig = ready()?;
    let error = spoof(&rig)?.err().context("an ARP spoofer got credentials")?;
    // It was asked and answered: the refusal is the kernel's word on the socket, not a lost packet.
    ensure!(error.status() == Some(503), "{error}");
    no_leak(&rig)
}

fn arp_spoof_by_address() -> Result<()> {
    let mut rig = rig()?;
    rig.start(&["--identity", "ip"])?;
    let role = spoof(&rig)?.map_err(|error| anyhow::anyhow!("the attack fails where it should not: {error}"))?;
    ensure!(role == "victim-role", "{role}");
    Ok(())
}

/// The role that a pod gets by the address of another on the same bridge, for which it answers ARP.
fn spoof(rig: &Rig) -> Result<Result<String, CredsError>> {
    let (victim, thief) = two_pods(rig, Shape::Bridge)?;
    served(rig, victim.agent("app")?.v4(), "victim-role")?;
    thief.configure(&["ip", "addr", "add", &format!("{}/32", victim.v4()), "dev", "eth0"])?;
    let mut command = thief.command("app")?;
    command.args(["python3", "-c", include_str!("arp.py"), &victim.v4().to_string(), "10"]);
    let _liar = Process::start("arp", &mut command)?;
    let agent = thief.agent("app")?;
    let client = agent.to(Target::v4().from_address(victim.v4()).timeout(Duration::from_millis(1000)));
    // The kernel believes the new answer after a second or so.
    until("an answer to the spoofed address", Duration::from_secs(8), || {
        Ok(match client.credentials() {
            Err(CredsError::Connection(_)) => None,
            Err(error) => Some(Err(error)),
            Ok(credentials) => Some(Ok(rig.role_of(&credentials).unwrap_or_default())),
        })
    })
}

fn foreign_namespace() -> Result<()> {
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
    // Nor does a process of the node itself, which is in no container.
    let (host, _) = two_pods(&rig, Shape::PointToPoint)?;
    let mut command = rig.node.command();
    command.arg("nsenter").arg(format!("--net={}", host.netns().context("a pod has one")?.display()));
    let agent = podrole_lab::agent::Agent::start(command)?;
    for client in [agent.v4(), agent.v6()] {
        refused(&rig, client)?;
    }
    no_leak(&rig)
}

fn foreign_namespace_by_address() -> Result<()> {
    let mut rig = rig()?;
    rig.start(&["--identity", "ip"])?;
    let (host, guest) = two_pods(&rig, Shape::Bridge)?;
    served(&rig, guest.agent_in("app", &host)?.v4(), "victim-role")
}

fn squatter() -> Result<()> {
    let rig = ready()?;
    let (owner, squatter) = two_pods(&rig, Shape::PointToPoint)?;
    squatter.configure(&["ip", "addr", "add", &format!("{}/32", owner.v4()), "dev", "eth0"])?;
    squatter.configure(&["ip", "addr", "add", &format!("{}/128", owner.v6()), "dev", "eth0", "nodad"])?;
    let (rightful, wrongful) = (owner.agent("app")?, squatter.agent("app")?);
    for _ in 0..3 {
        served_both(&rig, &rightful, "victim-role")?;
        served(&rig, wrongful.to(Target::v4().from_address(squatter.v4())), "thief-role")?;
        served(&rig, wrongful.to(Target::v6().from_address(squatter.v6())), "thief-role")?;
        refused(&rig, wrongful.to(Target::v4().from_address(owner.v4()).timeout(SHORT)))?;
        refused(&rig, wrongful.to(Target::v6().from_address(owner.v6()).timeout(SHORT)))?;
    }
    no_leak(&rig)
}

/// The node itself is misled and takes the squatter for the owner: its packets then pass the antispoof rules, and the handshake
/// ends, so that nothing stands against the squatter but the kernel's word on whose socket it is.
fn misled() -> Result<()> {
    let rig = ready()?;
    for shape in [Shape::Bridge, Shape::PointToPoint] {
        let (owner, squatter) = two_pods(&rig, shape)?;
        let rightful = owner.agent("app")?;
        served_both(&rig, &rightful, "victim-role")?;
        for _ in 0..3 {
            let error = mislead(&rig, &owner, &squatter, shape)?.err().context("a squatter got credentials")?;
            // It was heard and answered: this is no lost packet.
            ensure!(error.status() == Some(503), "{shape:?}: {error}");
            lead(&rig, &owner, &owner, shape)?;
            served_both(&rig, &rightful, "victim-role").with_context(|| format!("{shape:?}: the owner, afterwards"))?;
        }
        let reason = until("the audit line that names the squatter", Duration::from_secs(5), || {
            let lines = rig.daemon()?.audit()?;
            let named = lines.iter().find(|line| line["action"] == "Deny" && line["pod"]["uid"] == squatter.uid());
            Ok(named.map(|line| line["reason"].clone()))
        })?;
        ensure!(reason == "ForeignNamespace", "{shape:?}: {reason}");
        rig.delete(squatter)?;
        rig.delete(owner)?;
    }
    no_leak(&rig)
}

fn misled_by_address() -> Result<()> {
    let mut rig = rig()?;
    rig.start(&["--identity", "ip"])?;
    for shape in [Shape::Bridge, Shape::PointToPoint] {
        let (owner, squatter) = two_pods(&rig, shape)?;
        let got = mislead(&rig, &owner, &squatter, shape)?;
        let role = got.map_err(|error| anyhow::anyhow!("{shape:?}: the attack fails where it should not: {error}"))?;
        ensure!(role == "victim-role", "{shape:?}: {role}");
        rig.delete(squatter)?;
        rig.delete(owner)?;
    }
    Ok(())
}

/// The role that a squatter gets by the owner's address while the node's neighbours or routes lead there.
fn mislead(rig: &Rig, owner: &Pod, squatter: &Pod, shape: Shape) -> Result<Result<String, CredsError>> {
    squatter.configure(&["ip", "addr", "replace", &format!("{}/32", owner.v4()), "dev", "eth0"])?;
    lead(rig, owner, squatter, shape)?;
    let agent = squatter.agent("app")?;
    // Gone, so that what refuses the squatter is who it is, not where it stands.
    on_node(rig, "nft flush chain inet podrole antispoof")?;
    let got = agent.to(Target::v4().from_address(owner.v4()).timeout(Duration::from_secs(2))).credentials();
    Ok(got.map(|credentials| rig.role_of(&credentials).unwrap_or_default()))
}

/// Leads what the node sends to the owner's IPv4 address to another pod, or back to the owner.
fn lead(rig: &Rig, owner: &Pod, to: &Pod, shape: Shape) -> Result<()> {
    let address = owner.v4();
    match shape {
        Shape::Bridge => {
            let link = to.configure(&["ip", "-br", "link", "show", "eth0"])?;
            let link = link.split_whitespace().nth(2).with_context(|| format!("no link address in {link}"))?;
            on_node(rig, &format!("ip neigh replace {address} lladdr {link} dev cni0 nud permanent"))?;
        }
        Shape::PointToPoint => {
            let interface = to.interface().context("a pod has one")?;
            on_node(rig, &format!("ip route replace {address}/32 dev {interface}"))?;
        }
    }
    Ok(())
}

fn twin() -> Result<()> {
    const FIRST: u16 = 42_000;
    const HALF: u16 = 20;
    let mut rig = ready()?;
    let (owner, forger) = two_pods(&rig, Shape::PointToPoint)?;
    let agent = owner.agent("app")?;
    served(&rig, agent.v4(), "victim-role")?;
    forger.configure(&["ip", "addr", "add", &format!("{}/32", owner.v4()), "dev", "eth0"])?;
    let (first, count) = (FIRST.to_string(), (2 * HALF).to_string());
    let mut command = forger.command("app")?;
    command.args(["python3", "-c", include_str!("twin.py"), &owner.v4().to_string(), &first, &count]);
    let mut process = Process::start("twin", &mut command)?;
    process.wait_for_log("ready", Duration::from_secs(10))?;
    let token = agent.v4().token()?;
    let headers = [("X-aws-ec2-metadata-token", token.as_str())];
    let ask = |ports: Range<u16>| -> Result<()> {
        for port in ports {
            let client = agent.to(Target::v4().from_port(port));
            let answer = client.get("/latest/meta-data/iam/security-credentials/", &headers)?;
            ensure!(answer.status == 200 && answer.text() == "victim-role", "port {port}: {answer:?}");
        }
        Ok(())
    };
    ask(FIRST..FIRST + HALF)?;
    // One that starts now finds two namespaces with the address, and in each a socket of the connection.
    rig.daemon_mut()?.kill9()?;
    rig.restart()?;
    ask(FIRST + HALF..FIRST + 2 * HALF)?;
    no_leak(&rig)
}

/// Static pods' cgroups carry a hash of their manifest, and their objects in the API another UID.
fn static_pods() -> Result<()> {
    let rig = ready()?;
    let hash = "0123456789abcdef0123456789abcdef";
    let mirror = |name: &str, uid: &str| {
        let spec = PodSpec::new(TEAM, name).cgroup_uid(uid).annotation(ROLE, &format!("{name}-role"));
        spec.annotation("kubernetes.io/config.hash", hash).annotation("kubernetes.io/config.mirror", hash)
    };
    let real = rig.pod(mirror("static", hash))?;
    served_both(&rig, &real.agent("app")?, "static-role")?;
    // Somebody else writes the same hash into his own pod's annotations: the kernel's word fits two, so nobody is served by it.
    let liar = rig.pod(mirror("liar", "11111111-2222-3333-4444-555555555555"))?;
    refused(&rig, liar.agent("app")?.v4())?;
    until("the liar's claim to be seen", Duration::from_secs(5), || {
        Ok(real.agent("app")?.credentials().is_err().then_some(()))
    })?;
    refused(&rig, real.agent("app")?.v4())?;
    rig.delete(liar)?;
    until("the claim to be over", Duration::from_secs(5), || {
        Ok(served_both(&rig, &real.agent("app")?, "static-role").ok())
    })
}

fn two_pods(rig: &Rig, shape: Shape) -> Result<(Pod, Pod)> {
    let pod = |name: &str| rig.pod(PodSpec::new(TEAM, name).shape(shape).annotation(ROLE, &format!("{name}-role")));
    Ok((pod("victim")?, pod("thief")?))
}
