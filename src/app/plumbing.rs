//! Sockets, firewall rules and routes: the parts of the start that can fail because of the node's state.

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

/// The pause between attempts to complete the routing guard.
const ROUTING_RETRY: Duration = Duration::from_secs(5);
/// The pause between attempts to bind a metadata address that another instance still holds.
const METADATA_LISTENER_RETRY: Duration = Duration::from_secs(1);

/// The sockets at which pods' redirected connections arrive: one port on each of podrole's addresses.
pub(super) struct PodSockets {
    port: u16,
    bound: Vec<Bound>,
}

// === impl PodSockets ===

impl PodSockets {
    /// Adds podrole's addresses to `lo` and binds the first port of `ports` that is free on all of them.
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
        let error = last.unwrap_or_else(|| std::io::Error::other("the port range is empty"));
        Err(error).with_context(|| format!("cannot bind any port of --port-range {}-{}", ports.start(), ports.end()))
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
            // IPv6 is disabled on lo, so no pod has IPv6 either. The guards block IPv6 in any case.
            Err(error) => warn!(%error, "Cannot add the IPv6 listen address; serving pods over IPv4 only"),
        }
    }
    Ok(addresses)
}

/// Installs the routing guard, retrying until it is complete, then drops `incomplete`. `run` has already made one attempt at the
/// start.
pub(super) async fn complete_routing_guard(incomplete: BlockReady) {
    loop {
        let installed = async { Routing::open()?.install_all().await };
        match installed.await {
            Ok(()) => return drop(incomplete),
            Err(error) => error!(
                %error,
                "Routing guard is incomplete; retrying. Until it is complete, a flush of nftables would expose the node's metadata service"
            ),
        }
        tokio::time::sleep(ROUTING_RETRY).await;
    }
}

/// Redirects the metadata addresses to `port`, in one nftables transaction.
pub(super) async fn redirect(port: u16) -> Result<(), RedirectError> {
    let uplinks = Routing::open()?.uplinks().await?;
    info!(uplinks = ?uplinks, "Dropping metadata traffic that arrives through the uplinks");
    Nft::find()?.apply(&Ruleset { uplinks, port: Some(port) }).await
}

/// Serves pods on the metadata addresses themselves. When the nftables table is missing, the routing guard delivers pods' packets
/// to these addresses. Retries each address until it is bound, or until the drain begins.
pub(super) async fn serve_metadata_listener<K: Kernel, I: Issuer, C: Clock + Clone>(
    server: Arc<Server<K, I, C>>,
    metrics: Arc<Metrics>,
    drain: Drain,
) {
    let mut wanted: Vec<IpAddr> = vec![METADATA_V4.into()];
    if has_ipv6() {
        wanted.push(METADATA_V6.into());
    }
    let mut reported = false;
    while !wanted.is_empty() {
        wanted.retain(|address| match Bound::direct(*address).and_then(Bound::listen) {
            Ok(listener) => {
                tokio::spawn(server.clone().serve(listener));
                false
            }
            Err(error) => {
                if !reported {
                    metrics.fault(Fault::MetadataListener);
                    warn!(%address, %error, "Cannot listen on the metadata address; retrying");
                }
                true
            }
        });
        reported = !wanted.is_empty();
        tokio::select! {
            () = drain.begun() => return,
            () = tokio::time::sleep(METADATA_LISTENER_RETRY) => {}
        }
    }
}

/// Returns a random number in `0..1`.
pub(super) fn jitter() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness, all nodes retry at the same time. That is no reason to stop the daemon.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_ne_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}
