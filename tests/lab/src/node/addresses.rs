//! Allocates pod addresses, with one pool for each network layout.

use std::collections::HashSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, ensure};

use crate::pod::Shape;

/// The node's address pools.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    bridge: Mutex<Pool>,
    routed: Mutex<Pool>,
}

/// A pool. Hosts are allocated in turn, as CNI plugins do, so that a released address is not reused at once.
#[derive(Debug, Default)]
struct Pool {
    last: u16,
    used: HashSet<u16>,
}

impl Addresses {
    /// Allocates a pair of addresses that no other pod has.
    pub(crate) fn take(&self, shape: Shape) -> Result<(Ipv4Addr, Ipv6Addr)> {
        let host = self.pool(shape).lock().unwrap_or_else(PoisonError::into_inner).take(hosts(shape))?;
        Ok(pair(shape, host))
    }

    /// Reserves an address that a test chose itself, so that it is not allocated again.
    pub(crate) fn reserve(&self, shape: Shape, v4: Ipv4Addr) {
        if let Some(host) = host(shape, v4) {
            self.pool(shape).lock().unwrap_or_else(PoisonError::into_inner).used.insert(host);
        }
    }

    /// Releases an address. Addresses outside the pools are ignored.
    pub(crate) fn release(&self, shape: Shape, v4: Ipv4Addr) {
        if let Some(host) = host(shape, v4) {
            self.pool(shape).lock().unwrap_or_else(PoisonError::into_inner).used.remove(&host);
        }
    }

    fn pool(&self, shape: Shape) -> &Mutex<Pool> {
        match shape {
            Shape::Bridge => &self.bridge,
            Shape::PointToPoint => &self.routed,
        }
    }
}

impl Pool {
    fn take(&mut self, hosts: u16) -> Result<u16> {
        ensure!(
            self.used.len() < usize::from(hosts),
            "all {hosts} pod addresses are in use; use Shape::PointToPoint, which has more"
        );
        loop {
            // Host 1 is the gateway.
            self.last = if self.last == 0 || self.last > hosts { 2 } else { self.last + 1 };
            if self.used.insert(self.last) {
                return Ok(self.last);
            }
        }
    }
}

/// How many pods of a layout a node can have. A bridge has 1,023 ports, but its network is a /24.
const fn hosts(shape: Shape) -> u16 {
    match shape {
        Shape::Bridge => 253,
        Shape::PointToPoint => 60_000,
    }
}

/// The host number of an address in the layout's pool.
fn host(shape: Shape, v4: Ipv4Addr) -> Option<u16> {
    let [a, b, high, low] = v4.octets();
    match shape {
        Shape::Bridge => ([a, b, high] == [10, 88, 1]).then_some(low.into()),
        Shape::PointToPoint => ([a, b] == [10, 89]).then_some(u16::from_be_bytes([high, low])),
    }
}

fn pair(shape: Shape, host: u16) -> (Ipv4Addr, Ipv6Addr) {
    let [high, low] = host.to_be_bytes();
    match shape {
        Shape::Bridge => (Ipv4Addr::new(10, 88, 1, low), Ipv6Addr::new(0xfd88, 1, 0, 0, 0, 0, 0, host)),
        Shape::PointToPoint => (Ipv4Addr::new(10, 89, high, low), Ipv6Addr::new(0xfd89, 0, 0, 0, 0, 0, 0, host)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unique_until_given_back() -> Result<()> {
        let addresses = Addresses::default();
        let mut seen = HashSet::new();
        for _ in 0..253 {
            let (v4, _) = addresses.take(Shape::Bridge)?;
            assert!(seen.insert(v4) && v4.octets()[3] >= 2 && v4.octets()[3] < 255, "{v4}");
        }
        assert!(addresses.take(Shape::Bridge).is_err(), "a /24 is full");
        addresses.release(Shape::Bridge, Ipv4Addr::new(10, 88, 1, 77));
        assert_eq!(addresses.take(Shape::Bridge)?.0, Ipv4Addr::new(10, 88, 1, 77));
        Ok(())
    }
}
