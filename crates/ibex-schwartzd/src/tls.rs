//! The certificate of the HTTP interface: read at the start, again at a reload, and handshakes with it.
//!
//! Apart because nothing else here knows that a connection may be encrypted. Connections keep the certificate they began with.

use crate::config::Config;
use arc_swap::ArcSwap;
use ibex_tls::{Clients, Files, KeyFormat};
use rustls::ServerConfig;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What a client may choose from by ALPN; one that does not choose shows by its first bytes what it speaks.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The certificate that new connections get.
pub(crate) struct Tls {
    current: ArcSwap<ServerConfig>,
}

impl Tls {
    /// Reads the configured files; nothing without any.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn open(config: &Config) -> Result<Option<Self>, String> {
        if config.tls_cert.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            current: ArcSwap::new(load(config)?),
        }))
    }

    /// Reads the files again; the old certificate stays if something is wrong with them.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn refresh(&self, config: &Config) -> Result<(), String> {
        self.current.store(load(config)?);
        Ok(())
    }

    /// Shakes hands over a socket that was just accepted.
    ///
    /// # Errors
    /// The peer does not speak TLS, has no certificate that is wanted, leaves, or is slower than `time`.
    pub(crate) async fn accept(
        &self,
        socket: TcpStream,
        time: Duration,
    ) -> io::Result<TlsStream<TcpStream>> {
        let accepting = TlsAcceptor::from(self.current.load_full()).accept(socket);
        tokio::time::timeout(time, accepting).await?
    }
}

fn load(config: &Config) -> Result<Arc<ServerConfig>, String> {
    let files = Files {
        cert: &config.tls_cert,
        key: &config.tls_key,
        key_format: KeyFormat::Pem,
        ca: &config.tls_ca,
    };
    let clients = if config.tls_ca.is_empty() {
        Clients::Unasked
    } else {
        Clients::Required
    };
    let provider = Arc::new(ibex_tls::provider());
    let mut server = files.load(&provider, rustls::ALL_VERSIONS, clients)?;
    server.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(server))
}
