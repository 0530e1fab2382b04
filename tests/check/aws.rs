//! Nodes whose metadata service or STS does not answer as it should.

use anyhow::{Result, ensure};
use podrole::cli::check::table::Check;
use podrole_lab::imds::Mode;
use podrole_lab::sts::{Caller, Fault};
use podrole_lab::world::Trial;

use crate::Case;
use crate::support::{Node, fails, healthy, passes};

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
    passes(&rig, &[], Check::Metadata)?;
    rig.imds.set_mode(Mode::Off)?;
    let said = fails(&rig, &[], Check::Metadata, &[])?;
    ensure!(said.result(Check::StsReachable)? == "skipped", "STS cannot be called without a region");
    // With a region STS could be called, but the base credentials come from the metadata service too.
    let said = fails(&rig, &["--region", "us-west-2"], Check::Metadata, &[Check::BaseCredentials])?;
    ensure!(said.result(Check::StsReachable)? == "skipped", "STS cannot be called without credentials");
    rig.imds.set_mode(Mode::Serving)?;
    passes(&rig, &[], Check::Metadata)
}

fn foreign() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::ForeignCloud)?;
    rig.imds.set_mode(Mode::Google)?;
    let said = fails(&rig, &[], Check::ForeignCloud, &[])?;
    ensure!(said.found(Check::ForeignCloud)?.contains("Google"), "{}", said.found(Check::ForeignCloud)?);
    Ok(())
}

fn imds_v1() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::ImdsV1)?;
    rig.imds.set_v1(true);
    fails(&rig, &[], Check::ImdsV1, &[])?;
    rig.imds.set_v1(false);
    passes(&rig, &[], Check::ImdsV1)
}

fn sts() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::StsReachable)?;
    rig.sts.down(true)?;
    let said = fails(&rig, &[], Check::StsReachable, &[])?;
    ensure!(said.result(Check::BaseCredentials)? == "skipped" && said.result(Check::ClockSkew)? == "skipped");
    rig.sts.down(false)?;
    for fault in [Fault::Throttling, Fault::InternalFailure500, Fault::Html500, Fault::RegionDisabled] {
        rig.sts.fail_always(Some(fault));
        fails(&rig, &[], Check::StsReachable, &[])?;
    }
    rig.sts.fail_always(None);
    passes(&rig, &[], Check::StsReachable)
}

fn base() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::BaseCredentials)?;
    rig.imds.set_facts(|facts| facts.role = None);
    let said = fails(&rig, &[], Check::BaseCredentials, &[])?;
    ensure!(said.result(Check::StsReachable)? == "skipped", "{:#}", said.report);
    rig.imds.set_facts(|facts| facts.role = Some("node-role".into()));
    passes(&rig, &[], Check::BaseCredentials)?;
    rig.sts.forget_key(&rig.imds.credentials().access_key_id);
    let said = fails(&rig, &[], Check::BaseCredentials, &[])?;
    ensure!(said.result(Check::StsReachable)? == "ok", "{:#}", said.report);
    Ok(())
}

fn first_hop() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    let flags = ["--assume-role-arn", HOP];
    passes(&rig, &flags, Check::FirstHop)?;
    rig.sts.fail_role(HOP, Some(Fault::AccessDenied));
    let said = fails(&rig, &flags, Check::FirstHop, &[])?;
    ensure!(said.found(Check::FirstHop)?.contains("AccessDenied"), "{}", said.found(Check::FirstHop)?);
    ensure!(said.result(Check::BaseCredentials)? == "ok", "{:#}", said.report);
    rig.sts.fail_role(HOP, None);
    passes(&rig, &flags, Check::FirstHop)
}

fn clock() -> Result<()> {
    let Node { rig, pod: _pod } = healthy()?;
    passes(&rig, &[], Check::ClockSkew)?;
    for (skew, word) in [(200, "behind"), (-200, "ahead of")] {
        rig.sts.set_clock_skew(skew);
        let said = fails(&rig, &[], Check::ClockSkew, &[])?;
        ensure!(said.found(Check::ClockSkew)?.contains(word), "{skew}: {}", said.found(Check::ClockSkew)?);
    }
    // With this skew STS rejects the signature: both the cause and its consequence are reported.
    rig.sts.set_clock_skew(3600);
    fails(&rig, &[], Check::ClockSkew, &[Check::BaseCredentials])?;
    rig.sts.set_clock_skew(20);
    passes(&rig, &[], Check::ClockSkew)?;
    let keys = rig.imds.credentials();
    let caller = Caller::assumed_role("111122223333", "node-role", "i-0abc");
    rig.sts.register_base(&keys.access_key_id, &keys.secret_access_key, Some(&keys.token), caller);
    passes(&rig, &[], Check::ClockSkew)
}
