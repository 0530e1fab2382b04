//! What the service grants and denies by policy, up to the issuer's call, the Event and the audit line.

use podrole::events::schedule::Limits;
use podrole::policy::{ContainerRoles, Rules};
use serde_json::json;

use crate::support::{LIST, Test, WEB, credentials, pod, rules};

const ROLE: &str = "iam.amazonaws.com/role";
const SESSION_NAME: &str = "iam.amazonaws.com/session-name";

#[tokio::test(start_paused = true)]
async fn a_custom_session_name_begins_with_the_namespace() {
    let test = Test::new();
    for (text, wanted) in [("nightly", "shop.nightly.web-uid"), ("bank.web", "shop.bank.web.web-uid")] {
        test.apply(pod(WEB, json!({ROLE: "web", SESSION_NAME: text})));
        assert_eq!(test.get(&credentials("web")).await.0, 200);
        let session = test.issuer.last.lock().unwrap().as_ref().unwrap().session_name.clone();
        assert_eq!(session.as_str(), wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn a_custom_session_name_that_does_not_fit_is_denied_and_not_cut() {
    let test = Test::new();
    let left = 64 - "shop..web-uid".len();
    test.apply(pod(WEB, json!({ROLE: "web", SESSION_NAME: "x".repeat(left + 1)})));
    assert_eq!(test.get(LIST).await.0, 404);
    assert!(test.counted("podrole_denials_total{reason=\"BadSessionName\"} 1"));
    assert!(test.issuer.last.lock().unwrap().is_none(), "STS was called");
    // Control: one character less fits.
    test.apply(pod(WEB, json!({ROLE: "web", SESSION_NAME: "x".repeat(left)})));
    assert_eq!(test.get(&credentials("web")).await.0, 200);
    assert_eq!(test.issuer.last.lock().unwrap().as_ref().unwrap().session_name.as_str().len(), 64);
}

#[tokio::test(start_paused = true)]
async fn strict_denies_container_roles_where_siblings_may_read() {
    let strict = Rules { container_roles: ContainerRoles::Strict, ..rules() };
    let quiet = json!({"securityContext": {"capabilities": {"drop": ["all"]}}});
    let adds = json!({"securityContext": {"capabilities": {"drop": ["ALL"], "add": ["cap_net_raw"]}}});
    let prefixed = json!({"securityContext": {"capabilities": {"drop": ["CAP_NET_RAW"]}}});
    for (spec, denied) in [
        (json!({"containers": [quiet, quiet]}), false),
        (json!({"containers": [quiet, adds]}), true),
        (json!({"containers": [quiet, prefixed]}), true),
        (json!({"containers": [quiet, quiet], "shareProcessNamespace": true}), true),
        (json!({"containers": [quiet, quiet], "hostPID": true}), true),
    ] {
        let test = Test::with(strict.clone(), false, Limits::default(), std::io::sink());
        test.socket(1, 1, WEB, "a");
        test.namespace(json!({"iam.amazonaws.com/allowed-roles": "[\"*\"]"}));
        let mut object = pod(WEB, json!({"podrole.dev/role.app": "web"}));
        object["spec"] = spec.clone();
        test.apply(object);
        assert_eq!(test.get(LIST).await.0, if denied { 404 } else { 200 }, "{spec}");
        assert_eq!(test.counted("podrole_denials_total{reason=\"ContainerRolesRefused\"} 1"), denied, "{spec}");
        // Control: with one role for the pod, nothing is denied.
        let mut object = pod(WEB, json!({ROLE: "web"}));
        object["spec"] = spec;
        test.apply(object);
        assert_eq!(test.get(LIST).await, (200, "web".into()));
    }
}
