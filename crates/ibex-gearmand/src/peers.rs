//! Who is connected, for the lists of the admin protocol: the part of a connection that the job server does not know.

use std::collections::BTreeMap;
use std::net::SocketAddr;

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

/// All connections.
pub(crate) type Peers = BTreeMap<ConnId, Peer>;
