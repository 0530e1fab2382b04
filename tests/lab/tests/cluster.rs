//! Tests of the real control plane's properties on which other tests rely: it starts without a route, enforces limits,
//! distinguishes its users, and leaves nothing behind.
//!
//! All tests share one control plane. This program runs itself again in new network, pid and mount namespaces for it.
//! Each test has its own Kubernetes namespaces and nodes.

#![allow(
    clippy::disallowed_methods,
    reason = "the lab uses real child processes and real time; these rules apply to the daemon only"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use libtest_mimic::{Arguments, Trial};
use podrole_lab::cluster::{Assets, Cluster, ClusterOptions, User, is_status};
use podrole_lab::proc;
use podrole_lab::world::skips_fail;
use serde_json::{Value, json};

/// Set in the copy that runs inside the namespaces: the directory for the tests' results.
const INSIDE: &str = "PODROLE_LAB_CLUSTER_TESTS";
/// Instead of a directory: start a control plane, print its address, and wait to be killed.
const HOLD: &str = "hold";
/// The timeout for all tests, including the start of the control plane.
const BOUND: Duration = Duration::from_secs(180);
const SOON: Duration = Duration::from_secs(10);
/// The content of a passed test's file.
const OK: &str = "ok";

type Test = fn(&Cluster) -> Result<()>;

const TESTS: &[(&str, Test)] = &[
    ("a_pod_with_annotations_at_the_limit", a_pod_with_annotations_at_the_limit),
    ("the_limited_user_sees_what_its_role_says", the_limited_user_sees_what_its_role_says),
    ("status_annotations_and_deletion", status_annotations_and_deletion),
    ("a_token_bound_to_a_pod", a_token_bound_to_a_pod),
    ("the_server_ends_with_its_handle", the_server_ends_with_its_handle),
    ("the_server_ends_with_a_killed_test", the_server_ends_with_a_killed_test),
];

fn main() -> ExitCode {
    if let Ok(place) = std::env::var(INSIDE) {
        return match if place == HOLD { hold() } else { inside(Path::new(&place)) } {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let mut arguments = Arguments::from_args();
    // The first test runs all of them; other threads would only wait for it.
    arguments.test_threads = Some(1);
    let missing = Assets::find().err();
    if let Some(reason) = &missing {
        println!("SKIPPED: {reason:#}");
    }
    let trial = |(name, _): &(&'static str, Test)| {
        let name = *name;
        Trial::test(name, move || result_of(name).map_err(Into::into))
            .with_ignored_flag(missing.is_some() && !skips_fail())
    };
    libtest_mimic::run(&arguments, TESTS.iter().map(trial).collect()).exit_code()
}

/// The result of a test. The first call runs all tests.
fn result_of(name: &str) -> Result<(), String> {
    static RESULTS: OnceLock<Result<Vec<(&str, String)>, String>> = OnceLock::new();
    let results = RESULTS.get_or_init(|| outside().map_err(|error| format!("{error:#}"))).as_ref()?;
    match results.iter().find(|(known, _)| *known == name) {
        Some((_, said)) if said == OK => Ok(()),
        Some((_, said)) => Err(said.clone()),
        None => Err("the test did not finish: see the output above".to_owned()),
    }
}

/// Runs the tests in a copy of this program inside new namespaces. Leaves no processes or files behind.
fn outside() -> Result<Vec<(&'static str, String)>> {
    // One test kills a process that would have removed its files.
    let files = std::env::temp_dir().join(format!("podrole-lab-{}", std::process::id()));
    fs::create_dir(&files).with_context(|| format!("creating {}", files.display()))?;
    let outcome = outside_with(&files);
    fs::remove_dir_all(&files).with_context(|| format!("removing {}", files.display()))?;
    outcome
}

fn outside_with(files: &Path) -> Result<Vec<(&'static str, String)>> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut child = Command::new("unshare")
        .args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(program)
        .env(INSIDE, files)
        .env("TMPDIR", files)
        .stdin(Stdio::null())
        .spawn()
        .context("starting unshare")?;
    let ended = proc::until("the tests to end", BOUND, || child.try_wait().context("waiting for the tests"));
    if ended.is_err() {
        child.kill().context("ending tests that take too long")?;
        child.wait().context("waiting for killed tests")?;
    }
    let said = |name: &&str| fs::read_to_string(files.join(name)).ok();
    let results: Vec<_> = TESTS.iter().filter_map(|(name, _)| Some((*name, said(name)?))).collect();
    // If one test hangs or ends the program, all fail; show the results of the others.
    let status = ended.with_context(|| format!("{results:?}"))?;
    ensure!(status.success(), "{status}, see the output above; {results:?}");
    Ok(results)
}

fn inside(results: &Path) -> Result<()> {
    ip(&["link", "set", "lo", "up"])?;
    let begin = Instant::now();
    let cluster = Cluster::start(ClusterOptions::loopback()?)?;
    let started = begin.elapsed();
    let (apiserver, etcd) = cluster.memory()?;
    println!(
        "ready after {} ms, kube-apiserver {} KiB resident, etcd {} KiB",
        started.as_millis(),
        apiserver.resident_kib,
        etcd.resident_kib
    );
    for (name, test) in TESTS {
        let said = match test(&cluster).with_context(|| cluster.log_tail()) {
            Ok(()) => OK.to_owned(),
            Err(error) => format!("{error:#}"),
        };
        fs::write(results.join(name), said).with_context(|| format!("writing the result of {name}"))?;
    }
    Ok(())
}

fn hold() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::loopback()?)?;
    println!("{}", cluster.address());
    // The trial kills this process meanwhile.
    std::thread::sleep(BOUND);
    bail!("this process was not killed");
}

fn a_pod_with_annotations_at_the_limit(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("team", json!({"iam.amazonaws.com/allowed-roles": "[\"app-*\"]"}))?;
    ensure!(namespace.object["metadata"]["annotations"]["iam.amazonaws.com/allowed-roles"] == "[\"app-*\"]");

    let pod = |name: &str, node: &str, size: usize| {
        json!({
            "metadata": {"name": name, "namespace": "team", "annotations": {"example.com/blob": "x".repeat(size)}},
            "spec": {"nodeName": node},
        })
    };
    let created = cluster.pod(pod("big", "node-1", 250 << 10))?;
    ensure!(created.uid.len() == 36, "a uid of 36 characters, not {:?}", created.uid);
    cluster.pod(pod("elsewhere", "node-2", 1))?;
    let error = cluster.pod(pod("too-big", "node-1", 257 << 10)).err().context("256 KiB must be the limit")?;
    ensure!(is_status(&error, 422), "{error:#}");

    let listed = cluster.list(User::Podrole, "Pod", "", "fieldSelector=spec.nodeName%3Dnode-1&resourceVersion=0")?;
    let names: Vec<&Value> = items(&listed)?.iter().map(|pod| &pod["metadata"]["name"]).collect();
    ensure!(names == ["big"], "{names:?}");
    let version = cluster.raw("/version")?;
    ensure!(version["gitVersion"].as_str().is_some_and(|text| text.starts_with("v1.")), "{version}");
    let (apiserver, etcd) = cluster.memory()?;
    println!("after the test: kube-apiserver {apiserver:?}, etcd {etcd:?}");
    Ok(())
}

fn the_limited_user_sees_what_its_role_says(cluster: &Cluster) -> Result<()> {
    for kind in ["Pod", "Namespace", "ServiceAccount"] {
        cluster.list(User::Podrole, kind, "", "").with_context(|| format!("listing {kind}"))?;
    }
    // A watch that ends by itself after a second.
    cluster.list(User::Podrole, "Pod", "", "watch=1&timeoutSeconds=1").context("watching pods")?;
    for kind in ["Secret", "ConfigMap", "Node"] {
        let error =
            cluster.list(User::Podrole, kind, "", "").err().with_context(|| format!("{kind} must be refused"))?;
        ensure!(is_status(&error, 403), "{error:#}");
    }
    cluster.grant("podrole-nodes", json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]))?;
    // RBAC's own watch needs a moment to see the new role.
    proc::until("the new right", SOON, || match cluster.list(User::Podrole, "Node", "", "") {
        Ok(_) => Ok(Some(())),
        Err(error) if is_status(&error, 403) => Ok(None),
        Err(error) => Err(error),
    })?;

    let path = std::env::temp_dir().join(format!("kubeconfig-{}", std::process::id()));
    cluster.kubeconfig(&path, User::Podrole)?;
    let seen = kubeconfig_user(&path);
    fs::remove_file(&path).context("removing the kubeconfig")?;
    ensure!(seen? == "podrole");
    Ok(())
}

/// The user name that the server sees with the kubeconfig at `path`, requested by a client built from that file.
fn kubeconfig_user(path: &Path) -> Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let file = kube::config::Kubeconfig::read_from(path)?;
        let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await?;
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let request = http::Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews")
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(serde_json::to_vec(&review)?)?;
        let answer: Value = kube::Client::try_from(config)?.request(request).await?;
        let name = answer["status"]["userInfo"]["username"].as_str().context("no user name")?;
        Ok(name.to_owned())
    })
}

fn status_annotations_and_deletion(cluster: &Cluster) -> Result<()> {
    let created = cluster.pod(json!({
        "metadata": {"name": "web", "annotations": {"iam.amazonaws.com/role": "app"}},
        "spec": {"nodeName": "node-3"},
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": "10.1.0.5"}, {"ip": "fd00::5"}],
            "containerStatuses": [{
                "name": "main", "image": "none", "imageID": "", "ready": true, "restartCount": 0,
                "containerID": "containerd://0123", "state": {"running": {}},
            }],
        },
    }))?;
    let status = &created.object["status"];
    ensure!(status["podIP"] == "10.1.0.5" && status["podIPs"][1]["ip"] == "fd00::5", "{status}");
    ensure!(status["containerStatuses"][0]["containerID"] == "containerd://0123", "{status}");

    let changed = json!({"kind": "Pod", "metadata": {"namespace": "default", "name": "web"}, "status": {"podIPs": [{"ip": "10.1.0.6"}]}});
    let status = &cluster.apply_status(changed)?["status"];
    ensure!(status["podIP"] == "10.1.0.6" && status["podIPs"].as_array().map(Vec::len) == Some(1), "{status}");
    ensure!(status["phase"] == "Running", "{status}");

    let role = "iam.amazonaws.com/role";
    let pod = cluster.annotate("Pod", "default", "web", role, Some("other"))?;
    ensure!(pod["metadata"]["annotations"][role] == "other");
    let pod = cluster.annotate("Pod", "default", "web", role, None)?;
    ensure!(pod["metadata"]["annotations"].get(role).is_none());

    cluster.delete_with_grace("Pod", "default", "web", 30)?;
    let pod = cluster.get(User::Admin, "Pod", "default", "web")?;
    ensure!(pod["metadata"]["deletionTimestamp"].is_string(), "{}", pod["metadata"]);
    cluster.delete("Pod", "default", "web")?;
    let error = cluster.get(User::Admin, "Pod", "default", "web").err().context("the pod must be gone")?;
    ensure!(is_status(&error, 404), "{error:#}");

    cluster.namespace("short", json!({}))?;
    cluster.delete("Namespace", "", "short")?;
    let error = cluster.get(User::Admin, "Namespace", "", "short").err().context("the namespace must be gone")?;
    ensure!(is_status(&error, 404), "{error:#}");

    let again = cluster.pod(json!({"metadata": {"name": "web"}, "spec": {"nodeName": "node-3"}}))?;
    ensure!(again.uid != created.uid, "the same name is another pod");
    Ok(())
}

/// The basis of web identity: a token for the pod's service account, whose issuer and keys a verifier can fetch.
fn a_token_bound_to_a_pod(cluster: &Cluster) -> Result<()> {
    cluster.namespace("tokens", json!({}))?;
    let pod = cluster.pod(json!({
        "metadata": {"namespace": "tokens", "name": "web"}, "spec": {"nodeName": "node-4", "serviceAccountName": "app"},
    }))?;
    let token = cluster.token_request("tokens", "app", "sts.amazonaws.com", ("web", &pod.uid))?;
    let claims = claims(&token)?;
    ensure!(claims["iss"] == cluster.url(), "{claims}");
    ensure!(claims["sub"] == "system:serviceaccount:tokens:app" && claims["aud"][0] == "sts.amazonaws.com", "{claims}");
    ensure!(claims["kubernetes.io"]["pod"]["uid"] == pod.uid, "{claims}");
    let keys = cluster.raw("/openid/v1/jwks")?;
    ensure!(keys["keys"][0]["kty"] == "RSA", "{keys}");
    Ok(())
}

fn claims(token: &str) -> Result<Value> {
    use base64::Engine;
    let middle = token.split('.').nth(1).context("a token of three parts")?;
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(middle).context("decoding the claims")?;
    serde_json::from_slice(&json).context("parsing the claims")
}

/// Starts a second control plane on another address beside the first and drops it: its port closes, and the first
/// continues.
fn the_server_ends_with_its_handle(cluster: &Cluster) -> Result<()> {
    for text in ["10.99.0.1", "fd00:99::1"] {
        ip(&["address", "add", text, "dev", "lo"])?;
        let bind: IpAddr = text.parse().context("an address of the test")?;
        let other = Cluster::start(ClusterOptions { bind, assets: Assets::find()? })?;
        let address = other.address();
        ensure!(address.ip() == bind, "{address}");
        drop(other);
        ensure!(TcpStream::connect(address).is_err(), "{address} still answers");
    }
    cluster.get(User::Admin, "Namespace", "", "default")?;

    let error = Cluster::start(ClusterOptions { bind: [192, 0, 2, 1].into(), assets: Assets::find()? })
        .err()
        .context("an address that is not ours must be refused")?;
    ensure!(format!("{error:#}").contains("192.0.2.1"), "{error:#}");
    Ok(())
}

/// `Drop` does not run in a process that is killed; the control plane must end nevertheless.
fn the_server_ends_with_a_killed_test(_: &Cluster) -> Result<()> {
    let mut holder = Command::new(std::env::current_exe().context("finding this program")?)
        .env(INSIDE, HOLD)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the process to kill")?;
    let mut line = String::new();
    let output = holder.stdout.take().context("the process to kill has an output")?;
    let read = BufReader::new(output).read_line(&mut line);
    holder.kill().context("killing it")?;
    holder.wait().context("waiting for it")?;
    read.context("reading the address")?;
    let address: SocketAddr = line.trim().parse().with_context(|| format!("an address, not {line:?}"))?;
    proc::until("its port to close", SOON, || Ok(TcpStream::connect(address).is_err().then_some(())))
}

fn ip(arguments: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(arguments).status().context("running ip")?;
    ensure!(status.success(), "ip {} failed", arguments.join(" "));
    Ok(())
}

fn items(list: &Value) -> Result<&Vec<Value>> {
    list["items"].as_array().context("a list has items")
}
