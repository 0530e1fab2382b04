use serde_json::json;

use super::*;

/// Returns the rules that are found if chain `ip nat PREROUTING` has the priority `prio` and one rule with the statements `expr`.
fn one(prio: i64, expr: Value) -> Vec<Foreign> {
    find(&json!({"nftables": [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "ip", "name": "nat", "handle": 1}},
        {"chain": {"family": "ip", "table": "nat", "name": "PREROUTING", "handle": 1, "type": "nat", "hook": "prerouting", "prio": prio, "policy": "accept"}},
        {"set": {"family": "ip", "table": "nat", "name": "imds", "type": "ipv4_addr", "handle": 4, "elem": ["10.0.0.1", "169.254.169.254"]}},
        {"map": {"family": "ip", "table": "nat", "name": "ways", "type": "ipv4_addr", "map": "verdict", "elem": [["169.254.169.254", {"goto": {"target": "sub"}}]]}},
        {"chain": {"family": "ip", "table": "nat", "name": "sub", "handle": 5}},
        {"chain": {"family": "ip", "table": "nat", "name": "deeper", "handle": 6}},
        {"rule": {"family": "ip", "table": "nat", "chain": "sub", "handle": 7, "expr": [{"jump": {"target": "deeper"}}]}},
        {"rule": {"family": "ip", "table": "nat", "chain": "deeper", "handle": 8, "expr": [{"jump": {"target": "sub"}}, {"counter": null}]}},
        {"rule": {"family": "ip", "table": "nat", "chain": "deeper", "handle": 9, "expr": [{"redirect": {"port": 8181}}]}},
        {"rule": {"family": "ip", "table": "nat", "chain": "PREROUTING", "handle": 2, "expr": expr}},
    ]}))
}

fn daddr(right: Value) -> Value {
    json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": right}})
}

/// nft 1.0.6 lists this for the rule that kube2iam makes with `iptables-nft -t nat -A PREROUTING -i eth+ -d 169.254.169.254/32 -p tcp
/// --dport 80 -j DNAT --to-destination 10.0.0.9:8181`.
#[test]
fn kube2iam() {
    let expr = json!([
        {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": "eth*"}},
        daddr(json!("169.254.169.254")),
        {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80}},
        {"counter": {"packets": 0, "bytes": 0}},
        {"xt": {"type": "target", "name": "DNAT"}},
    ]);
    let found = one(-100, expr);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].removal, "nft delete rule ip nat PREROUTING handle 2");
    assert!(!found[0].before && found[0].description.contains("iptables"), "{found:?}");
}

#[test]
fn every_way_to_name_the_address() {
    let dnat = json!({"dnat": {"addr": "10.0.0.9", "port": 8181}});
    for right in [
        json!("169.254.169.254"),
        json!("@imds"),
        json!({"set": ["10.0.0.1", "169.254.169.254"]}),
        json!({"prefix": {"addr": "169.254.0.0", "len": 16}}),
        json!({"range": ["169.254.169.1", "169.254.169.255"]}),
    ] {
        assert_eq!(one(-100, json!([daddr(right.clone()), dnat])).len(), 1, "{right}");
        assert_eq!(one(-100, json!([daddr(right.clone()), {"jump": {"target": "sub"}}])).len(), 1, "{right}");
        assert_eq!(one(-100, json!([daddr(right.clone()), {"xt": null}])).len(), 1, "{right}");
        assert_eq!(
            one(-100, json!([daddr(right.clone()), {"drop": null}])),
            [],
            "packets for {right} are dropped, not rewritten"
        );
        assert_eq!(one(-100, json!([daddr(right.clone()), {"xt": {"type": "target", "name": "MARK"}}])), [], "{right}");
    }
    let map = json!([{"vmap": {"key": {"payload": {"protocol": "ip", "field": "daddr"}}, "data": {"set": [["169.254.169.254", {"goto": {"target": "sub"}}]]}}}]);
    assert_eq!(one(-100, map).len(), 1);
    let vmap =
        |field: &str| json!([{"vmap": {"key": {"payload": {"protocol": "ip", "field": field}}, "data": "@ways"}}]);
    assert_eq!((one(-100, vmap("daddr")).len(), one(-100, vmap("saddr")).len()), (1, 0));
    let dnat_by = |data: Value| json!([{"dnat": {"addr": {"map": {"key": {"payload": {"protocol": "ip", "field": "daddr"}}, "data": data}}}}]);
    assert_eq!(
        one(-100, dnat_by(json!({"set": [["10.0.0.1", "10.0.0.2"], ["169.254.169.254", "10.0.0.9"]]}))).len(),
        1
    );
    assert_eq!(
        one(-100, dnat_by(json!({"set": [["10.0.0.1", "169.254.169.254"]]}))),
        [],
        "the metadata address is the target here"
    );
    let six = json!([daddr(json!("fd00:ec2::254")), {"redirect": {"port": 1}}]);
    assert_eq!(one(-100, six).len(), 1);
}

#[test]
fn rules_for_other_addresses_are_ignored() {
    let dnat = json!({"dnat": {"addr": "169.254.169.254", "port": 80}});
    for right in [
        json!("169.254.169.253"),
        json!("@nobody"),
        json!({"prefix": {"addr": "10.0.0.0", "len": 8}}),
        json!({"prefix": {"addr": "0.0.0.0", "len": 0}}),
        json!({"range": ["169.254.169.255", "169.254.170.2"]}),
        json!({"range": ["nonsense"]}),
    ] {
        assert_eq!(one(-100, json!([daddr(right.clone()), dnat])), [], "{right}");
    }
    let saddr = json!({"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "169.254.169.254"}});
    assert_eq!(one(-100, json!([saddr, dnat])), []);
    let not = json!({"match": {"op": "!=", "left": {"payload": {"protocol": "ip", "field": "daddr"}}, "right": "169.254.169.254"}});
    assert_eq!(one(-100, json!([not, dnat])), []);
}

#[test]
fn the_priority_decides_which_rule_is_first() {
    let expr = json!([daddr(json!("169.254.169.254")), {"dnat": {"addr": "10.0.0.9"}}]);
    for (prio, before) in [(-300, true), (-191, true), (-190, true), (-189, false), (-100, false)] {
        assert_eq!(one(prio, expr.clone())[0].before, before, "{prio}");
    }
}

/// The priority of a rule is the priority of the earliest base chain from which packets reach the rule's chain.
#[test]
fn chains_are_followed_back_to_their_hook() {
    let rule = |chain: &str, handle: u64, expr: Value| json!({"rule": {"family": "inet", "table": "mesh", "chain": chain, "handle": handle, "expr": expr}});
    let base = |name: &str, hook: &str, prio: i64| json!({"chain": {"family": "inet", "table": "mesh", "name": name, "hook": hook, "prio": prio}});
    let taking = json!([daddr(json!("169.254.169.254")), {"redirect": {"port": 15001}}]);
    let mut objects = vec![base("late", "prerouting", -100), base("out", "output", -300), rule("sub", 9, taking)];
    objects.push(rule("late", 1, json!([{"jump": {"target": "sub"}}])));
    objects.push(rule("out", 2, json!([{"jump": {"target": "sub"}}])));
    let found = find(&json!({"nftables": objects}));
    assert!(found.len() == 1 && !found[0].before, "{found:?}");
    objects.extend([base("early", "prerouting", -250), rule("early", 3, json!([{"goto": {"target": "sub"}}]))]);
    assert!(find(&json!({"nftables": objects}))[0].before);
}

#[test]
fn our_own_rules_are_not_foreign() {
    let expr = json!([daddr(json!("169.254.169.254")), {"dnat": {"addr": "169.254.170.77", "port": 18181}}]);
    let rule = |table: &str| json!({"nftables": [{"rule": {"family": "inet", "table": table, "chain": "redirect_pods", "handle": 3, "expr": expr}}]});
    assert_eq!(find(&rule("podrole")), []);
    assert_eq!(find(&rule("podrole_host")), []);
    assert_eq!(find(&rule("other")).len(), 1);
}

proptest::proptest! {
    /// Any JSON is accepted.
    #[test]
    fn any_json_is_accepted(text in "[\\[\\]{}\",:a-z0-9@.]{0,60}", kind in "(match|vmap|dnat|xt|jump)") {
        let body: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        one(-100, json!([{kind: body.clone()}, body]));
        find(&body);
    }
}
