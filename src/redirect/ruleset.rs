//! The table `inet podrole` as a value, built from the nftables crate's types. Pure.
//!
//! The table contains no data of pods, so no pod can change it, and it never has to catch up with the watch.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;

use nftables::batch::Batch;
use nftables::expr::{
    CT, CTDir, Expression, Fib, FibFlag, FibResult, Meta, MetaKey, NamedExpression, Payload, PayloadField,
};
pub use nftables::schema::Nftables;
use nftables::schema::{Chain, NfListObject, NfObject, Rule, Set, SetType, SetTypeValue, Table};
use nftables::stmt::{Counter, JumpTarget, Match, NAT, NATFamily, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::{LISTEN_V4, LISTEN_V6};
use crate::types::{METADATA_PORT, METADATA_V4, METADATA_V6};

/// The name of podrole's table, in the family `inet`.
pub const TABLE: &str = "podrole";

/// The guard's priority. The guard runs before conntrack, so that it sees a packet before anything rewrites the packet.
const PRIO_GUARD: i32 = -300;
/// The redirect's priority. NAT chains must run after conntrack (-200), and kube-proxy's chains have the priority -100.
pub const PRIO_REDIRECT: i32 = -190;

/// The parameters of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    /// Interfaces that lead out of the node; metadata traffic that comes in through one is dropped.
    pub uplinks: Vec<String>,
    /// The port of the podrole instance that serves pods; `None` for the guard without a redirect.
    pub port: Option<u16>,
}

// === impl Ruleset ===

impl Ruleset {
    /// The transaction that replaces the table, whether or not it exists: add, delete, add again. It is a single transaction so that
    /// no packet sees an intermediate state; with two transactions a test leaked 576 of 670 requests.
    pub fn transaction(&self) -> Nftables<'static> {
        let mut batch = Batch::new();
        let table = || NfListObject::Table(Table { family: NfFamily::INet, name: TABLE.into(), handle: None });
        batch.add(table());
        batch.delete(table());
        batch.add(table());
        for object in self.objects() {
            batch.add(object);
        }
        batch.to_nftables()
    }

    /// The transaction that removes the table.
    pub fn removal() -> Nftables<'static> {
        let mut batch = Batch::new();
        let table = || NfListObject::Table(Table { family: NfFamily::INet, name: TABLE.into(), handle: None });
        batch.add(table());
        batch.delete(table());
        batch.to_nftables()
    }

    /// Whether `observed`, as listed by nft, has exactly these chains, sets and rules, with the rules in this order. Counters are
    /// ignored.
    pub fn is_in(&self, observed: &Nftables<'static>) -> bool {
        let wanted: Vec<NfListObject<'static>> = self.objects().map(canonical).collect();
        let found: Vec<NfListObject<'static>> = observed
            .objects
            .iter()
            .filter_map(|object| match object {
                NfObject::ListObject(NfListObject::MetainfoObject(_) | NfListObject::Table(_))
                | NfObject::CmdObject(_) => None,
                NfObject::ListObject(object) => Some(canonical(object.clone())),
            })
            .collect();
        // nft lists the rules chain by chain, not in the order of their creation, so only their order within a chain counts.
        wanted.len() == found.len()
            && wanted.iter().all(|object| found.contains(object))
            && chains_in_order(&wanted) == chains_in_order(&found)
    }

    /// Whether `observed` has the same guard as this ruleset. The table may redirect to any port or to none, because it may
    /// belong to an instance that serves pods.
    pub fn guards_in(&self, observed: &Nftables<'static>) -> bool {
        Self { port: redirect_port(observed), ..self.clone() }.is_in(observed)
    }

    fn objects(&self) -> impl Iterator<Item = NfListObject<'static>> {
        let uplinks = NfListObject::Set(Box::new(Set {
            family: NfFamily::INet,
            table: TABLE.into(),
            name: "uplinks".into(),
            set_type: SetTypeValue::Single(SetType::Ifname),
            elem: (!self.uplinks.is_empty())
                .then(|| self.uplinks.iter().map(|name| Expression::String(name.clone().into())).collect()),
            ..Set::default()
        }));
        let mut objects = vec![
            uplinks,
            base_chain("antispoof", NfChainType::Filter, NfHook::Prerouting, PRIO_GUARD),
            plain_chain("checks"),
            base_chain("redirect_pods", NfChainType::NAT, NfHook::Prerouting, PRIO_REDIRECT),
            base_chain("guard_forward", NfChainType::Filter, NfHook::Forward, PRIO_GUARD),
            base_chain("guard_input", NfChainType::Filter, NfHook::Input, PRIO_GUARD),
            plain_chain("listener"),
            plain_chain("metadata_local"),
        ];
        objects.extend(FAMILIES.iter().flat_map(Family::antispoof));
        objects.extend(checks());
        objects.extend(FAMILIES.iter().filter_map(|family| self.port.map(|port| family.redirect(port))));
        objects.extend(FAMILIES.iter().flat_map(Family::guard_forward));
        objects.extend(FAMILIES.iter().flat_map(Family::guard_input));
        objects.extend(FAMILIES.iter().map(Family::listener));
        objects.push(rule("listener", vec![counter(), drop()]));
        objects.push(rule("metadata_local", vec![tcp_port(METADATA_PORT), accept()]));
        objects.push(rule("metadata_local", vec![counter(), drop()]));
        objects.into_iter()
    }
}

/// The port to which `observed`, podrole's table as listed by nft, redirects pods; `None` if it has no redirect.
pub fn redirect_port(observed: &Nftables<'static>) -> Option<u16> {
    redirects(observed).flat_map(|rule| rule.expr.iter()).find_map(dnat_port)
}

/// The number of connections that `observed` has redirected since the table was created: NAT rules count only the first packet of a
/// connection.
pub fn redirected_packets(observed: &Nftables<'static>) -> usize {
    let packets = |statement: &Statement<'_>| {
        if let Statement::Counter(Counter::Anonymous(Some(counter))) = statement { counter.packets } else { None }
    };
    redirects(observed).flat_map(|rule| rule.expr.iter()).filter_map(packets).sum()
}

fn redirects<'a>(observed: &'a Nftables<'static>) -> impl Iterator<Item = &'a Rule<'static>> {
    let rules = observed.objects.iter().filter_map(|object| {
        if let NfObject::ListObject(NfListObject::Rule(rule)) = object { Some(rule) } else { None }
    });
    rules.filter(|rule| rule.chain == "redirect_pods")
}

/// The uplinks that `observed` contains.
pub fn uplinks_in(observed: &Nftables<'static>) -> Vec<String> {
    let sets = observed.objects.iter().filter_map(|object| {
        if let NfObject::ListObject(NfListObject::Set(set)) = object { set.elem.as_ref() } else { None }
    });
    let names = sets
        .flat_map(|elements| elements.iter())
        .filter_map(|element| if let Expression::String(name) = element { Some(name.to_string()) } else { None });
    names.collect()
}

/// The rules of one address family.
struct Family {
    protocol: &'static str,
    metadata: IpAddr,
    listen: IpAddr,
    ct_daddr: &'static str,
    nat: NATFamily,
}

const FAMILIES: [Family; 2] = [
    Family {
        protocol: "ip",
        metadata: IpAddr::V4(METADATA_V4),
        listen: IpAddr::V4(LISTEN_V4),
        ct_daddr: "ip daddr",
        nat: NATFamily::IP,
    },
    Family {
        protocol: "ip6",
        metadata: IpAddr::V6(METADATA_V6),
        listen: IpAddr::V6(LISTEN_V6),
        ct_daddr: "ip6 daddr",
        nat: NATFamily::IP6,
    },
];

// === impl Family ===

impl Family {
    /// `ip daddr 169.254.169.254 goto checks`
    fn antispoof(&self) -> Vec<NfListObject<'static>> {
        vec![rule("antispoof", vec![self.daddr(self.metadata), goto("checks")])]
    }

    /// `ip daddr 169.254.169.254 tcp dport 80 counter dnat ip to 169.254.170.77:<port>`
    fn redirect(&self, port: u16) -> NfListObject<'static> {
        let dnat = Statement::DNAT(Some(NAT {
            addr: Some(text(self.listen)),
            family: Some(self.nat),
            port: Some(Expression::Number(port.into())),
            flags: None,
        }));
        rule("redirect_pods", vec![self.daddr(self.metadata), tcp_port(METADATA_PORT), counter(), dnat])
    }

    /// `ip daddr 169.254.169.254 counter drop` and `ct original ip daddr 169.254.169.254 counter drop`. Both are needed: an earlier
    /// NAT chain of another program bypasses the first, and `notrack` bypasses the second.
    fn guard_forward(&self) -> Vec<NfListObject<'static>> {
        vec![
            rule("guard_forward", vec![self.daddr(self.metadata), counter(), drop()]),
            rule("guard_forward", vec![self.ct_original(), counter(), drop()]),
        ]
    }

    /// `ip daddr 169.254.170.77 goto listener`; `ip daddr 169.254.169.254 goto metadata_local`: packets that the routing guard
    /// delivers here reach port 80 only, and no other service that listens on all addresses.
    fn guard_input(&self) -> Vec<NfListObject<'static>> {
        vec![
            rule("guard_input", vec![self.daddr(self.listen), goto("listener")]),
            rule("guard_input", vec![self.daddr(self.metadata), goto("metadata_local")]),
        ]
    }

    /// `ct status dnat ct original ip daddr 169.254.169.254 accept`: only redirected connections reach the listener.
    fn listener(&self) -> NfListObject<'static> {
        let status = named(NamedExpression::CT(CT { key: "status".into(), family: None, dir: None }));
        let dnat = matches(status, Operator::IN, Expression::String("dnat".into()));
        rule("listener", vec![dnat, self.ct_original(), accept()])
    }

    fn daddr(&self, address: IpAddr) -> Statement<'static> {
        matches(payload(self.protocol, "daddr"), Operator::EQ, text(address))
    }

    fn ct_original(&self) -> Statement<'static> {
        let daddr = CT { key: self.ct_daddr.into(), family: None, dir: Some(CTDir::Original) };
        matches(named(NamedExpression::CT(daddr)), Operator::EQ, text(self.metadata))
    }
}

/// `iifname @uplinks counter drop`; `fib saddr . iif oif missing counter drop`: a source address that is not routed back through the
/// incoming interface is forged.
fn checks() -> [NfListObject<'static>; 2] {
    let iifname = named(NamedExpression::Meta(Meta { key: MetaKey::Iifname }));
    let fib = Fib { result: FibResult::Oif, flags: HashSet::from([FibFlag::Saddr, FibFlag::Iif]) };
    let missing = matches(named(NamedExpression::Fib(fib)), Operator::EQ, Expression::Boolean(false));
    [
        rule("checks", vec![matches(iifname, Operator::EQ, Expression::String("@uplinks".into())), counter(), drop()]),
        rule("checks", vec![missing, counter(), drop()]),
    ]
}

fn base_chain(name: &'static str, kind: NfChainType, hook: NfHook, prio: i32) -> NfListObject<'static> {
    NfListObject::Chain(Chain {
        family: NfFamily::INet,
        table: TABLE.into(),
        name: name.into(),
        _type: Some(kind),
        hook: Some(hook),
        prio: Some(prio),
        policy: Some(NfChainPolicy::Accept),
        ..Chain::default()
    })
}

fn plain_chain(name: &'static str) -> NfListObject<'static> {
    NfListObject::Chain(Chain { family: NfFamily::INet, table: TABLE.into(), name: name.into(), ..Chain::default() })
}

fn rule(chain: &'static str, expr: Vec<Statement<'static>>) -> NfListObject<'static> {
    NfListObject::Rule(Rule {
        family: NfFamily::INet,
        table: TABLE.into(),
        chain: chain.into(),
        expr: expr.into(),
        ..Rule::default()
    })
}

fn matches(left: Expression<'static>, op: Operator, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op })
}

fn named(expression: NamedExpression<'static>) -> Expression<'static> {
    Expression::Named(expression)
}

fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    named(NamedExpression::Payload(Payload::PayloadField(PayloadField {
        protocol: protocol.into(),
        field: field.into(),
    })))
}

fn tcp_port(port: u16) -> Statement<'static> {
    matches(payload("tcp", "dport"), Operator::EQ, Expression::Number(port.into()))
}

fn text(address: IpAddr) -> Expression<'static> {
    Expression::String(Cow::Owned(address.to_string()))
}

fn counter() -> Statement<'static> {
    Statement::Counter(Counter::Anonymous(None))
}

fn accept() -> Statement<'static> {
    Statement::Accept(None)
}

fn drop() -> Statement<'static> {
    Statement::Drop(None)
}

fn goto(target: &'static str) -> Statement<'static> {
    Statement::Goto(JumpTarget { target: target.into() })
}

/// `object` without the parts that do not count in a comparison: handles and counters.
fn canonical(object: NfListObject<'static>) -> NfListObject<'static> {
    if let NfListObject::Chain(chain) = object {
        NfListObject::Chain(Chain { handle: None, ..chain })
    } else if let NfListObject::Set(set) = object {
        NfListObject::Set(Box::new(Set { handle: None, flags: None, ..*set }))
    } else if let NfListObject::Rule(rule) = object {
        let counts = |statement: &&Statement<'_>| matches!(statement, Statement::Counter(_));
        let expr: Vec<Statement<'_>> = rule.expr.iter().filter(|statement| !counts(statement)).cloned().collect();
        NfListObject::Rule(Rule { handle: None, expr: expr.into(), ..rule })
    } else {
        object
    }
}

fn dnat_port(statement: &Statement<'_>) -> Option<u16> {
    if let Statement::DNAT(Some(NAT { port: Some(Expression::Number(port)), .. })) = statement {
        u16::try_from(*port).ok()
    } else {
        None
    }
}

fn chains_in_order<'a, 'b>(objects: &'a [NfListObject<'b>]) -> Vec<(&'a str, Vec<&'a Rule<'b>>)> {
    let mut chains: Vec<(&str, Vec<&Rule<'_>>)> = Vec::new();
    for object in objects {
        if let NfListObject::Rule(rule) = object {
            match chains.iter_mut().find(|(name, _)| *name == rule.chain) {
                Some((_, rules)) => rules.push(rule),
                None => chains.push((&rule.chain, vec![rule])),
            }
        }
    }
    chains.sort_by_key(|(name, _)| *name);
    chains
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_by_content() {
        let full = Ruleset { uplinks: vec!["eth0".into()], port: Some(18181) };
        let listed = |ruleset: &Ruleset| Nftables { objects: ruleset.objects().map(NfObject::ListObject).collect() };
        assert!(full.is_in(&listed(&full)));
        for other in [
            Ruleset { port: Some(18182), ..full.clone() },
            Ruleset { port: None, ..full.clone() },
            Ruleset { uplinks: vec![], ..full.clone() },
        ] {
            assert!(!full.is_in(&listed(&other)), "{other:?}");
        }
    }

    #[test]
    fn an_added_accept_rule_is_detected() {
        let full = Ruleset { uplinks: vec![], port: None };
        let mut objects: Vec<NfListObject<'static>> = full.objects().collect();
        objects.push(rule("guard_forward", vec![accept()]));
        let observed = Nftables { objects: objects.into_iter().map(NfObject::ListObject).collect() };
        assert!(!full.is_in(&observed));
    }

    #[test]
    fn one_transaction_replaces_the_table() {
        let json = serde_json::to_value(Ruleset { uplinks: vec![], port: Some(1) }.transaction()).unwrap();
        let first: Vec<String> = json["nftables"]
            .as_array()
            .unwrap()
            .iter()
            .take(3)
            .map(|o| o.as_object().unwrap().keys().next().unwrap().clone())
            .collect();
        assert_eq!(first, ["add", "delete", "add"]);
        assert!(json.to_string().contains(r#"{"dnat":{"addr":"169.254.170.77","family":"ip","port":1}}"#), "{json}");
    }
}
