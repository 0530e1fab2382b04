//! The two sides of the comparison: the daemon's request path and `explain`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Parser;
use podrole::cli::explain::{ExplainArgs, report};
use podrole::config::{Config, RunArgs};
use podrole::events::schedule::Limits;
use podrole::explain::{ContainerReport, Report, Verdict};
use podrole::pods::convert::{SlimMeta, namespace_entry, service_account_entry};
use podrole::types::RoleArn;
use serde_json::{Value, json};

use super::cases::{Case, NODE, UID};
use crate::support::{LIST, Lines, Test, credentials};

/// The answer for one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Allow { role: String, session_name: String, external_id: bool },
    Deny { reason: String, why: String },
    NotYet(String),
}

impl Answer {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Allow { .. } => "allow".into(),
            Self::Deny { reason, .. } => reason.clone(),
            Self::NotYet(what) => what.clone(),
        }
    }
}

// === the daemon ===

#[derive(Parser)]
struct Run {
    #[command(flatten)]
    args: RunArgs,
}

/// The answers of a daemon that was started with the case's flags and has seen the case's objects.
pub(super) async fn by_daemon(case: &Case) -> BTreeMap<String, Answer> {
    let flags = ["run".to_owned(), format!("--node-name={NODE}")].into_iter().chain(case.flags.iter().cloned());
    let config = Config::new(Run::try_parse_from(flags).unwrap().args, &HashMap::new()).unwrap();
    let mut answers = BTreeMap::new();
    for (container, id) in &case.containers {
        // A container that the statuses do not show has an ID that no object contains.
        let id = id.as_deref().unwrap_or("unheard-of");
        answers.insert(container.clone(), ask_daemon(case, &config, id).await);
    }
    answers
}

async fn ask_daemon(case: &Case, config: &Config, container: &str) -> Answer {
    // The results of discovery.
    let own_roles = case.own_roles.iter().map(|role| RoleArn::parse(role).unwrap());
    let rules = config.policy.rules(case.account(), own_roles, config.node.clone()).unwrap();
    let lines = Lines::default();
    let test = Test::with(rules, config.policy.service_account_roles, Limits::default(), lines.clone());
    test.socket(1, 1, UID, container);
    test.kernel.0.lock().unwrap()[0].0.host = case.host_network;
    test.apply(case.pod.clone());
    if let Some(namespace) = &case.namespace {
        let object: SlimMeta = serde_json::from_value(namespace.clone()).unwrap();
        test.store.update(|index| index.apply_namespace(namespace_entry(&object).unwrap()));
    }
    if let Some(account) = &case.service_account {
        let object: SlimMeta = serde_json::from_value(account.clone()).unwrap();
        test.store.update(|index| index.apply_service_account(service_account_entry(&object).unwrap()));
    }

    let (_, token) = test.send("PUT", "/latest/api/token", &[("x-aws-ec2-metadata-token-ttl-seconds", "21600")]).await;
    let with_token = [("x-aws-ec2-metadata-token", token.as_str())];
    let (status, role) = test.send("GET", LIST, &with_token).await;
    let (status, body) = match status {
        200 => test.send("GET", &credentials(&role), &with_token).await,
        _ => (status, role),
    };
    match status {
        200 => {
            assert!(body.contains("AccessKeyId"), "{body}");
            let request = test.issuer.last.lock().unwrap().clone().expect("credentials were issued");
            Answer::Allow {
                role: request.role.to_string(),
                session_name: request.session_name.as_str().into(),
                external_id: request.external_id.is_some(),
            }
        }
        404 => {
            test.audit.flush(Duration::from_secs(10));
            let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
            let line: Value = serde_json::from_str(text.lines().next().expect("a denial has a line")).unwrap();
            let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
            Answer::Deny { reason: text("reason"), why: text("why") }
        }
        503 => Answer::NotYet(outcome(&test)),
        other => panic!("{other}: {body}"),
    }
}

/// The outcome label with which the request for the role was counted.
fn outcome(test: &Test) -> String {
    let page = String::from_utf8(test.metrics.render().1).unwrap();
    let mut counted = page.lines().filter(|line| {
        line.starts_with("podrole_http_requests_total{") && line.contains("route=\"role_list\"") && line.ends_with(" 1")
    });
    let line = counted.next().expect("the request was counted");
    let (_, rest) = line.split_once("outcome=\"").expect("it has an outcome");
    rest.split('"').next().unwrap_or_default().into()
}

// === explain ===

#[derive(Parser)]
struct Explain {
    #[command(flatten)]
    args: ExplainArgs,
}

/// The answers of the function that the subcommand calls.
pub(super) fn by_explain(flags: &[String], file: &Path) -> BTreeMap<String, Answer> {
    let file = ["--file".to_owned(), file.display().to_string()];
    let arguments = ["explain".to_owned()].into_iter().chain(flags.iter().cloned()).chain(file);
    let args = Explain::try_parse_from(arguments).unwrap().args;
    answers(&report(args, &HashMap::new()).unwrap())
}

/// Runs the binary with half of the flags in the environment, and compares its document with `expected`, field by field.
pub(super) fn by_binary(case: &Case, file: &Path, expected: &BTreeMap<String, Answer>) {
    #[expect(clippy::disallowed_methods, reason = "the rule is the daemon's; this is the binary under test")]
    let mut command = Command::new(env!("CARGO_BIN_EXE_podrole"));
    command.env_clear().args(["explain", "-o", "json", "-f"]).arg(file);
    for (at, flag) in case.explain_flags().iter().enumerate() {
        let (name, value) = flag.split_once('=').unwrap();
        let twin = !matches!(name, "--account" | "--own-role");
        if twin && at % 2 == 0 {
            command.env(format!("PODROLE_{}", name[2..].to_ascii_uppercase().replace('-', "_")), value);
        } else {
            command.arg(flag);
        }
    }
    let output = command.output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    assert_eq!(document["schema"], "podrole.explain/v1");
    let containers = document["pods"][0]["containers"].as_array().unwrap();
    assert_eq!(containers.len(), expected.len(), "{document:#}");
    for container in containers {
        let answer = &expected[container["name"].as_str().unwrap()];
        let (decision, reason, role) = match answer {
            Answer::Allow { role, session_name, external_id } => {
                assert_eq!(container["session_name"], json!(session_name));
                assert_eq!(container["external_id_set"], json!(external_id));
                ("allow", Value::Null, Some(role))
            }
            Answer::Deny { reason, why } => {
                assert_eq!(container["why"], json!(why));
                ("deny", json!(reason), None)
            }
            Answer::NotYet(what) => ("not-yet", json!(what), None),
        };
        assert_eq!((&container["decision"], &container["reason"]), (&json!(decision), &reason));
        assert!(role.is_none_or(|role| container["role"] == json!(role)), "{container:#}");
    }
    let code = match document["decision"].as_str() {
        Some("allow") => 0,
        Some("deny") => 1,
        _ => 3,
    };
    assert_eq!(output.status.code(), Some(code), "{document:#}");
    let printable = |byte: &u8| *byte == b'\n' || *byte == b' ' || byte.is_ascii_graphic();
    assert!(output.stdout.iter().all(printable), "the document contains control characters");
}

/// Runs `podrole explain` with nothing but `variable`, if any, in the environment.
pub(super) fn run_binary(args: &[&str], variable: Option<&str>) -> std::process::Output {
    #[expect(clippy::disallowed_methods, reason = "the rule is the daemon's; this is the binary under test")]
    let mut command = Command::new(env!("CARGO_BIN_EXE_podrole"));
    command.env_clear().envs(variable.map(|name| (name, "x"))).arg("explain").args(args).output().unwrap()
}

fn answers(report: &Report) -> BTreeMap<String, Answer> {
    assert_eq!(report.pods.len(), 1);
    report.pods[0].containers.iter().map(|container| (container.name.clone(), answer(container))).collect()
}

fn answer(container: &ContainerReport) -> Answer {
    let answer = &container.answer;
    let reason = answer.reason.unwrap_or_default().to_owned();
    match answer.decision {
        Verdict::Allow => Answer::Allow {
            role: answer.role.clone().unwrap(),
            session_name: answer.session_name.clone().unwrap(),
            external_id: answer.external_id_set.unwrap(),
        },
        Verdict::Deny => Answer::Deny { reason, why: answer.why.clone().unwrap() },
        Verdict::NotReady => Answer::NotYet(reason),
    }
}

/// A temporary directory for the objects' files, removed on drop.
pub(super) struct Files(PathBuf);

impl Files {
    pub(super) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("podrole-explain-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes the objects, in turn as YAML documents, as consecutive JSON documents, or as a list.
    pub(super) fn write(&self, case: &Case) -> PathBuf {
        let path = self.0.join("objects");
        let objects = case.objects();
        let text = match case.number % 3 {
            0 => objects.iter().map(|object| format!("---\n{}", yaml(object, 0))).collect(),
            1 => objects.iter().map(Value::to_string).collect::<Vec<_>>().join("\n"),
            _ => json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string(),
        };
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Block YAML, with scalars quoted as in JSON, which is valid YAML.
fn yaml(value: &Value, depth: usize) -> String {
    let indent = "  ".repeat(depth);
    let field = |(key, value): (&String, &Value)| {
        let nested = value.as_object().is_some_and(|fields| !fields.is_empty())
            || value.as_array().is_some_and(|items| !items.is_empty());
        if nested {
            format!("{indent}{}:\n{}", json!(key), yaml(value, depth + 1))
        } else {
            format!("{indent}{}: {value}\n", json!(key))
        }
    };
    if let Some(fields) = value.as_object() {
        fields.iter().map(field).collect()
    } else if let Some(items) = value.as_array() {
        items.iter().map(|item| format!("{indent}- {item}\n")).collect()
    } else {
        format!("{indent}{value}\n")
    }
}
