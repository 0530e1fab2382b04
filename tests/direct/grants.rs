//! What the service grants and denies by policy, up to the issuer's call, the Event and the audit line.

use serde_json::json;

use crate::support::{LIST, Test, WEB, credentials, pod};

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
