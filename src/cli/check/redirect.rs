//! Checks the two guards, the redirect to podrole, and rules of other programs that interfere.

use crate::caller::self_test::missing_net_admin;
use crate::config::Config;
use crate::redirect::RedirectError;
use crate::redirect::nft::Nft;
use crate::redirect::routing::Routing;
use crate::redirect::ruleset::{Nftables, Ruleset, redirect_port, redirected_packets, uplinks_in};

use super::foreign::{self, Foreign};
use super::table::Check;
use super::{Findings, Outcome};

/// Interfaces that Cilium creates on every node.
const CILIUM: [&str; 2] = ["cilium_host", "cilium_net"];
/// The checks that need nft.
const NFT: [Check; 7] = [
    Check::NftRuns,
    Check::NftAccepts,
    Check::TableGuard,
    Check::Redirected,
    Check::Counting,
    Check::ForeignBefore,
    Check::ForeignBehind,
];

pub(super) async fn check_redirect(config: &Config, findings: &Findings) {
    let routing = Routing::open();
    let by_routing = async {
        match &routing {
            Ok(routing) => {
                findings.put(Check::RoutingGuard, routing_guard(routing).await);
                findings.put(Check::EbpfDatapath, datapath(routing).await);
            }
            Err(error) => findings.skip(&[Check::RoutingGuard, Check::EbpfDatapath], &error.to_string()),
        }
    };
    let by_nft = async {
        if missing_net_admin().is_some() {
            return findings.skip(&NFT, "nft needs CAP_NET_ADMIN (PR-N04)");
        }
        let uplinks = match &routing {
            Ok(routing) => routing.uplinks().await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        check_nft(config, uplinks, findings).await;
    };
    tokio::join!(by_routing, by_nft);
}

async fn routing_guard(routing: &Routing) -> Outcome {
    match routing.missing().await {
        Ok(missing) if missing.is_empty() => Outcome::ok("rules and local routes for both metadata addresses"),
        Ok(missing) => Outcome::failed(format!("missing: {}", missing.join(", "))),
        Err(error) => Outcome::failed(error.to_string()),
    }
}

async fn datapath(routing: &Routing) -> Outcome {
    match routing.interfaces().await {
        Ok(names) => match names.iter().find(|name| CILIUM.contains(&name.as_str())) {
            Some(name) => Outcome::failed(format!("the node has the interface {name}")),
            None => Outcome::ok("no interface of Cilium"),
        },
        Err(error) => Outcome::skipped(error.to_string()),
    }
}

async fn check_nft(config: &Config, uplinks: Vec<String>, findings: &Findings) {
    let found = async {
        let nft = Nft::find()?;
        let version = nft.version().await?;
        Ok::<_, RedirectError>((nft, version))
    };
    let nft = match found.await {
        Ok((nft, version)) => {
            findings.put(Check::NftRuns, Outcome::ok(format!("nft {version}")));
            nft
        }
        Err(error) => {
            findings.put(Check::NftRuns, Outcome::failed(error.to_string()));
            return findings.skip(&NFT[1..], "nft does not run (PR-R01)");
        }
    };
    let whole = Ruleset { uplinks, port: Some(*config.ports.start()) };
    findings.put(
        Check::NftAccepts,
        match nft.rehearse(&whole).await {
            Ok(()) => Outcome::ok("nft and the kernel would accept them"),
            Err(error) => Outcome::failed(error.to_string()),
        },
    );
    check_table(config, &nft, &whole, findings).await;
    check_foreign_rules(&nft, findings).await;
}

/// Checks that podrole's table exists, that nobody has changed it, that it redirects to a port of `--port-range`, and that it has
/// counted connections.
async fn check_table(config: &Config, nft: &Nft, whole: &Ruleset, findings: &Findings) {
    let observed = match nft.observe().await {
        Ok(Some(observed)) => observed,
        Ok(None) => {
            findings.put(Check::TableGuard, Outcome::failed("there is no table inet podrole"));
            return findings.skip(&[Check::Redirected, Check::Counting], "there is no table inet podrole (PR-R03)");
        }
        Err(error) => {
            findings.put(Check::TableGuard, Outcome::failed(error.to_string()));
            return findings.skip(&[Check::Redirected, Check::Counting], "cannot read the table (PR-R03)");
        }
    };
    findings.put(Check::TableGuard, compare(whole, &observed));
    let port = redirect_port(&observed);
    let Some(port) = port.filter(|port| config.ports.contains(port)) else {
        let range = format!("{}-{}", config.ports.start(), config.ports.end());
        let found = match port {
            Some(port) => format!("requests are redirected to port {port}, which is not in {range}"),
            None => "requests are not redirected: the table only guards".to_owned(),
        };
        findings.put(Check::Redirected, Outcome::failed(found));
        return findings.skip(&[Check::Counting], "there is no redirect that could count (PR-R04)");
    };
    findings.put(Check::Redirected, Outcome::ok(format!("to port {port}")));
    findings.put(
        Check::Counting,
        match redirected_packets(&observed) {
            0 => Outcome::failed("0 connections since the redirect was set"),
            counted => Outcome::ok(format!("{counted} connections since the redirect was set")),
        },
    );
}

fn compare(whole: &Ruleset, observed: &Nftables<'static>) -> Outcome {
    let uplinks = whole.uplinks.join(", ");
    if whole.guards_in(observed) {
        return Outcome::ok(format!("complete, for the uplinks {uplinks}"));
    }
    let known = uplinks_in(observed);
    if (Ruleset { uplinks: known.clone(), ..whole.clone() }).guards_in(observed) {
        let known = known.join(", ");
        return Outcome::failed(format!(
            "it was written for the uplinks {known}; the node's uplinks are now {uplinks}"
        ));
    }
    Outcome::failed(format!(
        "the table differs from the one that podrole writes for the uplinks {uplinks}: rules are missing, changed or added"
    ))
}

/// Checks the rules of other programs for the metadata addresses.
async fn check_foreign_rules(nft: &Nft, findings: &Findings) {
    let found = match nft.everything().await {
        Ok(ruleset) => foreign::find(&ruleset),
        Err(error) => return findings.skip(&[Check::ForeignBefore, Check::ForeignBehind], &error.to_string()),
    };
    let (before, behind): (Vec<Foreign>, Vec<Foreign>) = found.into_iter().partition(|rule| rule.before);
    findings.put(Check::ForeignBefore, list(&before));
    let legacy = legacy_nat();
    let behind = match (list(&behind), legacy) {
        (Outcome::Failed { found, fix }, Some(note)) => Outcome::Failed { found: format!("{found}\n{note}"), fix },
        // The check does not pass in this case, because the rules of iptables-legacy were not read.
        (Outcome::Ok(_) | Outcome::Skipped(_), Some(note)) => Outcome::skipped(format!("none in nftables, but {note}")),
        (outcome, None) => outcome,
    };
    findings.put(Check::ForeignBehind, behind);
}

fn list(rules: &[Foreign]) -> Outcome {
    if rules.is_empty() {
        return Outcome::ok("none in nftables");
    }
    let lines = |of: fn(&Foreign) -> &str| rules.iter().map(of).collect::<Vec<_>>().join("\n");
    Outcome::failed(lines(|rule| &rule.description)).fix(lines(|rule| &rule.removal))
}

/// Returns a note if iptables-legacy has a nat table. nft does not see its rules, and the kernel lists only the names of its
/// tables.
fn legacy_nat() -> Option<String> {
    let names = ["/proc/self/net/ip_tables_names", "/proc/self/net/ip6_tables_names"];
    let texts = names.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    texts
        .into_iter()
        .any(|text| has_nat(&text))
        .then(|| "iptables-legacy has a nat table, whose rules podrole cannot read; run: iptables-legacy -t nat -S | grep 169.254.169.254".into())
}

fn has_nat(names: &str) -> bool {
    names.lines().any(|name| name.trim() == "nat")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legacy_nat_table_is_detected() {
        assert!(has_nat("filter\nnat\n") && !has_nat("") && !has_nat("filter\nraw\n"));
    }
}
