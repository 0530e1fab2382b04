//! Nodes whose daemon does not run, hangs, or is not ready.

use anyhow::{Result, ensure};
use podrole::cli::check::table::Check;
use podrole_lab::proc;
use podrole_lab::world::{Trial, scratch};

use crate::Case;
use crate::support::{Node, SOON, fails, healthy, passes};

pub(crate) const CASES: &[Case] = &[
    (Check::Admin, Trial::new("d01_no_daemon_one_that_hangs_and_somebody_else", admin)),
    (Check::Ready, Trial::new("d02_a_daemon_that_waits_for_its_first_list", unready)),
];

fn admin() -> Result<()> {
    let Node { mut rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::Admin)?;
    rig.daemon()?.suspend()?;
    fails(&rig, &[], Check::Admin, &[])?;
    rig.daemon()?.resume()?;
    passes(&rig, &[], Check::Admin)?;
    // Another HTTP server does not answer as podrole does.
    let other = rig.sts.addr().to_string();
    fails(&rig, &["--admin-addr", &other], Check::Admin, &[])?;
    rig.daemon_mut()?.kill9()?;
    let said = fails(&rig, &[], Check::Admin, &[])?;
    ensure!(said.result(Check::Ready)? == "skipped", "{:#}", said.report);
    Ok(())
}

fn unready() -> Result<()> {
    let Node { mut rig, pod } = healthy()?;
    passes(&rig, &[], Check::Ready)?;
    // The daemon cannot reach the API server, but the check can.
    let dead = scratch().join("dead");
    let config = std::fs::read_to_string(scratch().join("kubeconfig"))?;
    std::fs::write(&dead, config.replace(&rig.kube.endpoint(), "http://127.0.0.1:9"))?;
    rig.launch(&["--kubeconfig", &dead.display().to_string()])?;
    let agent = pod.agent("app")?;
    proc::until("the daemon to wait for the API server only", SOON, || {
        // The admin endpoint opens a little after the process has started.
        let Ok((_, body)) = rig.daemon()?.admin("/readyz?verbose") else { return Ok(None) };
        Ok((body.contains("[+] identity") && body.contains("[+] routing")).then_some(()))
    })?;
    // A request for a token needs no API server, and the redirect counts it.
    agent.v4().token()?;
    let said = fails(&rig, &[], Check::Ready, &[])?;
    let found = said.found(Check::Ready)?;
    ensure!(found.contains("pods") && found.contains("namespaces") && !found.contains("identity"), "{found}");
    rig.start(&[])?;
    agent.credentials()?;
    passes(&rig, &[], Check::Ready)
}
