//! Mistakes in annotations cause a warning or a rejection when the object is written; correct objects pass without a warning.

use anyhow::{Context as _, Result, ensure};
use podrole_lab::proc;
use podrole_lab::world::Trial;
use serde_json::json;

use crate::api::{Answer, Api};
use crate::corpus::{self, ROLE, Sample};
use crate::support::{Kubectl, SOON, real};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("forty_good_objects_pass_and_forty_bad_ones_are_told_or_refused", corpora),
    Trial::new("only_what_a_request_sets_is_judged", updates),
];

const PODS: &str = "/api/v1/namespaces/team/pods";
/// The number of good and of bad objects.
const EACH: usize = 40;

fn corpora() -> Result<()> {
    let rig = real()?;
    let (kubectl, api) = (Kubectl::new(&rig)?, Api::new(&rig)?);
    let (good, bad) = (corpus::good(), corpus::bad());
    ensure!(good.len() == EACH && bad.len() == EACH, "{} good, {} bad", good.len(), bad.len());
    // Control: without the policies there are no warnings and no rejections.
    kubectl.apply(".")?;
    for sample in good.iter().chain(&bad) {
        passes(&api, sample)?;
    }
    kubectl.apply("overlays/admission")?;
    in_force(&api, |answer| !answer.warnings.is_empty())?;
    for sample in &good {
        passes(&api, sample)?;
    }
    for sample in &bad {
        let answer = dry(&api, sample)?;
        ensure!(answer.is_admitted(), "{:#}: {answer:?}", sample.object);
        let told = answer.warnings.iter().any(|warning| unquoted(warning).contains(sample.told));
        ensure!(
            told && answer.warnings.len() == 1,
            "{:#}: not {:?} but {:?}",
            sample.object,
            sample.told,
            answer.warnings
        );
    }
    kubectl.apply("overlays/admission-deny")?;
    in_force(&api, |answer| !answer.is_admitted())?;
    for sample in &good {
        passes(&api, sample)?;
        // Also without dry run.
        let answer = api.post(&sample.path, &sample.object)?;
        ensure!(answer.is_admitted() && answer.warnings.is_empty(), "{:#}: {answer:?}", sample.object);
    }
    for sample in &bad {
        let answer = dry(&api, sample)?;
        ensure!(answer.status == 422, "{:#}: {answer:?}", sample.object);
        ensure!(answer.message().contains(sample.told), "{:#}: not {:?} but {answer:?}", sample.object, sample.told);
    }
    // The message that a user sees.
    let input = bad.first().context("a bad object")?.object.to_string();
    let said = kubectl.try_run(&["apply", "-n", "team", "-f", "-"], &input)?.err().context("kubectl took it")?;
    println!("figure: what kubectl says: {}", said.trim());
    ensure!(
        said.contains("IAM does not allow in a role's name or path; podrole would give the pod no credentials"),
        "{said}"
    );
    Ok(())
}

/// Under Deny, controllers must still be able to update and delete an existing object with a bad annotation.
fn updates() -> Result<()> {
    let rig = real()?;
    let (kubectl, api) = (Kubectl::new(&rig)?, Api::new(&rig)?);
    let bad = json!({ROLE: "not a role"});
    let finalizer = ["example.com/tracking"];
    for kind in corpus::KINDS {
        let (path, mut object) = corpus::object(kind, "old", &bad);
        object["metadata"]["finalizers"] = json!(finalizer);
        ensure!(api.post(&path, &object)?.is_admitted(), "{kind} is not there to begin with");
    }
    let (path, space) = corpus::object("Namespace", "old", &json!({corpus::ALLOWED_ROLES: "nonsense"}));
    ensure!(api.post(&path, &space)?.is_admitted(), "the namespace is not there to begin with");
    kubectl.apply("overlays/admission-deny")?;
    in_force(&api, |answer| !answer.is_admitted())?;
    for kind in corpus::KINDS {
        let (path, _) = corpus::object(kind, "old", &bad);
        let path = format!("{path}/old");
        let finish = json!({"metadata": {"finalizers": null, "labels": {"touched": "yes"}}});
        let answer = api.merge(&path, &finish)?;
        ensure!(answer.is_admitted(), "{kind} cannot be finished: {answer:?}");
    }
    ensure!(
        api.merge("/api/v1/namespaces/old", &json!({"metadata": {"labels": {"touched": "yes"}}}))?.is_admitted(),
        "labels"
    );
    // Control: a different bad value is rejected.
    let worse = |value: &str| json!({"metadata": {"annotations": {ROLE: value}}});
    ensure!(api.merge(&format!("{PODS}/old"), &worse("worse *"))?.status == 422, "a new mistake passes");
    ensure!(api.merge(&format!("{PODS}/old"), &worse("right"))?.is_admitted(), "it cannot be put right");
    ensure!(api.merge(&format!("{PODS}/old"), &worse("not a role"))?.status == 422, "nor made wrong again");
    let template = json!({"spec": {"template": {"metadata": {"annotations": {ROLE: "worse *"}}}}});
    let deployment = "/apis/apps/v1/namespaces/team/deployments/old";
    ensure!(api.merge(deployment, &template)?.status == 422, "a new mistake in a template passes");
    let list = json!({"metadata": {"annotations": {corpus::ALLOWED_ROLES: "[web]"}}});
    ensure!(api.merge("/api/v1/namespaces/old", &list)?.status == 422, "a new mistake in a namespace passes");
    Ok(())
}

/// Waits until the API server enforces both policies, which it learns through a watch.
pub(crate) fn in_force(api: &Api, seen: impl Fn(&Answer) -> bool) -> Result<()> {
    for (kind, key) in [("Pod", ROLE), ("Namespace", corpus::ALLOWED_ROLES)] {
        let (path, object) = corpus::object(kind, "probe", &json!({key: "not one"}));
        let sample = Sample { path, object, told: "" };
        proc::until("the policies to be in force", SOON, || Ok(seen(&dry(api, &sample)?).then_some(())))?;
    }
    Ok(())
}

pub(crate) fn dry(api: &Api, sample: &Sample) -> Result<Answer> {
    api.post(&format!("{}?dryRun=All", sample.path), &sample.object)
}

fn passes(api: &Api, sample: &Sample) -> Result<()> {
    let answer = dry(api, sample)?;
    ensure!(answer.is_admitted() && answer.warnings.is_empty(), "{:#}: {answer:?}", sample.object);
    Ok(())
}

/// The text of a warning header with its quotes unescaped.
fn unquoted(warning: &str) -> String {
    warning.replace("\\\"", "\"")
}
