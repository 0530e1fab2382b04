//! Sockets, rules and clients: the parts of the start that can fail for reasons outside.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Handle;
use tracing::{error, info, warn};

use crate::caller::Kernel;
use crate::clock::Clock;
use crate::issuer::Issuer;
use crate::metrics::{Fault, Metrics};
use crate::readiness::BlockReady;
use crate::redirect::nft::Nft;
use crate::redirect::routing::{Family, Routing, has_ipv6};
use crate::redirect::ruleset::Ruleset;
use crate::redirect::{LISTEN_V4, LISTEN_V6, RedirectError};
use crate::server::Server;
use crate::server::listener::{Bound, Listener};
use crate::tasks::Drain;
use crate::types::{METADATA_V4, METADATA_V6};

/// Between attempts to set the routing lock.
const ROUTING_RETRY: Duration = Duration::from_secs(5);
/// Between attempts to bind a metadata address that another instance still holds.
const SECOND_LOCK_RETRY: Duration = Duration::from_secs(1);

/// The bound listeners of one port.
pub(super) struct Plumbing {
    port: u16,
    bound: Vec<Bound>,
}

impl Plumbing {
    /// Puts our addresses on `lo` and binds the first port that is free on all of them.
    pub(super) async fn bind(ports: RangeInclusive<u16>, control: Handle) -> anyhow::Result<Self> {
        let addresses = control.spawn(add_addresses()).await??;
        let mut last = None;
        for port in ports.clone() {
            let bound: std::io::Result<Vec<Bound>> =
                addresses.iter().map(|address| Bound::redirected((*address, port).into())).collect();
            match bound {
                Ok(bound) => return Ok(Self { port, bound }),
                Err(error) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| std::io::Error::other("the range is empty"));
        Err(error).with_context(|| format!("no port of --port-range {}-{} can be bound", ports.start(), ports.end()))
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn listeners(self) -> anyhow::Result<Vec<Listener>> {
        self.bound.into_iter().map(|bound| Ok(bound.listen()?)).collect()
    }
}

async fn add_addresses() -> Result<Vec<IpAddr>, RedirectError> {
    let routing = Routing::open()?;
    routing.add_address(Family::V4).await?;
    let mut addresses = vec![IpAddr::V4(LISTEN_V4)];
    if has_ipv6() {
        match routing.add_address(Family::V6).await {
            Ok(()) => addresses.push(IpAddr::V6(LISTEN_V6)),
            // Disabled on lo: then no pod has it either, and the guard refuses it in any case.
            Err(error) => warn!(error = %error, "No IPv6 address for the listener; pods are served over IPv4 only"),
        }
    }
    Ok(addresses)
}

/// Sets the routing lock, again and again until it stands; the guard has tried once already.
pub(super) async fn lock_routes(standing: BlockReady) {
    loop {
        let locked = async { Routing::open()?.install_all().await };
        match locked.await {
            Ok(()) => return drop(standing),
            Err(error) => error!(%error, "The routing lock does not stand; a flush of nftables would open the node"),
        }
        tokio::time::sleep(ROUTING_RETRY).await;
    }
}

/// Points the metadata address at `port`, in one transaction.
pub(super) async fn redirect(port: u16) -> Result<(), RedirectError> {
    let uplinks = Routing::open()?.uplinks().await?;
    info!(uplinks = ?uplinks, "Interfaces that lead out of the node");
    Nft::find()?.apply(&Ruleset { uplinks, port: Some(port) }).await
}

/// Serves pods on the metadata addresses themselves, where the routing lock delivers when there is no table.
pub(super) async fn second_lock<K: Kernel, I: Issuer, C: Clock + Clone>(
    server: Arc<Server<K, I, C>>,
    metrics: Arc<Metrics>,
    drain: Drain,
) {
    let mut wanted: Vec<IpAddr> = vec![METADATA_V4.into()];
    if has_ipv6() {
        wanted.push(METADATA_V6.into());
    }
    let mut complained = false;
    while !wanted.is_empty() {
        wanted.retain(|address| match Bound::direct(*address).and_then(Bound::listen) {
            Ok(listener) => {
                tokio::spawn(server.clone().serve(listener));
                false
            }
            Err(error) => {
                if !complained {
                    metrics.fault(Fault::MetadataListener);
                    warn!(%address, %error, "Cannot listen on the metadata address yet; trying again");
                }
                true
            }
        });
        complained = !wanted.is_empty();
        tokio::select! {
            () = drain.begun() => return,
            () = tokio::time::sleep(SECOND_LOCK_RETRY) => {}
        }
    }
}

/// A random number in `0..1`.
pub(super) fn jitter() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness everybody would retry together, which is no reason not to run.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}
