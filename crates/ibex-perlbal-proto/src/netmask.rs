//! Networks in `address/bits` notation.
//!
//! Owns their parsing and matching, for trusted proxies and access rules. Apart because three features share it.
//! It resolves no names.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

/// One network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Netmask {
    base: u128,
    bits: u32,
    is_v4: bool,
}

impl Netmask {
    /// Parses `10.0.0.0/8`, `10.0.0.1`, `10` style prefixes (`10.1/16`), `address:mask` and IPv6 networks.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Some((address, mask)) = text.split_once(':').filter(|(a, _)| a.contains('.')) {
            let mask = u32::from(mask.parse::<Ipv4Addr>().ok()?);
            return (mask.leading_ones() + mask.trailing_zeros() == 32)
                .then(|| Self::v4(address, mask.leading_ones()))?;
        }
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(ibex_base::ascii::parse_u64(bits.as_bytes())?)),
            None => (text, None),
        };
        if address.contains(':') {
            let bits = u32::try_from(bits.unwrap_or(128))
                .ok()
                .filter(|b| *b <= 128)?;
            let base = u128::from(address.parse::<std::net::Ipv6Addr>().ok()?);
            return Some(Self {
                base: base & mask128(bits),
                bits,
                is_v4: false,
            });
        }
        Self::v4(address, u32::try_from(bits.unwrap_or(32)).ok()?)
    }

    fn v4(address: &str, bits: u32) -> Option<Self> {
        let given = address.split('.').count();
        let padded = if given < 4 {
            format!("{address}{}", ".0".repeat(4 - given))
        } else {
            address.to_owned()
        };
        let base = u32::from(padded.parse::<Ipv4Addr>().ok()?);
        let mask = u32::MAX.checked_shl(32_u32.checked_sub(bits)?).unwrap_or(0);
        Some(Self {
            base: u128::from(base & mask),
            bits,
            is_v4: true,
        })
    }

    /// Parses a list separated by commas or blanks.
    ///
    /// # Errors
    /// The first element that is no network.
    pub fn parse_list(text: &str) -> Result<Vec<Self>, String> {
        text.split([',', ' '])
            .filter(|t| !t.is_empty())
            .map(|t| Self::parse(t).ok_or_else(|| t.to_owned()))
            .collect()
    }

    /// True when the address is in the network. IPv4 addresses mapped into IPv6 count as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (address.to_canonical(), self.is_v4) {
            (IpAddr::V4(v4), true) => {
                let mask = u32::MAX.checked_shl(32 - self.bits).unwrap_or(0);
                u128::from(u32::from(v4) & mask) == self.base
            }
            (IpAddr::V6(v6), false) => u128::from(v6) & mask128(self.bits) == self.base,
            (IpAddr::V4(_), false) | (IpAddr::V6(_), true) => false,
        }
    }
}

fn mask128(bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

impl fmt::Display for Netmask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_v4 {
            write!(
                f,
                "{}/{}",
                Ipv4Addr::from(u32::try_from(self.base).unwrap_or(0)),
                self.bits
            )
        } else {
            write!(f, "{}/{}", std::net::Ipv6Addr::from(self.base), self.bits)
        }
    }
}

/// The address a request is attributed to: the right-most element of X-Forwarded-For that is not itself trusted, if the
/// peer is trusted, else the peer.
// DIFFERS(perlbal): the original takes the first element, which the client itself may have invented.
#[must_use]
pub fn observed_address(
    peer: IpAddr,
    peer_is_trusted: bool,
    forwarded: &[u8],
    trusted: &[Netmask],
) -> IpAddr {
    if !peer_is_trusted {
        return peer;
    }
    let mut observed = peer;
    for element in forwarded.rsplit(|b| *b == b',') {
        let Some(address) = std::str::from_utf8(element)
            .ok()
            .and_then(|t| t.trim().parse().ok())
        else {
            break;
        };
        observed = address;
        if !trusted.iter().any(|m| m.contains(address)) {
            break;
        }
    }
    observed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks() {
        let net = |text: &str| Netmask::parse(text).unwrap();
        assert!(
            net("10.0.0.0/8").contains(ip("10.9.8.7"))
                && !net("10.0.0.0/8").contains(ip("11.0.0.0"))
        );
        assert!(
            net("127.0.0.1").contains(ip("127.0.0.1"))
                && net("127.0.0.1").contains(ip("::ffff:127.0.0.1"))
        );
        assert!(net("0.0.0.0/0").contains(ip("1.2.3.4")) && !net("0.0.0.0/0").contains(ip("::1")));
        assert!(net("192.168/16").contains(ip("192.168.3.4")));
        assert!(
            net("10.0.0.0:255.255.255.0").contains(ip("10.0.0.77"))
                && !net("10.0.0.0:255.255.255.0").contains(ip("10.0.1.0"))
        );
        assert!(net("fe80::/10").contains(ip("fe81::1")) && net("::/0").contains(ip("::1")));
        for bad in [
            "",
            "10.0.0.0/33",
            "x",
            "1.2.3.4.5",
            "10.0.0.0:255.0.255.0",
            "::1/129",
            "10.0.0.0/-1",
        ] {
            assert!(Netmask::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(Netmask::parse_list("10.0.0.0/8, ::1").unwrap().len(), 2);
        assert_eq!(
            Netmask::parse_list("10.0.0.0/8,nonsense"),
            Err("nonsense".into())
        );
        assert_eq!(net("10.1.2.3/8").to_string(), "10.0.0.0/8");
    }

    #[test]
    fn observed() {
        let trusted = [Netmask::parse("10.0.0.0/8").unwrap()];
        let observed = |list: &str, is_trusted| {
            observed_address(ip("10.0.0.1"), is_trusted, list.as_bytes(), &trusted)
        };
        assert_eq!(observed("6.6.6.6, 1.2.3.4, 10.0.0.9", true), ip("1.2.3.4"));
        assert_eq!(observed("6.6.6.6, garbage", true), ip("10.0.0.1"));
        assert_eq!(observed("10.0.0.7", true), ip("10.0.0.7"));
        assert_eq!(observed("1.2.3.4", false), ip("10.0.0.1"));
    }
}
