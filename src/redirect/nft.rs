//! Runs `nft -j`, the only child process that podrole starts.
//!
//! The nftables crate's helper loses nft's error output and leaves the child running when its caller is dropped. Here the child has
//! an absolute path, an empty environment and a time limit, and is killed when its caller is dropped.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nftables::schema::Nftables;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::RedirectError;
use super::ruleset::{Ruleset, TABLE};

/// The paths that distributions and podrole's image use.
const PATHS: [&str; 4] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];
/// How long nft may run. A transaction takes 15 ms, or 30 ms under contention.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The nft binary.
#[derive(Clone, Debug)]
pub struct Nft {
    path: PathBuf,
}

// === impl Nft ===

impl Nft {
    /// Finds the binary.
    pub fn find() -> Result<Self, RedirectError> {
        let path = PATHS.iter().map(Path::new).find(|path| path.exists());
        path.map(|path| Self { path: path.into() }).ok_or_else(|| RedirectError::NoNft(PATHS.join(", ")))
    }

    /// Replaces podrole's table by `ruleset`, in one transaction.
    pub async fn apply(&self, ruleset: &Ruleset) -> Result<(), RedirectError> {
        self.submit(&["-j", "-f", "-"], &ruleset.transaction()).await
    }

    /// Removes podrole's table.
    pub async fn remove(&self) -> Result<(), RedirectError> {
        self.submit(&["-j", "-f", "-"], &Ruleset::removal()).await
    }

    /// podrole's table as nft lists it; `None` if there is none. Tables of other programs are not read, because they may contain
    /// expressions that the schema lacks.
    pub async fn observe(&self) -> Result<Option<Nftables<'static>>, RedirectError> {
        // Look for the name first: nft reports a missing table only in words that change between versions.
        let tables = self.json(&["-j", "list", "tables", "inet"]).await?;
        let ours = |object: &serde_json::Value| object["table"]["name"] == TABLE && object["table"]["family"] == "inet";
        if !tables["nftables"].as_array().is_some_and(|objects| objects.iter().any(ours)) {
            return Ok(None);
        }
        let listed = self.run(&["-j", "list", "table", "inet", TABLE], None).await?;
        serde_json::from_slice(&listed).map(Some).map_err(RedirectError::Unreadable)
    }

    /// nft's version, read from its JSON output, because support for JSON is a build option of nft.
    pub async fn version(&self) -> Result<String, RedirectError> {
        let tables = self.json(&["-j", "list", "tables"]).await?;
        let objects = tables["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
        let version = objects.iter().find_map(|object| object["metainfo"]["version"].as_str());
        Ok(version.unwrap_or("of unknown version").to_owned())
    }

    /// Whether nft and the kernel would accept `ruleset`: both validate the whole transaction, which is then discarded.
    pub async fn rehearse(&self, ruleset: &Ruleset) -> Result<(), RedirectError> {
        self.submit(&["-c", "-j", "-f", "-"], &ruleset.transaction()).await
    }

    /// All tables of the node as untyped JSON, because other programs use expressions that the schema lacks.
    pub async fn everything(&self) -> Result<serde_json::Value, RedirectError> {
        self.json(&["-j", "list", "ruleset"]).await
    }

    async fn json(&self, args: &[&str]) -> Result<serde_json::Value, RedirectError> {
        let listed = self.run(args, None).await?;
        serde_json::from_slice(&listed).map_err(RedirectError::NotJson)
    }

    async fn submit(&self, args: &[&str], batch: &Nftables<'_>) -> Result<(), RedirectError> {
        let json = serde_json::to_vec(batch).map_err(RedirectError::Unwritable)?;
        self.run(args, Some(&json)).await.map(drop)
    }

    async fn run(&self, args: &[&str], input: Option<&[u8]>) -> Result<Vec<u8>, RedirectError> {
        let mut command = Command::new(&self.path);
        command.args(args).env_clear().kill_on_drop(true);
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(RedirectError::Spawn)?;
        let talk = async {
            if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
                // The write fails if nft ends before it has read everything. nft then explains the reason on stderr.
                let _ = stdin.write_all(input).await;
            }
            child.wait_with_output().await.map_err(RedirectError::Spawn)
        };
        let output =
            tokio::time::timeout(TIMEOUT, talk).await.map_err(|_| RedirectError::Timeout(TIMEOUT.as_secs()))??;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(RedirectError::Failed(said.trim().chars().take(2000).collect()));
        }
        Ok(output.stdout)
    }
}
