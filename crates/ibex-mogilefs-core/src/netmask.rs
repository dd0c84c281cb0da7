//! IPv4 networks and the named zones made of them. Owns the "most specific mask wins" rule; does not know which host is asked about.

use std::fmt;
use std::net::Ipv4Addr;

/// A block of IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Netmask {
    network: u32,
    bits: u8,
}

impl Netmask {
    /// Reads `a.b.c.d/bits`, `a.b.c.d/m.m.m.m` or a single address.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, suffix) = text.trim().split_once('/').unwrap_or((text.trim(), "32"));
        let address: Ipv4Addr = complete(address)?.parse().ok()?;
        let bits = match suffix.parse::<u8>() {
            Ok(bits) if bits <= 32 => bits,
            Ok(_) => return None,
            Err(_) => {
                let mask = u32::from(suffix.parse::<Ipv4Addr>().ok()?);
                let ones = mask.leading_ones();
                if ones + mask.trailing_zeros() < 32 {
                    return None;
                }
                u8::try_from(ones).ok()?
            }
        };
        Some(Self::of(address, bits))
    }

    /// The block of `bits` leading bits around `address`.
    #[must_use]
    pub fn of(address: Ipv4Addr, bits: u8) -> Self {
        let bits = bits.min(32);
        Self {
            network: u32::from(address) & mask(bits),
            bits,
        }
    }

    /// Whether `address` lies in the block.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.bits) == self.network
    }
}

/// `10.1` stands for `10.1.0.0`, as network notations have it.
fn complete(address: &str) -> Option<String> {
    let parts = address.split('.').count();
    (parts <= 4).then(|| format!("{address}{}", ".0".repeat(4 - parts)))
}

fn mask(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

impl fmt::Display for Netmask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network), self.bits)
    }
}

/// Named groups of networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zones {
    zones: Vec<(String, Netmask)>,
}

impl Zones {
    /// Adds networks to the zone `name`.
    pub fn add(&mut self, name: &str, networks: impl IntoIterator<Item = Netmask>) {
        self.zones.extend(
            networks
                .into_iter()
                .map(|network| (name.to_owned(), network)),
        );
    }

    /// The zone of `address`: the one with the most specific network around it.
    #[must_use]
    pub fn zone_of(&self, address: Ipv4Addr) -> Option<&str> {
        self.zones
            .iter()
            .filter(|(_, network)| network.contains(address))
            .max_by_key(|(_, network)| network.bits)
            .map(|(name, _)| name.as_str())
    }

    /// Whether no zone is named.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.zones.is_empty()
    }
}

/// The networks in a comma or blank separated list; `None` if one of them is none.
#[must_use]
pub fn parse_list(text: &str) -> Option<Vec<Netmask>> {
    text.split([',', ' ', '\t'])
        .filter(|part| !part.is_empty())
        .map(Netmask::parse)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_usual_notations() {
        for (text, expected) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("10/8", Some("10.0.0.0/8")),
            ("192.168.1.0/255.255.255.0", Some("192.168.1.0/24")),
            ("1.2.3.4", Some("1.2.3.4/32")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("1.2.3.4/33", None),
            ("1.2.3.4/255.0.255.0", None),
            ("nonsense", None),
            ("1.2.3.4.5", None),
            ("", None),
        ] {
            assert_eq!(
                Netmask::parse(text).map(|mask| mask.to_string()).as_deref(),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn the_most_specific_network_names_the_zone() {
        let mut zones = Zones::default();
        zones.add("wide", parse_list("10.0.0.0/8").expect("valid"));
        zones.add(
            "narrow",
            parse_list("10.5.0.0/16, 10.6.0.0/16").expect("valid"),
        );
        assert_eq!(zones.zone_of(Ipv4Addr::new(10, 5, 0, 1)), Some("narrow"));
        assert_eq!(zones.zone_of(Ipv4Addr::new(10, 7, 0, 1)), Some("wide"));
        assert_eq!(zones.zone_of(Ipv4Addr::new(11, 7, 0, 1)), None);
    }
}
