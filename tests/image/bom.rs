//! The bill of materials beside the image.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::world::Trial;
use serde_json::Value;

use crate::archive::Image;

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("the_bill_of_materials_is_well_formed", form).may_skip(),
    Trial::new("the_bill_of_materials_names_what_is_in_the_image", complete).may_skip(),
];

fn form() -> Result<()> {
    let (_, bom) = open()?;
    well_formed(&bom)?;
    // Control: each kind of damage is detected.
    let damage: [fn(&mut Value); 5] = [
        |bom| bom["specVersion"] = "15".into(),
        |bom| bom["components"][0]["type"] = "crate".into(),
        |bom| bom["components"][1]["bom-ref"] = bom["components"][0]["bom-ref"].clone(),
        |bom| bom["components"][0]["hashes"][0]["content"] = "00".into(),
        |bom| bom["dependencies"][0]["dependsOn"][0] = "pkg:cargo/nobody@1.0.0".into(),
    ];
    for (number, damage) in damage.into_iter().enumerate() {
        let mut bom = bom.clone();
        damage(&mut bom);
        ensure!(well_formed(&bom).is_err(), "damage {number} was not seen");
    }
    Ok(())
}

fn complete() -> Result<()> {
    let (image, bom) = open()?;
    let components = list(&bom["components"])?;
    let names = |prefix: &str| -> BTreeSet<&str> {
        let ours = components
            .iter()
            .filter(|component| component["purl"].as_str().is_some_and(|purl| purl.starts_with(prefix)));
        ours.filter_map(|component| component["name"].as_str()).collect()
    };
    let crates = names("pkg:cargo/");
    for expected in ["podrole", "aws-lc-sys", "hyper", "kube", "nftables", "rustls", "tokio"] {
        ensure!(crates.contains(expected), "{expected} is compiled in and not listed");
    }
    // These are in the lock file but only used by tests, by build scripts or on other systems.
    for other in ["podrole-lab", "proptest", "libtest-mimic", "cc", "syn", "windows-sys"] {
        ensure!(!crates.contains(other), "{other} is listed and not compiled in");
    }
    ensure!(names("pkg:generic/") == BTreeSet::from(["rust-std"]));

    let listed = names("pkg:deb/");
    let mut inside = BTreeSet::new();
    for entry in fs::read_dir(image.root.join("var/lib/dpkg/status.d"))? {
        inside.insert(entry?.file_name().into_string().ok().context("a package's name is not text")?);
    }
    ensure!(
        inside.iter().map(String::as_str).collect::<BTreeSet<_>>() == listed,
        "{inside:?} in the image, {listed:?} listed"
    );
    ensure!(["ca-certificates", "libc6", "nftables"].iter().all(|name| listed.contains(name)), "{listed:?}");

    let hash = bom["metadata"]["component"]["hashes"][0]["content"].as_str().unwrap_or_default();
    ensure!(image.entry["digest"] == format!("sha256:{hash}"), "made for another image: {}", bom["metadata"]);
    Ok(())
}

fn open() -> Result<(Image, Value)> {
    let image = Image::open()?;
    let path = image.beside(".cdx.json")?;
    let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    Ok((image, serde_json::from_slice(&bytes)?))
}

/// Checks the rules of the CycloneDX 1.5 schema for the parts that we write, and that every reference resolves.
fn well_formed(bom: &Value) -> Result<()> {
    ensure!(bom["bomFormat"] == "CycloneDX" && bom["specVersion"] == "1.5" && bom["version"] == 1);
    let serial = bom["serialNumber"].as_str().and_then(|serial| serial.strip_prefix("urn:uuid:"));
    ensure!(serial.is_some_and(|uuid| uuid.len() == 36), "no serial number");
    let mut known = BTreeSet::new();
    for component in list(&bom["components"])?.iter().chain([&bom["metadata"]["component"]]) {
        let text = |key: &str| component[key].as_str().filter(|text| !text.is_empty());
        ensure!(
            text("type").is_some_and(|kind| ["application", "container", "library"].contains(&kind)),
            "{component}"
        );
        ensure!(text("name").is_some() && text("version").is_some(), "{component}");
        ensure!(text("purl").is_some_and(|purl| purl.starts_with("pkg:")), "{component}");
        for hash in component["hashes"].as_array().unwrap_or(&Vec::new()) {
            let hex = hash["content"].as_str().unwrap_or_default();
            ensure!(hash["alg"] == "SHA-256" && hex.len() == 64, "{component}");
            ensure!(hex.chars().all(|digit| matches!(digit, '0'..='9' | 'a'..='f')), "{component}");
        }
        for license in component["licenses"].as_array().unwrap_or(&Vec::new()) {
            ensure!(license["expression"].as_str().is_some_and(|expression| !expression.contains('/')), "{component}");
        }
        let reference = text("bom-ref").with_context(|| format!("no bom-ref: {component}"))?;
        ensure!(known.insert(reference), "{reference} is there twice");
    }
    for dependency in list(&bom["dependencies"])? {
        for reference in list(&dependency["dependsOn"])?.iter().chain([&dependency["ref"]]) {
            let reference = reference.as_str().context("a reference is not text")?;
            ensure!(known.contains(reference), "{reference} leads nowhere");
        }
    }
    Ok(())
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().context("a list is missing")
}
