//! The cast: the node, its namespaces, its pods, and the role that each container must get.

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

/// Namespaces and the roles that they allow their pods.
pub(crate) const NAMESPACES: [(&str, &[&str]); 2] =
    [("shop", &["web", "checkout", "mailer"]), ("data", &["batch", "report"])];

/// The containers that ask AWS for their identity. Entries with the same `pod` are containers of one pod.
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

/// The metadata path that lists the caller's role and, followed by the role's name, serves its credentials.
pub(crate) const ROLES: &str = "/latest/meta-data/iam/security-credentials/";
/// The header that carries a session token.
pub(crate) const TOKEN: &str = "X-aws-ec2-metadata-token";

/// Timeout for steps that normally take milliseconds.
const SOON: Duration = Duration::from_secs(5);

/// A container that calls `sts:GetCallerIdentity`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Actor {
    /// The pod, as `namespace/name`.
    pub(crate) pod: &'static str,
    pub(crate) container: &'static str,
    /// The role that the pod's annotation requests for this container.
    pub(crate) asks: Option<&'static str>,
    /// The role that podrole must give it, or the reason for which podrole must deny it.
    pub(crate) gets: Result<&'static str, &'static str>,
    pub(crate) tool: Tool,
}

/// The SDK that a container uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// `aws sts get-caller-identity`
    Cli,
    /// The same call from a Python program.
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

/// The running demo. Fields are dropped in order: clients before the pods and the rig that they use.
pub(crate) struct Stage {
    pub(crate) screen: Screen,
    pub(crate) checks: Checks,
    pub(crate) sdk: Sdk,
    agents: BTreeMap<&'static str, Agent>,
    pods: BTreeMap<&'static str, Pod>,
    pub(crate) rig: Rig,
}

impl Stage {
    /// Starts a node with pods but without podrole.
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
            let first = pod.containers().into_iter().next().context("pod has no container")?;
            agents.insert(name, pod.agent(&first.name)?);
            pods.insert(name, pod);
        }
        Ok(Self { screen: Screen::new(), checks: Checks::default(), sdk, agents, pods, rig })
    }

    /// All pods, keyed by `namespace/name`.
    pub(crate) fn pods(&self) -> &BTreeMap<&'static str, Pod> {
        &self.pods
    }

    /// The pod with this `namespace/name`.
    pub(crate) fn pod(&self, name: &str) -> &Pod {
        self.pods.get(name).expect("every pod of the cast is running")
    }

    /// The test agent in the first container of this pod.
    pub(crate) fn agent(&self, name: &str) -> &Agent {
        self.agents.get(name).expect("every pod of the cast has an agent")
    }

    /// The name of the node's role, which no pod may get.
    pub(crate) fn node_role(&self) -> String {
        self.rig.imds.facts().role.unwrap_or_default()
    }

    /// Waits for the first audit line with this action that `wanted` accepts. The daemon writes audit lines shortly after it
    /// answers.
    pub(crate) fn audit_line(&self, action: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        proc::until(&format!("an audit line {action}"), SOON, || {
            let lines = self.rig.daemon()?.audit()?;
            Ok(lines.into_iter().find(|line| line["action"] == action && wanted(line)))
        })
    }
}

/// Whether an audit line is about this pod.
pub(crate) fn is_about(line: &Value, pod: &str) -> bool {
    pod.split_once('/').is_some_and(|(namespace, name)| {
        line["pod"]["namespace"].as_str() == Some(namespace) && line["pod"]["name"].as_str() == Some(name)
    })
}

/// The spec of the pod that contains all actors with this pod name.
fn spec(pod: &str) -> Result<PodSpec> {
    let (namespace, name) = pod.split_once('/').context("pod name is not namespace/name")?;
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
