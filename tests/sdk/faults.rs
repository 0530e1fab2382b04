//! Failures of STS: the real SDKs report something useful, or do not notice.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use podrole_lab::proc;
use podrole_lab::sts::Fault;
use podrole_lab::world::Trial;

use crate::bystander::Bystander;
use crate::programs::{ALL, Programs, Sdk};
use crate::support::{
    BUDGET, TEAM, becomes, calls_for, double, figure, no_leak, refused, role_arn, served, session_arn, with_role,
};

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("a_role_that_sts_denies_shows_in_the_sdks_own_errors", denied),
    Trial::new("throttling_is_not_noticed_while_credentials_are_valid", throttled).waits(),
    Trial::new("sts_down_from_the_start_is_waited_out", down_at_start).alone(),
    Trial::new("slow_sts_costs_one_not_ready_answer", slow).alone(),
];

/// Denials by STS are cached for ten seconds at first.
const DENIAL_EXPIRED: Duration = Duration::from_secs(30);
/// Long enough to run three SDKs after the refresh, which is due at 48 % of it at the latest.
const LIFE_SECONDS: u32 = 60;

fn denied() -> Result<()> {
    let programs = Programs::find()?;
    let mut rig = double()?;
    rig.start(&[])?;
    let bystander = Bystander::start(&rig)?;
    let arn = role_arn("denied-role");
    rig.sts.fail_role(&arn, Some(Fault::AccessDenied));
    let pod = with_role(&rig, TEAM, "web", "denied-role")?;
    bystander.served_while(&rig, || {
        let said = |sdk| -> Result<String> {
            let found = programs.run(&rig, &pod, sdk)?;
            ensure!(found.arn.is_empty(), "{sdk:?} is {found:?}");
            Ok(found.error)
        };
        let (go, boto, cli) = (said(Sdk::Go)?, said(Sdk::Boto)?, said(Sdk::Cli)?);
        figure("Go says", &go);
        figure("boto3 says", &boto);
        figure("the AWS CLI says", cli.trim());
        ensure!(go.contains("podrole may not assume") && go.contains(&arn), "Go does not say why: {go}");
        ensure!(boto.contains("NoCredentialsError"), "boto3 says {boto}");
        ensure!(cli.contains("Unable to locate credentials"), "the AWS CLI says {cli}");
        Ok(())
    })?;
    let calls = calls_for(&rig, "denied-role");
    ensure!(calls <= 2, "{calls} calls for a role that is denied");
    // The trust policy is corrected; nothing changes on the node.
    rig.sts.fail_role(&arn, None);
    proc::until("the cached denial to expire", DENIAL_EXPIRED, || Ok(pod.agent("app")?.credentials().ok()))?;
    programs.run(&rig, &pod, Sdk::Go)?.is(&session_arn(&pod, "denied-role")?)?;
    no_leak(&rig)
}

fn throttled() -> Result<()> {
    let programs = Programs::find()?;
    let mut rig = double()?;
    rig.start(&[])?;
    rig.sts.set_lifetime(LIFE_SECONDS);
    let pod = with_role(&rig, TEAM, "web", "web-role")?;
    let agent = pod.agent("app")?;
    let first = served(&rig, agent.v4(), "web-role")?;
    rig.sts.fail_role(&role_arn("web-role"), Some(Fault::Throttling));
    let refreshed = rig.sts.wait(Duration::from_secs(LIFE_SECONDS.into()), |calls| {
        calls.iter().any(|call| call.error() == Some("Throttling"))
    });
    ensure!(refreshed, "podrole did not try to refresh: {:?}", rig.sts.assume_calls());
    for sdk in ALL {
        programs.run(&rig, &pod, sdk)?.is(&session_arn(&pod, "web-role")?).with_context(|| format!("{sdk:?}"))?;
    }
    let still = served(&rig, agent.v4(), "web-role")?;
    ensure!(still.access_key_id == first.access_key_id, "new credentials although STS throttles");
    rig.sts.set_lifetime(0);
    rig.sts.fail_role(&role_arn("web-role"), None);
    proc::until("new credentials after the throttling", Duration::from_secs(60), || {
        let now = served(&rig, agent.v4(), "web-role")?;
        Ok((now.access_key_id != first.access_key_id).then_some(()))
    })?;
    no_leak(&rig)
}

fn down_at_start() -> Result<()> {
    let programs = Programs::find()?;
    let mut rig = double()?;
    rig.sts.down(true)?;
    let pod = with_role(&rig, TEAM, "web", "web-role")?;
    // As the init container does. From here on nothing reaches the cloud's metadata service.
    let guard = rig.podrole(&["guard"])?;
    ensure!(guard.status.success(), "{guard:?}");
    rig.launch(&[])?;
    let agent = pod.agent("app")?;
    proc::until("a session token", Duration::from_secs(20), || Ok(agent.v4().token().ok()))?;
    for client in [agent.v4(), agent.v6()] {
        let begin = Instant::now();
        let error = refused(&rig, client)?;
        ensure!(error.status() == Some(503) && begin.elapsed() < BUDGET, "{error} after {:?}", begin.elapsed());
    }
    ensure!(!rig.daemon()?.is_ready(), "the daemon reports that it is ready");
    rig.sts.down(false)?;
    let begin = Instant::now();
    rig.daemon_mut()?.wait_ready(Duration::from_secs(60))?;
    figure("ready after STS is up", format_args!("{} ms", begin.elapsed().as_millis()));
    becomes(&rig, agent.v4(), "web-role", &[])?;
    for sdk in ALL {
        programs.run(&rig, &pod, sdk)?.is(&session_arn(&pod, "web-role")?)?;
    }
    no_leak(&rig)
}

fn slow() -> Result<()> {
    let programs = Programs::find()?;
    let mut rig = double()?;
    rig.start(&[])?;
    rig.sts.set_delay(Duration::from_secs(2));
    let pod = with_role(&rig, TEAM, "web", "web-role")?;
    let agent = pod.agent("app")?;
    let begin = Instant::now();
    let error = refused(&rig, agent.v4())?;
    ensure!(error.status() == Some(503) && begin.elapsed() < BUDGET, "{error} after {:?}", begin.elapsed());
    // The STS call continues without the client, whose next attempt gets the result. Go retries by itself.
    programs.run(&rig, &pod, Sdk::Go)?.is(&session_arn(&pod, "web-role")?)?;
    programs.run(&rig, &pod, Sdk::Boto)?.is(&session_arn(&pod, "web-role")?)?;
    ensure!(calls_for(&rig, "web-role") == 1, "{:?}", rig.sts.assume_calls());
    no_leak(&rig)
}
