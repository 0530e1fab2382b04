//! The rig and the assertions that the trials share.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use podrole_lab::agent::{Agent, Client, CredsError, Failure, Response, Target};
use podrole_lab::node::{METADATA_V4, METADATA_V6};
use podrole_lab::pod::{Pod, PodSpec, Shape};
use podrole_lab::proc;
use podrole_lab::rig::{ControlPlane, ROLE, Rig, RigOptions};

/// The namespace of most pods, which allows every role.
pub(crate) const TEAM: &str = "team";
/// The node's role in the real metadata service.
pub(crate) const NODE_ROLE: &str = "node-role";
/// A timeout that is long enough for an answer and short enough if none comes.
pub(crate) const SHORT: Duration = Duration::from_millis(300);
/// Both metadata addresses.
pub(crate) const METADATA: [IpAddr; 2] = [IpAddr::V4(METADATA_V4), IpAddr::V6(METADATA_V6)];

/// The listener's addresses, to which podrole's rule redirects pods.
pub(crate) const LISTENERS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(169, 254, 170, 77)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x77))];
/// Service addresses, which exist only in rules.
pub(crate) const SERVICES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 96, 0, 99)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0x99))];

/// A rig without a daemon.
pub(crate) fn rig() -> Result<Rig> {
    let binary = Some(PathBuf::from(env!("CARGO_BIN_EXE_podrole")));
    let rig = Rig::new(RigOptions { binary, ..RigOptions::default() })?;
    rig.namespace(TEAM, &["*"])?;
    Ok(rig)
}

/// A rig whose daemon is ready.
pub(crate) fn ready() -> Result<Rig> {
    let mut rig = rig()?;
    rig.start(&[])?;
    Ok(rig)
}

/// Two pods of this shape, `victim` and `thief`, each with its own role.
pub(crate) fn two_pods(rig: &Rig, shape: Shape) -> Result<(Pod, Pod)> {
    let pod = |name: &str| rig.pod(PodSpec::new(TEAM, name).shape(shape).annotation(ROLE, &format!("{name}-role")));
    Ok((pod("victim")?, pod("thief")?))
}

/// [`Rig::served`] without the credentials.
pub(crate) fn served<A: ControlPlane>(rig: &Rig<A>, client: Client<'_>, role: &str) -> Result<()> {
    rig.served(client, role).map(drop)
}

/// The same over IPv4 and IPv6.
pub(crate) fn served_both(rig: &Rig, agent: &Agent, role: &str) -> Result<()> {
    served(rig, agent.v4(), role).context("over IPv4")?;
    served(rig, agent.v6(), role).context("over IPv6")
}

/// [`Rig::not_served`]
pub(crate) fn refused<A: ControlPlane>(rig: &Rig<A>, client: Client<'_>) -> Result<CredsError> {
    rig.not_served(client)
}

/// [`Rig::no_leak`]
pub(crate) fn no_leak(rig: &Rig) -> Result<()> {
    rig.no_leak()
}

/// Asserts that a pod has reached the real metadata service, as it must in a control.
pub(crate) fn leak(rig: &Rig) -> Result<()> {
    ensure!(rig.imds.leaked_packets()? > 0, "the control shows no leak, so the trial proves nothing");
    Ok(())
}

/// A client of the metadata service at `address` with a short timeout.
pub(crate) fn soon(address: IpAddr) -> Target {
    Target::new((address, 80)).timeout(SHORT)
}

/// Connects from a pod with a short timeout. True if the connection was accepted.
pub(crate) fn connects(agent: &Agent, address: IpAddr, port: u16) -> bool {
    agent.reach((address, port).into(), SHORT).is_ok()
}

/// Asserts that a `GET /` at `address:port` gets no answer: it is refused, dropped, reset or closed.
pub(crate) fn silent(agent: &Agent, address: IpAddr, port: u16) -> Result<Failure> {
    match agent.to(Target::new((address, port)).timeout(SHORT)).get("/", &[]) {
        Ok(answer) => bail!("{address}:{port} answers: {answer:?}"),
        Err(failure) => Ok(failure),
    }
}

/// A pod of each network shape, each with the role `own-role`.
pub(crate) fn pods(rig: &Rig) -> Result<Vec<Pod>> {
    [("bridged", Shape::Bridge), ("routed", Shape::PointToPoint)]
        .into_iter()
        .map(|(name, shape)| rig.pod(PodSpec::new(TEAM, name).shape(shape).annotation(ROLE, "own-role")))
        .collect()
}

/// The same pods, each with an agent.
pub(crate) fn agents(rig: &Rig) -> Result<Vec<(Pod, Agent)>> {
    let with_agent = |pod: Pod| {
        let agent = pod.agent("app")?;
        Ok((pod, agent))
    };
    pods(rig)?.into_iter().map(with_agent).collect()
}

/// Asserts that the node reaches its own metadata over both families.
pub(crate) fn node_is_well(rig: &Rig) -> Result<()> {
    let node = rig.node.agent()?;
    for client in [node.v4(), node.v6()] {
        ensure!(client.credentials()?.role == NODE_ROLE, "the node cannot reach its own metadata");
    }
    Ok(())
}

/// Runs an nft script on the node.
pub(crate) fn nft(rig: &Rig, script: &str) -> Result<()> {
    let mut command = rig.node.command();
    proc::feed(command.args(["nft", "-f", "-"]), script.as_bytes()).map(drop).with_context(|| format!("nft:\n{script}"))
}

/// Runs a command on the node.
pub(crate) fn on_node(rig: &Rig, line: &str) -> Result<String> {
    proc::run(rig.node.command().args(line.split(' ')))
}

/// Runs a command on the host behind the uplink.
pub(crate) fn on_wan(rig: &Rig, line: &str) -> Result<String> {
    proc::run(rig.node.wan_command().args(line.split(' ')))
}

/// Starts a daemon that cannot become ready, and waits until pods are redirected to it.
pub(crate) fn start_unready(rig: &mut Rig) -> Result<()> {
    rig.launch(&[])?;
    let redirected = proc::until("the redirect", Duration::from_secs(15), || {
        let daemon = rig.daemon()?;
        Ok(daemon.metric("podrole_redirect_applied_total", &[]).is_ok_and(|applied| applied > 0.0).then_some(()))
    });
    redirected.with_context(|| rig.daemon().map(podrole_lab::daemon::Daemon::logs).unwrap_or_default())?;
    ensure!(!rig.daemon()?.is_ready(), "the daemon reports that it is ready");
    Ok(())
}

/// Waits until the daemon has answered this many more requests, so that a load is under way.
pub(crate) fn answered(rig: &Rig, more: u32) -> Result<()> {
    let count = || rig.daemon()?.metric("podrole_http_requests_total", &[]);
    let enough = count()? + f64::from(more);
    proc::until("the load to be under way", Duration::from_secs(10), || Ok((count()? >= enough).then_some(())))
}

/// Removes the routing guard, for controls: the rules and routes that deliver metadata packets to the node itself.
pub(crate) fn remove_routing_guard(rig: &Rig) -> Result<()> {
    for family in ["-4", "-6"] {
        let rules = on_node(rig, &format!("ip {family} rule show"))?;
        for rule in rules.lines().filter(|rule| METADATA.iter().any(|address| rule.contains(&address.to_string()))) {
            let pref = rule.split(':').next().context("a rule has a preference")?;
            on_node(rig, &format!("ip {family} rule del pref {pref}"))?;
        }
    }
    Ok(())
}

/// The port to which podrole's rule redirects pods.
pub(crate) fn listener_port(rig: &Rig) -> Result<u16> {
    let listed = on_node(rig, "nft list chain inet podrole redirect_pods")?;
    let port = listed.split("169.254.170.77:").nth(1).and_then(|rest| rest.split_whitespace().next());
    port.with_context(|| format!("no port in {listed}"))?.parse().context("the port is a number")
}

/// Runs an attacker's program in a container with these arguments.
pub(crate) fn python(pod: &Pod, program: &str, args: &[&str]) -> Result<Output> {
    let mut command = pod.command("app")?;
    proc::output(command.args(["python3", "-c", program]).args(args), b"", Duration::from_secs(20))
}

/// What a command printed on standard output and standard error.
pub(crate) fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs `work` and returns how long it took.
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begin = Instant::now();
    let result = work();
    (result, begin.elapsed())
}

/// Requests the role list with a valid token. The daemon may let this request wait.
pub(crate) fn ask_role(client: Client<'_>, token: &str) -> Result<Response, Failure> {
    client.get("/latest/meta-data/iam/security-credentials/", &[("X-aws-ec2-metadata-token", token)])
}

/// The packets counted by this counter of the table `inet probe`.
pub(crate) fn counted(rig: &Rig, name: &str) -> Result<u64> {
    let listed = on_node(rig, &format!("nft list counter inet probe {name}"))?;
    let mut words = listed.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).and_then(|number| number.parse().ok()).with_context(|| format!("no number in {listed}"))
}
