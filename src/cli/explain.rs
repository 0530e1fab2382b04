//! `podrole explain`: shows which role a pod gets and why, using the daemon's own decision.

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

/// The exit code if at least one container is denied.
const DENIED: u8 = 1;
/// The exit code if there is no answer: the pod does not exist, the API server cannot be reached, or something is not known yet.
const NO_ANSWER: u8 = 3;
/// The largest accepted input file, in bytes.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Flags of `explain`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Exit codes: 0 every container is allowed, 1 a container is denied, 3 no answer, 64 wrong usage.\n\
    Set the same flags (or PODROLE_ variables) as the daemon's: explain decides by them and cannot look up the daemon's."
)]
pub struct ExplainArgs {
    /// Pod to explain; with --file a pod or workload (NAME or KIND/NAME) [default with --file: everything in the files]
    pub pod: Option<String>,
    /// Namespace of the pod [default: the kubeconfig's namespace; with --file, "default"]
    #[arg(short, long)]
    pub namespace: Option<String>,
    /// Only this container
    #[arg(short, long)]
    pub container: Option<String>,
    /// File of objects (YAML or JSON) to read instead of asking the API server; - is standard input; can be repeated. Pods,
    /// workloads, namespaces and service accounts are used
    #[arg(short, long, alias = "as-of-file")]
    pub file: Vec<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
    /// Kubeconfig file [default: KUBECONFIG, then ~/.kube/config, then the pod's own service account]
    #[arg(long, env = "PODROLE_KUBECONFIG")]
    pub kubeconfig: Option<String>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long)]
    pub context: Option<String>,
    /// AWS account of podrole's own role, which completes role names if --base-role-arn is not set
    #[arg(long)]
    pub account: Option<String>,
    /// Role that no pod may have, such as podrole's own or the node's; can be repeated
    #[arg(long)]
    pub own_role: Vec<String>,
    /// The daemon's policy flags
    #[command(flatten)]
    pub policy: PolicyArgs,
}

/// The values of `--output`.
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
    /// Some flags are wrong. Holds one message for each.
    #[error("{}", .0.join("; "))]
    Usage(Vec<String>),
    /// The flags are valid, but `explain` has no answer.
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
            // A failed write means that the pipe is closed, which is not an error of podrole.
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

/// Makes the report that `args` ask for. `environment` is the process's environment.
pub fn report(args: ExplainArgs, environment: &HashMap<String, String>) -> Result<Report, Failure> {
    let terms = terms(&args, environment)?;
    let name = args.pod.as_deref().map(|name| name.strip_prefix("pod/").unwrap_or(name));
    let (objects, namespace) = match (args.file.as_slice(), name) {
        ([], None) => return Err(usage("a pod is required: name one, or read objects with --file")),
        ([], Some(name)) => {
            let (objects, namespace) = read_cluster(&args, environment, name, &terms)?;
            (objects, Some(namespace))
        }
        (files, _) => (read_files(files, args.namespace.as_deref().unwrap_or("default"))?, args.namespace.clone()),
    };
    let selection = Selection { name, namespace: namespace.as_deref(), container: args.container.as_deref() };
    Ok(explain::explain(&objects, &terms, selection)?)
}

/// Returns the rules and the assumptions that the decisions use. Reports all wrong flags at once.
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
            "the role is neither podrole's own nor the node's, which no pod may have; name those roles with --own-role to check this"
                .into(),
        );
    }
    assumed.push("the daemon runs with the policy flags and PODROLE_ variables given here".into());
    assumed.push("STS lets podrole assume the role; the role's trust policy is not checked".into());
    // The node's name stays empty: `explain` fills in each pod's node.
    let rules = settings.rules(base, own_roles, "".into()).map_err(|error| usage(error.to_string()))?;
    let origin = if args.file.is_empty() { Origin::Api } else { Origin::Files };
    Ok(Terms { rules, service_accounts: settings.service_account_roles, origin, assumed })
}

/// The ARN prefix that completes role names, and the assumption about it. Unlike the daemon, `explain` does not ask AWS for the
/// account.
fn base(settings: &PolicySettings, account: Option<BaseArn>) -> Result<(BaseArn, String), Failure> {
    let (base, origin) = match (&settings.base, &settings.assume_role, account) {
        (Some(base), _, _) => (base.clone(), "--base-role-arn"),
        (None, Some(hop), _) => {
            let base = BaseArn::of_account(hop.partition(), hop.account());
            (base.map_err(|error| usage(format!("--assume-role-arn: {error}")))?, "the account of --assume-role-arn")
        }
        (None, None, Some(account)) => (account, "--account"),
        (None, None, None) => {
            return Err(usage(
                "--base-role-arn (or --account) is required: the daemon's default is its own account, which explain cannot look up; \
                 the daemon's log shows it (Ready to assume roles, base=...)",
            ));
        }
    };
    let assumed = format!("role names are completed with {} (from {origin})", base.as_str());
    Ok((base, assumed))
}

fn read_files(files: &[String], namespace: &str) -> Result<Objects, Failure> {
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
                "{file} is larger than {MAX_FILE} bytes: include only the objects to explain"
            )));
        }
        let text = String::from_utf8(bytes).map_err(|_| Failure::NoAnswer(format!("{file} is not UTF-8 text")))?;
        objects.read(&text, file, namespace)?;
    }
    Ok(objects)
}

/// Reads the pod, its namespace and, if it is a source of roles, its service account from the API server. Also returns the name of
/// the namespace.
fn read_cluster(
    args: &ExplainArgs,
    environment: &HashMap<String, String>,
    name: &str,
    terms: &Terms,
) -> Result<(Objects, String), Failure> {
    // Choose the TLS provider first, like the daemon. The call fails harmlessly if a provider is already installed.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let reach = Reach { kubeconfigs: kubeconfigs(args, environment), context: args.context.clone() };
    let runtime = small_runtime().map_err(|error| Failure::NoAnswer(error.to_string()))?;
    runtime.block_on(async {
        let reader = Reader::connect(&reach).await?;
        let namespace = args.namespace.clone().unwrap_or_else(|| reader.default_namespace().to_owned());
        let mut objects = Objects::default();
        let pod = match reader.read(Object::Pod(&namespace, name)).await {
            Ok(pod) => pod,
            // A wrong namespace is the likelier mistake, so check for it first.
            Err(ReadError::NotFound(pod)) => {
                return Err(match reader.read(Object::Namespace(&namespace)).await {
                    Err(ReadError::NotFound(namespace)) => ReadError::NotFound(format!(
                        "{namespace}; choose one with --namespace, or another cluster with --context"
                    )),
                    Ok(_) | Err(_) => {
                        ReadError::NotFound(format!("{pod}; kubectl get pods -n {namespace} lists the pods"))
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
                // The report says that the object does not exist.
                Err(ReadError::NotFound(_)) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Ok((objects, namespace))
    })
}

/// The kubeconfig files to use, in the order in which kubectl looks for them.
fn kubeconfigs(args: &ExplainArgs, environment: &HashMap<String, String>) -> Vec<PathBuf> {
    if let Some(path) = &args.kubeconfig {
        return vec![path.into()];
    }
    let listed = environment.get("KUBECONFIG").map(String::as_str).unwrap_or_default();
    let listed: Vec<PathBuf> = listed.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    if !listed.is_empty() {
        let existing: Vec<PathBuf> = listed.iter().filter(|path| path.exists()).cloned().collect();
        // If none of the files exists, keep them all, so that the error message names one of them.
        return if existing.is_empty() { listed } else { existing };
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
