//! The files in the image, and files that must not be there.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use podrole_lab::proc;
use podrole_lab::world::Trial;

use crate::archive::Image;

pub(crate) const TRIALS: &[Trial] = &[
    Trial::new("the_image_is_small_and_says_what_it_is", labels).may_skip(),
    Trial::new("the_image_holds_two_programs_and_nothing_that_gives_rights", programs).may_skip(),
    Trial::new("the_image_knows_the_public_certificate_authorities", authorities).may_skip(),
    Trial::new("the_binary_holds_no_path_of_the_machine_that_built_it", paths).may_skip(),
];

/// The limit for the compressed image and for the unpacked one.
const MOST_BYTES: u64 = 25_000_000;

fn labels() -> Result<()> {
    let image = Image::open()?;
    let packed = fs::metadata(&image.archive)?.len();
    let unpacked = files(&image.root)?.iter().map(|file| file.bytes).sum::<u64>();
    ensure!(packed < MOST_BYTES && unpacked < MOST_BYTES, "{packed} bytes packed, {unpacked} unpacked");

    let version = env!("CARGO_PKG_VERSION");
    let config = &image.config["config"];
    ensure!(config["Entrypoint"] == serde_json::json!(["/usr/bin/podrole"]), "{config}");
    ensure!(config["Cmd"] == serde_json::json!(["run"]), "{config}");
    ensure!(config["User"] == "0:0", "{config}");
    let labels = &config["Labels"];
    let label = |key: &str| labels[format!("org.opencontainers.image.{key}")].as_str().unwrap_or_default();
    ensure!(label("title") == "podrole" && label("version") == version, "{labels}");
    ensure!(label("description") == env!("CARGO_PKG_DESCRIPTION"), "{labels}");
    ensure!(label("licenses") == "Apache-2.0", "{labels}");
    ensure!(label("created") == image.config["created"], "{labels}");
    let revision = label("revision").trim_end_matches("-dirty");
    ensure!(revision.len() == 40 && revision.chars().all(|digit| digit.is_ascii_hexdigit()), "{labels}");
    ensure!(image.manifest["annotations"] == *labels, "{}", image.manifest);

    let name = image.entry["annotations"]["io.containerd.image.name"].as_str().context("the image has no name")?;
    ensure!(name.ends_with(&format!("/podrole:{version}")), "{name}");
    ensure!(image.entry["platform"]["architecture"] == image.config["architecture"], "{}", image.entry);
    Ok(())
}

fn programs() -> Result<()> {
    let image = Image::open()?;
    let found = findings(&image.root)?;
    ensure!(found.is_empty(), "{found:#?}");
    // The first path that podrole tries.
    ensure!(image.root.join("usr/sbin/nft").exists());
    // Control: a forbidden file of each kind is detected.
    fs::write(image.root.join("usr/bin/sh"), "#!/bin/sh\n")?;
    fs::set_permissions(image.root.join("usr/bin/sh"), fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(image.root.join("usr/sbin/nft"), fs::Permissions::from_mode(0o4755))?;
    fs::create_dir(image.root.join("tmp"))?;
    fs::set_permissions(image.root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    symlink("/usr/bin/podrole", image.root.join("usr/bin/apt"))?;
    let mut found = findings(&image.root)?;
    found.sort();
    ensure!(
        found
            == [
                "/tmp: writable by others",
                "/usr/bin/apt: a second name for a program",
                "/usr/bin/sh: a program",
                "/usr/sbin/nft: setuid or setgid",
            ],
        "{found:#?}"
    );
    Ok(())
}

/// Files that must not be in the image, with path and reason.
fn findings(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for file in files(root)? {
        let mut finding = |reason: &str| found.push(format!("{}: {reason}", file.path));
        let known = ["/usr/bin/podrole", "/usr/sbin/nft"].contains(&file.path.as_str());
        match file.kind {
            // The loader and the C library are executable, but can only run programs that are in the image anyway.
            Kind::File if file.mode & 0o111 != 0 && !known && !file.path.contains(".so.") => finding("a program"),
            Kind::Link if file.path.contains("bin/") => finding("a second name for a program"),
            Kind::Special => finding("a device, pipe or socket"),
            Kind::File | Kind::Directory | Kind::Link => {}
        }
        if file.kind != Kind::Link && file.mode & 0o6000 != 0 {
            finding("setuid or setgid");
        }
        if file.kind != Kind::Link && file.mode & 0o022 != 0 {
            finding("writable by others");
        }
        if file.owner != (0, 0) {
            finding("not root's");
        }
    }
    Ok(found)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Link,
    Special,
}

struct Entry {
    /// The path relative to the image's root.
    path: String,
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    bytes: u64,
}

fn files(root: &Path) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let mut queue = vec![root.to_owned()];
    while let Some(directory) = queue.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let about = fs::symlink_metadata(&path)?;
            let kind = about.file_type();
            if kind.is_dir() {
                queue.push(path.clone());
            }
            let special = kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket();
            entries.push(Entry {
                path: format!("/{}", path.strip_prefix(root)?.display()),
                kind: match (special, kind.is_dir(), kind.is_symlink()) {
                    (true, _, _) => Kind::Special,
                    (_, true, _) => Kind::Directory,
                    (_, _, true) => Kind::Link,
                    (false, false, false) => Kind::File,
                },
                mode: about.mode(),
                owner: (about.uid(), about.gid()),
                bytes: if kind.is_file() { about.len() } else { 0 },
            });
        }
    }
    Ok(entries)
}

fn authorities() -> Result<()> {
    let image = Image::open()?;
    let bundle = image.root.join("etc/ssl/certs/ca-certificates.crt");
    let count = "import ssl, sys; print(len(ssl.create_default_context(cafile=sys.argv[1]).get_ca_certs()))";
    let known = proc::run(Command::new("python3").args(["-c", count]).arg(&bundle))?;
    let written = fs::read_to_string(&bundle)?.matches("BEGIN CERTIFICATE").count();
    // The number changes slightly with each release of Mozilla's list.
    ensure!(written > 100, "{written} certificates");
    ensure!(known.trim() == written.to_string(), "of {written} certificates {known} can be read");
    Ok(())
}

fn paths() -> Result<()> {
    let image = Image::open()?;
    let binary = fs::read(image.root.join("usr/bin/podrole"))?;
    let holds = |text: &str| binary.windows(text.len()).any(|window| window == text.as_bytes());
    // Control: the binary does contain paths, with prefixes that are the same on every machine.
    ensure!(holds("/crates/") && holds("/rustc/"), "no path is in the binary at all: is this the right search?");
    for path in [env!("CARGO_MANIFEST_DIR"), "/.cargo/", "registry/src/", "/target/release/", "/home/", "/root/"] {
        ensure!(!holds(path), "the binary holds {path}");
    }
    Ok(())
}
