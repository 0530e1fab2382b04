//! The manifests against the code: the program knows every setting, and a table in the program lists every granted right.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use podrole::app::LONGEST_STOP;
use podrole::caller::self_test::NEEDED;
use podrole::cli::Cli;
use podrole::config::{Config, IdentityMode, RunArgs};
use podrole::redirect::{LISTEN_V4, LISTEN_V6};
use podrole_lab::node::{METADATA_V4, METADATA_V6};
use podrole_lab::proc;
use podrole_lab::world::{self, Trial};
use serde_json::{Value, json};

use crate::support::{SYSTEM, dir, object, render};
use crate::targets::TARGETS;

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("every_flag_in_the_manifests_is_one_of_the_program", flags),
    Trial::new("capabilities_are_those_the_program_asks_for", capabilities),
    Trial::new("the_pod_has_nothing_it_does_not_need", confined),
    Trial::new("the_kustomization_in_readme_is_one", readme),
    Trial::new("the_egress_policy_allows_what_the_program_uses", egress),
];

/// The flags of `run`, parsed without the rest of the command line.
#[derive(clap::Parser)]
struct Run {
    #[command(flatten)]
    args: RunArgs,
}

fn flags() -> Result<()> {
    let mut runs = 0;
    for target in TARGETS {
        for container in containers(target)? {
            // For IPv4 and IPv6 nodes: the value that the manifest builds from the node's address must be a valid address.
            for host in ["10.0.0.5", "fd00::5"] {
                let (subcommand, config) =
                    settings(&container, host).with_context(|| format!("{target}: {container}"))?;
                let Some(config) = config else { continue };
                runs += 1;
                ensure!(subcommand == "run" && &*config.node == "node-1", "{target}: {config:?}");
                let metrics = config.metrics_addr.context("no --metrics-addr")?;
                ensure!(metrics.ip() == host.parse::<IpAddr>()? && metrics.port() == 9442, "{target}: {metrics}");
                ensure!((config.identity == IdentityMode::Ip) == (target == "overlays/ip-identity"), "{target}");
                probes(&container, config.admin_addr).with_context(|| target.to_owned())?;
                let mounted = paths(&container);
                for needed in [&config.state_dir, &config.netns_dir, &config.cgroup_root] {
                    let proof = *needed != config.state_dir;
                    let found = mounted.iter().any(|path| needed.starts_with(path));
                    ensure!(found == (!proof || config.identity == IdentityMode::Kernel), "{target}: {needed:?}");
                }
            }
        }
    }
    ensure!(runs >= 10, "only {runs} containers run the daemon");
    Ok(())
}

/// A container as the program parses it: its subcommand, and the configuration if that is `run`.
fn settings(container: &Value, host: &str) -> Result<(String, Option<Config>)> {
    let arguments: Vec<&str> = list(&container["args"]).filter_map(Value::as_str).collect();
    let whole = std::iter::once("podrole").chain(arguments.iter().copied());
    Cli::try_parse_from(whole).map_err(|error| anyhow::anyhow!("{error}"))?;
    let (subcommand, flags) = arguments.split_first().context("no subcommand")?;
    if *subcommand != "run" {
        ensure!(container["env"].is_null(), "settings for a subcommand without any");
        return Ok(((*subcommand).to_owned(), None));
    }
    let mut environment = HashMap::new();
    for variable in list(&container["env"]) {
        let name = variable["name"].as_str().context("a variable without a name")?;
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("spec.nodeName") => "node-1".to_owned(),
            Some("status.hostIP") => host.to_owned(),
            Some("metadata.name") => "podrole-x7k2p".to_owned(),
            Some(other) => anyhow::bail!("{name} is {other}"),
            None => variable["value"].as_str().context("a variable without a value")?.replace("$(HOST_IP)", host),
        };
        environment.insert(name.to_owned(), value);
    }
    // clap would read this process's environment, so pass each variable as the equivalent flag.
    let twins = environment.iter().filter_map(|(name, value)| {
        Some(format!("--{}={value}", name.strip_prefix("PODROLE_")?.to_lowercase().replace('_', "-")))
    });
    let all = std::iter::once("run".to_owned()).chain(flags.iter().map(|flag| (*flag).to_owned())).chain(twins);
    let run = Run::try_parse_from(all).map_err(|error| anyhow::anyhow!("{error}"))?;
    let config = Config::new(run.args, &environment).map_err(|errors| anyhow::anyhow!("{}", errors.join("; ")))?;
    Ok(((*subcommand).to_owned(), Some(config)))
}

fn probes(container: &Value, admin: std::net::SocketAddr) -> Result<()> {
    for (probe, path) in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        let get = &container[probe]["httpGet"];
        ensure!(
            get["path"] == path && get["host"] == json!(admin.ip()) && get["port"] == admin.port(),
            "{probe} asks {get}, the daemon listens on {admin}"
        );
    }
    Ok(())
}

fn paths(container: &Value) -> Vec<String> {
    list(&container["volumeMounts"]).filter_map(|mount| Some(mount["mountPath"].as_str()?.to_owned())).collect()
}

fn capabilities() -> Result<()> {
    let needed = |proof: bool| -> BTreeSet<String> {
        let those = NEEDED.iter().filter(|one| proof || !one.kernel_identity_only);
        those.map(|one| one.name.trim_start_matches("CAP_").to_owned()).collect()
    };
    for target in TARGETS {
        for container in containers(target)? {
            let security = &container["securityContext"]["capabilities"];
            ensure!(security["drop"] == json!(["ALL"]), "{target}: {security}");
            let added: BTreeSet<String> =
                list(&security["add"]).filter_map(|name| Some(name.as_str()?.to_owned())).collect();
            let expected = match container["args"][0].as_str() {
                Some("run") => needed(target != "overlays/ip-identity"),
                // These only change rules and routes.
                Some("guard" | "cleanup") => BTreeSet::from(["NET_ADMIN".to_owned()]),
                other => anyhow::bail!("{target}: a container runs {other:?}"),
            };
            ensure!(added == expected, "{target}: {} is granted {added:?}, not {expected:?}", container["name"]);
        }
    }
    Ok(())
}

fn confined() -> Result<()> {
    for target in TARGETS {
        let objects = render(target)?;
        let Ok(daemonset) = object(&objects, "DaemonSet", "podrole") else { continue };
        ensure!(daemonset["metadata"]["namespace"] == SYSTEM, "{target}");
        let update = &daemonset["spec"]["updateStrategy"]["rollingUpdate"];
        ensure!(update["maxSurge"] == 0, "{target}: two instances beside each other: {update}");
        let pod = &daemonset["spec"]["template"]["spec"];
        ensure!(pod["hostNetwork"] == true && pod["hostPID"] == false && pod["hostIPC"] == false, "{target}");
        ensure!(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "{target}");
        ensure!(pod["priorityClassName"] == "system-node-critical", "{target}");
        ensure!(pod["tolerations"] == json!([{"operator": "Exists"}]), "{target}");
        let grace = pod["terminationGracePeriodSeconds"].as_u64().context("no grace period")?;
        ensure!(Duration::from_secs(grace) >= LONGEST_STOP, "{target}: {grace} s, a stop takes {LONGEST_STOP:?}");
        let token = list(&pod["containers"]).any(|container| container["args"][0] == "run");
        ensure!(pod["automountServiceAccountToken"] == token, "{target}: who asks nothing needs no token");
        for container in containers(target)? {
            let security = &container["securityContext"];
            ensure!(
                security["allowPrivilegeEscalation"] == false && security["readOnlyRootFilesystem"] == true,
                "{target}: {security}"
            );
            ensure!(security["privileged"].is_null() && container["ports"].is_null(), "{target}: {container}");
            ensure!(container["resources"]["limits"]["memory"].is_string(), "{target}: {}", container["name"]);
            ensure!(container["resources"]["limits"]["cpu"].is_null(), "{target}: {}", container["name"]);
        }
        // Only the state directory is writable.
        for mount in list(&pod["containers"][0]["volumeMounts"]).filter(|mount| mount["readOnly"] != true) {
            ensure!(mount["name"] == "state", "{target}: {mount} can be written");
        }
    }
    Ok(())
}

fn readme() -> Result<()> {
    let text = include_str!("../../README.md");
    let (_, block) = text.split_once("```yaml\n# my-podrole/kustomization.yaml\n").context("no example in README")?;
    let (block, _) = block.split_once("```").context("an example without an end")?;
    // In a directory beside a copy of daemonset/, as in a checkout.
    let mine = world::scratch().join("my-podrole");
    std::fs::create_dir(&mine)?;
    std::fs::write(mine.join("kustomization.yaml"), block)?;
    proc::run(std::process::Command::new("cp").arg("-r").arg(dir(".")).arg(world::scratch().join("daemonset")))?;
    let objects = render(mine.to_str().context("a path that is text")?)?;
    let pod = &object(&objects, "DaemonSet", "podrole")?["spec"]["template"]["spec"];
    for container in list(&pod["initContainers"]).chain(list(&pod["containers"])) {
        ensure!(container["image"] == "registry.example.com/podrole:0.1.0", "{container}");
    }
    let (_, config) = settings(&pod["containers"][0], "10.0.0.5")?;
    let base = config.context("no daemon")?.policy.base.context("no --base-role-arn")?;
    ensure!(base.as_str() == "arn:aws:iam::111122223333:role/pods/", "{base:?}");
    Ok(())
}

fn egress() -> Result<()> {
    let objects = render("networkpolicy")?;
    let policy = &object(&objects, "NetworkPolicy", "allow-podrole")?["spec"];
    let config = Config::new(Run::try_parse_from(["run", "--node-name=n"])?.args, &HashMap::new());
    let ports = config.map_err(|errors| anyhow::anyhow!("{}", errors.join("; ")))?.ports;
    let rule = |addresses: [IpAddr; 2], port: Value| {
        let blocks = addresses.map(|address| {
            let length = if address.is_ipv4() { 32 } else { 128 };
            json!({"ipBlock": {"cidr": format!("{address}/{length}")}})
        });
        json!({"to": blocks, "ports": [port]})
    };
    let expected = json!([
        rule(
            [LISTEN_V4.into(), LISTEN_V6.into()],
            json!({"protocol": "TCP", "port": ports.start(), "endPort": ports.end()}),
        ),
        rule([METADATA_V4.into(), METADATA_V6.into()], json!({"protocol": "TCP", "port": 80})),
    ]);
    ensure!(policy["egress"] == expected, "{policy:#}\nis not\n{expected:#}");
    ensure!(policy["podSelector"] == json!({}) && policy["policyTypes"] == json!(["Egress"]), "{policy}");
    Ok(())
}

/// Every container of a target's DaemonSet, including init containers.
fn containers(target: &str) -> Result<Vec<Value>> {
    let objects = render(target)?;
    let Ok(daemonset) = object(&objects, "DaemonSet", "podrole") else { return Ok(Vec::new()) };
    let pod = &daemonset["spec"]["template"]["spec"];
    Ok(list(&pod["initContainers"]).chain(list(&pod["containers"])).cloned().collect())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
