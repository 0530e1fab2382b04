//! Tests pods, their containers, and the agents in them.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use podrole_lab::agent::{End, Failure, Load, Target};
use podrole_lab::diag::SockDiag;
use podrole_lab::imds::Imds;
use podrole_lab::node::{Node, NodeOptions};
use podrole_lab::pod::{Driver, Pod, PodSpec, Qos, Shape};
use podrole_lab::proc::{self, Process, until};

const LONG: Duration = Duration::from_secs(5);

pub(crate) fn sockets_carry_their_containers_cgroup() -> Result<()> {
    let node = Node::new(NodeOptions::default())?;
    let _imds = Imds::start(&node)?;
    for (driver, qos) in [(Driver::Systemd, Qos::Burstable), (Driver::Cgroupfs, Qos::Guaranteed)] {
        let spec = PodSpec::new("default", "web").driver(driver).qos(qos).containers(&["app", "side"]);
        let pod = node.pod(spec.clone())?;
        let other = node.pod(PodSpec::new("default", "victim").shape(Shape::PointToPoint))?;
        let mut ids = BTreeSet::new();
        for (agent, container, netns) in [
            (pod.agent("app")?, "app", pod.netns()),
            (pod.agent("side")?, "side", pod.netns()),
            // A process in another pod's netns still belongs to its own container.
            (pod.agent_in("app", &other)?, "app", other.netns()),
        ] {
            for target in [Target::v4(), Target::v6(), Target::v4().mapped()] {
                let connection = agent.open(&target)?;
                let local =
                    std::net::SocketAddr::new(connection.local().ip().to_canonical(), connection.local().port());
                let netns = netns.unwrap_or_else(|| Path::new("/proc/self/ns/net"));
                let id = SockDiag::open(netns)?.cgroup_id(local, target.address())?;
                ensure!(id == pod.cgroup_id(container)?, "{driver:?} {container} {target:?}: {id}");
                ids.insert(id);
            }
        }
        ensure!(ids.len() == 2, "each container has its own: {ids:?}");
    }
    Ok(())
}

pub(crate) fn agents_hold_connections() -> Result<()> {
    let node = Node::new(NodeOptions::default())?;
    let imds = Imds::start(&node)?;
    let pod = node.pod(PodSpec::new("default", "web"))?;
    let agent = pod.agent("app")?;
    let (first, second) = (agent.open(&Target::v4().from_port(41_000))?, agent.open(&Target::v6())?);
    ensure!(first.local() == (pod.v4(), 41_000).into(), "{}", first.local());
    for part in ["GET /latest/meta-data/inst", "ance-type HTTP/1.1\r\nHost: x", "\r\n\r\n"] {
        ensure!(
            first.read(Duration::from_millis(20))?.end == End::TimedOut,
            "got an answer before the request was complete"
        );
        first.send(part.as_bytes())?;
    }
    ensure!(first.response(LONG)?.text() == "m5.large");
    ensure!(first.is_ended(LONG)?);
    second.send(b"GET / HTTP/1.1\r\n")?;
    second.finish()?;
    ensure!(second.read(LONG)?.end == End::Closed);
    first.close()?;
    second.reset()?;
    // A source port can be reused, and the pod can choose its own address.
    pod.configure(&["ip", "addr", "add", "10.88.1.250/32", "dev", "eth0"])?;
    let target = Target::v4().from_port(41_000).from_address(Ipv4Addr::new(10, 88, 1, 250));
    agent.to(target).get("/", &[])?;
    ensure!(imds.from_pods().iter().any(|seen| seen.peer == "10.88.1.250:41000".parse().expect("an address")));
    // Connection failures are distinguished.
    ensure!(agent.reach((pod.v4(), 9).into(), LONG) == Err(Failure::Refused));
    pod.configure(&["ip", "route", "add", "unreachable", "192.0.2.0/24"])?;
    ensure!(agent.reach(([192, 0, 2, 1], 80).into(), LONG) == Err(Failure::Unreachable));
    let garbled = agent.raw(b"\x16\x03\x01\r\n\r\n")?;
    ensure!(garbled.status == 400, "{garbled:?}");
    Ok(())
}

pub(crate) fn agents_make_load() -> Result<()> {
    let node = Node::new(NodeOptions::default())?;
    let imds = Imds::start(&node)?;
    let pod = node.pod(PodSpec::new("default", "web").shape(Shape::PointToPoint))?;
    let agent = pod.agent("app")?;
    let request = agent.v4().render("GET", "/latest/meta-data/instance-type", &[]);
    let report = agent.load(&Load::new(Target::v4(), &request).workers(20).requests(1_000))?;
    ensure!((report.with_status(200), report.failed(), report.bodies.len()) == (1_000, 0, 1), "{report:?}");
    ensure!(report.samples.values().next().map(String::as_str) == Some("m5.large"), "{report:?}");
    ensure!(report.latency.p50 > 0 && report.latency.p50 <= report.latency.p999, "{report:?}");
    // Limited by time, while the test does something else.
    let run = agent.start_load(&Load::new(Target::v4(), &request).workers(2).duration(Duration::from_millis(500)))?;
    imds.set_v1(false);
    let report = run.wait()?;
    ensure!(report.with_status(401) > 0 && report.elapsed_us < 2_000_000, "{report:?}");
    println!("{:.0} requests/s, {:?}", report.rate(), report.latency);
    Ok(())
}

pub(crate) fn containers_come_and_go() -> Result<()> {
    let node = Node::new(NodeOptions::default())?;
    let _imds = Imds::start(&node)?;
    let pod = node.pod(PodSpec::new("default", "web").init_container("setup"))?;
    let mut sleeper = Process::start("sleeper", pod.command("app")?.args(["sleep", "1000"]))?;
    until("the sleeper to be in its container", LONG, || {
        Ok(pod.processes("app")?.contains(&sleeper.pid()).then_some(()))
    })?;
    let (before, cgroup) = (pod.container("app")?, pod.container_cgroup("app")?);
    let after = pod.restart_container("app")?;
    ensure!(before.id != after.id && after.id.len() == 64 && after.restarts == 1);
    ensure!(!cgroup.exists() && pod.container_cgroup("app")?.exists());
    sleeper.wait(LONG)?;
    let debug = pod.add_container("debug")?;
    pod.agent("debug")?.credentials()?;
    ensure!(pod.add_container("debug").is_err() && pod.container("none").is_err());
    ensure!(
        pod.object()["status"]["ephemeralContainerStatuses"][0]["containerID"] == format!("containerd://{}", debug.id)
    );
    // A command sees nothing that identifies its starter, and its exit code is returned.
    let output = pod.exec("app", &["env"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(!text.contains("AWS_") && !text.contains("HOME=/root") && !text.contains("PODROLE_LAB"), "{text}");
    ensure!(pod.exec("app", &["sh", "-c", "exit 3"])?.status.code() == Some(3));
    Ok(())
}

pub(crate) fn deleted_pods_leave_nothing() -> Result<()> {
    let node = Node::new(NodeOptions::default())?;
    let _imds = Imds::start(&node)?;
    let before = links()?;
    for shape in [Shape::Bridge, Shape::PointToPoint] {
        let pod = node.pod(PodSpec::new("default", "web").shape(shape))?;
        let agent = pod.agent("app")?;
        let (netns, cgroup) = (pod.netns().map(Path::to_owned), pod.cgroup().to_owned());
        ensure!(netns.as_ref().is_some_and(|path| path.exists()) && cgroup.exists());
        pod.delete()?;
        ensure!(!netns.is_some_and(|path| path.exists()) && !cgroup.exists());
        ensure!(matches!(agent.get("/", &[]), Err(Failure::Agent(_))), "the agent was in the pod");
    }
    ensure!(links()? == before, "{} and {before}", links()?);
    ensure!(fs::read_dir("/run/netns")?.count() == 0);
    Ok(())
}

fn links() -> Result<String> {
    proc::run(std::process::Command::new("ip").args(["-o", "link", "show", "type", "veth"]))
}

pub(crate) fn pods_can_reuse_an_address() -> Result<()> {
    let node = Node::new(NodeOptions::default())?;
    let imds = Imds::start(&node)?;
    for shape in [Shape::Bridge, Shape::PointToPoint] {
        let first = node.pod(PodSpec::new("default", "first").shape(shape))?;
        let (v4, v6) = (first.v4(), first.v6());
        first.agent("app")?.credentials()?;
        first.delete()?;
        let second = node.pod(PodSpec::new("default", "second").shape(shape).v4(v4).v6(v6))?;
        imds.clear()?;
        let agent = second.agent("app")?;
        agent.v4().credentials()?;
        agent.v6().credentials()?;
        ensure!(imds.from_pods().iter().all(|seen| [IpAddr::V4(v4), IpAddr::V6(v6)].contains(&seen.peer.ip())));
    }
    Ok(())
}

pub(crate) fn objects_match_the_pods() -> Result<()> {
    let node = Node::new(NodeOptions::default())?;
    let pod =
        node.pod(PodSpec::new("shop", "web").service_account("cart").annotation("a", "b").containers(&["x", "y"]))?;
    let object = pod.object();
    ensure!(object["metadata"]["uid"] == pod.uid() && object["metadata"]["annotations"]["a"] == "b", "{object}");
    ensure!(object["spec"]["nodeName"] == "node-1" && object["spec"]["serviceAccountName"] == "cart", "{object}");
    ensure!(object["status"]["phase"] == "Running" && object["status"]["podIP"] == pod.v4().to_string(), "{object}");
    ensure!(object["status"]["podIPs"][1]["ip"] == pod.v6().to_string(), "{object}");
    let id = format!("containerd://{}", pod.container("y")?.id);
    ensure!(object["status"]["containerStatuses"][1]["containerID"] == id, "{object}");
    ensure!(pod.object_without_ips()["status"].get("podIP").is_none());
    let early = pod.object_without_statuses();
    ensure!(early["status"].get("containerStatuses").is_none() && early["status"]["phase"] == "Pending", "{early}");
    Ok(())
}

pub(crate) fn many_pods_are_quick() -> Result<()> {
    let node = Node::new(NodeOptions::default())?;
    for shape in [Shape::Bridge, Shape::PointToPoint] {
        let begin = Instant::now();
        let pods = (0..200)
            .map(|number| node.pod(PodSpec::new("default", &format!("web-{number}")).shape(shape)))
            .collect::<Result<Vec<_>>>()?;
        let made = begin.elapsed() / 200;
        let begin = Instant::now();
        Pod::delete_all(pods)?;
        println!("{shape:?}: made in {made:?} each, deleted in {:?} each", begin.elapsed() / 200);
        ensure!(links()?.lines().count() == 1, "only the uplink stays: {}", links()?);
        // The goal is 30 ms on an idle machine; this leaves room for a busy one.
        ensure!(made < Duration::from_millis(90), "a pod takes {made:?}");
    }
    Ok(())
}
