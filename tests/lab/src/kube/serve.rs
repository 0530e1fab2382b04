//! Answers HTTP requests: discovery, reads and writes. Watches are in `watch`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::resources::{Target, discovery};
use super::select::Selector;
use super::status::Status;
use super::store::{Change, Key};
use super::view::View;
use super::{Request, Shared, patch, watch};
use crate::http::form::Form;
use crate::http::{self, Body, Reply};

/// The path at which clients query their own permissions.
const ACCESS_REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// Answers one request.
pub(super) async fn answer(shared: Arc<Shared>, request: http::Request) -> Reply {
    let (latency, fail_all) = {
        let mut state = shared.state();
        state.requests.push(record(&request));
        (state.faults.latency, state.faults.fail_all)
    };
    shared.told.notify_all();
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let failed = match fail_all {
        Some(401) => Err(Status::new(401, "Unauthorized")),
        Some(code) => Err(Status::new(code, "failed by the test")),
        None => Ok(()),
    };
    let answer = failed.and_then(|()| route(&shared, &request));
    Reply::Answer(answer.unwrap_or_else(|status| value(status.code, &status.object())))
}

fn record(request: &http::Request) -> Request {
    let header = |name: &str| request.header(name).unwrap_or_default().to_owned();
    Request {
        method: request.method.to_string(),
        path: request.uri.path_and_query().map_or_else(|| request.uri.to_string(), ToString::to_string),
        user_agent: header("user-agent"),
        accept: header("accept"),
        body: String::from_utf8_lossy(&request.body).into_owned(),
        time: SystemTime::now(),
        peer: request.peer,
    }
}

fn route(shared: &Arc<Shared>, request: &http::Request) -> Result<Response<Body>, Status> {
    let path = request.uri.path();
    let query = Form::parse(request.uri.query().unwrap_or_default());
    if matches!(path, "/healthz" | "/livez" | "/readyz") {
        return Ok(Response::new(Body::from("ok")));
    }
    if path == "/openid/v1/jwks" {
        return Ok(value(200, &shared.signer.jwks()));
    }
    if let Some(document) = discovery(path) {
        return Ok(value(200, &document));
    }
    if path == ACCESS_REVIEWS && request.method == Method::POST {
        // The double has no authorization, so every access review is allowed.
        let mut review = json_body(request)?;
        review["status"] = json!({"allowed": true});
        return Ok(value(201, &review));
    }
    let target = Target::parse(path).ok_or_else(Status::no_such_resource)?;
    if let ("serviceaccounts", Some(account), Some("token"), &Method::POST) =
        (target.kind.plural, &target.name, target.subresource.as_deref(), &request.method)
    {
        let asked = json_body(request)?;
        let state = shared.state();
        return Ok(value(201, &shared.signer.answer(&state.store, &target.namespace, account, &asked)?));
    }
    if target.subresource.as_deref().is_some_and(|name| name != "status") {
        return Err(Status::no_such_resource());
    }
    let view = View::accepted(request.header("accept").unwrap_or_default());
    shared.state().store.publish_due(Instant::now());
    let answer = match (&request.method, target.name.clone()) {
        (&Method::GET, name) if query.flag("watch") => {
            let target = Target { name, ..target };
            return watch::open(shared, target, &query, view);
        }
        (&Method::GET, None) => return list(shared, &target, &query, view),
        (&Method::GET, Some(name)) => {
            let object = shared.state().store.get(&Key::new(target.kind, &target.namespace, &name));
            let object = object.ok_or_else(|| Status::not_found(&target.kind.resource(), &name))?;
            return Ok(value(200, &view.object(target.kind, &object)));
        }
        (&Method::POST, None) => create(shared, &target, request),
        (&Method::PUT, Some(name)) => replace(shared, &target, &name, request),
        (&Method::PATCH, Some(name)) => change(shared, &target, &name, request),
        (&Method::DELETE, Some(name)) => delete(shared, &target, &name),
        _ => Err(Status::new(405, "the server does not allow this method on the requested resource")),
    };
    let (code, object) = answer?;
    shared.tell();
    Ok(value(code, &view.object(target.kind, &object)))
}

fn create(shared: &Shared, target: &Target, request: &http::Request) -> Result<(u16, Value), Status> {
    let mut object = body(target, request)?;
    if target.kind.namespaced && !target.namespace.is_empty() {
        object["metadata"]["namespace"] = json!(target.namespace);
    }
    let mut state = shared.state();
    if let Some(name) = object["metadata"]["name"].as_str()
        && state.store.latest(&Key::new(target.kind, &target.namespace, name)).is_some()
    {
        return Err(Status::already_exists(&target.kind.resource(), name));
    }
    Ok((201, state.store.put(target.kind, object, None, Instant::now())?))
}

fn replace(shared: &Shared, target: &Target, name: &str, request: &http::Request) -> Result<(u16, Value), Status> {
    let object = body(target, request)?;
    if object["metadata"]["name"] != name {
        return Err(Status::new(400, "the name of the object does not match the name on the URL"));
    }
    let mut state = shared.state();
    if state.store.latest(&Key::new(target.kind, &target.namespace, name)).is_none() {
        return Err(Status::not_found(&target.kind.resource(), name));
    }
    let expected = object["metadata"]["resourceVersion"].as_str().map(str::to_owned);
    Ok((200, state.store.put(target.kind, object, expected.as_deref(), Instant::now())?))
}

fn change(shared: &Shared, target: &Target, name: &str, request: &http::Request) -> Result<(u16, Value), Status> {
    let kind = request.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().to_owned();
    let applies = kind == "application/apply-patch+yaml";
    // A strategic merge differs from a plain merge only for lists, and metadata contains none.
    if !applies && kind != "application/merge-patch+json" && kind != "application/strategic-merge-patch+json" {
        return Err(Status::new(415, format!("the body of the request was in an unknown format: {kind}")));
    }
    let wanted = json_body(request)?;
    let mut state = shared.state();
    let present = state.store.latest(&Key::new(target.kind, &target.namespace, name));
    let code = if present.is_some() { 200 } else { 201 };
    let mut object = match present {
        Some(present) => Value::clone(&super::view::of_group(target.kind, &present)),
        None if applies => json!({"metadata": {"name": name, "namespace": target.namespace}}),
        None => return Err(Status::not_found(&target.kind.resource(), name)),
    };
    patch::merge(&mut object, &wanted);
    let expected = wanted["metadata"]["resourceVersion"].as_str();
    Ok((code, state.store.put(target.kind, object, expected, Instant::now())?))
}

fn delete(shared: &Shared, target: &Target, name: &str) -> Result<(u16, Value), Status> {
    let key = Key::new(target.kind, &target.namespace, name);
    let mut state = shared.state();
    let object = state.store.latest(&key).ok_or_else(|| Status::not_found(&target.kind.resource(), name))?;
    state.store.submit(Change::Delete(key), Instant::now());
    Ok((200, Value::clone(&object)))
}

fn body(target: &Target, request: &http::Request) -> Result<Value, Status> {
    let mut object = json_body(request)?;
    object["apiVersion"] = json!(target.kind.api_version());
    object["kind"] = json!(target.kind.kind);
    Ok(object)
}

fn json_body(request: &http::Request) -> Result<Value, Status> {
    let kind = request.header("content-type").unwrap_or_default();
    if kind.contains("protobuf") {
        return Err(Status::new(415, format!("the body of the request was in an unsupported format: {kind}")));
    }
    let object: Value = serde_json::from_slice(&request.body).map_err(|error| Status::new(400, error.to_string()))?;
    if object.is_object() { Ok(object) } else { Err(Status::new(400, "the body is not an object")) }
}

fn list(shared: &Shared, target: &Target, query: &Form, view: View) -> Result<Response<Body>, Status> {
    let selector = Selector::parse(query, target.kind)?;
    let page = Page::parse(query)?;
    let (version, objects) = {
        let state = shared.state();
        let now = state.store.version();
        let version = page.version.unwrap_or(now);
        if version > now || page.not_older > now {
            let wanted = version.max(page.not_older);
            return Err(Status::new(504, format!("Too large resource version: {wanted}, current: {now}")));
        }
        state.store.remembers(version).map_err(|status| page.expired(status))?;
        (version, state.store.at(version))
    };
    let wanted: BTreeMap<Key, Arc<Value>> = objects
        .into_iter()
        .filter(|(key, object)| {
            key.plural == target.kind.plural
                && (target.namespace.is_empty() || target.namespace == key.namespace)
                && selector.matches(object)
        })
        .collect();
    let mut rest = wanted
        .iter()
        .filter(|(key, _)| page.after.as_ref().is_none_or(|(ns, name)| (&key.namespace, &key.name) > (ns, name)));
    let items: Vec<(&Key, &Arc<Value>)> = rest.by_ref().take(page.limit).collect();
    let left = rest.count();
    let mut about = json!({"resourceVersion": version.to_string()});
    if let (Some((key, _)), true) = (items.last(), left > 0) {
        about["continue"] = json!(URL_SAFE_NO_PAD.encode(json!([version, key.namespace, key.name]).to_string()));
        if selector.is_empty() {
            about["remainingItemCount"] = json!(left);
        }
    }
    let objects: Vec<&Value> = items.iter().map(|(_, object)| &***object).collect();
    let mut bytes = view.list(target.kind, &about, &objects).map_err(|error| Status::new(500, error.to_string()))?;
    if shared.state().faults.short_lists {
        bytes.truncate(bytes.len() * 9 / 10);
    }
    Ok(respond(200, bytes))
}

/// The requested part of a list, and its version.
struct Page {
    limit: usize,
    /// The version to list at; `None` means the current one.
    version: Option<u64>,
    not_older: u64,
    after: Option<(String, String)>,
}

impl Page {
    fn parse(query: &Form) -> Result<Self, Status> {
        let bad = |what: &str| Status::new(400, format!("{what} is not valid"));
        let number = |name: &str| match query.filled(name) {
            None => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| bad(name)),
        };
        let (limit, asked) = (number("limit")?, number("resourceVersion")?);
        // A real server ignores the limit if it answers from the watch cache (resource version "0").
        let limit = limit.filter(|limit| *limit > 0 && asked != Some(0));
        let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
        let Some(token) = query.filled("continue") else {
            let exact = query.get("resourceVersionMatch") == Some("Exact");
            let version = asked.filter(|_| exact);
            return Ok(Self { limit, version, not_older: asked.unwrap_or(0), after: None });
        };
        let token = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad("continue"))?;
        let (version, namespace, name) = serde_json::from_slice(&token).map_err(|_| bad("continue"))?;
        Ok(Self { limit, version: Some(version), not_older: 0, after: Some((namespace, name)) })
    }

    /// The error if the version of a list's next page is no longer available.
    fn expired(&self, status: Status) -> Status {
        if self.after.is_none() {
            return status;
        }
        let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list \
                       without the continue parameter.";
        Status::new(410, message)
    }
}

fn value(code: u16, object: &Value) -> Response<Body> {
    respond(code, object.to_string().into_bytes())
}

fn respond(code: u16, bytes: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if code == 429 {
        response.headers_mut().insert(hyper::header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
