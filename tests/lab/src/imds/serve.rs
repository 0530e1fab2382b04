//! The service's thread. It runs in the netns behind the uplink and listens on both addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::answer::answer;
use super::{Mode, Protocol, Seen, Shared};
use crate::netns;
use crate::node::{METADATA_V4, METADATA_V6};

/// Ports that EC2 does not serve. Arrivals are recorded and never answered.
const OTHER_PORTS: [u16; 3] = [53, 443, 8080];
/// Limits of a request, in size and time; real metadata clients stay below them.
const LONGEST: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves until `stop` is signaled. Sends to `ready` when all ports are open.
pub(super) fn run(wan: &Path, shared: Arc<Shared>, ready: &mpsc::Sender<Result<()>>, stop: oneshot::Receiver<()>) {
    let begin = || {
        netns::join(wan)?;
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")
    };
    match begin() {
        Ok(runtime) => runtime.block_on(serve(shared, ready, stop)),
        // Sending fails only if the starting thread no longer waits.
        Err(error) => drop(ready.send(Err(error))),
    }
}

async fn serve(shared: Arc<Shared>, ready: &mpsc::Sender<Result<()>>, stop: oneshot::Receiver<()>) {
    let mut tasks = JoinSet::new();
    let opened = open(&mut tasks, &shared).await;
    if ready.send(opened).is_ok() {
        // An error means that the handle was dropped, which also means stop.
        stop.await.ok();
    }
    tasks.shutdown().await;
}

async fn open(tasks: &mut JoinSet<()>, shared: &Arc<Shared>) -> Result<()> {
    for address in [IpAddr::V4(METADATA_V4), IpAddr::V6(METADATA_V6)] {
        for port in [80].into_iter().chain(OTHER_PORTS) {
            let local = SocketAddr::new(address, port);
            let listener = TcpListener::bind(local).await.with_context(|| format!("listen on {local}"))?;
            tasks.spawn(accept(listener, local, Arc::clone(shared)));
        }
        let local = SocketAddr::new(address, 53);
        let socket = UdpSocket::bind(local).await.with_context(|| format!("listen on {local}, UDP"))?;
        tasks.spawn(receive(socket, local, Arc::clone(shared)));
    }
    Ok(())
}

async fn accept(listener: TcpListener, local: SocketAddr, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let seen = Seen { at: SystemTime::now(), peer, local, protocol: Protocol::Tcp, bytes: Vec::new() };
                let number = shared.note(seen);
                connections.spawn(converse(stream, number, local.port() == 80, Arc::clone(&shared)));
            }
            // The connection was gone before it was accepted, or file descriptors ran out temporarily.
            Err(_) => sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn converse(mut stream: TcpStream, number: u64, serves: bool, shared: Arc<Shared>) {
    // Ignore errors of clients and connections; the bytes are recorded.
    timeout(PATIENCE, async {
        if serves && let Some(head) = read_head(&mut stream, number, &shared).await? {
            let mode = shared.lock().mode;
            if let Mode::Slow(delay) = mode {
                sleep(delay).await;
            }
            let bytes = answer(&mut shared.lock(), &head);
            stream.set_nodelay(true)?;
            stream.write_all(&bytes).await?;
            stream.shutdown().await?;
        }
        let mut chunk = [0; 4096];
        loop {
            match stream.read(&mut chunk).await? {
                0 => return Ok::<(), io::Error>(()),
                count => shared.note_more(number, &chunk[..count]),
            }
        }
    })
    .await
    .ok();
}

/// The request without the empty line at its end, or `None` if the client closes before that.
async fn read_head(stream: &mut TcpStream, number: u64, shared: &Shared) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut chunk = [0; 4096];
    while head.len() < LONGEST {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Ok(None);
        }
        shared.note_more(number, &chunk[..count]);
        head.extend_from_slice(&chunk[..count]);
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            head.truncate(end);
            return Ok(Some(head));
        }
    }
    Ok(None)
}

async fn receive(socket: UdpSocket, local: SocketAddr, shared: Arc<Shared>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // An error is the ICMP response of a client to an earlier answer.
        if let Ok((count, peer)) = socket.recv_from(&mut buffer).await {
            let bytes = buffer[..count].to_vec();
            shared.note(Seen { at: SystemTime::now(), peer, local, protocol: Protocol::Udp, bytes });
            // The echo tells the client that its datagram got through. Ignore errors when sending it.
            socket.send_to(&buffer[..count], peer).await.ok();
        }
    }
}
