//! Other people's rules that rewrite what is sent to the metadata address, found in `nft -j list ruleset`. Pure.
//!
//! Read as loose JSON: what others write, a newer nft lists, or iptables-nft hides behind `xt`, no schema knows. What is not
//! understood is passed over, not refused.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use crate::redirect::ruleset::PRIO_REDIRECT;
use crate::types::is_metadata;

/// Our own tables.
const OURS: [&str; 2] = ["podrole", "podrole_host"];
/// Statements that send a packet elsewhere.
const REWRITES: [&str; 3] = ["dnat", "redirect", "tproxy"];
/// What iptables-nft calls them.
const TARGETS: [&str; 3] = ["DNAT", "REDIRECT", "TPROXY"];

/// A rule that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    /// Where it stands.
    pub(super) description: String,
    /// The command that takes it away.
    pub(super) removal: String,
    /// Whether it sees pods' packets before our redirect does.
    pub(super) before: bool,
}

/// Every such rule in `ruleset`.
pub(super) fn find(ruleset: &Value) -> Vec<Foreign> {
    let rules = Ruleset::new(ruleset);
    rules.of_others().filter(|rule| rules.takes_metadata(rule)).filter_map(|rule| rules.foreign(rule)).collect()
}

/// A chain: family, table, name.
type Place<'a> = (&'a str, &'a str, &'a str);

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

    fn of_others(&self) -> impl Iterator<Item = &'a Value> {
        self.rules
            .iter()
            .copied()
            .filter(|rule| !(rule["family"] == "inet" && OURS.iter().any(|own| rule["table"] == *own)))
    }

    /// Whether it is for a metadata address and rewrites, itself or in a chain that it leads to.
    fn takes_metadata(&self, rule: &Value) -> bool {
        let for_metadata = statements(rule).any(|(kind, body)| self.selects(rule, kind, body));
        for_metadata && (rewrites(rule) || self.targets(rule).iter().any(|chain| self.rewrites_below(*chain)))
    }

    fn selects(&self, rule: &Value, kind: &str, body: &Value) -> bool {
        match kind {
            // What is sent from there, or to anywhere but there, is no request of a pod's.
            "match" if body["op"] == "!=" || body["left"]["payload"]["field"] == "saddr" => false,
            "vmap" if body["key"]["payload"]["field"] == "saddr" => false,
            "match" => self.names(rule, &body["right"]),
            "vmap" => self.is_key(rule, &body["data"]),
            // `dnat to ip daddr map { … }`; a plain address there is where it goes, not what it takes.
            "dnat" => self.is_key(rule, &body["addr"]["map"]["data"]),
            _ => false,
        }
    }

    /// Whether a metadata address is in `value`, which may be a set or map by its name.
    fn names(&self, rule: &Value, value: &Value) -> bool {
        holds_metadata(self.by_name(rule, value).unwrap_or(value))
    }

    /// Whether a metadata address is a key of the map `value`, which may be one by its name.
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

    /// Chains that `rule` leads to.
    fn targets(&self, rule: &'a Value) -> Vec<Place<'a>> {
        let (family, table, _) = place(rule);
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

    fn rewrites_below(&self, chain: Place<'a>) -> bool {
        let (mut open, mut seen) = (vec![chain], BTreeSet::new());
        while let Some(chain) = open.pop() {
            for rule in self.rules.iter().copied().filter(|rule| place(rule) == chain) {
                if rewrites(rule) {
                    return true;
                }
                open.extend(self.targets(rule).into_iter().filter(|target| seen.insert(*target)));
            }
        }
        false
    }

    /// The base chains whose packets come to `chain`.
    fn bases(&self, chain: Place<'a>) -> Vec<&'a Value> {
        let (mut open, mut seen) = (vec![chain], BTreeSet::from([chain]));
        let mut bases = Vec::new();
        while let Some(chain) = open.pop() {
            let own = self
                .chains
                .iter()
                .filter(|base| (text(base, "family"), text(base, "table"), text(base, "name")) == chain);
            bases.extend(own.filter(|base| base["hook"].is_string()));
            let callers = self.rules.iter().filter(|rule| self.targets(rule).contains(&chain)).map(|rule| place(rule));
            open.extend(callers.filter(|caller| seen.insert(*caller)));
        }
        bases
    }

    fn foreign(&self, rule: &'a Value) -> Option<Foreign> {
        let (family, table, chain) = place(rule);
        let handle = rule["handle"].as_u64()?;
        let incoming = self.bases((family, table, chain)).into_iter().filter(|base| base["hook"] == "prerouting");
        let priority = incoming.filter_map(|base| base["prio"].as_i64()).min();
        let before = priority.is_some_and(|priority| priority <= i64::from(PRIO_REDIRECT));
        let by = if statements(rule).any(|(kind, _)| kind == "xt") { ", made by iptables" } else { "" };
        let at = priority.map_or_else(|| "not for what comes in".to_owned(), |priority| format!("priority {priority}"));
        Some(Foreign {
            description: format!("a rule for the metadata address in {family} {table} {chain} ({at}{by})"),
            removal: format!("nft delete rule {family} {table} {chain} handle {handle}"),
            before,
        })
    }
}

/// Whether a metadata address is in `value`: as such, in a prefix, a range or a list.
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
        // Older versions of nft say only that there is something of iptables' here.
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

fn place(rule: &Value) -> Place<'_> {
    (text(rule, "family"), text(rule, "table"), text(rule, "chain"))
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_default()
}

fn in_prefix(prefix: &Value) -> Option<bool> {
    let address: IpAddr = prefix["addr"].as_str()?.parse().ok()?;
    let length = u32::try_from(prefix["len"].as_u64()?).ok()?;
    // Everything is not this.
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
