//! Shared by the trials: the manifests as kustomize renders them, kubectl, and a rig with the real API server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::agent::{Client, Creds};
use podrole_lab::cluster::{Assets, Cluster, User};
use podrole_lab::pod::{Pod, PodSpec, Qos};
use podrole_lab::proc;
use podrole_lab::rig::{ControlPlane, ROLE, Rig, RigOptions};
use podrole_lab::world;
use serde_json::{Value, json};

/// The namespace of the trials' pods. It allows every role.
pub(crate) const TEAM: &str = "team";
/// The namespace that the base creates.
pub(crate) const SYSTEM: &str = "podrole-system";
/// The bound for events that take milliseconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The directory of a target.
pub(crate) fn dir(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("daemonset").join(target)
}

/// A rig with a real API server and no daemon yet. Skips the trial if the API server is not installed.
pub(crate) fn real() -> Result<Rig<Cluster>> {
    if let Err(missing) = Assets::find() {
        return world::skip(&format!("{missing:#}"));
    }
    let binary = Some(PathBuf::from(env!("CARGO_BIN_EXE_podrole")));
    let rig = Rig::real(RigOptions { binary, ..RigOptions::default() })?;
    rig.namespace(TEAM, &["*"])?;
    Ok(rig)
}

/// A rig with a target applied to its API server.
pub(crate) struct Applied {
    pub(crate) rig: Rig<Cluster>,
    pub(crate) kubectl: Kubectl,
    /// The daemon's kubeconfig, with the rights of the manifests.
    pub(crate) account: String,
}

/// Creates such a rig, without a daemon yet.
pub(crate) fn applied(target: &str) -> Result<Applied> {
    let rig = real()?;
    let kubectl = Kubectl::new(&rig)?;
    kubectl.apply(target)?;
    let account = account(&rig, &kubectl)?;
    Ok(Applied { rig, kubectl, account })
}

/// The real kubectl with the rights of the cluster's administrator.
pub(crate) struct Kubectl {
    program: PathBuf,
    config: PathBuf,
}

/// The output of a command.
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
}

// === impl Kubectl ===

impl Kubectl {
    /// kubectl with the administrator's rights.
    pub(crate) fn new(rig: &Rig<Cluster>) -> Result<Self> {
        let config = world::scratch().join("admin.kubeconfig");
        if !config.exists() {
            rig.kube.kubeconfig(&config, User::Admin)?;
        }
        Ok(Self { program: program()?, config })
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Said> {
        let said = self.try_run(arguments, "")?;
        said.map_err(|error| anyhow::anyhow!("kubectl {}: {error}", arguments.join(" ")))
    }

    /// Runs kubectl with an input; a failure is a value.
    pub(crate) fn try_run(&self, arguments: &[&str], input: &str) -> Result<Result<Said, String>> {
        let mut command = command(&self.program);
        command.arg("--kubeconfig").arg(&self.config).args(arguments);
        let output = proc::output(&mut command, input.as_bytes(), proc::PATIENCE)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = Said { out: text(&output.stdout), err: text(&output.stderr) };
        Ok(if output.status.success() { Ok(said) } else { Err(said.err) })
    }

    /// Runs `kubectl apply -k` for a target, as in the README. Warnings are errors.
    pub(crate) fn apply(&self, target: &str) -> Result<()> {
        let path = dir(target);
        let path = path.to_str().context("a path that is text")?;
        let said = self.run(&["apply", "--server-side", "--force-conflicts", "--validate=strict", "-k", path])?;
        ensure!(said.err.is_empty(), "{target}: {}", said.err);
        Ok(())
    }
}

fn program() -> Result<PathBuf> {
    let assets = Assets::find()?;
    let program = assets.apiserver.with_file_name("kubectl");
    if program.is_file() {
        return Ok(program);
    }
    world::skip(&format!("no {}: run tests/cluster/build.sh kubectl", program.display()))
}

fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    // An empty home directory, so that kubectl finds no configuration or cache of the user.
    command.env_clear().env("HOME", world::scratch());
    command
}

/// The objects of a target, as kustomize renders them.
pub(crate) fn render(target: &str) -> Result<Vec<Value>> {
    if let Err(missing) = Assets::find() {
        return world::skip(&format!("{missing:#}"));
    }
    let mut command = command(&program()?);
    let text = proc::run(command.arg("kustomize").arg(dir(target))).with_context(|| format!("render {target}"))?;
    serde_saphyr::from_multiple(&text).map_err(|error| anyhow::anyhow!("{target}: {error}"))
}

/// The object of a kind and name.
pub(crate) fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> Result<&'a Value> {
    let found = objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.with_context(|| format!("no {kind} {name}"))
}

/// A pod with a role annotation that the real API server accepts.
pub(crate) fn with_role(rig: &Rig<Cluster>, name: &str, role: &str) -> Result<Pod> {
    rig.pod(spec(TEAM, name).annotation(ROLE, role))
}

/// A pod of the best-effort class, as the server sets it.
pub(crate) fn spec(namespace: &str, name: &str) -> PodSpec {
    PodSpec::new(namespace, name).qos(Qos::BestEffort)
}

/// Waits until `client` gets credentials of `role`, as recorded by the STS double.
pub(crate) fn served<A: ControlPlane>(rig: &Rig<A>, client: Client<'_>, role: &str) -> Result<Creds> {
    let credentials =
        proc::until(&format!("credentials of {role}"), Duration::from_secs(60), || Ok(client.credentials().ok()));
    let credentials = credentials.with_context(|| rig.daemon().map(|daemon| daemon.recently()).unwrap_or_default())?;
    let real = rig.role_of(&credentials);
    ensure!(real.as_deref() == Some(role), "asked for {role}, got {real:?}: {credentials:?}");
    Ok(credentials)
}

/// A kubeconfig with a real token of the manifests' service account, like the pod's.
fn account(rig: &Rig<Cluster>, kubectl: &Kubectl) -> Result<String> {
    let token = kubectl.run(&["create", "token", "podrole", "-n", SYSTEM])?;
    let path = world::scratch().join("account.kubeconfig");
    rig.kube.kubeconfig(&path, User::Podrole)?;
    let mut config: Value = serde_json::from_str(&read(&path)?)?;
    config["users"][0]["user"]["token"] = json!(token.out.trim());
    fs::write(&path, config.to_string()).context("write a kubeconfig")?;
    let address = rig.kube.address();
    ensure!(read(&path)?.contains(&address.to_string()), "not this API server's");
    Ok(path.to_str().context("a path that is text")?.to_owned())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}
