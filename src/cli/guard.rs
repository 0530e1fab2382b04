//! `podrole guard`: the node is closed before anything else can fail. No configuration, no API server, no cgroups.

use std::collections::HashMap;
use std::process::ExitCode;

use http::Uri;

use crate::caller::self_test::lacks_net_admin;
use crate::config::metadata_endpoint;
use crate::redirect::RedirectError;
use crate::redirect::nft::Nft;
use crate::redirect::routing::Routing;
use crate::redirect::ruleset::Ruleset;
use crate::upstream::UpstreamError;
use crate::upstream::client::Client;

use super::{USAGE, complain, say, small_runtime};

/// Why the node is not closed, or only by one of the two locks.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// It must not be: the address is another cloud's.
    #[error(transparent)]
    Foreign(#[from] UpstreamError),
    /// Some of it could not be set.
    #[error("{0}")]
    Partial(String),
}

/// Runs the subcommand.
pub fn main(environment: &HashMap<String, String>) -> ExitCode {
    let (endpoint, problem) = metadata_endpoint(environment);
    let closed = small_runtime().map_err(|error| GuardError::Partial(error.to_string()));
    let closed = closed.and_then(|runtime| runtime.block_on(close_node(&endpoint)));
    // As run does: what is wrong with the settings leaves the node closed, not open.
    if let Some(problem) = &problem {
        complain(problem);
    }
    match closed {
        Ok(()) if problem.is_some() => ExitCode::from(USAGE),
        Ok(()) => {
            say("pods of this node no longer reach its metadata service; podrole run serves them in its place");
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

/// Sets both locks. Each is tried even where the other fails: either alone closes the node.
pub async fn close_node(endpoint: &Uri) -> Result<(), GuardError> {
    let client = Client::new(endpoint);
    // Before anything is changed: on another cloud these addresses are not ours to take.
    if let Some(cloud) = client.foreign_cloud().await {
        return Err(UpstreamError::ForeignCloud(cloud).into());
    }
    let results = [("routing lock", lock_routes().await), ("nftables guard", load_table().await)];
    let failed: Vec<String> =
        results.into_iter().filter_map(|(what, result)| result.err().map(|error| format!("{what}: {error}"))).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let lacks = lacks_net_admin().map(|error| error.to_string());
    Err(GuardError::Partial(failed.into_iter().chain(lacks).collect::<Vec<_>>().join("; ")))
}

async fn lock_routes() -> Result<(), RedirectError> {
    Routing::open()?.lock_all().await
}

/// A table of ours that can be read is left alone: it may be another instance's, which is serving. Anything else is replaced.
async fn load_table() -> Result<(), RedirectError> {
    let nft = Nft::find()?;
    let guard = Ruleset { uplinks: Routing::open()?.uplinks().await.unwrap_or_default(), port: None };
    match nft.observe().await {
        Ok(Some(observed)) if guard.guards_in(&observed) => Ok(()),
        Ok(Some(_) | None) | Err(_) => nft.apply(&guard).await,
    }
}
