//! Part 1: the AWS identity of each container, before and after podrole starts.

use std::env;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use podrole_lab::agent::{Agent, Response};
use podrole_lab::pod::Pod;

use crate::cast::{ACTORS, Actor, NAMESPACES, Stage, TOKEN, Tool, WEB};
use crate::denials::denial;
use crate::sdk::{Boto, Identity};

/// Facts recorded before podrole ran.
pub(crate) struct Before {
    /// Packets from pods that had reached the node's metadata service by the time podrole was ready.
    pub(crate) packets: u64,
    /// The status of a pod's request for the node's user data.
    pub(crate) user_data: u16,
}

/// A container and its identity without and with podrole.
struct Asked {
    actor: Actor,
    before: Identity,
    after: Identity,
}

pub(crate) fn play(stage: &mut Stage) -> Result<Before> {
    stage
        .screen
        .heading("EACH CONTAINER'S AWS IDENTITY", "aws sts get-caller-identity, before and after podrole starts");
    stage.screen.doing("without podrole: running the AWS CLI and boto3 in six containers");
    let mut programs: Vec<Option<Boto>> = Vec::new();
    for actor in ACTORS {
        programs.push(match actor.tool {
            Tool::Cli => None,
            Tool::Boto => Some(stage.sdk.boto(stage.pod(actor.pod), actor.container)?),
        });
    }
    let before = ask(stage, &mut programs).context("without podrole")?;
    let user_data = user_data(stage.agent(WEB))?;
    stage.checks.same("status of the node's user data, without podrole", user_data.status, 200);

    stage.screen.doing("starting podrole");
    let begin = Instant::now();
    stage.rig.start(&["--log", "info"]).with_context(|| match env::var("PODROLE_BIN") {
        Ok(binary) => format!("podrole did not start (PODROLE_BIN={binary})"),
        Err(_) => "podrole did not start".to_owned(),
    })?;
    let ready = begin.elapsed();
    let packets = stage.rig.imds.leaked_packets()?;
    stage.checks.that(packets > 0, || "no pod reached the node's metadata service, even without podrole".to_owned());

    stage.screen.doing("with podrole: asking again from the same containers");
    let after = ask(stage, &mut programs).context("with podrole")?;
    let asked = ACTORS.into_iter().zip(before).zip(after);
    let asked: Vec<Asked> = asked.map(|((actor, before), after)| Asked { actor, before, after }).collect();
    table(stage, &asked)?;

    let screen = stage.screen;
    for Asked { actor, after, .. } in &asked {
        if let (Tool::Cli, Identity::Unknown(why)) = (actor.tool, after) {
            let why = why.split(". ").next().unwrap_or(why);
            screen.line(&screen.dim(&format!("   The AWS CLI in {} reports: {why}.", actor.pod)));
        }
    }
    let lists = NAMESPACES.map(|(name, roles)| format!("{name} allows {}", roles.join(", ")));
    screen.paragraph(
        3,
        &format!(
            "{} is the node's role. The namespaces limit the roles of their pods: {}. podrole was ready {} ms after its \
             start; no pod was restarted.",
            stage.node_role(),
            lists.join("; "),
            ready.as_millis()
        ),
    );
    Ok(Before { packets, user_data: user_data.status })
}

/// Requests the node's user data, as a script in a pod would.
pub(crate) fn user_data(agent: &Agent) -> Result<Response> {
    let token = agent.v4().token()?;
    Ok(agent.get("/latest/user-data", &[(TOKEN, &token)])?)
}

/// Asks in all containers at the same time.
fn ask(stage: &Stage, programs: &mut [Option<Boto>]) -> Result<Vec<Identity>> {
    thread::scope(|scope| {
        let threads: Vec<_> = ACTORS
            .into_iter()
            .zip(programs)
            .map(|(actor, program)| {
                scope.spawn(move || match program {
                    Some(program) => program.fresh(),
                    None => stage.sdk.cli(stage.pod(actor.pod), actor.container),
                })
            })
            .collect();
        let join = |(thread, actor): (thread::ScopedJoinHandle<'_, Result<Identity>>, Actor)| {
            let said = thread.join().map_err(|_| anyhow!("a thread panicked")).flatten();
            said.with_context(|| format!("ask in {}/{}", actor.pod, actor.container))
        };
        threads.into_iter().zip(ACTORS).map(join).collect()
    })
}

fn table(stage: &mut Stage, asked: &[Asked]) -> Result<()> {
    let screen = stage.screen;
    let node_role = stage.node_role();
    let header = ["POD", "CONTAINER", "SDK", "REQUESTS", "BEFORE", "AFTER", "SESSION (in CloudTrail)"];
    screen.line(&screen.dim(&columns(header).concat()));
    for Asked { actor, before, after } in asked {
        let who = format!("{}/{}", actor.pod, actor.container);
        let was = before.role().map_or("none", |(role, _)| role);
        stage.checks.same(&format!("{who} without podrole"), was, node_role.as_str());
        let (is, detail) = match actor.gets {
            Ok(role) => {
                let (is, session) = after.role().unwrap_or(("none", ""));
                stage.checks.same(&format!("{who} with podrole ({after:?})"), is, role);
                let expected = session_of(stage.pod(actor.pod));
                stage.checks.same(&format!("session of {who}"), session, expected.as_str());
                (is.to_owned(), session.to_owned())
            }
            Err(reason) => {
                let no_credentials =
                    matches!(after, Identity::Unknown(why) if why.contains("Unable to locate credentials"));
                stage.checks.that(no_credentials, || format!("{who} must get no credentials, but got {after:?}"));
                match after.role() {
                    Some((role, session)) => (role.to_owned(), session.to_owned()),
                    None => {
                        let said = denial(stage, actor.pod)?.reason;
                        stage.checks.same(&format!("reason for denying {who}"), said.as_str(), reason);
                        ("none".to_owned(), format!("denied: {said}"))
                    }
                }
            }
        };
        let [pod, container, tool, asks, was, is, detail] = columns([
            actor.pod,
            actor.container,
            actor.tool.name(),
            actor.asks.unwrap_or("(nothing)"),
            was,
            &is,
            &detail,
        ]);
        let is = match actor.gets {
            Ok(role) if is.trim_end() == role => screen.good(&is),
            Err(_) if is.trim_end() == "none" => screen.strong(&is),
            Ok(_) | Err(_) => screen.bad(&is),
        };
        screen.line(&format!("{pod}{container}{tool}{asks}{}{is}{detail}", screen.bad(&was)));
    }
    Ok(())
}

fn columns(cells: [&str; 7]) -> [String; 7] {
    let [a, b, c, d, e, f, g] = cells;
    let pad = |text: &str, width: usize| format!("{text:width$}");
    [format!("   {a:15}"), pad(b, 11), pad(c, 9), pad(d, 11), pad(e, 11), pad(f, 10), g.to_owned()]
}

/// The session name, which identifies the pod in CloudTrail.
pub(crate) fn session_of(pod: &Pod) -> String {
    let uid = pod.uid().split('-').next().unwrap_or_default();
    // In the demo a pod's service account has the pod's name.
    format!("{}.{}.{uid}", pod.namespace(), pod.name())
}
