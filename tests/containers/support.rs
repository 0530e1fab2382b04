//! Shared by the trials: a node, images, and podrole installed on the node.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::cluster::{Assets, User};
use podrole_lab::proc;
use podrole_lab::real::RealNode;
use podrole_lab::runtime::{Image, Network};
use podrole_lab::world;
use serde_json::{Value, json};

/// The namespace in which the manifests install podrole.
pub(crate) const SYSTEM: &str = "podrole-system";
/// The namespace of the pods in most trials.
pub(crate) const TEAM: &str = "team";
/// The time from `apply` until the pod is ready, on a busy machine.
pub(crate) const READY: Duration = Duration::from_secs(90);
/// The image of a program that requests credentials as soon as it starts.
pub(crate) const ASKER: &str = "localhost/lab/asker:1";
/// The image with Python and boto3.
pub(crate) const PYTHON: &str = "localhost/lab/python:1";

/// A ready node. Skips the trial if the machine cannot run one.
pub(crate) fn node(network: Network) -> Result<RealNode> {
    if let Some(missing) = RealNode::missing() {
        return world::skip(&missing);
    }
    RealNode::start(network)
}

/// Imports podrole's image on the node and returns its name: the image that `PODROLE_IMAGE` names, or the root file system of the
/// release image with the binary that was built for this test.
pub(crate) fn podrole_image(site: &RealNode) -> Result<String> {
    if let Some(archive) = set("PODROLE_IMAGE") {
        return site.runtime.import(&site.node, Path::new(&archive));
    }
    let image = Image::new("localhost/podrole:dev")
        .layer(&rootfs("podrole.tar")?)
        .file(Path::new(env!("CARGO_BIN_EXE_podrole")), "/usr/bin/podrole")
        .entrypoint(&["/usr/bin/podrole"])
        .env("PATH", "/usr/sbin:/usr/bin");
    site.runtime.import(&site.node, &image.write()?)
}

/// Imports the image of the asking program on the node.
pub(crate) fn asker_image(site: &RealNode) -> Result<String> {
    let image = Image::new(ASKER).file(&Assets::find()?.program("asker")?, "/asker").entrypoint(&["/asker"]);
    site.runtime.import(&site.node, &image.write()?)
}

/// Imports an image with Python, boto3 and the probe on the node.
pub(crate) fn python_image(site: &RealNode) -> Result<String> {
    let probe = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk/boto_probe.py");
    let image = Image::new(PYTHON)
        .layer(&rootfs("python.tar")?)
        .file(&probe, "/opt/probe.py")
        .entrypoint(&["/usr/bin/python3", "-u"])
        .env("PYTHONPATH", "/opt");
    site.runtime.import(&site.node, &image.write()?)
}

/// Runs `kubectl apply -k daemonset` with the settings of a user's overlay: the image, and the endpoint of AWS. `patches` are
/// additional JSON patches of the DaemonSet.
pub(crate) fn apply(site: &RealNode, image: &str, patches: &[Value]) -> Result<()> {
    let (name, tag) = image.rsplit_once(':').context("an image has a tag")?;
    let mut all = vec![json!(
        {"op": "add", "path": "/spec/template/spec/containers/0/env/-",
         "value": {"name": "AWS_ENDPOINT_URL_STS", "value": site.sts_endpoint()}}
    )];
    all.extend(patches.iter().cloned());
    let overlay = json!({
        "images": [{"name": "podrole", "newName": name, "newTag": tag}],
        "patches": [{"target": {"kind": "DaemonSet"}, "patch": Value::from(all).to_string()}],
    });
    site.apply(&Path::new(env!("CARGO_MANIFEST_DIR")).join("daemonset"), &overlay).map(drop)
}

/// The same, then waits until podrole's pod is ready.
pub(crate) fn installed(site: &RealNode) -> Result<Value> {
    apply(site, &podrole_image(site)?, &[])?;
    let pods =
        site.until_pods("podrole's pod to become ready", SYSTEM, READY, |pods| pods.iter().any(RealNode::is_ready))?;
    pods.into_iter().next().context("there is a pod")
}

/// Creates a pod with these containers, which the scheduler binds, as `kubectl run` does.
pub(crate) fn create(site: &RealNode, name: &str, annotations: Value, containers: Value) -> Result<()> {
    let object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": TEAM, "name": name, "annotations": annotations},
        // Deleting a pod need not wait: the asking program ends by itself, and Python on SIGTERM.
        "spec": {"restartPolicy": "Never", "containers": containers, "terminationGracePeriodSeconds": 1},
    });
    site.cluster.create(object).map(drop)
}

/// Deletes a pod as users do, and waits until the node's agent has removed it.
pub(crate) fn delete(site: &RealNode, name: &str) -> Result<()> {
    site.cluster.delete_with_grace("Pod", TEAM, name, 1)?;
    proc::until(&format!("{name} to be gone"), READY, || Ok(site.pod(TEAM, name).is_err().then_some(())))
}

/// The role of an access key, as recorded by the STS double. For the node's own key, as recorded by the metadata double.
pub(crate) fn role_of(site: &RealNode, key: &str) -> Option<String> {
    if key == site.imds.credentials().access_key_id {
        return Some("the node's".to_owned());
    }
    let issued = site.sts.who(key)?;
    issued.role_arn.rsplit('/').next().map(str::to_owned)
}

/// Asserts that no packet and no request of a pod reached the cloud's metadata service.
pub(crate) fn no_leak(site: &RealNode) -> Result<()> {
    let (packets, seen) = (site.imds.leaked_packets()?, site.imds.from_pods());
    ensure!(packets == 0 && seen.is_empty(), "{packets} packets leaked: {seen:?}");
    Ok(())
}

/// The control of [`no_leak`]: asserts that packets were counted and requests recorded.
pub(crate) fn leaks(site: &RealNode) -> Result<()> {
    let (packets, seen) = (site.imds.leaked_packets()?, site.imds.from_pods());
    ensure!(packets > 0 && !seen.is_empty(), "{packets} packets were counted, the metadata service saw {seen:?}");
    Ok(())
}

/// The state of podrole's objects, as an administrator sees it.
pub(crate) fn daemonset(site: &RealNode) -> Result<Value> {
    site.cluster.get(User::Admin, "DaemonSet", SYSTEM, "podrole")
}

/// A root file system that `tests/containers/build.sh` built. Skips the trial if there is none.
fn rootfs(name: &str) -> Result<PathBuf> {
    let program = env::current_exe().context("find this program")?;
    // The program is target/PROFILE/deps/NAME, or one level deeper with --target.
    let near = program.ancestors().skip(3).take(2).map(Path::to_owned);
    let mut places = set("CARGO_TARGET_DIR").map(PathBuf::from).into_iter().chain(near);
    match places.find_map(|dir| Some(dir.join("containers").join(name)).filter(|path| path.is_file())) {
        Some(path) => Ok(path),
        None => world::skip(&format!("no {name}: run tests/containers/build.sh")),
    }
}

fn set(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}
