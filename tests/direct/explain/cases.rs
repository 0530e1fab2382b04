//! Random pods, namespaces, service accounts and flags, drawn from values that affect decisions, including invalid ones.

use podrole::types::{BaseArn, RoleArn};
use serde_json::{Map, Value, json};

pub(super) const UID: &str = "3f0c9a52-1111-4222-8333-444455556666";
pub(super) const NODE: &str = "node-7";
const ACCOUNT: &str = "111122223333";

/// One pod and everything that its decision depends on.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) number: u64,
    pub(super) flags: Vec<String>,
    /// The daemon's own roles, which discovery would find and `explain` takes as flags.
    pub(super) own_roles: Vec<String>,
    pub(super) pod: Value,
    pub(super) namespace: Option<Value>,
    pub(super) service_account: Option<Value>,
    /// Container names, with the IDs of those that the statuses show.
    pub(super) containers: Vec<(String, Option<String>)>,
    pub(super) host_network: bool,
}

/// Values of the annotations that name a role.
const ROLES: &[&str] = &[
    "web",
    "web",
    "/web",
    "team/web",
    "  db ",
    "admin",
    "k8s-ro",
    "arn:aws:iam::111122223333:role/web",
    "arn:aws:iam::111122223333:role/team/db",
    "arn:aws:iam::444455556666:role/web",
    "arn:aws-cn:iam::111122223333:role/web",
    "Node-Role",
    "arn:aws:iam::111122223333:role/path/node-role",
    "arn:aws:iam::111122223333:role/hop",
    "hop",
];
/// Invalid values of the same annotations.
const NO_ROLES: &[&str] = &[
    "",
    "a b",
    "we*b",
    "r\r\nX: 1",
    "\u{1b}[31mweb",
    "r\u{f6}le",
    "arn:aws:iam::1:role/web",
    "arn:aws:iam::111122223333:user/web",
    "arn:aws:iam::111122223333:role/",
];
const LISTS: &[&str] = &[
    "[\"*\"]",
    "[\"*\"]",
    "[\"*\"]",
    "[\"web*\", \"db\"]",
    "[\"team/*\"]",
    "[\"arn:aws:iam::*:role/*\"]",
    "[\"arn:aws:iam::444455556666:role/web\"]",
    "[]",
    "web-*",
    "[\"web\", 7]",
    "[\"a b\"]",
];
const EXPRESSIONS: &[&str] = &["web", ".*", "(team/)?(web|db)", "arn:aws:iam::4444.*:role/web", "web-(", ""];
const EXTERNAL_IDS: &[&str] = &["abc", "team:shop/web", "a", "a b"];
const SESSIONS: &[&str] = &["nightly", "a@b.c", "x", "a/b"];
const NAMES: &[&str] = &["app", "side", "log", "init", "debug"];

// === impl Case ===

impl Case {
    pub(super) fn new(seed: u64, number: u64) -> Self {
        let mut random = Random(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let flags = flags(&mut random);
        let own_roles = vec![format!("arn:aws:iam::{ACCOUNT}:role/node-role")];
        let host_network = random.one_in(12);
        let (containers, spec, status) = containers(&mut random, host_network);
        let annotations = pod_annotations(&mut random);
        let account = if random.one_in(3) { json!("deployer") } else { Value::Null };
        let mut spec = spec;
        if !account.is_null() {
            spec["serviceAccountName"] = account.clone();
        }
        let metadata = json!({"namespace": "shop", "name": "web-7c9", "uid": UID, "annotations": annotations});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status});
        let namespace = (!random.one_in(25)).then(|| {
            let annotations = namespace_annotations(&mut random);
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "annotations": annotations}})
        });
        let service_account = (!random.one_in(4)).then(|| {
            let mut annotations = Map::new();
            if !random.one_in(3) {
                annotations.insert("eks.amazonaws.com/role-arn".into(), json!(role(&mut random)));
            }
            let name = account.as_str().unwrap_or("default");
            let metadata = json!({"namespace": "shop", "name": name, "annotations": annotations});
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})
        });
        Self { number, flags, own_roles, pod, namespace, service_account, containers, host_network }
    }

    /// The objects in varying order, because files have no particular order.
    pub(super) fn objects(&self) -> Vec<Value> {
        let all = [self.service_account.clone(), Some(self.pod.clone()), self.namespace.clone()];
        let mut all: Vec<Value> = all.into_iter().flatten().collect();
        let middle = usize::try_from(self.number).unwrap_or(0) % all.len();
        all.rotate_left(middle);
        all
    }

    /// The account that discovery would have found: that of the signing identity.
    pub(super) fn account(&self) -> BaseArn {
        let hop = self.flags.iter().find_map(|flag| flag.strip_prefix("--assume-role-arn="));
        let hop = hop.map(|text| RoleArn::parse(text).unwrap());
        BaseArn::of_account("aws", hop.as_ref().map_or(ACCOUNT, RoleArn::account)).unwrap()
    }

    /// The daemon's flags, and flags for what the daemon discovers.
    pub(super) fn explain_flags(&self) -> Vec<String> {
        let mut flags = self.flags.clone();
        flags.push(format!("--account={ACCOUNT}"));
        flags.extend(self.own_roles.iter().map(|role| format!("--own-role={role}")));
        flags
    }
}

fn flags(random: &mut Random) -> Vec<String> {
    let mut flags = Vec::new();
    let mut maybe = |random: &mut Random, flag: &str, values: &[&str]| {
        if random.one_in(2) {
            flags.push(format!("{flag}={}", random.pick(values)));
        }
    };
    maybe(
        random,
        "--base-role-arn",
        &[
            "arn:aws:iam::111122223333:role/",
            "arn:aws:iam::111122223333:role/team",
            "arn:aws:iam::444455556666:role/",
            "arn:aws-cn:iam::111122223333:role/",
        ],
    );
    maybe(
        random,
        "--role-ceiling",
        &[
            "arn:aws:iam::111122223333:role/*",
            "arn:aws:iam::*:role/*",
            "arn:aws:iam::111122223333:role/web*,arn:aws:iam::444455556666:role/web",
            "arn:aws*",
        ],
    );
    if random.one_in(4) {
        maybe(
            random,
            "--assume-role-arn",
            &["arn:aws:iam::111122223333:role/hop", "arn:aws:iam::444455556666:role/hop"],
        );
    }
    maybe(random, "--session-scope", &["pod", "service-account", "role"]);
    maybe(random, "--allow", &["shop=web,db", "shop=*", "other=*", "shop=arn:aws:iam::444455556666:role/*"]);
    maybe(random, "--require-allow", &["true", "false"]);
    maybe(random, "--container-roles", &["shared", "strict"]);
    maybe(random, "--service-account-roles", &["true", "true", "false"]);
    flags
}

fn role<'a>(random: &mut Random) -> &'a str {
    if random.one_in(6) { random.pick(NO_ROLES) } else { random.pick(ROLES) }
}

fn pod_annotations(random: &mut Random) -> Map<String, Value> {
    let mut annotations = Map::new();
    annotations.insert("example.com/foreign".into(), json!("x"));
    let mut maybe = |random: &mut Random, odds: u64, key: &str, values: &[&str]| {
        if random.one_in(odds) {
            annotations.insert(key.into(), json!(random.pick(values)));
        }
    };
    let (pods, containers) = (role(random), role(random));
    if !random.one_in(4) {
        maybe(random, 1, "iam.amazonaws.com/role", &[pods]);
    }
    maybe(random, 5, "iam.amazonaws.com/external-id", EXTERNAL_IDS);
    maybe(random, 5, "iam.amazonaws.com/session-name", SESSIONS);
    maybe(random, 20, "kubernetes.io/config.hash", &["0123456789abcdef0123456789abcdef", "not-a-hash"]);
    if random.one_in(3) {
        for name in NAMES {
            maybe(random, 3, &format!("podrole.dev/role.{name}"), &[containers, "web", "team/web", ""]);
        }
    }
    annotations
}

fn namespace_annotations(random: &mut Random) -> Map<String, Value> {
    let mut annotations = Map::new();
    let all: [(&str, &[&str], u64); 3] = [
        ("iam.amazonaws.com/allowed-roles", LISTS, 2),
        ("iam.amazonaws.com/permitted", EXPRESSIONS, 4),
        ("iam.amazonaws.com/external-id", EXTERNAL_IDS, 8),
    ];
    for (key, values, odds) in all {
        if random.one_in(odds) {
            annotations.insert(key.into(), json!(random.pick(values)));
        }
    }
    annotations
}

/// Returns container names and IDs, the pod's spec, and the pod's status.
fn containers(random: &mut Random, host_network: bool) -> (Vec<(String, Option<String>)>, Value, Value) {
    let mut containers = Vec::new();
    let mut spec = json!({"nodeName": NODE});
    let mut status = json!({"phase": "Running"});
    for (at, name) in NAMES.iter().enumerate() {
        if at > 0 && random.one_in(2) {
            continue;
        }
        let (list, statuses) = match *name {
            "init" => ("initContainers", "initContainerStatuses"),
            "debug" => ("ephemeralContainers", "ephemeralContainerStatuses"),
            _ => ("containers", "containerStatuses"),
        };
        let mut object = json!({"name": name, "image": "none"});
        if !random.one_in(3) {
            let drop = random.pick(&["ALL", "NET_RAW", "CAP_NET_RAW", "SYS_TIME"]);
            object["securityContext"] = json!({"capabilities": {"drop": [drop]}});
        }
        push(&mut spec[list], object);
        let id = (!random.one_in(8)).then(|| format!("c{at}"));
        if let Some(id) = &id {
            push(&mut status[statuses], json!({"name": name, "containerID": format!("containerd://{id}")}));
        } else if random.one_in(2) {
            push(&mut status[statuses], json!({"name": name, "containerID": ""}));
        }
        containers.push(((*name).to_owned(), id));
    }
    if host_network {
        spec["hostNetwork"] = json!(true);
    }
    if !random.one_in(4) {
        status["podIP"] = json!("10.0.0.1");
        status["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
    }
    if random.one_in(30) {
        status["phase"] = json!(random.pick(&["Succeeded", "Failed"]));
    }
    (containers, spec, status)
}

fn push(list: &mut Value, item: Value) {
    if let Some(items) = list.as_array_mut() {
        items.push(item);
    } else {
        *list = json!([item]);
    }
}

/// The SplitMix64 generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn one_in(&mut self, odds: u64) -> bool {
        self.next().is_multiple_of(odds)
    }

    fn pick<'a>(&mut self, values: &[&'a str]) -> &'a str {
        let at = self.next() % u64::try_from(values.len()).expect("a length");
        values[usize::try_from(at).expect("an index")]
    }
}
