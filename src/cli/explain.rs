//! `podrole explain`: which role a pod gets, and why, by the daemon's own decision.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{USAGE, complain, small_runtime};
use crate::config::{PolicyArgs, PolicySettings};
use crate::explain::{self, ExplainError, Objects, Origin, Report, Selection, Terms, Verdict, printable};
use crate::pods::client::Reach;
use crate::pods::read::{Object, ReadError, Reader};
use crate::types::{BaseArn, RoleArn};

/// At least one container is denied.
const DENIED: u8 = 1;
/// No answer: no such pod, no API server, or something is not known yet.
const NO_ANSWER: u8 = 3;
/// The most of one file that is read.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Flags of `explain`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Exit codes: 0 every container is allowed, 1 a container is denied, 3 no answer, 64 wrong usage.\n\
    Give it the flags (or the PODROLE_ variables) of the daemon: it decides by them, and cannot know the daemon's."
)]
pub struct ExplainArgs {
    /// The pod; with --file a pod or workload (NAME or KIND/NAME), and everything in the files if left out
    pub pod: Option<String>,
    /// Namespace of the pod [default: the kubeconfig's; with --file: default]
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Only this container
    #[arg(short, long)]
    pub container: Option<String>,
    /// Objects as YAML or JSON instead of the API server's, - for standard input; repeat for more. Pods, workloads, namespaces and
    /// service accounts are used
    #[arg(short, long, alias = "as-of-file")]
    pub file: Vec<String>,
    /// How to answer
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
    /// Kubeconfig file [default: KUBECONFIG, then ~/.kube/config, then the pod's own service account]
    #[arg(long, env = "PODROLE_KUBECONFIG")]
    pub kubeconfig: Option<String>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long)]
    pub context: Option<String>,
    /// Account of podrole's own role, of which roles are where --base-role-arn is not given
    #[arg(long)]
    pub account: Option<String>,
    /// Role that no pod may have: podrole's own, or the node's; repeat for more
    #[arg(long)]
    pub own_role: Vec<String>,
    /// Who may have which role, as the daemon is told
    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// `--output`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Wrong flags, all of them.
    #[error("{}", .0.join("; "))]
    Usage(Vec<String>),
    /// Something that was asked for cannot be had.
    #[error("{0}")]
    NoAnswer(String),
}

/// Runs the subcommand.
pub fn main(args: ExplainArgs, environment: &HashMap<String, String>) -> ExitCode {
    let output = args.output;
    match report(args, environment) {
        Ok(report) => {
            let text = match output {
                Output::Text => report.text(),
                Output::Json => report.json(),
            };
            // Nothing to do about a closed pipe.
            let _ = std::io::stdout().write_all(text.as_bytes());
            match report.decision {
                Verdict::Allow => ExitCode::SUCCESS,
                Verdict::Deny => ExitCode::from(DENIED),
                Verdict::NotReady => ExitCode::from(NO_ANSWER),
            }
        }
        Err(Failure::Usage(problems)) => {
            problems.iter().for_each(|problem| complain(printable(problem)));
            ExitCode::from(USAGE)
        }
        Err(Failure::NoAnswer(why)) => {
            complain(printable(&why));
            ExitCode::from(NO_ANSWER)
        }
    }
}

/// The report, from whatever `args` say. `environment` is the process's, handed in.
pub fn report(args: ExplainArgs, environment: &HashMap<String, String>) -> Result<Report, Failure> {
    let terms = terms(&args, environment)?;
    let name = args.pod.as_deref().map(|name| name.strip_prefix("pod/").unwrap_or(name));
    let (objects, namespace) = match (args.file.as_slice(), name) {
        ([], None) => return Err(usage("which pod? name one, or give objects with --file")),
        ([], Some(name)) => {
            let (objects, namespace) = ask(&args, environment, name, &terms)?;
            (objects, Some(namespace))
        }
        (files, _) => (read(files, args.namespace.as_deref().unwrap_or("default"))?, args.namespace.clone()),
    };
    let selection = Selection { name, namespace: namespace.as_deref(), container: args.container.as_deref() };
    Ok(explain::explain(&objects, &terms, selection)?)
}

/// By what is decided, and what had to be assumed for it. What is wrong is said all at once.
fn terms(args: &ExplainArgs, environment: &HashMap<String, String>) -> Result<Terms, Failure> {
    let mut problems = Vec::new();
    let settings = PolicySettings::new(args.policy.clone(), environment);
    let settings = settings.map_err(|found| problems.extend(found)).ok();
    let mut own_roles = Vec::new();
    for text in &args.own_role {
        match RoleArn::parse(text) {
            Ok(role) => own_roles.push(role),
            Err(error) => problems.push(format!("--own-role: {text:?} {error}")),
        }
    }
    let account = args.account.as_ref().and_then(|text| {
        let base = BaseArn::of_account("aws", text);
        base.map_err(|error| problems.push(format!("--account: {text:?} {error}"))).ok()
    });
    let Some(settings) = settings.filter(|_| problems.is_empty()) else { return Err(Failure::Usage(problems)) };
    let (base, assumed) = base(&settings, account)?;
    let mut assumed = vec![assumed];
    if own_roles.is_empty() {
        assumed.push(
            "whatever podrole's own role and the node's are, they are given to no pod; name them with --own-role to have that \
             checked"
                .into(),
        );
    }
    assumed.push("the policy flags and PODROLE_ variables given here are the daemon's".into());
    assumed.push("STS gives podrole the role: its trust policy is not asked".into());
    // Each pod's own node takes the place of this name.
    let rules = settings.rules(base, own_roles, "".into()).map_err(|error| usage(error.to_string()))?;
    let origin = if args.file.is_empty() { Origin::Api } else { Origin::Files };
    Ok(Terms { rules, service_accounts: settings.service_account_roles, origin, assumed })
}

/// What role names are completed with, as far as it can be known here. The daemon asks AWS who it is; nobody does here.
fn base(settings: &PolicySettings, account: Option<BaseArn>) -> Result<(BaseArn, String), Failure> {
    let (base, whence) = match (&settings.base, &settings.assume_role, account) {
        (Some(base), _, _) => (base.clone(), "--base-role-arn"),
        (None, Some(hop), _) => {
            let base = BaseArn::of_account(hop.partition(), hop.account());
            (base.map_err(|error| usage(format!("--assume-role-arn: {error}")))?, "the account of --assume-role-arn")
        }
        (None, None, Some(account)) => (account, "--account"),
        (None, None, None) => {
            return Err(usage(
                "--base-role-arn (or --account) is required: the daemon takes its own account where it is not told one, and explain \
                 does not know that; the daemon's log says it (Ready to assume roles, base=...)",
            ));
        }
    };
    let assumed = format!("role names are completed with {} ({whence})", base.as_str());
    Ok((base, assumed))
}

fn read(files: &[String], namespace: &str) -> Result<Objects, Failure> {
    let mut objects = Objects::default();
    for file in files {
        let failed = |error: std::io::Error| Failure::NoAnswer(format!("cannot read {file}: {error}"));
        let mut bytes = Vec::new();
        let most = MAX_FILE + 1;
        match file.as_str() {
            "-" => std::io::stdin().take(most).read_to_end(&mut bytes).map_err(failed)?,
            path => std::fs::File::open(path).map_err(failed)?.take(most).read_to_end(&mut bytes).map_err(failed)?,
        };
        if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
            return Err(Failure::NoAnswer(format!(
                "{file} is longer than {MAX_FILE} bytes: give only the objects in question"
            )));
        }
        let text = String::from_utf8(bytes).map_err(|_| Failure::NoAnswer(format!("{file} is not UTF-8 text")))?;
        objects.read(&text, file, namespace)?;
    }
    Ok(objects)
}

/// The pod, its namespace and, where it matters, its service account, from the API server; and the namespace that was meant.
fn ask(
    args: &ExplainArgs,
    environment: &HashMap<String, String>,
    name: &str,
    terms: &Terms,
) -> Result<(Objects, String), Failure> {
    // As in the daemon: one TLS provider, before anything could choose another. A second call finds the first one's.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let reach = Reach { kubeconfigs: kubeconfigs(args, environment), context: args.context.clone() };
    let runtime = small_runtime().map_err(|error| Failure::NoAnswer(error.to_string()))?;
    runtime.block_on(async {
        let reader = Reader::connect(&reach).await?;
        let namespace = args.namespace.clone().unwrap_or_else(|| reader.default_namespace().to_owned());
        let mut objects = Objects::default();
        let pod = match reader.read(Object::Pod(&namespace, name)).await {
            Ok(pod) => pod,
            // A wrong namespace is the likelier mistake, so it is the one to name.
            Err(ReadError::NotFound(pod)) => {
                return Err(match reader.read(Object::Namespace(&namespace)).await {
                    Err(ReadError::NotFound(namespace)) => ReadError::NotFound(format!(
                        "{namespace}; choose one with --namespace, or another cluster with --context"
                    )),
                    Ok(_) | Err(_) => {
                        ReadError::NotFound(format!("{pod}; kubectl get pods -n {namespace} shows those that are"))
                    }
                }
                .into());
            }
            Err(other) => return Err(other.into()),
        };
        let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default").to_owned();
        objects.add(pod, &namespace)?;
        let mut more = vec![Object::Namespace(&namespace)];
        more.extend(terms.service_accounts.then_some(Object::ServiceAccount(&namespace, &account)));
        for object in more {
            match reader.read(object).await {
                Ok(found) => objects.add(found, &namespace)?,
                // Then the answer is that it is not there.
                Err(ReadError::NotFound(_)) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Ok((objects, namespace))
    })
}

/// Where kubectl looks, in its order.
fn kubeconfigs(args: &ExplainArgs, environment: &HashMap<String, String>) -> Vec<PathBuf> {
    if let Some(path) = &args.kubeconfig {
        return vec![path.into()];
    }
    let listed = environment.get("KUBECONFIG").map(String::as_str).unwrap_or_default();
    let listed: Vec<PathBuf> = listed.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    if !listed.is_empty() {
        let there: Vec<PathBuf> = listed.iter().filter(|path| path.exists()).cloned().collect();
        // With none of them there, the error names one.
        return if there.is_empty() { listed } else { there };
    }
    let home = environment.get("HOME").map(|home| Path::new(home).join(".kube/config"));
    home.filter(|path| path.exists()).into_iter().collect()
}

fn usage(problem: impl Into<String>) -> Failure {
    Failure::Usage(vec![problem.into()])
}

impl From<ExplainError> for Failure {
    fn from(error: ExplainError) -> Self {
        Self::NoAnswer(error.to_string())
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        Self::NoAnswer(error.to_string())
    }
}
