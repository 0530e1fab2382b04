//! The agent's side of the protocol: executes orders one after another.

use std::collections::HashMap;
use std::io::{self, BufRead as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use super::wire::{Answer, Op};
use super::{BASE64, End, Failure, Received, Target, decode, load};

/// Executes orders from standard input until it ends.
pub(super) fn run() -> Result<()> {
    // A thousand concurrent connections need more file descriptors than the usual limit.
    let files = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })
        .context("allow more files")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let mut kept = Kept::default();
    say(&Answer::Done)?;
    for line in io::stdin().lock().lines() {
        let op: Op = serde_json::from_str(&line.context("read an order")?).context("parse an order")?;
        let answer = runtime.block_on(kept.obey(op)).unwrap_or_else(Answer::Failed);
        say(&answer)?;
    }
    Ok(())
}

fn say(answer: &Answer) -> Result<()> {
    let mut text = serde_json::to_string(answer).context("write an answer")?;
    text.push('\n');
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("write an answer")
}

/// Connections that stay open between orders.
#[derive(Default)]
struct Kept {
    last: u64,
    streams: HashMap<u64, TcpStream>,
}

impl Kept {
    async fn obey(&mut self, op: Op) -> Result<Answer, Failure> {
        match op {
            Op::Exchange { target, data } => {
                let mut stream = connect(&target).await?;
                send(&target, &mut stream, &decode(&data)?).await?;
                Ok(data_answer(read(&mut stream, usize::MAX, target.patience()).await?))
            }
            Op::Open { target } => {
                let stream = connect(&target).await?;
                let local = stream.local_addr()?;
                self.last += 1;
                self.streams.insert(self.last, stream);
                Ok(Answer::Opened { handle: self.last, local })
            }
            Op::Send { handle, data } => {
                self.stream(handle)?.write_all(&decode(&data)?).await?;
                Ok(Answer::Done)
            }
            Op::Read { handle, limit, timeout_ms } => {
                let stream = self.stream(handle)?;
                Ok(data_answer(read(stream, limit, Duration::from_millis(timeout_ms)).await?))
            }
            Op::Finish { handle } => {
                self.stream(handle)?.shutdown().await?;
                Ok(Answer::Done)
            }
            Op::Close { handle, reset } => {
                let stream = self.streams.remove(&handle).ok_or_else(|| unknown(handle))?;
                if reset {
                    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                }
                Ok(Answer::Done)
            }
            Op::Datagram { target, data } => datagram(&target, &decode(&data)?).await,
            Op::Load(plan) => load::make(plan).await.map(Answer::Load),
        }
    }

    fn stream(&mut self, handle: u64) -> Result<&mut TcpStream, Failure> {
        self.streams.get_mut(&handle).ok_or_else(|| unknown(handle))
    }
}

fn unknown(handle: u64) -> Failure {
    Failure::Agent(format!("no connection {handle} is open"))
}

fn data_answer(received: Received) -> Answer {
    Answer::Data { data: BASE64.encode(received.bytes), end: received.end }
}

pub(super) async fn connect(target: &Target) -> Result<TcpStream, Failure> {
    let (to, from) = (family(target.to, target.mapped), target.from.map(|from| family(from, target.mapped)));
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if target.on_device {
        SockRef::from(&socket).bind_device(Some(b"eth0"))?;
    }
    if let Some(from) = from {
        // Allow a fixed port to be reused at once; otherwise bind fails while the old connection is in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(from)?;
    }
    let stream = timeout(target.patience(), socket.connect(to)).await.map_err(|_| Failure::TimedOut)??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a whole request.
pub(super) async fn send(target: &Target, stream: &mut TcpStream, request: &[u8]) -> io::Result<()> {
    stream.write_all(request).await?;
    if target.half_closes { stream.shutdown().await } else { Ok(()) }
}

fn family(address: SocketAddr, mapped: bool) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) if mapped => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V4(_) | IpAddr::V6(_) => address,
    }
}

async fn read(stream: &mut TcpStream, limit: usize, patience: Duration) -> Result<Received, Failure> {
    let deadline = Instant::now() + patience;
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    while bytes.len() < limit {
        let room = chunk.len().min(limit - bytes.len());
        let count = match timeout_at(deadline, stream.read(&mut chunk[..room])).await {
            Err(_) => return Ok(Received { bytes, end: End::TimedOut }),
            Ok(Ok(0)) => return Ok(Received { bytes, end: End::Closed }),
            Ok(Ok(count)) => count,
            Ok(Err(error)) => {
                let failure = Failure::from(error);
                return if failure == Failure::Reset { Ok(Received { bytes, end: End::Reset }) } else { Err(failure) };
            }
        };
        bytes.extend_from_slice(&chunk[..count]);
    }
    Ok(Received { bytes, end: End::Enough })
}

async fn datagram(target: &Target, bytes: &[u8]) -> Result<Answer, Failure> {
    let any = if target.to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = match target.from {
        Some(from) => UdpSocket::bind(from).await?,
        None => UdpSocket::bind(any).await?,
    };
    socket.connect(target.to).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; 64 * 1024];
    let count = timeout(target.patience(), socket.recv(&mut buffer)).await.map_err(|_| Failure::TimedOut)??;
    buffer.truncate(count);
    Ok(data_answer(Received { bytes: buffer, end: End::Enough }))
}
