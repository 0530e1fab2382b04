//! Part 2: requests that podrole denies or rejects, and why.

use anyhow::{Context as _, Result};

use crate::cast::{BATCH, PLAIN, ROGUE, ROLES, Stage, TOKEN, WEB, is_about};
use crate::identities::{Before, user_data};

/// A secret in the node's user data.
const SECRET: &str = "BOOTSTRAP_TOKEN";

pub(crate) fn play(stage: &mut Stage, before: &Before) -> Result<()> {
    stage.screen.heading("WHAT A POD CANNOT GET", "plain HTTP requests from inside the pods");
    denied(stage, ROGUE, "requests a role that only namespace data allows", "NamespaceNotPermitted")?;
    denied(stage, PLAIN, "has no role annotation", "NoRole")?;

    let token = stage.agent(WEB).v4().token().context("a session token for shop/web")?;
    for role in ["batch".to_owned(), stage.node_role()] {
        let status = stage.agent(WEB).get(&format!("{ROLES}{role}"), &[(TOKEN, &token)])?.status;
        show(stage, WEB, &format!("requests the credentials of role {role}"), status, 404, "");
    }
    let stolen = stage.agent(BATCH).get(ROLES, &[(TOKEN, &token)])?.status;
    show(stage, BATCH, "uses a session token stolen from shop/web", stolen, 401, "");
    let answer = user_data(stage.agent(WEB))?;
    stage.checks.that(!answer.text().contains(SECRET), || "the answer contains the node's user data".to_owned());
    let note = format!("(before podrole: {})", before.user_data);
    show(stage, WEB, "reads the node's user data (bootstrap secrets)", answer.status, 404, &note);
    Ok(())
}

/// Part 6: the packets that reached the node's own metadata service, up to the end of the demo.
pub(crate) fn packets(stage: &mut Stage, before: &Before) -> Result<()> {
    let since = stage.rig.imds.leaked_packets()?.saturating_sub(before.packets);
    stage.checks.same("packets from pods at the node's metadata service since podrole was ready", since, 0);
    let screen = stage.screen;
    screen.heading("PACKETS FROM PODS THAT REACHED THE NODE'S METADATA SERVICE", "");
    let count = if since == 0 { screen.good("0") } else { screen.bad(&since.to_string()) };
    screen.line(&format!(
        "   before podrole: {}      since podrole was ready: {count}",
        screen.bad(&before.packets.to_string())
    ));
    screen.line("");
    Ok(())
}

/// A pod that policy denies gets no credentials, not even the node's, and the audit gives the reason.
fn denied(stage: &mut Stage, pod: &str, what: &str, reason: &str) -> Result<()> {
    let answer = stage.agent(pod).credentials();
    let status = answer.as_ref().map_or_else(|error| error.status().unwrap_or_default(), |_| 200);
    let node = stage.rig.imds.credentials();
    stage.checks.that(!node.are_in(&format!("{answer:?}")), || format!("{pod} got the node's credentials"));
    let (note, why) = match answer {
        Ok(credentials) => (format!("got credentials of {:?}", stage.rig.role_of(&credentials)), String::new()),
        Err(_) => {
            let denial = denial(stage, pod)?;
            stage.checks.same(&format!("reason for denying {pod}"), denial.reason.as_str(), reason);
            (denial.reason, denial.why)
        }
    };
    show(stage, pod, what, status, 404, &note);
    if !why.is_empty() {
        stage.screen.paragraph(15, &why);
    }
    Ok(())
}

/// The audit's reason for denying a pod.
pub(crate) struct Denial {
    /// The reason's machine-readable name.
    pub(crate) reason: String,
    /// The explanation for operators.
    why: String,
}

pub(crate) fn denial(stage: &Stage, pod: &str) -> Result<Denial> {
    let line = stage
        .audit_line("Deny", |line| is_about(line, pod))
        .with_context(|| format!("find the audit line that denies {pod}"))?;
    let field = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
    Ok(Denial { reason: field("reason"), why: field("why") })
}

fn show(stage: &mut Stage, pod: &str, what: &str, status: u16, expected: u16, note: &str) {
    stage.checks.same(&format!("{pod} {what}: status"), status, expected);
    let screen = stage.screen;
    let number = if status == expected { screen.good(&status.to_string()) } else { screen.bad(&status.to_string()) };
    screen.line(format!("   {pod:11} {what:50} {number}  {note}").trim_end());
}
