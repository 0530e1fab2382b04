//! `podrole cleanup`: removes both guards and says what the removal exposes. No other command removes a guard.

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
                say("nothing to remove: podrole has not set up anything on this node");
            }
            say(
                "from now on every pod of this node reaches the node's own metadata service: the credentials of its role, user data and \
                 identity documents, unless something else prevents it (IMDSv2 with a hop limit of 1 keeps most pods out)",
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

/// Removes what podrole has set up. Returns one description for each removed item.
async fn remove() -> Result<Vec<String>, RedirectError> {
    let nft = Nft::find()?;
    let mut removed = Vec::new();
    // If reading the table fails, the table exists, so it is removed too.
    if !matches!(nft.observe().await, Ok(None)) {
        nft.remove().await?;
        removed.push("nftables table inet podrole".into());
    }
    removed.extend(Routing::open()?.remove().await?);
    Ok(removed)
}
