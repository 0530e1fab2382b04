//! Forty good objects and forty bad ones, of every kind that the admission policies check.

use serde_json::{Value, json};

pub(crate) const ROLE: &str = "iam.amazonaws.com/role";
pub(crate) const EXTERNAL_ID: &str = "iam.amazonaws.com/external-id";
pub(crate) const SESSION_NAME: &str = "iam.amazonaws.com/session-name";
pub(crate) const ALLOWED_ROLES: &str = "iam.amazonaws.com/allowed-roles";
pub(crate) const PERMITTED: &str = "iam.amazonaws.com/permitted";
const APP: &str = "podrole.dev/role.app";
const SIDECAR: &str = "podrole.dev/role.side-car";

/// Pods and the kinds of objects that create them.
pub(crate) const KINDS: [&str; 8] =
    ["Pod", "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob"];

/// Annotations of an object, and for a bad one a part of the expected message.
type Case = (&'static str, Vec<(&'static str, String)>, &'static str);

/// An object to write.
#[derive(Debug)]
pub(crate) struct Sample {
    /// The path to post it to.
    pub(crate) path: String,
    pub(crate) object: Value,
    /// A text that its rejection must contain; empty for a good object.
    pub(crate) told: &'static str,
}

pub(crate) fn good() -> Vec<Sample> {
    samples("good", good_cases())
}

pub(crate) fn bad() -> Vec<Sample> {
    samples("bad", bad_cases())
}

fn samples(prefix: &str, cases: Vec<Case>) -> Vec<Sample> {
    let sample = |(number, (kind, annotations, told)): (usize, Case)| {
        let annotations =
            Value::Object(annotations.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect());
        let (path, object) = object(kind, &format!("{prefix}-{number}"), &annotations);
        Sample { path, object, told }
    };
    cases.into_iter().enumerate().map(sample).collect()
}

fn one(kind: &'static str, key: &'static str, value: &str, told: &'static str) -> Case {
    (kind, vec![(key, value.to_owned())], told)
}

fn good_cases() -> Vec<Case> {
    let longest_name = "n".repeat(64);
    let longest_path = format!("{}/{longest_name}", "p".repeat(512));
    let many: Vec<String> = (0..1000).map(|number| format!("web-{number}")).collect();
    let mut cases: Vec<Case> = KINDS.iter().map(|kind| one(kind, ROLE, "web", "")).collect();
    cases.extend(KINDS.iter().map(|kind| one(kind, ROLE, "arn:aws:iam::111122223333:role/team/web", "")));
    cases.extend([
        ("Pod", vec![], ""),
        ("Namespace", vec![], ""),
        ("Deployment", vec![("example.com/role", "not ours: !".to_owned())], ""),
        one("Pod", ROLE, "arn:aws-us-gov:iam::111122223333:role/web", ""),
        one("Pod", ROLE, "arn:aws-cn:iam::111122223333:role/a/b/c/web+=,.@-_", ""),
        one("Pod", ROLE, "  /team/web\n", ""),
        one("Pod", ROLE, &longest_name, ""),
        one("Pod", ROLE, &longest_path, ""),
        one("Pod", ROLE, &format!("arn:aws:iam::111122223333:role/{longest_path}"), ""),
        one("Pod", APP, "web", ""),
        one("Pod", APP, "", ""),
        (
            "Job",
            vec![
                (ROLE, "a".to_owned()),
                (APP, " ".to_owned()),
                (SIDECAR, "arn:aws:iam::444455556666:role/b".to_owned()),
            ],
            "",
        ),
        ("Pod", vec![(ROLE, "web".to_owned()), (EXTERNAL_ID, "ab".to_owned())], ""),
        ("Pod", vec![(ROLE, "web".to_owned()), (EXTERNAL_ID, format!("{}:/", "x".repeat(1222)))], ""),
        ("CronJob", vec![(ROLE, "web".to_owned()), (SESSION_NAME, "ab".to_owned())], ""),
        ("Pod", vec![(ROLE, "web".to_owned()), (SESSION_NAME, "s".repeat(50))], ""),
        one("Namespace", ALLOWED_ROLES, "[]", ""),
        one("Namespace", ALLOWED_ROLES, r#"["*"]"#, ""),
        one("Namespace", ALLOWED_ROLES, "[ \"web-*\" ,\n\t\"arn:aws:iam::111122223333:role/team/*\" ]\n", ""),
        one("Namespace", ALLOWED_ROLES, r#"["\u0077eb", " web ", "a\/b", "/web"]"#, ""),
        one("Namespace", ALLOWED_ROLES, &json!(many).to_string(), ""),
        one("Namespace", PERMITTED, "web-.*|arn:aws:iam::[0-9]+:role/x", ""),
        (
            "Namespace",
            vec![
                (PERMITTED, ".".repeat(4096)),
                (EXTERNAL_ID, "team:a/b".to_owned()),
                (ALLOWED_ROLES, r#"["a"]"#.to_owned()),
            ],
            "",
        ),
        one("Namespace", "podrole.dev/imds-v1", "allow", ""),
    ]);
    cases
}

fn bad_cases() -> Vec<Case> {
    const CHARACTER: &str = "iam.amazonaws.com/role has a character that IAM does not allow in a role's name or path";
    const EMPTY: &str = "iam.amazonaws.com/role is empty";
    const LONG: &str = "iam.amazonaws.com/role is longer than IAM allows (name 64, path 512, ARN 2048 characters)";
    const NOT_AN_ARN: &str = "iam.amazonaws.com/role is not a role ARN (arn:PARTITION:iam::ACCOUNT:role/NAME)";
    const ACCOUNT: &str = "iam.amazonaws.com/role has an account that is not twelve digits";
    const ID: &str = "iam.amazonaws.com/external-id must be 2 to 1224 characters";
    const SESSION: &str = "iam.amazonaws.com/session-name must be 2 or more characters";
    const NOT_JSON: &str = "iam.amazonaws.com/allowed-roles is not a JSON array of strings, such as [\"web-*\"]";
    const PATTERN: &str =
        "iam.amazonaws.com/allowed-roles has an empty pattern, or one with characters that no role ARN has";
    let mut cases: Vec<Case> = KINDS.iter().map(|kind| one(kind, ROLE, "web role", CHARACTER)).collect();
    cases.extend([
        one("Pod", ROLE, "", EMPTY),
        one("Deployment", ROLE, " \n", EMPTY),
        one("Pod", ROLE, "//", EMPTY),
        one("Pod", ROLE, "team/", EMPTY),
        one("StatefulSet", ROLE, "we*b", CHARACTER),
        one("Pod", ROLE, "w\u{e9}b", CHARACTER),
        one("Pod", ROLE, "r\r\nX-Injected: 1", CHARACTER),
        one("Pod", ROLE, "team?/web", CHARACTER),
        one("Pod", ROLE, &"n".repeat(65), LONG),
        one("Pod", ROLE, &format!("{}/n", "p".repeat(513)), LONG),
        one("CronJob", ROLE, &"x".repeat(4096), LONG),
        one("Pod", ROLE, "arn:x", NOT_AN_ARN),
        one("Pod", ROLE, "arn:aws:iam::111122223333:user/web", NOT_AN_ARN),
        one("Job", ROLE, "arn:aws:iam:us-west-2:111122223333:role/web", NOT_AN_ARN),
        one("Pod", ROLE, "arn:azure:iam::111122223333:role/web", NOT_AN_ARN),
        one("Pod", ROLE, "arn:aws:sts::111122223333:assumed-role/web/me", NOT_AN_ARN),
        one("DaemonSet", ROLE, "arn:aws:iam::1234:role/web", ACCOUNT),
        one("Pod", ROLE, "arn:aws:iam::11112222333a:role/web", ACCOUNT),
        one("Pod", ROLE, "arn:aws:iam::111122223333:role/", EMPTY),
        one("Pod", APP, "{}", "podrole.dev/role.app has a character that IAM does not allow"),
        ("Job", vec![(ROLE, "a".to_owned()), (SIDECAR, "a b".to_owned())], "podrole.dev/role.side-car has a character"),
        ("Pod", vec![(ROLE, "web".to_owned()), (EXTERNAL_ID, "a b".to_owned())], ID),
        ("ReplicaSet", vec![(ROLE, "web".to_owned()), (EXTERNAL_ID, "a".to_owned())], ID),
        ("Pod", vec![(EXTERNAL_ID, "x".repeat(1225))], ID),
        ("Pod", vec![(ROLE, "web".to_owned()), (SESSION_NAME, "a/b".to_owned())], SESSION),
        ("CronJob", vec![(ROLE, "web".to_owned()), (SESSION_NAME, "s".repeat(51))], SESSION),
        one("Namespace", ALLOWED_ROLES, "web-*", NOT_JSON),
        one("Namespace", ALLOWED_ROLES, r#"["web-*", 7]"#, NOT_JSON),
        one("Namespace", ALLOWED_ROLES, r#"["web-*",]"#, NOT_JSON),
        one("Namespace", ALLOWED_ROLES, r#"["web-*", "a b"]"#, PATTERN),
        one("Namespace", PERMITTED, &".".repeat(4097), "iam.amazonaws.com/permitted is not a valid regular expression"),
        one("Namespace", EXTERNAL_ID, "", ID),
    ]);
    cases
}

/// The path to post to, and an object of `kind` whose pods have `annotations`.
pub(crate) fn object(kind: &str, name: &str, annotations: &Value) -> (String, Value) {
    let labels = json!({"app": name});
    let containers = json!([{"name": "app", "image": "none"}]);
    let template = |restart: &str| {
        json!({
            "metadata": {"labels": labels, "annotations": annotations},
            "spec": {"containers": containers, "restartPolicy": restart},
        })
    };
    let selector = json!({"matchLabels": labels});
    let (group, plural, spec) = match kind {
        "Namespace" => {
            let metadata = json!({"name": name, "annotations": annotations});
            return ("/api/v1/namespaces".into(), json!({"apiVersion": "v1", "kind": kind, "metadata": metadata}));
        }
        "Pod" => {
            let metadata = json!({"name": name, "annotations": annotations});
            let spec = json!({"containers": containers, "nodeName": "node-9"});
            let object = json!({"apiVersion": "v1", "kind": kind, "metadata": metadata, "spec": spec});
            return ("/api/v1/namespaces/team/pods".into(), object);
        }
        "ReplicationController" => {
            ("v1", "replicationcontrollers", json!({"selector": labels, "template": template("Always")}))
        }
        "Job" => ("batch/v1", "jobs", json!({"template": template("Never")})),
        "CronJob" => {
            let job = json!({"spec": {"template": template("Never")}});
            ("batch/v1", "cronjobs", json!({"schedule": "0 0 * * *", "jobTemplate": job}))
        }
        "StatefulSet" => (
            "apps/v1",
            "statefulsets",
            json!({"serviceName": "none", "selector": selector, "template": template("Always")}),
        ),
        "DaemonSet" => ("apps/v1", "daemonsets", json!({"selector": selector, "template": template("Always")})),
        "ReplicaSet" => ("apps/v1", "replicasets", json!({"selector": selector, "template": template("Always")})),
        _ => ("apps/v1", "deployments", json!({"selector": selector, "template": template("Always")})),
    };
    let root = if group == "v1" { "/api" } else { "/apis" };
    let object = json!({"apiVersion": group, "kind": kind, "metadata": {"name": name}, "spec": spec});
    (format!("{root}/{group}/namespaces/team/{plural}"), object)
}
