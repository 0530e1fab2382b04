//! `--identity=ip`, the weaker mode: an address must belong to exactly one live pod, or no pod is served.

use std::time::Duration;

use anyhow::{Result, ensure};
use podrole_lab::pod::{Pod, PodSpec};
use podrole_lab::proc::until;
use podrole_lab::rig::{ROLE, Rig};
use podrole_lab::world::Trial;
use serde_json::{Value, json};

use crate::support::{TEAM, no_leak, refused, rig, served_both};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("by_address_two_live_pods_with_one_address_are_not_served", two_owners),
    Trial::new("by_address_a_pod_that_has_ended_does_not_own_its_address", ended),
];

/// How long the daemon may take to see a change of the API, which takes milliseconds.
const SOON: Duration = Duration::from_secs(5);

fn two_owners() -> Result<()> {
    let (rig, pod) = by_address()?;
    let agent = pod.agent("app")?;
    served_both(&rig, &agent, "web-role")?;
    rig.kube.apply(twin(&pod))?;
    until("the second owner to be seen", SOON, || Ok(agent.v4().credentials().is_err().then_some(())))?;
    for client in [agent.v4(), agent.v6()] {
        for _ in 0..3 {
            let error = refused(&rig, client)?;
            ensure!(error.status() == Some(503), "{error}");
        }
        // Cached credentials are not served by name either.
        let token = client.token()?;
        for role in ["web-role", "twin-role"] {
            let path = format!("/latest/meta-data/iam/security-credentials/{role}");
            let answer = client.get(&path, &[("X-aws-ec2-metadata-token", &token)])?;
            ensure!(answer.status == 503 && !answer.text().contains("AccessKeyId"), "{role}: {answer:?}");
        }
    }
    rig.kube.delete("Pod", TEAM, "twin")?;
    until("the second owner to be gone", SOON, || Ok(agent.v4().credentials().is_ok().then_some(())))?;
    served_both(&rig, &agent, "web-role")?;
    no_leak(&rig)
}

fn ended() -> Result<()> {
    let (rig, pod) = by_address()?;
    let agent = pod.agent("app")?;
    for phase in ["Succeeded", "Failed"] {
        // The other pod is in the way while it lives, so that its phase makes the difference.
        rig.kube.apply(twin(&pod))?;
        until("the second owner to be seen", SOON, || Ok(agent.v4().credentials().is_err().then_some(())))?;
        let error = refused(&rig, agent.v6())?;
        ensure!(error.status() == Some(503), "{phase}: {error}");
        rig.kube.merge("Pod", TEAM, "twin", &json!({"status": {"phase": phase}}))?;
        until("the second owner to have ended", SOON, || Ok(agent.v4().credentials().is_ok().then_some(())))?;
        served_both(&rig, &agent, "web-role")?;
        rig.kube.delete("Pod", TEAM, "twin")?;
    }
    no_leak(&rig)
}

fn by_address() -> Result<(Rig, Pod)> {
    let mut rig = rig()?;
    rig.start(&["--identity", "ip"])?;
    let pod = rig.pod(PodSpec::new(TEAM, "web").annotation(ROLE, "web-role"))?;
    Ok((rig, pod))
}

/// Another pod in the API with the same addresses.
fn twin(pod: &Pod) -> Value {
    let mut object = pod.object();
    object["metadata"]["name"] = json!("twin");
    object["metadata"]["uid"] = json!("11111111-2222-3333-4444-555555555555");
    object["metadata"]["annotations"][ROLE] = json!("twin-role");
    object
}
