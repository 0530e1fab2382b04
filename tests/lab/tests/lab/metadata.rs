//! Tests the double of the metadata service: its responses and its records.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::{Failure, Response, Target};
use podrole_lab::imds::{Imds, Mode, Protocol};
use podrole_lab::node::{METADATA_V4, METADATA_V6, Node, NodeOptions};
use podrole_lab::pod::{Driver, PodSpec, Qos, Shape};
use podrole_lab::proc::until;

const SHORT: Duration = Duration::from_millis(300);

fn node() -> Result<(Node, Imds)> {
    let node = Node::new(NodeOptions::default())?;
    let imds = Imds::start(&node)?;
    Ok((node, imds))
}

pub(crate) fn pods_of_every_shape_leak() -> Result<()> {
    let (node, imds) = node()?;
    for shape in [Shape::Bridge, Shape::PointToPoint] {
        for (driver, qos) in
            [(Driver::Systemd, Qos::Burstable), (Driver::Cgroupfs, Qos::BestEffort), (Driver::Systemd, Qos::Guaranteed)]
        {
            let pod = node.pod(PodSpec::new("default", "web").shape(shape).driver(driver).qos(qos))?;
            let agent = pod.agent("app")?;
            for client in [agent.v4(), agent.v6(), agent.to(Target::v4().mapped())] {
                imds.clear()?;
                ensure!(imds.leaked_packets()? == 0);
                let begin = Instant::now();
                let creds = client.credentials().with_context(|| format!("{shape:?} {driver:?} {client:?}"))?;
                ensure!(begin.elapsed() < Duration::from_millis(500), "slow: {:?}", begin.elapsed());
                ensure!(creds.access_key_id == imds.credentials().access_key_id);
                ensure!(creds.role == "node-role");
                let leaks = imds.from_pods();
                ensure!(leaks.len() == 3, "token, role, credentials: {leaks:?}");
                ensure!(leaks.iter().all(|leak| pod.has_address(leak.peer.ip())), "{leaks:?}");
                ensure!(leaks[0].text().starts_with("PUT /latest/api/token HTTP/1.1\r\n"), "{leaks:?}");
                ensure!(imds.leaked_packets()? >= 9, "a request takes packets");
            }
            pod.delete()?;
        }
    }
    Ok(())
}

pub(crate) fn node_use_is_no_leak() -> Result<()> {
    let (node, imds) = node()?;
    let agent = node.agent()?;
    agent.v4().credentials()?;
    agent.v6().credentials()?;
    let host = node.pod(PodSpec::new("kube-system", "cni").host_network())?;
    host.agent("app")?.credentials()?;
    node.wan_agent()?.credentials()?;
    ensure!(imds.seen().len() == 12, "{:?}", imds.seen());
    ensure!(imds.from_pods().is_empty() && imds.leaked_packets()? == 0 && imds.own_packets()? > 0);
    Ok(())
}

pub(crate) fn every_port_is_recorded() -> Result<()> {
    let (node, imds) = node()?;
    let pod = node.pod(PodSpec::new("default", "web").shape(Shape::PointToPoint))?;
    let agent = pod.agent("app")?;
    for port in [53, 443, 8080] {
        for address in [SocketAddr::from((METADATA_V4, port)), SocketAddr::from((METADATA_V6, port))] {
            let connection = agent.open(&Target::new(address))?;
            connection.send(b"anyone there?")?;
            until("the bytes to arrive", Duration::from_secs(2), || {
                Ok(imds
                    .from_pods()
                    .iter()
                    .any(|seen| seen.local == address && seen.text() == "anyone there?")
                    .then_some(()))
            })?;
        }
    }
    for target in [Target::new((METADATA_V4, 53)), Target::new((METADATA_V6, 53))] {
        ensure!(agent.datagram(&target, b"query")? == b"query");
    }
    ensure!(imds.from_pods().iter().filter(|seen| seen.protocol == Protocol::Udp).count() == 2);
    // Nothing listens there, but the packets are counted.
    imds.clear()?;
    ensure!(agent.reach((METADATA_V4, 81).into(), SHORT) == Err(Failure::Refused));
    ensure!(imds.from_pods().is_empty() && imds.leaked_packets()? > 0);
    Ok(())
}

fn names(response: &Response) -> Vec<&str> {
    response.headers.iter().map(|(name, _)| name.as_str()).collect()
}

pub(crate) fn is_byte_compatible() -> Result<()> {
    let (node, _imds) = node()?;
    let agent = node.agent()?;
    let response = agent.put_token(21_600)?;
    let token = response.text();
    ensure!(token.len() == 56 && response.header("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") == Some("21600"));
    let expected =
        ["X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "Content-Type", "Content-Length", "Date", "Server", "Connection"];
    ensure!(names(&response) == expected, "{response:?}");
    let headers = [("X-aws-ec2-metadata-token", token.as_str())];
    for (path, body) in [
        ("/latest/meta-data/placement/region", "us-west-2"),
        ("/latest/meta-data/placement/availability-zone/", "us-west-2b"),
        ("/latest/meta-data/placement/availability-zone-id", "usw2-az2"),
        ("/latest/meta-data/instance-type", "m5.large"),
        ("/latest/meta-data/services/domain", "amazonaws.com"),
        ("/latest/meta-data/services/partition", "aws"),
        ("/latest/meta-data/iam/security-credentials", "node-role"),
        ("/latest/meta-data/iam/security-credentials/", "node-role"),
    ] {
        let response = agent.get(path, &headers)?;
        ensure!(response.status == 200 && response.text() == body, "{path}: {response:?}");
        ensure!(response.header("Server") == Some("EC2ws") && response.header("Content-Type") == Some("text/plain"));
        ensure!(response.header("Connection") == Some("close"));
    }
    let document = agent.get("/latest/dynamic/instance-identity/document", &headers)?.json()?;
    ensure!(document["region"] == "us-west-2" && document["accountId"] == "111122223333", "{document}");
    let info = agent.get("/latest/meta-data/iam/info", &headers)?.json()?;
    ensure!(info["InstanceProfileArn"] == "arn:aws:iam::111122223333:instance-profile/node-role", "{info}");
    ensure!(agent.get("/latest/user-data", &headers)?.text().contains("planted-secret"));
    ensure!(agent.get("/latest/meta-data/nothing", &headers)?.status == 404);
    Ok(())
}

pub(crate) fn session_tokens() -> Result<()> {
    let (node, imds) = node()?;
    let agent = node.agent()?;
    let region = "/latest/meta-data/placement/region";
    ensure!(agent.get(region, &[])?.status == 200, "v1 must be on by default");
    imds.set_v1(false);
    ensure!(agent.get(region, &[])?.status == 401);
    ensure!(agent.get(region, &[("X-aws-ec2-metadata-token", "wrong")])?.status == 401);
    ensure!(agent.put_token(0)?.status == 400 && agent.put_token(21_601)?.status == 400);
    let forwarded = [("X-aws-ec2-metadata-token-ttl-seconds", "60"), ("X-Forwarded-For", "1.2.3.4")];
    ensure!(agent.v4().request("PUT", "/latest/api/token", &forwarded)?.status == 403);
    let token = agent.put_token(1)?.text();
    let headers = [("X-aws-ec2-metadata-token", token.as_str())];
    ensure!(agent.get(region, &headers)?.status == 200);
    until("the token to expire", Duration::from_secs(3), || {
        Ok((agent.get(region, &headers)?.status == 401).then_some(()))
    })
}

pub(crate) fn misbehaves_when_told() -> Result<()> {
    let (node, imds) = node()?;
    let agent = node.agent()?;
    imds.set_mode(Mode::Off)?;
    ensure!(agent.get("/", &[]).err() == Some(Failure::Refused));
    ensure!(agent.v6().get("/", &[]).err() == Some(Failure::Refused));
    imds.set_mode(Mode::Slow(Duration::from_millis(400)))?;
    let begin = Instant::now();
    ensure!(agent.get("/", &[])?.status == 200 && begin.elapsed() >= Duration::from_millis(400));
    ensure!(agent.to(Target::v4().timeout(SHORT)).get("/", &[]).err() == Some(Failure::TimedOut));
    imds.set_mode(Mode::Google)?;
    let response = agent.get("/", &[])?;
    ensure!(response.header("Metadata-Flavor") == Some("Google") && response.header("Server") != Some("EC2ws"));
    ensure!(agent.put_token(60)?.status == 405);
    imds.set_mode(Mode::Serving)?;
    imds.set_facts(|facts| facts.region = "eu-central-1".into());
    ensure!(agent.get("/latest/meta-data/placement/region", &[])?.text() == "eu-central-1");
    Ok(())
}
