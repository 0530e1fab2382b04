//! The command as a whole: its output formats and exit codes, its time limit, and that it changes nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podrole::cli::check::table::Check;
use podrole_lab::imds::Mode;
use podrole_lab::kube::Request;
use podrole_lab::sts::Fault;
use podrole_lab::world::{Trial, scratch};

use crate::support::{Node, check, healthy, on_node, raw, rig, said};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("check_changes_nothing", read_only),
    Trial::new("wrong_settings_are_reported_together", usage),
    Trial::new("the_three_output_formats_agree", forms),
    Trial::new("a_node_that_never_ran_podrole_fails_all_related_checks", fresh),
    Trial::new("a_call_that_hangs_does_not_stop_the_other_checks", hanging),
];

fn read_only() -> Result<()> {
    // First before anything is set up, when there is most to change, then with the guards installed.
    let bare = rig()?;
    untouched(&bare)?;
    ensure!(bare.podrole(&["guard"])?.status.success());
    untouched(&bare)
}

fn untouched(rig: &podrole_lab::rig::Rig) -> Result<()> {
    let state = || -> Result<String> {
        let lines = [
            "nft list ruleset",
            "ip -4 rule show",
            "ip -6 rule show",
            "ip -4 route show table all",
            "ip -6 route show table all",
            "ip addr show",
            "find /run -not -path /run/podrole-lab/*",
        ];
        lines.iter().map(|line| on_node(rig, line)).collect()
    };
    let before = state()?;
    rig.kube.clear();
    rig.sts.clear();
    rig.imds.clear()?;
    let said = check(rig, &["--service-account-roles", "true"])?;
    ensure!(
        said.result(Check::PodsAccess)? == "ok" && said.result(Check::BaseCredentials)? == "ok",
        "{:#}",
        said.report
    );
    let after = state()?;
    ensure!(before == after, "before:\n{before}\nafter:\n{after}");
    ensure!(!scratch().join("state").exists(), "check created a state directory");
    let writes = |request: &&Request| request.method != "GET" && !request.path.contains("/selfsubjectaccessreviews");
    let requests = rig.kube.requests();
    ensure!(!requests.is_empty() && !requests.iter().any(|request| writes(&request)), "{requests:#?}");
    let calls = rig.sts.calls();
    ensure!(!calls.is_empty() && calls.iter().all(|call| call.action == "GetCallerIdentity"), "{calls:#?}");
    Ok(())
}

fn usage() -> Result<()> {
    let mut rig = rig()?;
    let output = raw(&rig, &[], &["--identity", "guess", "--port-range", "9-1"])?;
    let text = said(&output);
    ensure!(output.status.code() == Some(64) && text.contains("--identity") && text.contains("--port-range"), "{text}");
    ensure!(output.stdout.is_empty(), "check printed a report: {text}");
    let output = raw(&rig, &["-o", "yaml"], &[])?;
    ensure!(output.status.code() == Some(64), "{}", said(&output));
    rig.options_mut().env.push(("PODROLE_NOED_NAME".into(), "x".into()));
    let output = raw(&rig, &[], &[])?;
    ensure!(output.status.code() == Some(64) && said(&output).contains("PODROLE_NOED_NAME"), "{}", said(&output));
    // Settings from the environment have the same effect as for the daemon.
    rig.options_mut().env.pop();
    rig.options_mut().env.push(("PODROLE_CGROUP_ROOT".into(), "/run/netns".into()));
    let said = check(&rig, &[])?;
    ensure!(said.result(Check::CgroupMount)? == "error", "{:#}", said.report);
    Ok(())
}

fn forms() -> Result<()> {
    let Node { mut rig, pod: _pod } = healthy()?;
    let out = |output: std::process::Output| String::from_utf8(output.stdout).context("text");
    let quiet = out(raw(&rig, &["--output", "short", "--strict"], &[])?)?;
    ensure!(quiet.trim() == "nothing is wrong", "{quiet}");
    let flags = ["--identity", "ip", "--netns-dir", "/nonexistent", "--state-dir", "/nonexistent/state"];
    let report = check(&rig, &flags)?;
    let plain = out(raw(&rig, &[], &flags)?)?;
    ensure!(plain.is_ascii(), "{plain}");
    for (check, mark) in [
        (Check::IdentityMode, "[warn]"),
        (Check::StateDir, "[FAIL]"),
        (Check::NetnsDir, "[skip]"),
        (Check::TableGuard, "[ok]  "),
    ] {
        let line = format!("{mark} {} {}\n    ", check.code(), check.about().title);
        ensure!(plain.contains(&line), "no {line:?} in {plain}");
        ensure!(plain.contains(report.found(check)?), "{plain}");
    }
    ensure!(plain.contains("see docs/checks/PR-N07.md"), "{plain}");
    ensure!(plain.trim_end().ends_with(" 1 warnings, 1 errors, 7 skipped"), "{plain}");
    let short = out(raw(&rig, &["-o", "short"], &flags)?)?;
    ensure!(short.lines().count() == 2 && short.starts_with("PR-N07 error: "), "{short}");
    rig.options_mut().env.push(("LANG".into(), "C.UTF-8".into()));
    let signs = out(raw(&rig, &[], &flags)?)?;
    ensure!(signs.contains("‼ PR-N08") && signs.contains("× PR-N07") && signs.contains("√ PR-R03"), "{signs}");
    let summary = serde_json::json!({"ok": 23, "warning": 1, "error": 1, "skipped": 7});
    ensure!(
        report.report["schema"] == "podrole.check/v1" && report.report["summary"] == summary,
        "{:#}",
        report.report
    );
    Ok(())
}

fn fresh() -> Result<()> {
    let rig = rig()?;
    let said = check(&rig, &[])?;
    let expected = [Check::TableGuard, Check::RoutingGuard, Check::NodePods, Check::Admin];
    ensure!(said.failed()? == expected.into(), "{:#}", said.report);
    Ok(())
}

fn hanging() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    rig.kube.set_latency(Duration::from_secs(600));
    rig.sts.fail_always(Some(Fault::Stall));
    rig.daemon()?.suspend()?;
    let begin = Instant::now();
    let said = check(&rig, &[])?;
    ensure!(begin.elapsed() < Duration::from_secs(15), "it took {:?}", begin.elapsed());
    let expected = [Check::ApiServer, Check::StsReachable, Check::Admin];
    ensure!(said.failed()? == expected.into(), "{:#}", said.report);
    rig.imds.set_mode(Mode::Slow(Duration::from_secs(600)))?;
    let said = check(&rig, &[])?;
    let expected = [Check::ApiServer, Check::Metadata, Check::Admin];
    ensure!(said.failed()? == expected.into(), "{:#}", said.report);
    rig.daemon()?.resume()
}
