//! The data plane: accepts pods' connections, checks how they were routed here, and hands one request each to the metadata service.

mod conn;
mod limits;
pub mod listener;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};

use crate::caller::Kernel;
use crate::clock::Clock;
use crate::issuer::Issuer;
use crate::metrics::{ConnectionRefused, Metrics};
use crate::service::MetadataService;
use crate::tasks::Drain;

use limits::Limits;
use listener::Listener;

/// The pause after an accept that failed for lack of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves listeners within common limits.
pub struct Server<K, I, C> {
    service: Arc<MetadataService<K, I, C>>,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    drain: Drain,
}

// === impl Server ===

impl<K: Kernel, I: Issuer, C: Clock + Clone> Server<K, I, C> {
    /// A server in front of `service`.
    pub fn new(service: Arc<MetadataService<K, I, C>>, metrics: Arc<Metrics>, drain: Drain) -> Arc<Self> {
        Arc::new(Self { service, limits: Arc::default(), metrics, drain })
    }

    /// Serves `listener` until the drain begins.
    pub async fn serve(self: Arc<Self>, listener: Listener) {
        let drain = self.drain.clone();
        let mut begun = pin!(drain.begun());
        loop {
            let accepted = tokio::select! {
                () = &mut begun => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(stream) => self.clone().admit(&listener, stream),
                Err(error) => {
                    warn!(%error, retry_in = ?ACCEPT_PAUSE, "Cannot accept a connection; retrying");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(self: Arc<Self>, listener: &Listener, (stream, peer): (tokio::net::TcpStream, SocketAddr)) {
        let Some(connection) = listener.connection(&stream, peer) else {
            // No rule of podrole routed the connection here: the peer connected to the listener directly. Nothing is read or
            // written.
            debug!(%peer, "Reset a connection that was not for the metadata address");
            self.metrics.connection_refused(ConnectionRefused::NotRedirected);
            listener::reset(&stream);
            return;
        };
        let Some(permit) = self.limits.permit(peer.ip()) else {
            self.metrics.connection_refused(ConnectionRefused::TooMany);
            listener::reset(&stream);
            return;
        };
        let drain = self.drain.clone();
        tokio::spawn(drain.track(async move {
            conn::serve(stream, connection, &self.service).await;
            drop(permit);
        }));
    }
}

impl<K, I, C> std::fmt::Debug for Server<K, I, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Server")
    }
}
