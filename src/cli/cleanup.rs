//! `podrole cleanup`: the one way to take the rules away, and it says what that means.

use std::process::ExitCode;

use crate::redirect::RedirectError;
use crate::redirect::nft::Nft;
use crate::redirect::routing::Routing;

use super::{complain, say, small_runtime};

/// Runs the subcommand.
pub fn main() -> ExitCode {
    let removed = small_runtime().map_err(RedirectError::Socket).and_then(|runtime| runtime.block_on(remove()));
    match removed {
        Ok(removed) => {
            for what in &removed {
                say(format_args!("removed: {what}"));
            }
            if removed.is_empty() {
                say("nothing of podrole's is set up on this node");
            }
            say(
                "from now on every pod of this node reaches the node's own metadata service: its role's credentials, user data and \
                 identity documents, unless something else stops it (IMDSv2 with a hop limit of 1 stops most)",
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

async fn remove() -> Result<Vec<String>, RedirectError> {
    let nft = Nft::find()?;
    let mut removed = Vec::new();
    // A table that cannot be read is there, and goes.
    if !matches!(nft.observe().await, Ok(None)) {
        nft.remove().await?;
        removed.push("nftables table inet podrole".into());
    }
    removed.extend(Routing::open()?.unlock().await?);
    Ok(removed)
}
