//! The admission policies and the daemon's parsers agree on random values: both reject the same ones, with the same words.

use anyhow::{Context as _, Result, ensure};
use podrole::pods::convert::{SlimMeta, SlimPod, namespace_entry, pod_entry};
use podrole::types::{AllowListError, BadAnnotation, SessionName};
use podrole_lab::effort::{self, ADMISSION_VALUES};
use podrole_lab::world::Trial;
use proptest::strategy::{Strategy, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;

use crate::admission::{dry, in_force};
use crate::api::Api;
use crate::corpus::{self, ALLOWED_ROLES, EXTERNAL_ID, PERMITTED, ROLE, SESSION_NAME, Sample};
use crate::support::{Kubectl, real};

pub(crate) const TRIALS: &[Trial] =
    &[Trial::new("policies_and_parsers_agree_value_by_value", agree).timeout(std::time::Duration::from_secs(300))];

const UID: &str = "3f0c9a52-1111-2222-3333-444455556666";

fn agree() -> Result<()> {
    let rig = real()?;
    Kubectl::new(&rig)?.apply("overlays/admission-deny")?;
    let api = Api::new(&rig)?;
    in_force(&api, |answer| !answer.is_admitted())?;
    let mut random = effort::random("values of annotations");
    let bytes: Vec<u8> = (0..4).flat_map(|_| random.number().to_le_bytes()).collect();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let (mut asked, mut refused, mut unseen) = (0, 0, 0);
    for (kind, key, values) in values(&mut runner)? {
        for value in values {
            asked += 1;
            let by_daemon = if kind == "Pod" { pod_problem(key, &value)? } else { namespace_problem(key, &value)? };
            let (path, object) = corpus::object(kind, "probe", &json!({key: value}));
            let answer = dry(&api, &Sample { path, object, told: "" })?;
            let by_policy = (!answer.is_admitted()).then(|| answer.message().to_owned());
            let shown = value.escape_debug().to_string();
            match (&by_daemon, &by_policy) {
                (None, None) => {}
                (Some(problem), Some(message)) => {
                    refused += 1;
                    let reason = problem.reason.as_deref().unwrap_or_default();
                    ensure!(
                        message.contains(key) && message.contains(reason),
                        "{key}: {shown:.300}\n{problem:?}\n{message}"
                    );
                }
                (Some(problem), None) if problem.beyond_cel => unseen += 1,
                other => anyhow::bail!("{key}: {shown:.3000}\ndaemon and policy: {other:?}\n{answer:?}"),
            }
        }
    }
    println!("figure: {asked} values, {refused} refused by both, {unseen} of those only the daemon can see");
    ensure!(refused > asked / 5 && refused < asked * 4 / 5, "{refused} of {asked} refused: not a test of both sides");
    ensure!(unseen > ADMISSION_VALUES.at_least(10), "{unseen} values beyond CEL: not what the policies' head says");
    Ok(())
}

/// Why the daemon rejects a value.
#[derive(Debug)]
struct Problem {
    /// The daemon's reason, if the policy uses the same words.
    reason: Option<String>,
    /// Whether `daemonset/components/admission/namespaces.yaml` lists it as a problem that CEL cannot detect.
    beyond_cel: bool,
}

fn pod_problem(key: &str, value: &str) -> Result<Option<Problem>> {
    let metadata = json!({"namespace": "team", "name": "probe", "uid": UID, "annotations": {key: value}});
    let pod: SlimPod = serde_json::from_value(json!({"metadata": metadata}))?;
    let entry = pod_entry(&pod).context("a pod")?;
    let named = |bad: &BadAnnotation| {
        let reason = match bad {
            BadAnnotation::Role { error, .. } => Some(error.to_string()),
            // The policy's message names only the limits of its own annotation.
            BadAnnotation::Session { .. } => None,
            BadAnnotation::AllowList { error, .. } => Some(error.to_string()),
        };
        Problem { reason, beyond_cel: false }
    };
    let role = entry.role.as_ref().and_then(|role| role.as_ref().err()).map(named);
    let container = entry.container_roles.iter().find_map(|over| over.role.as_ref().err()).map(named);
    let id = entry.external_id.as_ref().and_then(|id| id.as_ref().err()).map(named);
    let session = match &entry.session_name {
        None => None,
        Some(Err(bad)) => Some(named(bad)),
        Some(Ok(text)) => {
            let custom = SessionName::custom(&entry.namespace, text, &entry.uid);
            custom.err().map(|_| Problem { reason: None, beyond_cel: false })
        }
    };
    Ok(role.or(container).or(id).or(session))
}

fn namespace_problem(key: &str, value: &str) -> Result<Option<Problem>> {
    let object: SlimMeta = serde_json::from_value(json!({"metadata": {"name": "probe", "annotations": {key: value}}}))?;
    let entry = namespace_entry(&object).context("a namespace")?;
    let lists = [entry.allowed_roles, entry.permitted];
    if let Some(Err(bad)) = lists.into_iter().flatten().find(|list| list.is_err()) {
        let BadAnnotation::AllowList { error, .. } = &bad else { anyhow::bail!("{bad}") };
        let beyond_cel = match error {
            AllowListError::TooMany => true,
            AllowListError::Regex => value.len() <= 4096,
            AllowListError::NotJson | AllowListError::Pattern => value.chars().count() > 32_768,
        };
        return Ok(Some(Problem { reason: Some(error.to_string()), beyond_cel }));
    }
    Ok(matches!(entry.external_id, Some(Err(_))).then_some(Problem { reason: None, beyond_cel: false }))
}

type Values = Vec<(&'static str, &'static str, Vec<String>)>;

/// Values near the limits of each rule, and arbitrary ones.
fn values(runner: &mut TestRunner) -> Result<Values> {
    let name = "[A-Za-z0-9_+=,.@-]{0,12}";
    let role = [
        format!("[ \\t\\n/]{{0,3}}([a-z.:/-]{{0,6}}/)?{name}[ \\n\u{a0}\u{2003}]{{0,2}}"),
        format!("arn:aws(-[a-z0-9-]{{0,4}})?:iam::[0-9]{{12}}:role/([!-~]{{0,10}}/)?{name}"),
        "arn:[aws-]{0,5}:[iams]{2,3}:[a-z]{0,1}:[0-9]{11,13}:(role|user|rol)/?[a-z/]{0,4}".into(),
        "arn:aws-[a-z0-9]{26,31}:iam::111122223333:role/x".into(),
        "(a|/){500,520}[a-z/]{60,68}".into(),
        "[!-~\u{80}-\u{ff}\\x00-\\x20]{1,8}".into(),
        "\\PC{0,12}".into(),
    ];
    let text = ["[A-Za-z0-9_+=,.@:/ -]{0,4}".to_owned(), "[A-Za-z0-9_+=,.@-]{48,53}".into(), "\\PC{0,3}".into()];
    let long = ["[a:/]{1222,1227}".to_owned(), "[a-z]{2,5}[\\x00-\\x20\u{e9}]?".into()];
    let list = [
        "[ \\n]?\\[[ ]?(\"[!#-\\[\\]-~]{1,5}\"[ ]?,[ ]?){0,2}\"[!#-\\[\\]-~]{0,4}\"[ ]?\\][ ]?".to_owned(),
        "\\[\"[ \\ta\u{a0}\u{2003}\u{200b}]{0,2}([a-z]|\\\\[\"\\\\/bfnrtu]|\\\\u00[0-7][0-9a-f]|\\\\u[12][0-9]{3})[ a]{0,2}\"\\]".into(),
        "[\\[\\]\",a* ]{0,8}".into(),
        "\\PC{0,10}".into(),
    ];
    let permitted = ["[a-z.*()|\\[\\]{}?+]{0,8}".to_owned(), "[a-z\u{e9}]{4090,4100}".into()];
    let mut pods = sample(runner, &role)?;
    pods.extend(["", " ", "/", "arn:", "\0"].map(str::to_owned));
    pods.extend([2047, 2048, 2049].map(|length| format!("{}/x", "/".repeat(length - 2))));
    pods.extend([63, 64, 65].map(|length| format!("arn:aws:iam::111122223333:role/{}", "n".repeat(length))));
    pods.extend([511, 512, 513].map(|length| format!("{}/n", "p".repeat(length))));
    let mut lists = sample(runner, &list)?;
    let many = |count: usize, pattern: &str| json!(vec![pattern; count]).to_string();
    lists.extend([many(4096, "a"), many(4097, "a"), many(6000, "abcdef"), many(9000, ""), many(2000, "web-*")]);
    lists.extend(["[]".into(), "[\"\"]".into(), "[".repeat(40_000), "null".into(), String::new()]);
    let mut ids = sample(runner, &text)?;
    ids.extend(sample(runner, &long)?);
    Ok(vec![
        ("Pod", ROLE, pods.clone()),
        ("Pod", "podrole.dev/role.app", pods),
        ("Pod", EXTERNAL_ID, ids.clone()),
        ("Pod", SESSION_NAME, sample(runner, &text)?),
        ("Namespace", EXTERNAL_ID, ids),
        ("Namespace", ALLOWED_ROLES, lists),
        ("Namespace", PERMITTED, sample(runner, &permitted)?),
    ])
}

fn sample(runner: &mut TestRunner, patterns: &[String]) -> Result<Vec<String>> {
    let mut values = Vec::new();
    for pattern in patterns {
        for _ in 0..ADMISSION_VALUES.count() / patterns.len() {
            let tree = pattern.as_str().new_tree(runner).map_err(|error| anyhow::anyhow!("{pattern}: {error}"))?;
            values.push(tree.current());
        }
    }
    Ok(values)
}
