//! `MEMCACHED_PORT_FILENAME`: the original's way to tell tests which port it got.

use ibex_kit::Failure;
use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;

/// Writes `TCP INET: <port>` and `UDP INET: <port>` lines, first to a file with `.lck` behind its name, then renamed.
pub(crate) fn publish(
    streams: impl Iterator<Item = SocketAddr>,
    datagrams: &[UdpSocket],
) -> Result<(), Failure> {
    let Some(path) = std::env::var_os("MEMCACHED_PORT_FILENAME").map(PathBuf::from) else {
        return Ok(());
    };
    let mut text = String::new();
    let streams = streams.map(|addr| ("TCP", addr));
    let datagrams = datagrams
        .iter()
        .filter_map(|socket| socket.local_addr().ok());
    let datagrams = datagrams.map(|addr: SocketAddr| ("UDP", addr));
    for (transport, addr) in streams.chain(datagrams) {
        let family = if addr.is_ipv4() { "INET" } else { "INET6" };
        // Writing to a String cannot fail.
        writeln!(text, "{transport} {family}: {}", addr.port())
            .map_err(|error| Failure::bug(error.to_string()))?;
    }
    let mut lock = path.clone().into_os_string();
    lock.push(".lck");
    let failure =
        |error: std::io::Error| Failure::io(format!("port file {}: {error}", path.display()));
    std::fs::write(&lock, text).map_err(failure)?;
    std::fs::rename(&lock, &path).map_err(failure)
}
