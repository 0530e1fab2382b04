use serde_json::{Value, json};

use super::*;
use crate::policy::{ContainerRoles, SessionScope};
use crate::types::{BaseArn, Glob};

const UID: &str = "3f0c9a52-1111-2222-3333-444455556666";

fn terms() -> Terms {
    let base = BaseArn::parse("arn:aws:iam::111122223333:role/").unwrap();
    let rules = Rules {
        ceiling: vec![Glob::parse("arn:aws:iam::111122223333:role/*").unwrap()],
        base,
        own_roles: vec![],
        require_allow: true,
        allow: std::collections::HashMap::new(),
        container_roles: ContainerRoles::Shared,
        session_scope: SessionScope::Pod,
        node: "".into(),
    };
    Terms { rules, service_accounts: false, origin: Origin::Files, assumed: vec!["an assumption".into()] }
}

fn read(text: &str) -> Objects {
    let mut objects = Objects::default();
    objects.read(text, "test", "default").unwrap();
    objects
}

fn explained(text: &str) -> Report {
    explain(&read(text), &terms(), Selection::default()).unwrap()
}

fn pod(annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-1", "namespace": "shop", "uid": UID, "annotations": annotations},
        "spec": {"nodeName": "node-1", "containers": [{"name": "app"}, {"name": "log"}]},
        "status": {"podIP": "10.0.0.1", "containerStatuses": [{"name": "app", "containerID": "containerd://aa"}]},
    })
}

fn namespace(annotations: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "annotations": annotations}})
}

fn both(pod_annotations: Value, namespace_annotations: Value) -> Report {
    explained(&format!("{}\n{}", pod(&pod_annotations), namespace(&namespace_annotations)))
}

#[test]
fn an_allowed_pod() {
    let report = both(
        json!({"iam.amazonaws.com/role": "web", "iam.amazonaws.com/external-id": "do-not-show"}),
        json!({"iam.amazonaws.com/allowed-roles": "[\"web*\"]"}),
    );
    assert_eq!(report.decision, Verdict::Allow);
    let text = report.text();
    for line in [
        "Pod          shop/web-1  (uid 3f0c9a52-1111-2222-3333-444455556666, node node-1, ip 10.0.0.1, service account default)",
        "Allowed      iam.amazonaws.com/allowed-roles = \"[\\\"web*\\\"]\"",
        "Container    app, log",
        "Requested    iam.amazonaws.com/role = \"web\"  (from the pod)",
        "Role         arn:aws:iam::111122223333:role/web  (under the ceiling, on iam.amazonaws.com/allowed-roles)",
        "Decision     ALLOW",
        "Session      shop.default.3f0c9a52, with the external id of the pod",
        "Assumed      an assumption",
    ] {
        assert!(text.lines().any(|written| written == line), "{line}\n{text}");
    }
    assert!(!text.contains("do-not-show") && !report.json().contains("do-not-show"));
}

#[test]
fn a_denied_pod_and_the_command_that_fixes_it() {
    let role = json!({"iam.amazonaws.com/role": "web"});
    let fix = |list: Value| both(role.clone(), list).pods[0].containers[0].answer.command.clone();
    let command = "kubectl annotate namespace shop 'iam.amazonaws.com/allowed-roles=[\"web\"]'";
    assert_eq!(fix(json!({})).as_deref(), Some(command));
    let command = "kubectl annotate namespace shop --overwrite 'iam.amazonaws.com/allowed-roles=[\"db-*\",\"web\"]'";
    assert_eq!(fix(json!({"iam.amazonaws.com/allowed-roles": "[\"db-*\"]"})).as_deref(), Some(command));
    // A quote would end the shell's quoted word, so a pattern that contains one gives no command.
    assert_eq!(fix(json!({"iam.amazonaws.com/allowed-roles": "[\"x';reboot;'\"]"})), None);
    let report = both(role, json!({"iam.amazonaws.com/allowed-roles": "nonsense"}));
    assert_eq!(report.pods[0].containers[0].answer.reason, Some("BadAllowList"));
    assert!(report.text().contains("UNUSABLE"), "{}", report.text());
}

#[test]
fn containers_that_differ_and_one_that_has_not_started() {
    let report = both(
        json!({"iam.amazonaws.com/role": "web", "podrole.dev/role.log": "log", "podrole.dev/role.typo": "x"}),
        json!({"iam.amazonaws.com/allowed-roles": "[\"*\"]"}),
    );
    assert_eq!(report.decision, Verdict::NotReady);
    let [app, log] = report.pods[0].containers.as_slice() else { panic!("{report:?}") };
    assert_eq!((app.id.as_deref(), app.answer.decision, &app.once_started), (Some("aa"), Verdict::Allow, &None));
    assert_eq!((&log.id, log.answer.reason), (&None, Some("container_unknown")));
    let later = log.once_started.as_ref().unwrap();
    assert_eq!(later.role.as_deref(), Some("arn:aws:iam::111122223333:role/log"));
    assert_eq!(later.requested.as_ref().map(|asked| asked.annotation.as_str()), Some("podrole.dev/role.log"));
    let text = report.text();
    assert!(
        text.contains("podrole.dev/role.typo does not match any container of this pod") && text.contains("NET_RAW"),
        "{text}"
    );
}

#[test]
fn a_template_is_explained_like_its_pods() {
    let template = "{metadata: {annotations: {iam.amazonaws.com/role: web}}, spec: {containers: [{name: app}]}}";
    let list = namespace(&json!({"iam.amazonaws.com/allowed-roles": "[\"web\"]"}));
    for (kind, version, spec) in [
        ("Deployment", "apps/v1", format!("spec: {{template: {template}}}")),
        ("StatefulSet", "apps/v1", format!("spec: {{template: {template}}}")),
        ("DaemonSet", "apps/v1", format!("spec: {{template: {template}}}")),
        ("ReplicaSet", "apps/v1", format!("spec: {{template: {template}}}")),
        ("Job", "batch/v1", format!("spec: {{template: {template}}}")),
        ("CronJob", "batch/v1", format!("spec: {{jobTemplate: {{spec: {{template: {template}}}}}}}")),
        ("PodTemplate", "v1", format!("template: {template}")),
        ("Pod", "v1", "spec: {containers: [{name: app}]}".into()),
    ] {
        let own = if kind == "Pod" { "annotations: {iam.amazonaws.com/role: web}" } else { "uid: not-the-pods" };
        let metadata = format!("metadata: {{name: web, namespace: shop, {own}}}");
        let report = explained(&format!("apiVersion: {version}\nkind: {kind}\n{metadata}\n{spec}\n---\n{list}\n"));
        let [pod] = report.pods.as_slice() else { panic!("{kind}: {report:?}") };
        assert_eq!((pod.kind.as_str(), &pod.uid, pod.containers[0].answer.decision), (kind, &None, Verdict::Allow));
        assert_eq!(pod.containers[0].answer.session_name, None, "{kind}: it ends with an unknown UID");
        assert!(report.text().contains("not created yet"), "{}", report.text());
    }
}

#[test]
fn missing_objects_are_reported() {
    let report = explained(&pod(&json!({"iam.amazonaws.com/role": "web"})).to_string());
    assert_eq!(report.decision, Verdict::NotReady);
    assert!(report.text().contains("kubectl get namespace shop -o yaml"), "{}", report.text());

    let error =
        |text: &str, selection: Selection<'_>| explain(&read(text), &terms(), selection).unwrap_err().to_string();
    let everything = Selection::default();
    assert!(error("", everything).contains("found: nothing"));
    assert!(
        error("kind: ConfigMap\n---\nkind: Namespace\nmetadata: {name: a}\n", everything)
            .contains("Namespace, ConfigMap")
    );
    let pod = pod(&json!({})).to_string();
    assert!(error(&pod, Selection { name: Some("other"), ..everything }).contains("available: shop/web-1"));
    assert!(error(&pod, Selection { name: Some("deploy/web-1"), ..everything }).contains("available: shop/web-1"));
    assert!(error(&pod, Selection { container: Some("no"), ..everything }).contains("it has: app, log"));
    for name in ["web-1", "po/web-1", "pods/web-1"] {
        let selection = Selection { name: Some(name), namespace: Some("shop"), container: Some("log") };
        assert_eq!(explain(&read(&pod), &terms(), selection).unwrap().pods[0].containers.len(), 1);
    }
}

#[test]
fn errors_name_the_unreadable_object() {
    for (text, expected) in [
        ("a: [b", "test: neither JSON nor YAML"),
        ("{\"kind\": \"Pod\",}}", "test: neither JSON nor YAML"),
        ("kind: Pod\nmetadata: {name: x, annotations: {iam.amazonaws.com/role: 12}}\nspec: {}", "Pod x: invalid type"),
        ("kind: Pod\nmetadata: {name: x}\nspec: {containers: []}", "Pod x: it has no containers"),
        (
            "kind: Pod\nmetadata: {name: x, uid: 'a b'}\nspec: {containers: [{name: a}]}",
            "Pod x: it has no name or an invalid UID",
        ),
        ("kind: Deployment\nmetadata: {name: x}\napiVersion: apps/v1", "Deployment x: "),
    ] {
        let error = Objects::default().read(text, "test", "default").unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    let twice = format!("{}{}", pod(&json!({})), pod(&json!({})));
    assert!(Objects::default().read(&twice, "test", "default").unwrap_err().to_string().contains("same UID"));
    // A few YAML anchors expand to millions of nodes.
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
                d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
                g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n";
    assert!(Objects::default().read(bomb, "test", "default").is_err());
}

#[test]
fn lists_from_kubectl_are_read() {
    let typed = json!({"apiVersion": "v1", "kind": "PodList", "items": [{
        "metadata": {"name": "web-1", "namespace": "shop", "uid": UID}, "spec": {"containers": [{"name": "app"}]},
    }]});
    assert_eq!(explained(&typed.to_string()).pods[0].name, "web-1");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [pod(&json!({})), namespace(&json!({}))]});
    assert_eq!(explained(&list.to_string()).pods[0].containers[0].answer.reason, Some("NoRole"));
}

/// Anyone who may create pods can choose the text in them.
#[test]
fn text_from_objects_cannot_control_the_terminal() {
    let evil = "\u{1b}]0;pwned\u{7}\u{9b}31m\r\nDecision     ALLOW\u{202e}\u{85}";
    let mut object = pod(&json!({"iam.amazonaws.com/role": evil, "podrole.dev/role.app": evil}));
    object["metadata"]["annotations"][format!("podrole.dev/role.{evil}")] = json!("x");
    object["metadata"]["name"] = json!(evil);
    object["spec"]["nodeName"] = json!(evil);
    object["spec"]["serviceAccountName"] = json!(evil);
    object["spec"]["containers"][1]["name"] = json!(evil);
    let list = namespace(&json!({"iam.amazonaws.com/allowed-roles": evil, "iam.amazonaws.com/permitted": "("}));
    let report = explained(&format!("{object}{list}"));
    let (text, json) = (report.text(), report.json());
    for shown in [&text, &json] {
        assert!(shown.chars().all(|c| c == '\n' || c == ' ' || c.is_ascii_graphic()), "{shown:?}");
    }
    assert!(!text.lines().any(|line| line.starts_with("Decision") && line.contains("ALLOW")), "{text}");
    let read: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(read["pods"][0]["name"], evil, "the value is escaped but unchanged");
}

#[test]
fn long_texts_are_truncated() {
    let report = both(json!({"iam.amazonaws.com/role": "x".repeat(200_000)}), json!({}));
    let asked = report.pods[0].containers[0].answer.requested.clone().unwrap();
    assert!(asked.value.len() < 300 && asked.value.ends_with("(200000 bytes in total)"), "{asked:?}");
    assert!(report.json().len() < 4096);
}
