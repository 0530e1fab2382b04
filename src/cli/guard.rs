//! `podrole guard`: installs the two guards before anything else can fail. The command needs no configuration, API server or
//! cgroups.

use std::collections::HashMap;
use std::process::ExitCode;

use http::Uri;

use crate::caller::self_test::missing_net_admin;
use crate::config::metadata_endpoint;
use crate::redirect::RedirectError;
use crate::redirect::nft::Nft;
use crate::redirect::routing::Routing;
use crate::redirect::ruleset::Ruleset;
use crate::upstream::UpstreamError;
use crate::upstream::client::Client;

use super::{USAGE, complain, say, small_runtime};

/// Why the node does not have both guards.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The node belongs to another cloud and must not be guarded. Nothing was changed.
    #[error(transparent)]
    Foreign(#[from] UpstreamError),
    /// One or both guards could not be installed. The text names these guards and the reasons.
    #[error("{0}")]
    Partial(String),
}

/// Runs the subcommand.
pub fn main(environment: &HashMap<String, String>) -> ExitCode {
    let (endpoint, problem) = metadata_endpoint(environment);
    let guarded = small_runtime().map_err(|error| GuardError::Partial(error.to_string()));
    let guarded = guarded.and_then(|runtime| runtime.block_on(install_guards(&endpoint)));
    // As with `podrole run`, a wrong setting must not leave the node unguarded, so the setting is reported only after the guards
    // are installed.
    if let Some(problem) = &problem {
        complain(problem);
    }
    match guarded {
        Ok(()) if problem.is_some() => ExitCode::from(USAGE),
        Ok(()) => {
            say(
                "both guards are installed: pods of this node no longer reach its metadata service; start podrole run to serve them",
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

/// Installs both guards. A failure of one does not stop the other, because each is enough to guard the node.
pub async fn install_guards(endpoint: &Uri) -> Result<(), GuardError> {
    let client = Client::new(endpoint);
    // This check runs first, because podrole must not take over the metadata addresses on another cloud.
    if let Some(cloud) = client.foreign_cloud().await {
        return Err(UpstreamError::ForeignCloud(cloud).into());
    }
    let results = [("routing guard", install_routing_guard().await), ("table guard", install_table_guard().await)];
    let failed: Vec<String> =
        results.into_iter().filter_map(|(what, result)| result.err().map(|error| format!("{what}: {error}"))).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let missing = missing_net_admin().map(|error| error.to_string());
    Err(GuardError::Partial(failed.into_iter().chain(missing).collect::<Vec<_>>().join("; ")))
}

async fn install_routing_guard() -> Result<(), RedirectError> {
    Routing::open()?.install_all().await
}

/// Keeps a table that has the guard already, because it may belong to a daemon that is serving pods. Replaces any other table,
/// and also a table that cannot be read.
async fn install_table_guard() -> Result<(), RedirectError> {
    let nft = Nft::find()?;
    let guard = Ruleset { uplinks: Routing::open()?.uplinks().await.unwrap_or_default(), port: None };
    match nft.observe().await {
        Ok(Some(observed)) if guard.guards_in(&observed) => Ok(()),
        Ok(Some(_) | None) | Err(_) => nft.apply(&guard).await,
    }
}
