//! `MEMCACHED_PORT_FILENAME`: the original's way to tell tests which port it got.

use ibex_kit::{Failure, Listener};
use std::fmt::Write as _;
use std::path::PathBuf;

/// Writes `TCP INET: <port>` lines, first to a file with `.lck` behind its name, then renamed.
pub(crate) fn publish(listeners: &[Listener]) -> Result<(), Failure> {
    let Some(path) = std::env::var_os("MEMCACHED_PORT_FILENAME").map(PathBuf::from) else {
        return Ok(());
    };
    let mut text = String::new();
    for addr in listeners.iter().filter_map(Listener::tcp_addr) {
        let family = if addr.is_ipv4() { "INET" } else { "INET6" };
        // Writing to a String cannot fail.
        writeln!(text, "TCP {family}: {}", addr.port())
            .map_err(|error| Failure::bug(error.to_string()))?;
    }
    let mut lock = path.clone().into_os_string();
    lock.push(".lck");
    let failure =
        |error: std::io::Error| Failure::io(format!("port file {}: {error}", path.display()));
    std::fs::write(&lock, text).map_err(failure)?;
    std::fs::rename(&lock, &path).map_err(failure)
}
