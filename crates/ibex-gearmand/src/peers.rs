//! Who is connected, for the lists of the admin protocol: the part of a connection that the job server does not know.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use ibex_gearman_core::ConnId;

/// A connection's other end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    /// Its number in this process, as `workers` lists it.
    pub(crate) fd: i32,
    /// `None` for Unix sockets.
    pub(crate) addr: Option<SocketAddr>,
}

impl Peer {
    /// The address without its port.
    pub(crate) fn ip(&self) -> String {
        self.addr.map_or_else(
            || "unix".to_owned(),
            |addr| addr.ip().to_canonical().to_string(),
        )
    }

    /// The address with its port.
    pub(crate) fn address(&self) -> String {
        self.addr
            .map_or_else(|| "unix".to_owned(), |addr| addr.to_string())
    }
}

/// Connections by where they come from, bounded for each.
#[derive(Debug)]
pub(crate) struct Origins {
    /// 0 is no bound; then nothing is counted.
    max: u32,
    counts: Mutex<BTreeMap<IpAddr, u32>>,
}

impl Origins {
    pub(crate) fn new(max: u32) -> Self {
        Self {
            max,
            counts: Mutex::default(),
        }
    }

    /// Counts a connection; `false` when its origin has as many as it may. Unix sockets are not counted.
    pub(crate) fn enter(&self, addr: Option<SocketAddr>) -> bool {
        let Some(addr) = addr.filter(|_| self.max > 0) else {
            return true;
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(origin(addr.ip())).or_insert(0);
        if *count >= self.max {
            return false;
        }
        *count += 1;
        true
    }

    /// The end of a connection that was let in.
    pub(crate) fn leave(&self, addr: Option<SocketAddr>) {
        let Some(addr) = addr.filter(|_| self.max > 0) else {
            return;
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let origin = origin(addr.ip());
        if let Some(count) = counts.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&origin);
            }
        }
    }
}

/// An address of version 4, or the half of one of version 6 that a site gets as a whole.
fn origin(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

/// All connections.
pub(crate) type Peers = BTreeMap<ConnId, Peer>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_bounded_each() {
        let origins = Origins::new(2);
        let at = |text: &str| Some(text.parse::<SocketAddr>().unwrap());
        assert!(origins.enter(at("10.0.0.1:1")));
        assert!(origins.enter(at("[::ffff:10.0.0.1]:2")));
        assert!(!origins.enter(at("10.0.0.1:3")));
        assert!(origins.enter(at("10.0.0.2:1")) && origins.enter(None));
        origins.leave(at("10.0.0.1:1"));
        assert!(origins.enter(at("10.0.0.1:4")));
        assert!(origins.enter(at("[2001:db8::1]:1")) && origins.enter(at("[2001:db8::2]:1")));
        assert!(!origins.enter(at("[2001:db8::3]:1")) && origins.enter(at("[2001:db8:0:1::3]:1")));
        let unbounded = Origins::new(0);
        assert!((0..100).all(|_| unbounded.enter(at("10.0.0.1:1"))));
    }
}
