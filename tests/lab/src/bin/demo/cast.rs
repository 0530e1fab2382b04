//! Who plays: the node, its namespaces, the pods and what each of them is to get.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use podrole_lab::agent::Agent;
use podrole_lab::pod::{Pod, PodSpec};
use podrole_lab::proc;
use podrole_lab::rig::{ROLE, Rig};
use serde_json::Value;

use crate::checks::Checks;
use crate::screen::Screen;
use crate::sdk::Sdk;

/// Namespaces, and the roles that their pods may have.
pub(crate) const NAMESPACES: [(&str, &[&str]); 2] =
    [("shop", &["web", "checkout", "mailer"]), ("data", &["batch", "report"])];

/// The containers that ask who they are. Containers with the same pod are in one pod.
pub(crate) const ACTORS: [Actor; 6] = [
    Actor { pod: WEB, container: "app", asks: Some("web"), gets: Ok("web"), tool: Tool::Cli },
    Actor { pod: BATCH, container: "app", asks: Some("batch"), gets: Ok("batch"), tool: Tool::Boto },
    Actor { pod: CHECKOUT, container: "api", asks: Some("checkout"), gets: Ok("checkout"), tool: Tool::Boto },
    Actor { pod: CHECKOUT, container: "mailer", asks: Some("mailer"), gets: Ok("mailer"), tool: Tool::Boto },
    Actor { pod: ROGUE, container: "app", asks: Some("batch"), gets: Err("NamespaceNotPermitted"), tool: Tool::Cli },
    Actor { pod: PLAIN, container: "app", asks: None, gets: Err("NoRole"), tool: Tool::Boto },
];

pub(crate) const WEB: &str = "shop/web";
pub(crate) const BATCH: &str = "data/batch";
pub(crate) const CHECKOUT: &str = "shop/checkout";
pub(crate) const ROGUE: &str = "shop/rogue";
pub(crate) const PLAIN: &str = "data/plain";

/// Where the metadata service lists a caller's roles, and serves their credentials.
pub(crate) const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
/// The header that carries a session token.
pub(crate) const TOKEN: &str = "X-aws-ec2-metadata-token";

/// For what takes milliseconds.
const SOON: Duration = Duration::from_secs(5);

/// A container that asks AWS who it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Actor {
    /// Its pod, `namespace/name`.
    pub(crate) pod: &'static str,
    pub(crate) container: &'static str,
    /// The role its annotation asks for.
    pub(crate) asks: Option<&'static str>,
    /// The role it must get from podrole, or the reason why it must get none.
    pub(crate) gets: Result<&'static str, &'static str>,
    pub(crate) tool: Tool,
}

/// What it asks with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// `aws sts get-caller-identity`
    Cli,
    /// The same call in a Python program.
    Boto,
}

impl Tool {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cli => "AWS CLI",
            Self::Boto => "boto3",
        }
    }
}

/// Everything on the stage. Field order is drop order: what talks goes before what it talks to.
pub(crate) struct Stage {
    pub(crate) screen: Screen,
    pub(crate) checks: Checks,
    pub(crate) sdk: Sdk,
    agents: BTreeMap<&'static str, Agent>,
    pods: BTreeMap<&'static str, Pod>,
    pub(crate) rig: Rig,
}

impl Stage {
    /// A node with pods on it and no podrole yet.
    pub(crate) fn set() -> Result<Self> {
        let rig = Rig::new(Default::default()).context("set up the node")?;
        let sdk = Sdk::find(rig.sts.endpoint())?;
        for (name, roles) in NAMESPACES {
            rig.namespace(name, roles)?;
        }
        let (mut pods, mut agents) = (BTreeMap::new(), BTreeMap::new());
        for Actor { pod: name, .. } in ACTORS {
            if pods.contains_key(name) {
                continue;
            }
            let pod = rig.pod(spec(name)?).with_context(|| format!("start the pod {name}"))?;
            let first = pod.containers().into_iter().next().context("a pod has a container")?;
            agents.insert(name, pod.agent(&first.name)?);
            pods.insert(name, pod);
        }
        Ok(Self { screen: Screen::new(), checks: Checks::default(), sdk, agents, pods, rig })
    }

    /// All pods, by `namespace/name`.
    pub(crate) fn pods(&self) -> &BTreeMap<&'static str, Pod> {
        &self.pods
    }

    /// One of the pods above.
    pub(crate) fn pod(&self, name: &str) -> &Pod {
        self.pods.get(name).expect("every pod of the cast is on the stage")
    }

    /// A client in the first container of one of the pods above.
    pub(crate) fn agent(&self, name: &str) -> &Agent {
        self.agents.get(name).expect("every pod of the cast has an agent")
    }

    /// The name of the node's own role: what no pod must be.
    pub(crate) fn node_role(&self) -> String {
        self.rig.imds.facts().role.unwrap_or_default()
    }

    /// The first audit line with this action that is `wanted`; the daemon writes them a moment after it has answered.
    pub(crate) fn audit_line(&self, action: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        proc::until(&format!("an audit line {action}"), SOON, || {
            let lines = self.rig.daemon()?.audit()?;
            Ok(lines.into_iter().find(|line| line["action"] == action && wanted(line)))
        })
    }
}

/// True if an audit line is about this pod.
pub(crate) fn is_about(line: &Value, pod: &str) -> bool {
    pod.split_once('/').is_some_and(|(namespace, name)| {
        line["pod"]["namespace"].as_str() == Some(namespace) && line["pod"]["name"].as_str() == Some(name)
    })
}

/// The pod in which the actors with this pod's name are.
fn spec(pod: &str) -> Result<PodSpec> {
    let (namespace, name) = pod.split_once('/').context("a pod is namespace/name")?;
    let actors: Vec<Actor> = ACTORS.into_iter().filter(|actor| actor.pod == pod).collect();
    let containers: Vec<&str> = actors.iter().map(|actor| actor.container).collect();
    let mut spec = PodSpec::new(namespace, name).service_account(name).containers(&containers);
    for actor in &actors {
        let key = if actors.len() == 1 { ROLE.to_owned() } else { format!("podrole.dev/role.{}", actor.container) };
        if let Some(role) = actor.asks {
            spec = spec.annotation(&key, role);
        }
    }
    Ok(spec)
}
