//! Finds rules of other programs that rewrite packets for the metadata address, in the output of `nft -j list ruleset`. Pure.
//!
//! The ruleset is read as untyped JSON, because other programs, newer versions of nft and iptables-nft (which hides its statements
//! behind `xt`) use expressions that the schema lacks. Unknown expressions are ignored, not treated as errors.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use crate::redirect::ruleset::PRIO_REDIRECT;
use crate::types::is_metadata;

/// podrole's own tables.
const OWN_TABLES: [&str; 2] = ["podrole", "podrole_host"];
/// The nftables statements that change the destination of a packet.
const REWRITES: [&str; 3] = ["dnat", "redirect", "tproxy"];
/// The names of the same three statements in iptables-nft.
const TARGETS: [&str; 3] = ["DNAT", "REDIRECT", "TPROXY"];

/// A rule of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    /// The rule's family, table, chain and priority.
    pub(super) description: String,
    /// The command that removes the rule.
    pub(super) removal: String,
    /// Whether the rule sees pods' packets before podrole's redirect does.
    pub(super) before: bool,
}

/// All rules in `ruleset` that rewrite packets for a metadata address.
pub(super) fn find(ruleset: &Value) -> Vec<Foreign> {
    let rules = Ruleset::new(ruleset);
    rules.foreign_rules().filter(|rule| rules.rewrites_metadata(rule)).filter_map(|rule| rules.foreign(rule)).collect()
}

/// A chain: family, table, name.
type ChainId<'a> = (&'a str, &'a str, &'a str);

struct Ruleset<'a> {
    rules: Vec<&'a Value>,
    chains: Vec<&'a Value>,
    sets: Vec<&'a Value>,
}

// === impl Ruleset ===

impl<'a> Ruleset<'a> {
    fn new(ruleset: &'a Value) -> Self {
        let objects = ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        let of = |kinds: &[&str]| -> Vec<&'a Value> {
            objects.iter().filter_map(|object| kinds.iter().find_map(|kind| object.get(*kind))).collect()
        };
        Self { rules: of(&["rule"]), chains: of(&["chain"]), sets: of(&["set", "map"]) }
    }

    fn foreign_rules(&self) -> impl Iterator<Item = &'a Value> {
        self.rules
            .iter()
            .copied()
            .filter(|rule| !(rule["family"] == "inet" && OWN_TABLES.iter().any(|own| rule["table"] == *own)))
    }

    /// Whether the rule selects a metadata address, and either the rule or a chain that it jumps to rewrites the destination.
    fn rewrites_metadata(&self, rule: &Value) -> bool {
        let for_metadata = statements(rule).any(|(kind, body)| self.selects(rule, kind, body));
        for_metadata && (rewrites(rule) || self.targets(rule).iter().any(|chain| self.rewrites_below(*chain)))
    }

    /// Whether a statement of `rule` selects packets for a metadata address.
    fn selects(&self, rule: &Value, kind: &str, body: &Value) -> bool {
        match kind {
            // Packets from the metadata address, or to any other address, are not requests of pods.
            "match" if body["op"] == "!=" || body["left"]["payload"]["field"] == "saddr" => false,
            "vmap" if body["key"]["payload"]["field"] == "saddr" => false,
            "match" => self.names(rule, &body["right"]),
            "vmap" => self.is_key(rule, &body["data"]),
            // `dnat to ip daddr map { … }` selects the keys of the map. A plain address is the target of the rewrite, not what the
            // rule selects.
            "dnat" => self.is_key(rule, &body["addr"]["map"]["data"]),
            _ => false,
        }
    }

    /// Whether `value`, which may be the name of a set or map, contains a metadata address.
    fn names(&self, rule: &Value, value: &Value) -> bool {
        holds_metadata(self.by_name(rule, value).unwrap_or(value))
    }

    /// Whether `value`, which is a map or the name of a map, has a metadata address as a key.
    fn is_key(&self, rule: &Value, value: &Value) -> bool {
        let data = self.by_name(rule, value).unwrap_or(value);
        let pairs = data.get("set").unwrap_or(data).as_array().map(Vec::as_slice).unwrap_or_default();
        pairs.iter().any(|pair| holds_metadata(&pair[0]))
    }

    /// The elements of the set or map that `value` names, in the table of `rule`.
    fn by_name(&self, rule: &Value, value: &Value) -> Option<&'a Value> {
        let name = value.as_str()?.strip_prefix('@')?;
        let own =
            |set: &&&Value| set["name"] == name && set["table"] == rule["table"] && set["family"] == rule["family"];
        self.sets.iter().find(own).map(|set| &set["elem"])
    }

    /// The chains that are targets of a jump or goto in `rule`.
    fn targets(&self, rule: &'a Value) -> Vec<ChainId<'a>> {
        let (family, table, _) = chain_of(rule);
        let mut targets = Vec::new();
        for (kind, body) in statements(rule) {
            match kind {
                "jump" | "goto" => targets.extend(body["target"].as_str()),
                "vmap" => {
                    collect_targets(self.by_name(rule, &body["data"]).unwrap_or_else(|| &body["data"]), &mut targets)
                }
                _ => {}
            }
        }
        targets.into_iter().map(|chain| (family, table, chain)).collect()
    }

    /// Whether `chain`, or a chain that can be reached from it by jump or goto, has a rule that rewrites the destination.
    fn rewrites_below(&self, chain: ChainId<'a>) -> bool {
        let (mut open, mut seen) = (vec![chain], BTreeSet::new());
        while let Some(chain) = open.pop() {
            for rule in self.rules.iter().copied().filter(|rule| chain_of(rule) == chain) {
                if rewrites(rule) {
                    return true;
                }
                open.extend(self.targets(rule).into_iter().filter(|target| seen.insert(*target)));
            }
        }
        false
    }

    /// The base chains from which a packet can reach `chain`.
    fn bases(&self, chain: ChainId<'a>) -> Vec<&'a Value> {
        let (mut open, mut seen) = (vec![chain], BTreeSet::from([chain]));
        let mut bases = Vec::new();
        while let Some(chain) = open.pop() {
            let own = self
                .chains
                .iter()
                .filter(|base| (text(base, "family"), text(base, "table"), text(base, "name")) == chain);
            bases.extend(own.filter(|base| base["hook"].is_string()));
            let callers =
                self.rules.iter().filter(|rule| self.targets(rule).contains(&chain)).map(|rule| chain_of(rule));
            open.extend(callers.filter(|caller| seen.insert(*caller)));
        }
        bases
    }

    fn foreign(&self, rule: &'a Value) -> Option<Foreign> {
        let (family, table, chain) = chain_of(rule);
        let handle = rule["handle"].as_u64()?;
        let incoming = self.bases((family, table, chain)).into_iter().filter(|base| base["hook"] == "prerouting");
        let priority = incoming.filter_map(|base| base["prio"].as_i64()).min();
        let before = priority.is_some_and(|priority| priority <= i64::from(PRIO_REDIRECT));
        let by = if statements(rule).any(|(kind, _)| kind == "xt") { ", made by iptables" } else { "" };
        let at =
            priority.map_or_else(|| "not for incoming packets".to_owned(), |priority| format!("priority {priority}"));
        Some(Foreign {
            description: format!("a rule for the metadata address in {family} {table} {chain} ({at}{by})"),
            removal: format!("nft delete rule {family} {table} {chain} handle {handle}"),
            before,
        })
    }
}

/// Whether `value` contains a metadata address, either as a plain address or within a prefix, range or list.
fn holds_metadata(value: &Value) -> bool {
    match value {
        Value::String(text) => text.parse().is_ok_and(is_metadata),
        Value::Array(values) => values.iter().any(holds_metadata),
        Value::Object(members) => match (members.get("prefix"), members.get("range")) {
            (Some(prefix), _) => in_prefix(prefix).unwrap_or_default(),
            (None, Some(range)) => in_range(range).unwrap_or_default(),
            (None, None) => members.values().any(holds_metadata),
        },
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn statements(rule: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let statements = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    statements.iter().filter_map(Value::as_object).flatten().map(|(kind, body)| (kind.as_str(), body))
}

fn rewrites(rule: &Value) -> bool {
    statements(rule).any(|(kind, body)| match kind {
        // Older versions of nft list a statement of iptables without its name.
        "xt" => body["name"].as_str().is_none_or(|name| TARGETS.contains(&name)) && body["type"] != "match",
        "mangle" => body["key"]["payload"]["field"] == "daddr",
        kind => REWRITES.contains(&kind),
    })
}

fn collect_targets<'a>(value: &'a Value, targets: &mut Vec<&'a str>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| collect_targets(value, targets)),
        Value::Object(members) => {
            for (name, value) in members {
                match (name.as_str(), value["target"].as_str()) {
                    ("jump" | "goto", Some(target)) => targets.push(target),
                    _ => collect_targets(value, targets),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn chain_of(rule: &Value) -> ChainId<'_> {
    (text(rule, "family"), text(rule, "table"), text(rule, "chain"))
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}

fn in_prefix(prefix: &Value) -> Option<bool> {
    let address: IpAddr = prefix["addr"].as_str()?.parse().ok()?;
    let length = u32::try_from(prefix["len"].as_u64()?).ok()?;
    // A prefix of length 0 matches every address, so such a rule is not specific to the metadata address.
    Some(length > 0 && METADATA.iter().any(|metadata| shares(address, *metadata, length)))
}

fn in_range(range: &Value) -> Option<bool> {
    let end = |at: usize| range[at].as_str()?.parse::<IpAddr>().ok();
    let (first, last) = (end(0)?, end(1)?);
    Some(METADATA.iter().any(|metadata| metadata.is_ipv4() == first.is_ipv4() && (first..=last).contains(metadata)))
}

const METADATA: [IpAddr; 2] = [IpAddr::V4(crate::types::METADATA_V4), IpAddr::V6(crate::types::METADATA_V6)];

fn shares(a: IpAddr, b: IpAddr, length: u32) -> bool {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= length.min(32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= length.min(128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests;
