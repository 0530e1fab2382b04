//! Nodes with wrong rules, podrole's or other programs'.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use podrole::cli::check::table::Check;
use podrole_lab::node::{METADATA_V4, METADATA_V6};
use podrole_lab::proc;
use podrole_lab::rig::Rig;
use podrole_lab::world::{Trial, skip};

use crate::Case;
use crate::support::{Node, SOON, TEAM, check, fails, healthy, nft, on_node, passes, rig};

pub(crate) const CASES: &[Case] = &[
    (Check::NftRuns, Trial::new("r01_no_nft_and_one_that_does_not_run", nft_runs)),
    (Check::NftAccepts, Trial::new("r02_a_table_of_this_name_that_another_program_owns", nft_accepts)),
    (Check::TableGuard, Trial::new("r03_a_changed_table_and_a_missing_one", table)),
    (Check::Redirected, Trial::new("r04_a_redirect_to_another_port_and_none", redirected)),
    (Check::Counting, Trial::new("r05_a_redirect_that_counts_nothing", counting)),
    (Check::RoutingGuard, Trial::new("r06_each_rule_and_route_of_the_routing_guard_missing", routing)),
    (Check::ForeignBefore, Trial::new("r07_a_rule_of_another_program_before_podroles", foreign_before)),
    (Check::ForeignBehind, Trial::new("r08_a_rule_that_kube2iam_left_behind", foreign_behind)),
    (Check::EbpfDatapath, Trial::new("r09_an_interface_of_cilium", ebpf)),
];

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("r08_the_rule_of_kube2iam_by_iptables", kube2iam),
    // Newer kernels are built without iptables-legacy.
    Trial::new("r08_unread_rules_of_iptables_legacy_are_reported", legacy).may_skip(),
];

fn nft_runs() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::NftRuns)?;
    on_node(&rig, "mount --bind /dev/null /usr/sbin/nft")?;
    let said = fails(&rig, &[], Check::NftRuns, &[])?;
    ensure!(
        said.result(Check::TableGuard)? == "skipped" && said.result(Check::RoutingGuard)? == "ok",
        "{:#}",
        said.report
    );
    on_node(&rig, "umount /usr/sbin/nft")?;
    passes(&rig, &[], Check::NftRuns)?;
    on_node(&rig, "mount -t tmpfs none /usr/sbin")?;
    let said = fails(&rig, &[], Check::NftRuns, &[])?;
    ensure!(said.found(Check::NftRuns)?.contains("no nft binary"), "{}", said.found(Check::NftRuns)?);
    on_node(&rig, "umount /usr/sbin")?;
    passes(&rig, &[], Check::NftRuns)
}

fn nft_accepts() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::NftAccepts)?;
    let mut owner = rig.node.command();
    let mut owner = owner.args(["nft", "-i"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    let mut stdin = owner.stdin.take().context("nft has a standard input")?;
    stdin.write_all(b"delete table inet podrole\nadd table inet podrole { flags owner; }\n")?;
    proc::until("the other program's table", SOON, || {
        Ok(on_node(&rig, "nft list ruleset inet")?.contains("flags owner").then_some(()))
    })?;
    // The table guard is missing as well.
    let said = fails(&rig, &[], Check::NftAccepts, &[Check::TableGuard])?;
    ensure!(said.result(Check::Redirected)? == "skipped", "{:#}", said.report);
    ensure!(said.found(Check::NftAccepts)?.contains("not permitted"), "{}", said.found(Check::NftAccepts)?);
    drop(stdin);
    owner.wait()?;
    // The kernel removes the table with its owner.
    fails(&rig, &[], Check::TableGuard, &[]).map(drop)
}

fn table() -> Result<()> {
    let Node { mut rig, pod } = healthy()?;
    passes(&rig, &[], Check::TableGuard)?;
    nft(&rig, "insert rule inet podrole guard_forward accept")?;
    fails(&rig, &[], Check::TableGuard, &[])?;
    // The fix of the page works.
    again(&mut rig, &pod)?;
    nft(&rig, "flush chain inet podrole antispoof")?;
    fails(&rig, &[], Check::TableGuard, &[])?;
    nft(&rig, "flush ruleset")?;
    let said = fails(&rig, &[], Check::TableGuard, &[])?;
    ensure!(said.result(Check::Redirected)? == "skipped", "{:#}", said.report);
    again(&mut rig, &pod)?;
    // A new interface that leads out of the node.
    on_node(&rig, "ip link add up1 type veth peer name up1far")?;
    on_node(&rig, "ip link set up1 up")?;
    on_node(&rig, "ip link set up1far up")?;
    on_node(&rig, "ip route add default dev up1 table 77")?;
    let said = fails(&rig, &[], Check::TableGuard, &[])?;
    ensure!(said.found(Check::TableGuard)?.contains("up0, up1"), "{}", said.found(Check::TableGuard)?);
    Ok(())
}

fn again(rig: &mut Rig, pod: &podrole_lab::pod::Pod) -> Result<()> {
    rig.daemon_mut()?.terminate()?;
    rig.restart()?;
    pod.agent("app")?.credentials()?;
    passes(rig, &[], Check::TableGuard)
}

fn redirected() -> Result<()> {
    let Node { mut rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::Redirected)?;
    let said = fails(&rig, &["--port-range", "19000-19003"], Check::Redirected, &[])?;
    ensure!(said.found(Check::Redirected)?.contains("19000-19003"), "{}", said.found(Check::Redirected)?);
    rig.daemon_mut()?.kill9()?;
    nft(&rig, "delete table inet podrole")?;
    ensure!(rig.podrole(&["guard"])?.status.success());
    let said = fails(&rig, &[], Check::Redirected, &[Check::Admin])?;
    ensure!(said.found(Check::Redirected)?.contains("only guards"), "{}", said.found(Check::Redirected)?);
    ensure!(said.result(Check::TableGuard)? == "ok" && said.result(Check::Counting)? == "skipped");
    Ok(())
}

fn counting() -> Result<()> {
    let mut rig = rig()?;
    let pod = rig.pod_with_role(TEAM, "web", "web-role")?;
    rig.start(&[])?;
    // A warning: the exit code is 0 without --strict.
    fails(&rig, &[], Check::Counting, &[])?;
    pod.agent("app")?.v6().credentials()?;
    passes(&rig, &[], Check::Counting)
}

fn routing() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::RoutingGuard)?;
    for (break_it, what) in [
        ("ip -4 rule del pref 50", "rule 50 for 169.254.169.254"),
        ("ip -4 rule del pref 51", "rule 51 for 169.254.169.254"),
        ("ip -6 rule del pref 50", "rule 50 for fd00:ec2::254"),
        ("ip -6 rule del pref 51", "rule 51 for fd00:ec2::254"),
        ("ip -4 route flush table 1699", "local route for 169.254.169.254"),
        ("ip -6 route flush table 1699", "local route for fd00:ec2::254"),
    ] {
        on_node(&rig, break_it)?;
        // Without this rule the node's own requests are delivered to podrole too.
        let also = if what == "rule 50 for 169.254.169.254" { &[Check::Metadata][..] } else { &[] };
        let said = fails(&rig, &[], Check::RoutingGuard, also)?;
        let found = said.found(Check::RoutingGuard)?;
        ensure!(found.contains(what) && !found.contains(','), "{break_it}: {found}");
        // The fix of the page works.
        ensure!(rig.podrole(&["guard"])?.status.success());
        passes(&rig, &[], Check::RoutingGuard)?;
    }
    Ok(())
}

/// Uses the same command as kube2iam.
fn kube2iam() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    if on_node(&rig, "iptables-nft --version").is_err() {
        return skip("iptables is not installed");
    }
    on_node(
        &rig,
        "iptables-nft -t nat -A PREROUTING ! -i docker0 -d 169.254.169.254 -p tcp --dport 80 -j DNAT --to-destination 10.0.0.9:8181",
    )?;
    let reported = fails(&rig, &[], Check::ForeignBehind, &[])?;
    ensure!(
        reported.found(Check::ForeignBehind)?.contains("made by iptables"),
        "{}",
        reported.found(Check::ForeignBehind)?
    );
    on_node(&rig, reported.fix(Check::ForeignBehind)?)?;
    passes(&rig, &[], Check::ForeignBehind)?;
    ensure!(!on_node(&rig, "iptables-nft -t nat -S")?.contains("169.254.169.254"));
    Ok(())
}

/// The check says that it has not read the rules of iptables-legacy, which nft does not list.
fn legacy() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    if on_node(&rig, "iptables-legacy --version").is_err() {
        return skip("iptables is not installed");
    }
    if let Err(error) = on_node(&rig, "iptables-legacy -t nat -S") {
        return skip(&format!("this kernel does not support iptables-legacy: {error:#}"));
    }
    let said = check(&rig, &[])?;
    ensure!(said.failed()?.is_empty() && said.code == Some(0), "{:#}", said.report);
    ensure!(said.result(Check::ForeignBehind)? == "skipped", "{:#}", said.report);
    ensure!(said.found(Check::ForeignBehind)?.contains("iptables-legacy"), "{:#}", said.report);
    nft(
        &rig,
        &format!(
            "table ip other {{
                chain in {{
                    type nat hook prerouting priority -100;
                    ip daddr {METADATA_V4} tcp dport 80 redirect to :8181
                }}
            }}
            "
        ),
    )?;
    let said = fails(&rig, &[], Check::ForeignBehind, &[])?;
    ensure!(said.found(Check::ForeignBehind)?.contains("iptables-legacy"), "{:#}", said.report);
    Ok(())
}

fn foreign_before() -> Result<()> {
    foreign(Check::ForeignBefore, -195)
}

fn foreign_behind() -> Result<()> {
    foreign(Check::ForeignBehind, -100)
}

/// Adds rules of another program that rewrite metadata requests, in both families and one of them in a chain of its own, and rules that
/// do not.
fn foreign(wanted: Check, priority: i32) -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], wanted)?;
    let harmless = format!(
        "table ip mangle {{
            chain PREROUTING {{
                type filter hook prerouting priority {priority};
                ip daddr {METADATA_V4} counter
                ip daddr 10.96.0.10 counter
            }}
        }}
        table ip services {{
            chain PREROUTING {{
                type nat hook prerouting priority {priority};
                ip daddr 10.96.0.99 tcp dport 80 dnat to 10.0.0.9:8181
            }}
        }}
        "
    );
    nft(&rig, &harmless)?;
    passes(&rig, &[], wanted)?;
    let taking = format!(
        "table ip nat {{
            chain PREROUTING {{
                type nat hook prerouting priority {priority};
                iifname \"cali*\" ip daddr {METADATA_V4} tcp dport 80 counter dnat to 10.0.0.9:8181
            }}
        }}
        table ip6 nat {{
            set metadata {{ type ipv6_addr; elements = {{ {METADATA_V6} }} }}
            chain kiam {{ meta l4proto tcp redirect to :8181; }}
            chain PREROUTING {{
                type nat hook prerouting priority {priority};
                meta l4proto tcp ip6 daddr @metadata jump kiam
            }}
        }}
        "
    );
    nft(&rig, &taking)?;
    let reported = fails(&rig, &[], wanted, &[])?;
    ensure!(reported.found(wanted)?.lines().count() == 2, "{}", reported.found(wanted)?);
    // The fix removes exactly these rules.
    for command in reported.fix(wanted)?.lines() {
        ensure!(command.starts_with("nft delete rule ip"), "{command}");
        on_node(&rig, command)?;
    }
    passes(&rig, &[], wanted)?;
    let left = on_node(&rig, "nft list ruleset")?;
    ensure!(left.contains("10.96.0.99") && !left.contains("iifname \"cali*\""), "{left}");
    Ok(())
}

fn ebpf() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::EbpfDatapath)?;
    on_node(&rig, "ip link add cilium_host type veth peer name cilium_net")?;
    fails(&rig, &[], Check::EbpfDatapath, &[])?;
    on_node(&rig, "ip link del cilium_host")?;
    passes(&rig, &[], Check::EbpfDatapath)
}
