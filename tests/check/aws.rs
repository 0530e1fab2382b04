//! Metadata services and STS that do not answer as they should.

use anyhow::{Result, ensure};
use podrole::cli::check::table::Check;
use podrole_lab::imds::Mode;
use podrole_lab::sts::{Caller, Fault};
use podrole_lab::world::Trial;

use crate::Case;
use crate::support::{Node, healthy, named, silent};

pub(crate) const CASES: &[Case] = &[
    (Check::Metadata, Trial::new("a01_no_metadata_service", metadata)),
    (Check::ForeignCloud, Trial::new("a02_another_clouds_metadata_service", foreign)),
    (Check::ImdsV1, Trial::new("a03_a_metadata_service_that_asks_for_no_token", imds_v1)),
    (Check::StsReachable, Trial::new("a04_an_sts_that_does_not_answer_or_throttles", sts)),
    (Check::BaseCredentials, Trial::new("a05_no_credentials_and_ones_that_sts_does_not_know", base)),
    (Check::FirstHop, Trial::new("a06_a_first_hop_that_does_not_trust_us", first_hop)),
    (Check::ClockSkew, Trial::new("a07_a_clock_that_is_wrong", clock)),
];

const HOP: &str = "arn:aws:iam::111122223333:role/hop";

fn metadata() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    silent(&rig, &[], Check::Metadata)?;
    rig.imds.set_mode(Mode::Off)?;
    let said = named(&rig, &[], Check::Metadata, &[])?;
    ensure!(said.result(Check::StsReachable)? == "skipped", "no region, so STS cannot have been asked");
    // With a region STS is asked; the credentials were to come from there too.
    let said = named(&rig, &["--region", "us-west-2"], Check::Metadata, &[Check::BaseCredentials])?;
    ensure!(said.result(Check::StsReachable)? == "skipped", "nothing to sign with, so STS cannot have been asked");
    rig.imds.set_mode(Mode::Serving)?;
    silent(&rig, &[], Check::Metadata)
}

fn foreign() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    silent(&rig, &[], Check::ForeignCloud)?;
    rig.imds.set_mode(Mode::Google)?;
    let said = named(&rig, &[], Check::ForeignCloud, &[])?;
    ensure!(said.found(Check::ForeignCloud)?.contains("Google"), "{}", said.found(Check::ForeignCloud)?);
    Ok(())
}

fn imds_v1() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    silent(&rig, &[], Check::ImdsV1)?;
    rig.imds.set_v1(true);
    named(&rig, &[], Check::ImdsV1, &[])?;
    rig.imds.set_v1(false);
    silent(&rig, &[], Check::ImdsV1)
}

fn sts() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    silent(&rig, &[], Check::StsReachable)?;
    rig.sts.down(true)?;
    let said = named(&rig, &[], Check::StsReachable, &[])?;
    ensure!(said.result(Check::BaseCredentials)? == "skipped" && said.result(Check::ClockSkew)? == "skipped");
    rig.sts.down(false)?;
    for fault in [Fault::Throttling, Fault::InternalFailure500, Fault::Html500, Fault::RegionDisabled] {
        rig.sts.fail_always(Some(fault));
        named(&rig, &[], Check::StsReachable, &[])?;
    }
    rig.sts.fail_always(None);
    silent(&rig, &[], Check::StsReachable)
}

fn base() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    silent(&rig, &[], Check::BaseCredentials)?;
    rig.imds.set_facts(|facts| facts.role = None);
    let said = named(&rig, &[], Check::BaseCredentials, &[])?;
    ensure!(said.result(Check::StsReachable)? == "skipped", "{:#}", said.report);
    rig.imds.set_facts(|facts| facts.role = Some("node-role".into()));
    silent(&rig, &[], Check::BaseCredentials)?;
    rig.sts.forget_key(&rig.imds.credentials().access_key_id);
    let said = named(&rig, &[], Check::BaseCredentials, &[])?;
    ensure!(said.result(Check::StsReachable)? == "ok", "{:#}", said.report);
    Ok(())
}

fn first_hop() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    let flags = ["--assume-role-arn", HOP];
    silent(&rig, &flags, Check::FirstHop)?;
    rig.sts.fail_role(HOP, Some(Fault::AccessDenied));
    let said = named(&rig, &flags, Check::FirstHop, &[])?;
    ensure!(said.found(Check::FirstHop)?.contains("AccessDenied"), "{}", said.found(Check::FirstHop)?);
    ensure!(said.result(Check::BaseCredentials)? == "ok", "{:#}", said.report);
    rig.sts.fail_role(HOP, None);
    silent(&rig, &flags, Check::FirstHop)
}

fn clock() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    silent(&rig, &[], Check::ClockSkew)?;
    for (skew, word) in [(200, "behind"), (-200, "ahead of")] {
        rig.sts.set_clock_skew(skew);
        let said = named(&rig, &[], Check::ClockSkew, &[])?;
        ensure!(said.found(Check::ClockSkew)?.contains(word), "{skew}: {}", said.found(Check::ClockSkew)?);
    }
    // So far off that STS refuses: the reason is named beside what comes of it.
    rig.sts.set_clock_skew(3600);
    named(&rig, &[], Check::ClockSkew, &[Check::BaseCredentials])?;
    rig.sts.set_clock_skew(20);
    silent(&rig, &[], Check::ClockSkew)?;
    let keys = rig.imds.credentials();
    let caller = Caller::assumed_role("111122223333", "node-role", "i-0abc");
    rig.sts.register_base(&keys.access_key_id, &keys.secret_access_key, Some(&keys.token), caller);
    silent(&rig, &[], Check::ClockSkew)
}
