//! Daemons that do not run, hang, or are not ready.

use anyhow::{Result, ensure};
use podrole::cli::check::table::Check;
use podrole_lab::proc;
use podrole_lab::world::{Trial, scratch};

use crate::Case;
use crate::support::{Node, SOON, healthy, named, silent};

pub(crate) const CASES: &[Case] = &[
    (Check::Admin, Trial::new("d01_no_daemon_one_that_hangs_and_somebody_else", admin)),
    (Check::Ready, Trial::new("d02_a_daemon_that_waits_for_its_first_list", unready)),
];

fn admin() -> Result<()> {
    let Node { mut rig, pod: _pod } = healthy()?;
    silent(&rig, &[], Check::Admin)?;
    rig.daemon()?.suspend()?;
    named(&rig, &[], Check::Admin, &[])?;
    rig.daemon()?.resume()?;
    silent(&rig, &[], Check::Admin)?;
    // The API server does not answer as podrole does.
    let other = rig.sts.addr().to_string();
    named(&rig, &["--admin-addr", &other], Check::Admin, &[])?;
    rig.daemon_mut()?.kill9()?;
    let said = named(&rig, &[], Check::Admin, &[])?;
    ensure!(said.result(Check::Ready)? == "skipped", "{:#}", said.report);
    Ok(())
}

fn unready() -> Result<()> {
    let Node { mut rig, pod } = healthy()?;
    silent(&rig, &[], Check::Ready)?;
    // This one's way to the API server leads nowhere; the one of the check does not.
    let dead = scratch().join("dead");
    let config = std::fs::read_to_string(scratch().join("kubeconfig"))?;
    std::fs::write(&dead, config.replace(&rig.kube.endpoint(), "http://127.0.0.1:9"))?;
    rig.launch(&["--kubeconfig", &dead.display().to_string()])?;
    let agent = pod.agent("app")?;
    proc::until("the rest of the start", SOON, || {
        // Its admin address comes a little after the process.
        let Ok((_, body)) = rig.daemon()?.admin("/readyz?verbose") else { return Ok(None) };
        Ok((body.contains("[+] identity") && body.contains("[+] routing")).then_some(()))
    })?;
    // Tokens need no API server; the redirect has counted then.
    agent.v4().token()?;
    let said = named(&rig, &[], Check::Ready, &[])?;
    let found = said.found(Check::Ready)?;
    ensure!(found.contains("pods") && found.contains("namespaces") && !found.contains("identity"), "{found}");
    rig.start(&[])?;
    agent.credentials()?;
    silent(&rig, &[], Check::Ready)
}
