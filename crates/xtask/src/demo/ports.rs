//! Ports of the demo: each process has one that it keeps over restarts, because others know it by that number. Chosen free below the range from which the
//! kernel takes ports of outgoing connections, kept in the state folder, and chosen again when somebody else has taken one meanwhile.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result};

/// Lower than Linux's first ephemeral port (32768), higher than what services usually take.
const FIRST: u16 = 21_000;
const LAST: u16 = 31_999;

/// Ports by name.
#[derive(Debug)]
pub(crate) struct Ports {
    by_name: BTreeMap<String, u16>,
}

impl Ports {
    /// The ports kept in `file` where they are still free, new ones for the rest; writes the file.
    pub(crate) fn choose(file: &Path, names: &[impl AsRef<str>]) -> Result<Self> {
        let kept: BTreeMap<String, u16> = match std::fs::read_to_string(file) {
            Ok(text) => {
                toml::from_str(&text).with_context(|| format!("read {}", file.display()))?
            }
            Err(_) => BTreeMap::new(),
        };
        let mut by_name = BTreeMap::new();
        // Where the search starts depends on the folder, so that two demos do not meet at every port.
        let mut next = FIRST + hash(file) % (LAST - FIRST - 200);
        for name in names {
            let name = name.as_ref();
            let port = match kept.get(name).copied().filter(|port| is_free(*port)) {
                Some(port) => port,
                None => free_after(&mut next, &kept)?,
            };
            by_name.insert(name.to_owned(), port);
        }
        let ports = Self { by_name };
        std::fs::write(file, toml::to_string(&ports.by_name)?)
            .with_context(|| format!("write {}", file.display()))?;
        Ok(ports)
    }

    /// `127.0.0.1:port` of `name`.
    pub(crate) fn addr(&self, name: &str) -> Result<std::net::SocketAddr> {
        let port = self
            .by_name
            .get(name)
            .copied()
            .with_context(|| format!("no port was chosen for {name}"))?;
        Ok((Ipv4Addr::LOCALHOST, port).into())
    }
}

fn hash(path: &Path) -> u16 {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().fold(7_u16, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(u16::from(*byte))
    })
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn free_after(next: &mut u16, taken: &BTreeMap<String, u16>) -> Result<u16> {
    while *next <= LAST {
        let port = *next;
        *next += 1;
        if !taken.values().any(|other| *other == port) && is_free(port) {
            return Ok(port);
        }
    }
    anyhow::bail!("no free port up to {LAST}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_stay_the_same_until_somebody_takes_one() {
        let file = std::env::temp_dir().join(format!("ibex-ports-{}.toml", std::process::id()));
        let first = Ports::choose(&file, &["a", "b"]).unwrap();
        let again = Ports::choose(&file, &["a", "b"]).unwrap();
        assert_eq!(first.by_name, again.by_name);
        let taken = TcpListener::bind(first.addr("a").unwrap()).unwrap();
        let other = Ports::choose(&file, &["a", "b"]).unwrap();
        assert_ne!(first.addr("a").unwrap(), other.addr("a").unwrap());
        assert_eq!(first.addr("b").unwrap(), other.addr("b").unwrap());
        drop(taken);
        std::fs::remove_file(&file).unwrap();
    }
}
