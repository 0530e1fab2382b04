//! Requests without a session token are rejected, unless the administrator or the namespace's owner enables them.

use anyhow::{Result, ensure};
use podrole_lab::agent::Agent;
use podrole_lab::rig::Rig;
use podrole_lab::world::Trial;

use crate::support::{TEAM, WEB, path_of, ready};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("without_a_token_there_is_a_401", denied),
    Trial::new("a_flag_allows_it_everywhere", by_flag),
    Trial::new("an_annotation_allows_it_in_its_namespace_only", by_annotation),
];

const ANNOTATION: &str = "podrole.dev/imds-v1";

fn pods(rig: &Rig) -> Result<(Agent, Agent)> {
    rig.namespace("other", &["*"])?;
    let team = rig.pod_with_role(TEAM, "web", WEB)?.agent("app")?;
    Ok((team, rig.pod_with_role("other", "web", WEB)?.agent("app")?))
}

/// Expects this status for all requests without a token.
fn without_token(app: &Agent, status: u16) -> Result<()> {
    for client in [app.v4(), app.v6()] {
        for path in
            [path_of(""), path_of(WEB), "/latest/meta-data/".into(), "/latest/meta-data/placement/region".into()]
        {
            let answer = client.get(&path, &[])?;
            ensure!(answer.status == status, "{path}: expected {status}, got {answer:?}");
            // Without a token in the request, the response has no TTL header.
            ensure!(answer.header("X-Aws-Ec2-Metadata-Token-Ttl-Seconds").is_none(), "{answer:?}");
        }
        // A forwarded request without a token is rejected in every mode.
        for header in ["X-Forwarded-For", "Forwarded", "Via"] {
            let answer = client.get(&path_of(WEB), &[(header, "10.0.0.9")])?;
            ensure!(answer.status == 403, "{header}: {answer:?}");
            // A made-up token does not help.
            let answer = client.get(&path_of(WEB), &[(header, "10.0.0.9"), ("X-aws-ec2-metadata-token", "made-up")])?;
            ensure!(answer.status == 401, "{header}: {answer:?}");
        }
    }
    // With a valid token, requests work as usual.
    ensure!(app.credentials()?.role == WEB);
    Ok(())
}

fn denied() -> Result<()> {
    let rig = ready(&[])?;
    let (team, other) = pods(&rig)?;
    without_token(&team, 401)?;
    without_token(&other, 401)
}

fn by_flag() -> Result<()> {
    let rig = ready(&["--imds-v1", "allow"])?;
    let (team, other) = pods(&rig)?;
    without_token(&team, 200)?;
    without_token(&other, 200)
}

fn by_annotation() -> Result<()> {
    let rig = ready(&[])?;
    let (team, other) = pods(&rig)?;
    for (value, status) in [("allow", 200), ("deny", 401), ("allow", 200), ("true", 401), ("Allow", 401), ("", 401)] {
        rig.kube.annotate("Namespace", "", TEAM, ANNOTATION, Some(value))?;
        podrole_lab::proc::until("the namespace's change to be seen", crate::support::SOON, || {
            Ok((team.get("/latest/meta-data/", &[])?.status == status).then_some(()))
        })?;
        without_token(&team, status)?;
        without_token(&other, 401)?;
    }
    Ok(())
}
