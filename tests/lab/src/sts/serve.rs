//! Answers HTTP requests: parses the form, records the call, and applies a fault or decides.

use std::sync::Arc;
use std::time::SystemTime;

use hyper::Method;

use super::model::{Call, Fault, Outcome};
use super::web_identity;
use super::wire::{self, ErrorResponse, Signature};
use super::{Shared, state::State};
use crate::http::form::Form;
use crate::http::{Reply, Request, random};

/// Answers one request.
pub(super) async fn answer(shared: Arc<Shared>, request: Request) -> Reply {
    let (at, delay) = {
        let mut state = shared.state();
        let call = read(&state, &request);
        state.calls.push(call);
        shared.recorded.notify_all();
        (state.calls.last().map(|call| call.request_id.clone()).unwrap_or_default(), state.delay)
    };
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let mut state = shared.state();
    // A test may have cleared the record meanwhile. The call is answered nevertheless.
    let Some(call) = state.calls.iter().find(|call| call.request_id == at).cloned() else {
        let call = Call { request_id: at, ..read(&state, &request) };
        return handle(&mut state, &call, &request).0;
    };
    let (reply, outcome) = handle(&mut state, &call, &request);
    if let Some(call) = state.calls.iter_mut().find(|call| call.request_id == at) {
        call.outcome = outcome;
    }
    shared.recorded.notify_all();
    reply
}

fn handle(state: &mut State, call: &Call, request: &Request) -> (Reply, Outcome) {
    let now = state.now();
    let respond = |status, xml| Reply::Answer(wire::response(status, xml, &call.request_id, now));
    let reject = |error: ErrorResponse| {
        (respond(error.status, error.xml(&call.request_id)), Outcome::Rejected(error.code.to_owned()))
    };
    if let Some(fault) = state.take_fault(call) {
        let role = call.role_arn.as_deref().unwrap_or("*");
        if let Some(error) = ErrorResponse::of(fault, call.caller.as_ref(), role) {
            return reject(error);
        }
        let reply = match fault {
            Fault::ConnectionReset => Reply::Reset,
            Fault::Stall => Reply::Stall,
            Fault::Html500 => Reply::Answer(wire::html(now)),
            Fault::MalformedXml
            | Fault::Throttling
            | Fault::AccessDenied
            | Fault::ExpiredToken
            | Fault::InternalFailure500
            | Fault::ServiceUnavailable
            | Fault::IdpUnreachable
            | Fault::RegionDisabled => respond(200, format!("<{0}Response><{0}Result><Credent", call.action)),
        };
        return (reply, Outcome::Broken(fault));
    }
    match state.decide(call, request) {
        Ok(answer) => (respond(200, answer.xml), answer.outcome),
        Err(error) => reject(error),
    }
}

fn read(state: &State, request: &Request) -> Call {
    let form = if request.method == Method::POST {
        Form::parse(&String::from_utf8_lossy(&request.body))
    } else {
        Form::parse(request.uri.query().unwrap_or_default())
    };
    let text = |name: &str| form.get(name).map(str::to_owned);
    let signature = request.header("authorization").and_then(Signature::parse);
    let access_key = signature.as_ref().map(|signature| signature.access_key.to_owned());
    let tags = (1..).map_while(|at| {
        let key = text(&format!("Tags.member.{at}.Key"))?;
        Some((key, text(&format!("Tags.member.{at}.Value")).unwrap_or_default()))
    });
    let list = |prefix: &str, suffix: &str| -> Vec<String> {
        (1..).map_while(|at| text(&format!("{prefix}.member.{at}{suffix}"))).collect()
    };
    Call {
        time: SystemTime::now(),
        action: text("Action").unwrap_or_default(),
        role_arn: text("RoleArn"),
        session_name: text("RoleSessionName"),
        external_id: text("ExternalId"),
        duration: text("DurationSeconds"),
        tags: tags.collect(),
        transitive_tag_keys: list("TransitiveTagKeys", ""),
        policy: text("Policy"),
        policy_arns: list("PolicyArns", ".arn"),
        source_identity: text("SourceIdentity"),
        subject: form.get("WebIdentityToken").and_then(web_identity::claimed_subject),
        web_identity_token: text("WebIdentityToken"),
        caller: access_key.as_deref().and_then(|key| state.known(key)).cloned(),
        access_key,
        region: signature.map(|signature| signature.region.to_owned()),
        user_agent: request.header("user-agent").unwrap_or_default().to_owned(),
        request_id: random::uuid(),
        outcome: Outcome::Pending,
        peer: request.peer,
    }
}
