//! Asks the kernel about a socket the way podrole does: `sock_diag` with the exact addresses, in the socket's netns.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};
use rustix::net::netlink::SOCK_DIAG;
use rustix::net::{AddressFamily, SocketType, socket};

const BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;
const TCP: u8 = 6;
const HEADER: usize = 16;
const MESSAGE: usize = 72;
const CGROUP_ID: u16 = 21;

/// A `sock_diag` socket for one network namespace.
#[derive(Debug)]
pub struct SockDiag {
    kernel: File,
    answer: Vec<u8>,
}

impl SockDiag {
    /// Opens the socket in the netns at `netns`. It stays bound to that netns whichever thread uses it.
    pub fn open(netns: &Path) -> Result<Self> {
        let fd = thread::scope(|scope| {
            scope
                .spawn(|| -> Result<OwnedFd> {
                    setns(File::open(netns)?, CloneFlags::CLONE_NEWNET).context("enter the pod's network namespace")?;
                    Ok(socket(AddressFamily::NETLINK, SocketType::RAW, Some(SOCK_DIAG))?)
                })
                .join()
                .map_err(|_| anyhow!("the thread that opens the socket panicked"))?
        })?;
        // An unconnected netlink socket sends to the kernel.
        Ok(Self { kernel: File::from(fd), answer: vec![0; 16 * 1024] })
    }

    /// The id of the cgroup that opened the TCP socket `local` -> `remote`.
    pub fn cgroup_id(&mut self, local: SocketAddr, remote: SocketAddr) -> Result<u64> {
        let answer = self.ask(&question(local, remote))?;
        ensure!(answer.len() > HEADER + MESSAGE, "the kernel does not know the socket: {answer:?}");
        let mut attributes = &answer[HEADER + MESSAGE..];
        while let Some((head, _)) = attributes.split_at_checked(4) {
            let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
            ensure!((4..=attributes.len()).contains(&length), "malformed netlink attribute");
            if u16::from_ne_bytes([head[2], head[3]]) == CGROUP_ID {
                return Ok(u64::from_ne_bytes(attributes[4..length].try_into().context("an id is 8 bytes")?));
            }
            attributes = &attributes[length.next_multiple_of(4).min(attributes.len())..];
        }
        Err(anyhow!("the kernel's answer contains no cgroup id"))
    }

    /// Measures the mean duration of a query (one send, one receive) over `count` queries without pauses.
    pub fn time(&mut self, local: SocketAddr, remote: SocketAddr, count: u32) -> Result<Duration> {
        // Check that the socket exists; otherwise this would measure the error path.
        self.cgroup_id(local, remote)?;
        let question = question(local, remote);
        let begin = Instant::now();
        for _ in 0..count {
            ensure!(self.ask(&question)?.len() > HEADER + MESSAGE, "the socket no longer exists");
        }
        Ok(begin.elapsed() / count)
    }

    fn ask(&mut self, question: &[u8]) -> Result<&[u8]> {
        self.kernel.write_all(question).context("query the kernel")?;
        let count = self.kernel.read(&mut self.answer).context("read the kernel's answer")?;
        Ok(&self.answer[..count])
    }
}

fn question(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let mut body = vec![u8::try_from(family.as_raw()).unwrap_or_default(), TCP, 0, 0];
    body.extend(0xfff_u32.to_ne_bytes());
    body.extend(local.port().to_be_bytes());
    body.extend(remote.port().to_be_bytes());
    body.extend(sixteen(local.ip()));
    body.extend(sixteen(remote.ip()));
    body.extend([0; 4]);
    body.extend([0xff; 8]);
    let length = u32::try_from(HEADER + body.len()).unwrap_or_default();
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&v4.octets());
            bytes
        }
    }
}
