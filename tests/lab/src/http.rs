//! A small HTTP/1.1 server for the doubles. Each server has one thread with a current-thread runtime and ends with its
//! handle.
//!
//! The listening socket is created on the caller's thread, so that a double lives in the network namespace in which it
//! was started. A second socket reserves the port without listening: while the server is down, connections are refused
//! and no other process can take the port.

use std::convert::Infallible;
use std::future::{Future, pending};
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Poller, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HyperBody, Frame, Incoming, SizeHint};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Method, Response, Uri};
use hyper_util::rt::TokioIo;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};

pub mod form;
pub mod random;

/// Timeout for commands to the server's thread. Only a hang takes this long.
const OBEY: Duration = Duration::from_secs(10);

/// A request, with its whole body.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method as sent.
    pub method: Method,
    /// The request target as sent.
    pub uri: Uri,
    /// The headers as sent.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// Who connected.
    pub peer: SocketAddr,
}

impl Request {
    /// The value of a header, if it exists and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// What the server does with a request.
pub enum Reply {
    /// Sends this response.
    Answer(Response<Body>),
    /// Closes the connection with a TCP reset and no response.
    Reset,
    /// Keeps the connection open and never answers.
    Stall,
}

/// A response body: complete, or produced by a task while it is sent.
pub enum Body {
    /// Sent with its length; if it fits, in the same segment as the head.
    Whole(Option<Bytes>),
    /// Sent in chunks. An error in the stream breaks the connection without a last chunk.
    Stream(mpsc::Receiver<io::Result<Bytes>>),
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(whole: T) -> Self {
        let bytes = whole.into();
        Self::Whole((!bytes.is_empty()).then_some(bytes))
    }
}

impl HyperBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Poller<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(chunks) => chunks.poll_recv(cx).map(|next| next.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// A running server. Dropping it closes all connections and ends its thread.
pub struct Server {
    addr: SocketAddr,
    commands: mpsc::UnboundedSender<Command>,
    runtime: Handle,
    thread: Option<JoinHandle<()>>,
    _reservation: Socket,
}

/// Commands from the handle to the server's thread.
enum Command {
    Down(std::sync::mpsc::Sender<io::Result<()>>),
    Up(std::sync::mpsc::Sender<io::Result<()>>),
    Stop,
}

impl Server {
    /// Binds in the caller's network namespace and serves until the handle is dropped.
    pub fn start<H, F>(name: &str, bind: SocketAddr, handler: H) -> Result<Self>
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Reply> + Send + 'static,
    {
        let reservation = bound(bind).with_context(|| format!("{name}: bind {bind}"))?;
        let addr = reservation.local_addr()?.as_socket().ok_or_else(|| anyhow!("{name}: not an IP address"))?;
        let listener = listen(addr).with_context(|| format!("{name}: listen on {addr}"))?;
        let (commands, inbox) = mpsc::unbounded_channel();
        let (started, runtime) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match built {
                Ok(runtime) => runtime,
                Err(error) => {
                    // Sending fails only if the starting thread no longer waits.
                    let _ = started.send(Err(error));
                    return;
                }
            };
            let _ = started.send(Ok(runtime.handle().clone()));
            runtime.block_on(accept(listener, addr, inbox, Arc::new(handler)));
        })?;
        let runtime = runtime.recv_timeout(OBEY).with_context(|| format!("{name}: runtime did not start"))??;
        Ok(Self { addr, commands, runtime, thread: Some(thread), _reservation: reservation })
    }

    /// The address on which it listens, with the actual port.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The base URL for a client in the same network namespace.
    pub fn endpoint(&self) -> String {
        let mut addr = self.addr;
        if addr.ip().is_unspecified() {
            addr.set_ip(if addr.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
        }
        format!("http://{addr}")
    }

    /// `true` refuses new connections and breaks open ones, `false` serves again. The change is effective when this
    /// returns.
    pub fn down(&self, down: bool) -> Result<()> {
        let (ack, done) = std::sync::mpsc::channel();
        let command = if down { Command::Down(ack) } else { Command::Up(ack) };
        self.commands.send(command).map_err(|_| anyhow!("the server's thread has ended"))?;
        done.recv_timeout(OBEY).context("the server's thread does not answer")?.context("listen again")
    }

    /// The server's runtime, for the background tasks of a double.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Locks the mutex even if another thread panicked while it held it: a double must still report what it recorded.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bound(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn listen(addr: SocketAddr) -> io::Result<StdListener> {
    let socket = bound(addr)?;
    socket.set_nonblocking(true)?;
    socket.listen(4096)?;
    Ok(socket.into())
}

async fn accept<H, F>(
    listener: StdListener,
    addr: SocketAddr,
    mut commands: mpsc::UnboundedReceiver<Command>,
    handler: Arc<H>,
) where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    let (broken, _) = watch::channel(());
    let mut open = TcpListener::from_std(listener).ok();
    loop {
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                None | Some(Command::Stop) => return,
                Some(Command::Down(ack)) => {
                    open = None;
                    broken.send_replace(());
                    let _ = ack.send(Ok(()));
                }
                Some(Command::Up(ack)) => {
                    let outcome = match open {
                        Some(_) => Ok(()),
                        None => listen(addr).and_then(TcpListener::from_std).map(|listener| open = Some(listener)),
                    };
                    let _ = ack.send(outcome);
                }
            },
            (stream, peer) = next(open.as_ref()) => {
                tokio::spawn(serve(stream, peer, broken.subscribe(), Arc::clone(&handler)));
            }
        }
    }
}

async fn next(listener: Option<&TcpListener>) -> (TcpStream, SocketAddr) {
    let Some(listener) = listener else { return pending().await };
    loop {
        // Aborted connections and a lack of file descriptors are not the server's failure. Yield, so that a lack of
        // descriptors does not busy-loop.
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn serve<H, F>(stream: TcpStream, peer: SocketAddr, mut broken: watch::Receiver<()>, handler: Arc<H>)
where
    H: Fn(Request) -> F + Send + Sync + 'static,
    F: Future<Output = Reply> + Send + 'static,
{
    // A second descriptor of the socket: hyper owns the first, and a reset must be set up after hyper has dropped it.
    let Ok(spare) = prepare(&stream) else { return };
    let reset = Arc::new(Notify::new());
    let service = service_fn(|request| answer(request, peer, Arc::clone(&handler), Arc::clone(&reset)));
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // Ignore errors: clients that leave early and bodies that break on purpose are normal here.
        _ = connection => {}
        _ = broken.changed() => {}
        () = reset.notified() => {
            let _ = SockRef::from(&spare).set_linger(Some(Duration::ZERO));
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<OwnedFd> {
    stream.set_nodelay(true)?;
    stream.as_fd().try_clone_to_owned()
}

async fn answer<H, F>(
    request: hyper::Request<Incoming>,
    peer: SocketAddr,
    handler: Arc<H>,
    reset: Arc<Notify>,
) -> Result<Response<Body>, Infallible>
where
    H: Fn(Request) -> F,
    F: Future<Output = Reply>,
{
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return pending().await };
    let request = Request { method: head.method, uri: head.uri, headers: head.headers, body: body.to_bytes(), peer };
    match handler(request).await {
        Reply::Answer(response) => Ok(response),
        Reply::Stall => pending().await,
        Reply::Reset => {
            reset.notify_one();
            pending().await
        }
    }
}

/// Sends one request and reads until the server closes, blocking. For the doubles' own tests, which check every byte.
pub fn exchange(addr: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(OBEY))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};

    fn server() -> Server {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Server::start("http-test", any, |request| async move {
            match request.uri.path() {
                "/reset" => Reply::Reset,
                "/stall" => Reply::Stall,
                path => Reply::Answer(Response::new(Body::from(format!("{} {path}", request.method)))),
            }
        })
        .unwrap()
    }

    fn get(path: &str) -> Vec<u8> {
        format!("GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n").into_bytes()
    }

    #[test]
    fn answers_head_and_body_in_one_segment() {
        let server = server();
        let mut stream = std::net::TcpStream::connect(server.addr()).unwrap();
        stream.write_all(&get("/hello")).unwrap();
        let mut first = [0; 4096];
        let read = stream.read(&mut first).unwrap();
        assert!(String::from_utf8_lossy(&first[..read]).ends_with("GET /hello"));
    }

    #[test]
    fn resets_without_an_answer() {
        let server = server();
        let error = exchange(server.addr(), &get("/reset")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn down_refuses_and_comes_back_on_the_same_port() {
        let server = server();
        let mut held = std::net::TcpStream::connect(server.addr()).unwrap();
        held.write_all(&get("/stall")).unwrap();
        server.down(true).unwrap();
        assert_eq!(exchange(server.addr(), &get("/a")).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        held.set_read_timeout(Some(OBEY)).unwrap();
        assert!(matches!(held.read(&mut [0; 16]), Ok(0) | Err(_)));
        server.down(false).unwrap();
        assert!(exchange(server.addr(), &get("/b")).unwrap().ends_with(b"GET /b"));
    }

    #[test]
    fn dies_with_its_handle() {
        let server = server();
        let addr = server.addr();
        drop(server);
        assert_eq!(exchange(addr, &get("/a")).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }
}
