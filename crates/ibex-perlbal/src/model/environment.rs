//! Variables of the process and addresses of the machine, for the command language.
//!
//! Owns the impure side of line preparation. It parses nothing.

use ibex_perlbal_proto::command::Environment;

/// The environment of this process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct System;

impl Environment for System {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn interface(&self, name: &str) -> Option<String> {
        // The routing table lists each local IPv4 address with its interface; there is no other safe way without an
        // interface-listing library.
        let table = std::fs::read_to_string("/proc/net/fib_trie").ok()?;
        let routes = std::fs::read_to_string("/proc/net/route").ok()?;
        let networks: Vec<(u32, u32)> = routes
            .lines()
            .skip(1)
            .filter_map(|line| network_of(line, name))
            .collect();
        if name == "lo" {
            return Some("127.0.0.1".to_owned());
        }
        local_addresses(&table)
            .into_iter()
            .find(|a| {
                networks
                    .iter()
                    .any(|(net, mask)| *mask != 0 && u32::from(*a) & mask == *net)
            })
            .map(|a| a.to_string())
    }
}

/// Network and mask of a line of /proc/net/route, if it is about the interface.
fn network_of(line: &str, name: &str) -> Option<(u32, u32)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if fields.first() != Some(&name) {
        return None;
    }
    // The kernel prints addresses in host byte order of their network representation.
    let hex = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::swap_bytes);
    Some((hex(fields.get(1)?)?, hex(fields.get(7)?)?))
}

/// Addresses marked `host LOCAL` in /proc/net/fib_trie.
fn local_addresses(table: &str) -> Vec<std::net::Ipv4Addr> {
    let mut last: Option<std::net::Ipv4Addr> = None;
    let mut found = Vec::new();
    for line in table.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        } else if line.contains("host LOCAL") {
            found.extend(last);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_the_kernel() {
        let table = "Local:\n  +-- 10.0.0.0/8\n     |-- 10.1.2.3\n        /32 host LOCAL\n     |-- 10.255.255.255\n        /32 link BROADCAST\n";
        assert_eq!(
            local_addresses(table),
            ["10.1.2.3".parse::<std::net::Ipv4Addr>().unwrap()]
        );
        let line = "eth0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF\t0\t0\t0";
        assert_eq!(network_of(line, "eth0"), Some((0x0a00_0000, 0xff00_0000)));
        assert_eq!(network_of(line, "eth1"), None);
    }
}
