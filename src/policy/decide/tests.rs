use std::net::IpAddr;

use super::*;
use crate::policy::{ContainerRoles, Rules, SessionScope};
use crate::types::{AllowList, BaseArn, ContainerRole, Glob, PodUid, RoleError};

const ACCOUNT: &str = "arn:aws:iam::111122223333:role/";

fn rules() -> Rules {
    Rules {
        base: BaseArn::parse(ACCOUNT).unwrap(),
        ceiling: vec![Glob::parse(&format!("{ACCOUNT}*")).unwrap()],
        own_roles: vec![RoleArn::parse(&format!("{ACCOUNT}nodes/node-role")).unwrap()],
        require_allow: true,
        allow: std::collections::HashMap::new(),
        container_roles: ContainerRoles::Shared,
        session_scope: SessionScope::Pod,
        node: "node-1".into(),
    }
}

fn pod(role: &str) -> PodEntry {
    PodEntry {
        uid: PodUid::parse("3f0c9a52-1111-2222-3333-444455556666").unwrap(),
        cgroup_uid: None,
        namespace: "shop".into(),
        name: "web-1".into(),
        service_account: "web".into(),
        ips: Box::new([IpAddr::from([10, 0, 0, 1])]),
        host_network: false,
        finished: false,
        siblings_may_read: true,
        role: (!role.is_empty()).then(|| {
            RoleRef::parse(role).map_err(|error| BadAnnotation::Role { key: AnnotationKey::Role.name().into(), error })
        }),
        external_id: None,
        session_name: None,
        container_roles: Box::default(),
        containers: Box::new([(id("aa"), "app".into()), (id("bb"), "side".into())]),
    }
}

fn namespace(allowed: Option<&str>) -> NamespaceEntry {
    NamespaceEntry {
        name: "shop".into(),
        allowed_roles: allowed.map(|text| {
            AllowList::from_json(text)
                .map_err(|error| BadAnnotation::AllowList { key: AnnotationKey::AllowedRoles.name().into(), error })
        }),
        permitted: None,
        external_id: None,
        imds_v1: false,
    }
}

fn id(text: &str) -> ContainerId {
    ContainerId::parse(text).unwrap()
}

fn decide(rules: &Rules, pod: &PodEntry, namespace: &NamespaceEntry) -> Decision {
    decide_for(rules, pod, namespace, "aa")
}

fn decide_for(rules: &Rules, pod: &PodEntry, namespace: &NamespaceEntry, container: &str) -> Decision {
    rules.decide(Subject {
        pod,
        container: Some(&id(container)),
        namespace: Some(namespace),
        service_account: ServiceAccount::Off,
    })
}

fn role_of(decision: Decision) -> Result<String, &'static str> {
    match decision {
        Decision::Allow(grant) => Ok(grant.role.path_and_name().to_owned()),
        Decision::Deny(reason) => Err(reason.denial().name()),
        Decision::NotReady(NotReady::Container) => Err("wait for the container"),
        Decision::NotReady(NotReady::Namespace) => Err("wait for the namespace"),
        Decision::NotReady(NotReady::ServiceAccount) => Err("wait for the service account"),
    }
}

#[test]
fn deny_by_default() {
    let all = namespace(Some(r#"["*"]"#));
    for (role, ns, expected) in [
        ("web", namespace(Some(r#"["web"]"#)), Ok("web".to_owned())),
        ("web", namespace(Some(r#"["db-*"]"#)), Err("NamespaceNotPermitted")),
        ("web", namespace(Some("[]")), Err("NamespaceNotPermitted")),
        ("web", namespace(None), Err("NamespaceNotPermitted")),
        ("web", namespace(Some("web")), Err("BadAllowList")),
        ("", all.clone(), Err("NoRole")),
        ("we b", all.clone(), Err("BadRole")),
        ("arn:aws:iam::444455556666:role/x", all.clone(), Err("AboveCeiling")),
        (
            "arn:aws:iam::444455556666:role/x",
            namespace(Some(r#"["arn:aws:iam::444455556666:*"]"#)),
            Err("AboveCeiling"),
        ),
        ("node-role", all.clone(), Err("OwnRole")),
        ("other/path/Node-Role", all.clone(), Err("OwnRole")),
    ] {
        assert_eq!(role_of(decide(&rules(), &pod(role), &ns)), expected, "{role} {ns:?}");
    }
}

#[test]
fn without_require_allow_only_a_missing_list_allows() {
    let rules = Rules { require_allow: false, ..rules() };
    assert_eq!(role_of(decide(&rules, &pod("web"), &namespace(None))), Ok("web".into()));
    assert_eq!(role_of(decide(&rules, &pod("web"), &namespace(Some("[]")))), Err("NamespaceNotPermitted"));
    assert_eq!(role_of(decide(&rules, &pod("web"), &namespace(Some("nonsense")))), Err("BadAllowList"));
}

#[test]
fn the_administrators_list_adds() {
    let mut rules = rules();
    rules.allow.insert("shop".into(), AllowList::from_globs(["web"].into_iter()).unwrap());
    assert_eq!(role_of(decide(&rules, &pod("web"), &namespace(None))), Ok("web".into()));
    assert_eq!(role_of(decide(&rules, &pod("db"), &namespace(Some(r#"["db"]"#)))), Ok("db".into()));
    assert_eq!(role_of(decide(&rules, &pod("x"), &namespace(None))), Err("NamespaceNotPermitted"));
}

/// The lists that an explanation shows are the ones that the decision uses.
#[test]
fn the_lists_that_hold_are_those_that_decide() {
    let mut rules = rules();
    rules.allow.insert("shop".into(), AllowList::from_globs(["web*"].into_iter()).unwrap());
    let permitted = Some(Ok(AllowList::from_regex("web-1|db").unwrap()));
    let ns = NamespaceEntry { permitted, ..namespace(Some("unreadable")) };
    let sources: Vec<ListSource> = rules.lists("shop", Some(&ns)).map(|(source, _)| source).collect();
    assert_eq!(sources, [ListSource::AllowedRoles, ListSource::Permitted, ListSource::Admin]);
    for (name, expected) in [
        ("web-1", vec![ListSource::Permitted, ListSource::Admin]),
        ("web-2", vec![ListSource::Admin]),
        ("db", vec![ListSource::Permitted]),
        ("x", vec![]),
    ] {
        let pod = pod(name);
        let role = rules.role_of(RoleSource::Pod(pod.role.as_ref().unwrap())).unwrap();
        assert!(rules.under_ceiling(&role));
        assert_eq!(rules.lists_holding(&role, "shop", Some(&ns)).collect::<Vec<_>>(), expected, "{name}");
        let decided = if expected.is_empty() { Err("BadAllowList") } else { Ok(name.to_owned()) };
        assert_eq!(role_of(decide(&rules, &pod, &ns)), decided, "{name}");
    }
    let unseen: Vec<ListSource> = rules.lists("shop", None).map(|(source, _)| source).collect();
    assert_eq!(unseen, [ListSource::Admin]);
    assert_eq!(rules.lists("other", None).count(), 0);
}

#[test]
fn kiams_list_is_a_regular_expression() {
    let permitted =
        |text: &str| NamespaceEntry { permitted: Some(Ok(AllowList::from_regex(text).unwrap())), ..namespace(None) };
    assert_eq!(role_of(decide(&rules(), &pod("web-1"), &permitted("web-.*"))), Ok("web-1".into()));
    assert_eq!(role_of(decide(&rules(), &pod("web-1"), &permitted("web-"))), Err("NamespaceNotPermitted"));
}

#[test]
fn a_namespace_not_seen_is_not_a_denial() {
    let subject = Subject { pod: &pod("web"), container: None, namespace: None, service_account: ServiceAccount::Off };
    assert_eq!(rules().decide(subject), Decision::NotReady(NotReady::Namespace));
}

#[test]
fn per_container_roles() {
    let over = |name: &str, role: Annotated| ContainerRole { container: name.into(), role };
    type Annotated = Result<Option<RoleRef>, BadAnnotation>;
    let named = |role: &str| Ok(Some(RoleRef::parse(role).unwrap()));
    let bad = || Err(BadAnnotation::Role { key: "podrole.dev/role.side".into(), error: RoleError::Character });
    let ns = namespace(Some(r#"["*"]"#));
    let with = |overs: Vec<ContainerRole>| PodEntry { container_roles: overs.into(), ..pod("web") };

    let two = with(vec![over("side", named("db"))]);
    assert_eq!(role_of(decide_for(&rules(), &two, &ns, "aa")), Ok("web".into()));
    assert_eq!(role_of(decide_for(&rules(), &two, &ns, "bb")), Ok("db".into()));
    assert_eq!(role_of(decide_for(&rules(), &two, &ns, "cc")), Err("wait for the container"));
    assert_eq!(role_of(decide_for(&rules(), &with(vec![over("side", Ok(None))]), &ns, "bb")), Err("NoRole"));
    assert_eq!(role_of(decide_for(&rules(), &with(vec![over("side", bad())]), &ns, "bb")), Err("BadRole"));
    assert_eq!(role_of(decide_for(&rules(), &with(vec![over("side", bad())]), &ns, "aa")), Ok("web".into()));

    let strict = Rules { container_roles: ContainerRoles::Strict, ..rules() };
    assert_eq!(role_of(decide_for(&strict, &two, &ns, "aa")), Err("ContainerRolesRefused"));
    let quiet = PodEntry { siblings_may_read: false, ..two };
    assert_eq!(role_of(decide_for(&strict, &quiet, &ns, "bb")), Ok("db".into()));
}

#[test]
fn service_account_is_the_last_source() {
    let account = |role: &str| ServiceAccountEntry {
        namespace: "shop".into(),
        name: "web".into(),
        role: Some(Ok(RoleRef::parse(role).unwrap())),
    };
    let ns = namespace(Some(r#"["*"]"#));
    let ask = |pod: &PodEntry, service_account: ServiceAccount<'_>| {
        role_of(rules().decide(Subject { pod, container: None, namespace: Some(&ns), service_account }))
    };
    assert_eq!(ask(&pod(""), ServiceAccount::Seen(&account("irsa"))), Ok("irsa".into()));
    assert_eq!(ask(&pod("web"), ServiceAccount::Seen(&account("irsa"))), Ok("web".into()));
    assert_eq!(ask(&pod(""), ServiceAccount::Unseen), Err("wait for the service account"));
    assert_eq!(ask(&pod("web"), ServiceAccount::Unseen), Ok("web".into()));
}

#[test]
fn external_id_and_session_name() {
    let ext = |text: &str| Some(Ok(ExternalId::parse(text).unwrap()));
    let asked = PodEntry { external_id: ext("pods-own"), session_name: Some(Ok("mine".into())), ..pod("web") };
    let grant = |pod: &PodEntry, ns: &NamespaceEntry| match decide(&rules(), pod, ns) {
        Decision::Allow(grant) => grant,
        other @ (Decision::Deny(_) | Decision::NotReady(_)) => panic!("{other:?}"),
    };
    let ns = namespace(Some(r#"["*"]"#));
    let own = grant(&asked, &ns);
    assert_eq!((own.external_id, own.session_name.as_str()), (ext("pods-own").unwrap().ok(), "shop.mine.3f0c9a52"));
    let over = NamespaceEntry { external_id: ext("namespaces"), ..ns.clone() };
    assert_eq!(grant(&asked, &over).external_id, ext("namespaces").unwrap().ok());
    assert_eq!(grant(&pod("web"), &ns).session_name.as_str(), "shop.web.3f0c9a52");

    let bad = PodEntry { session_name: Some(Ok("a b".into())), ..pod("web") };
    assert_eq!(role_of(decide(&rules(), &bad, &ns)), Err("BadSessionName"));
}

#[test]
fn a_finished_pod_has_no_right() {
    let ended = PodEntry { finished: true, ..pod("web") };
    assert_eq!(role_of(decide(&rules(), &ended, &namespace(Some(r#"["*"]"#)))), Err("PodFinished"));
}
