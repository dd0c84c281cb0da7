//! Ports for servers that cannot choose one themselves and say which: the peers, and what must come back on the same port after a restart.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;

use anyhow::{Context, bail};

use crate::Result;

/// Below what Linux hands out by itself (`net.ipv4.ip_local_port_range` begins at 32768 and at 1024 only where somebody set it so): a port from here is not
/// taken by a client's connection, or by a listener on port 0, between the look and the bind.
const RANGE: Range<u16> = 12_000..21_000;
/// Looks until it gives up.
const LOOKS: usize = 1000;

/// A free address on 127.0.0.1.
///
/// # Panics
/// When there is none.
#[must_use]
#[expect(
    clippy::unwrap_used,
    reason = "a test that gets no port cannot do anything else"
)]
pub fn free() -> SocketAddr {
    free_on(Ipv4Addr::LOCALHOST.into()).unwrap()
}

/// A free address on `ip`: two callers get the same one only by a chance of one in nine thousand.
///
/// # Errors
/// When no port of the range can be bound.
pub fn free_on(ip: IpAddr) -> Result<SocketAddr> {
    let span = u64::from(RANGE.end - RANGE.start);
    let mut last = None;
    for _ in 0..LOOKS {
        let offset = RandomState::new().hash_one(0_u8) % span;
        let port = RANGE.start + u16::try_from(offset).context("a port within the range")?;
        match TcpListener::bind((ip, port)) {
            Ok(_free) => return Ok((ip, port).into()),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error).context(format!("no free port on {ip}")),
        None => bail!("no port was looked at"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_bound_and_is_outside_what_the_kernel_hands_out() {
        let addr = free();
        assert!(RANGE.contains(&addr.port()));
        let _taken = TcpListener::bind(addr).unwrap();
        assert_ne!(free_on(addr.ip()).unwrap(), addr);
    }

    #[test]
    fn an_address_of_another_machine_is_an_error() {
        assert!(free_on([192, 0, 2, 1].into()).is_err());
    }
}
