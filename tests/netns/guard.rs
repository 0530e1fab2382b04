//! A node is guarded before anything can fail, and stays guarded when something fails.

use std::time::Duration;

use anyhow::{Result, ensure};
use podrole_lab::imds::Mode;
use podrole_lab::pod::{PodSpec, Shape};
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::world::{Trial, mount_cgroup1, scratch};

use crate::support::{
    METADATA, NODE_ROLE, TEAM, connects, leak, listener_port, no_leak, node_is_well, on_node, ready, refused,
    remove_routing_guard, rig, said, served, served_both, start_unready,
};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("guard_guards_a_node_that_never_ran_podrole", fresh),
    Trial::new("guard_does_not_disturb_a_serving_daemon", beside_a_daemon),
    Trial::new("wrong_settings_are_reported_together_and_the_node_is_guarded", bad_settings),
    Trial::new("guard_with_a_wrong_metadata_endpoint_reports_it_and_guards_the_node", bad_endpoint),
    Trial::new("a_start_without_cgroup2_fails_and_the_node_is_guarded", no_cgroup2),
    // A kernel with all controllers in cgroup2 has no v1 hierarchy, and a container cannot create one.
    Trial::new("a_start_on_cgroup_v1_fails_and_the_node_is_guarded", cgroup1).may_skip(),
    Trial::new("a_daemon_that_may_not_enter_netns_reports_it_and_the_node_stays_guarded", no_sys_admin),
    Trial::new("without_an_api_server_pods_wait_and_nothing_leaks", no_api_server),
    Trial::new("without_the_clouds_metadata_pods_wait_and_are_served_when_it_is_back", no_metadata),
    Trial::new("on_another_cloud_nothing_is_changed", other_cloud),
];

fn fresh() -> Result<()> {
    let rig = rig()?;
    let first = rig.podrole(&["guard"])?;
    ensure!(first.status.success(), "{}", said(&first));
    closed(&rig)?;
    let again = rig.podrole(&["guard"])?;
    ensure!(again.status.success(), "{}", said(&again));
    closed(&rig)?;
    no_leak(&rig)?;
    // The table guard alone is enough: remove the routing guard.
    remove_routing_guard(&rig)?;
    closed(&rig)?;
    no_leak(&rig)?;
    // Control: without both guards the metadata leaks.
    on_node(&rig, "nft delete table inet podrole")?;
    let pod = rig.pod(PodSpec::new(TEAM, "open"))?;
    ensure!(pod.agent("app")?.credentials()?.role == NODE_ROLE);
    leak(&rig)
}

fn beside_a_daemon() -> Result<()> {
    let rig = ready()?;
    let pod = rig.pod_with_role(TEAM, "web", "web-role")?;
    let port = listener_port(&rig)?;
    let output = rig.podrole(&["guard"])?;
    ensure!(output.status.success(), "{}", said(&output));
    ensure!(listener_port(&rig)? == port, "the serving daemon's rules were replaced");
    served_both(&rig, &pod.agent("app")?, "web-role")
}

fn bad_settings() -> Result<()> {
    let mut rig = rig()?;
    let wrong = [
        ("--platform", "mars"),
        ("--identity", "guess"),
        ("--session-duration", "5s"),
        ("--port-range", "9-1"),
        ("--admin-addr", "here"),
        ("--log-format", "paper"),
    ];
    let flags: Vec<&str> = wrong.iter().flat_map(|(flag, value)| [*flag, *value]).collect();
    rig.launch(&flags)?;
    let status = rig.daemon_mut()?.wait(Duration::from_secs(10))?;
    let logs = rig.daemon()?.logs();
    ensure!(status.code() == Some(64), "{status}: {logs}");
    for (flag, _) in wrong {
        ensure!(logs.contains(flag.trim_start_matches('-')), "{flag} is not in {logs}");
    }
    closed(&rig)?;
    no_leak(&rig)
}

fn bad_endpoint() -> Result<()> {
    const NAME: &str = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
    let mut rig = rig()?;
    rig.options_mut().env.push((NAME.to_owned(), "https://169.254.169.254".to_owned()));
    let output = rig.podrole(&["guard"])?;
    ensure!(output.status.code() == Some(64) && said(&output).contains(NAME), "{}", said(&output));
    closed(&rig)?;
    no_leak(&rig)
}

fn no_cgroup2() -> Result<()> {
    refused_as_cgroup_root("/run/netns", "file system type")
}

fn cgroup1() -> Result<()> {
    let place = scratch().join("cgroup1");
    mount_cgroup1(&place)?;
    // `CGROUP_SUPER_MAGIC` of `linux/magic.h`.
    refused_as_cgroup_root(&place.display().to_string(), "file system type 0x27e0eb")
}

fn refused_as_cgroup_root(root: &str, found: &str) -> Result<()> {
    let mut rig = rig()?;
    rig.launch(&["--cgroup-root", root])?;
    let status = rig.daemon_mut()?.wait(Duration::from_secs(10))?;
    let logs = rig.daemon()?.logs();
    ensure!(!status.success() && logs.contains("cgroup2"), "{status}: {logs}");
    ensure!(logs.contains(root) && logs.contains(found), "{found} at {root} is not in {logs}");
    closed(&rig)?;
    no_leak(&rig)?;
    // The weaker mode works on such nodes.
    let pod = rig.pod_with_role(TEAM, "web", "web-role")?;
    rig.start(&["--cgroup-root", root, "--identity", "ip"])?;
    served_both(&rig, &pod.agent("app")?, "web-role")
}

fn no_sys_admin() -> Result<()> {
    let mut rig = rig()?;
    ensure!(rig.podrole(&["guard"])?.status.success());
    let whole = std::mem::replace(
        &mut rig.options_mut().wrapper,
        ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"].map(str::to_owned).into(),
    );
    rig.launch(&[])?;
    let status = rig.daemon_mut()?.wait(Duration::from_secs(10))?;
    let logs = rig.daemon()?.logs();
    ensure!(!status.success() && logs.contains("CAP_SYS_ADMIN"), "{status}: {logs}");
    // The other capabilities are present and not reported.
    ensure!(!logs.contains("CAP_NET_ADMIN"), "{logs}");
    closed(&rig)?;
    no_leak(&rig)?;
    // The weaker mode enters no netns, so it does not need the capability.
    let pod = rig.pod_with_role(TEAM, "by-address", "ip-role")?;
    rig.start(&["--identity", "ip"])?;
    served_both(&rig, &pod.agent("app")?, "ip-role")?;
    rig.daemon_mut()?.terminate()?;
    // Control: with the capability the start succeeds.
    rig.options_mut().wrapper = whole;
    let pod = rig.pod_with_role(TEAM, "web", "web-role")?;
    rig.start(&[])?;
    served_both(&rig, &pod.agent("app")?, "web-role")
}

fn no_api_server() -> Result<()> {
    let mut rig = rig()?;
    let pod = rig.pod_with_role(TEAM, "web", "web-role")?;
    rig.kube.down(true)?;
    start_unready(&mut rig)?;
    let agent = pod.agent("app")?;
    for client in [agent.v4(), agent.v6()] {
        let error = refused(&rig, client)?;
        ensure!(error.status() == Some(503), "{error}");
    }
    let (status, body) = rig.daemon()?.admin("/readyz")?;
    ensure!(status == 503 && body.contains("[-] pods"), "{status}: {body}");
    no_leak(&rig)?;
    rig.kube.down(false)?;
    rig.daemon_mut()?.wait_ready(Duration::from_secs(30))?;
    let (_, body) = rig.daemon()?.admin("/readyz?verbose")?;
    ensure!(body.contains("[+] pods"), "{body}");
    served_both(&rig, &agent, "web-role")
}

fn no_metadata() -> Result<()> {
    let mut rig = rig()?;
    let pod = rig.pod_with_role(TEAM, "web", "web-role")?;
    rig.imds.set_mode(Mode::Off)?;
    start_unready(&mut rig)?;
    let agent = pod.agent("app")?;
    let error = refused(&rig, agent.v4())?;
    ensure!(error.status() == Some(503), "{error}");
    rig.imds.set_mode(Mode::Serving)?;
    rig.daemon_mut()?.wait_ready(Duration::from_secs(30))?;
    served(&rig, agent.v4(), "web-role")?;
    no_leak(&rig)
}

fn other_cloud() -> Result<()> {
    let mut rig = rig()?;
    rig.imds.set_mode(Mode::Google)?;
    let before = everything(&rig)?;
    let output = rig.podrole(&["guard"])?;
    ensure!(!output.status.success() && said(&output).contains("Google"), "{}", said(&output));
    rig.launch(&[])?;
    let status = rig.daemon_mut()?.wait(Duration::from_secs(10))?;
    ensure!(!status.success(), "{status}");
    let after = everything(&rig)?;
    ensure!(before == after, "before:\n{before}\nafter:\n{after}");
    Ok(())
}

/// The node's rules, tables and addresses.
fn everything(rig: &Rig) -> Result<String> {
    let parts = ["nft list ruleset", "ip -4 rule show", "ip -6 rule show", "ip addr show dev lo"];
    parts.iter().map(|line| on_node(rig, line)).collect()
}

/// Asserts that a new pod of each shape gets no connection, and that the node keeps its metadata.
fn closed(rig: &Rig) -> Result<()> {
    for shape in [Shape::Bridge, Shape::PointToPoint] {
        let pod = rig.pod(PodSpec::new(TEAM, "probe").shape(shape).annotation(ROLE, "web-role"))?;
        let agent = pod.agent("app")?;
        for address in METADATA {
            ensure!(!connects(&agent, address, 80), "{shape:?}: {address} answers");
        }
        rig.delete(pod)?;
    }
    node_is_well(rig)
}
