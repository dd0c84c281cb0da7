//! The daemon's certificates and their refreshing. Connections keep the certificate they began with; a refresh is for those that come later.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use ibex_tls::{Files, KeyFormat, TlsStream};
use mio::net::TcpStream;
use rustls::ServerConfig;

use crate::config::Config;

/// Encrypted bytes that may wait for the socket: four records.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// The daemon's certificates.
#[derive(Debug)]
pub(crate) struct Tls {
    current: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the configured files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn open(config: &Config) -> Result<Self, String> {
        Ok(Self {
            current: RwLock::new(load(config)?),
        })
    }

    /// Reads the files again; the old certificates stay if something is wrong with them.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn refresh(&self, config: &Config) -> Result<(), String> {
        let fresh = load(config)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// What a session begins with now.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A stream over a socket that was just accepted.
    ///
    /// # Errors
    /// The library cannot make a session.
    pub(crate) fn accept(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsStream::new(socket, self.current(), WRITE_BYTES_MAX)
    }
}

fn load(config: &Config) -> Result<Arc<ServerConfig>, String> {
    let files = Files {
        cert: &config.tls_cert,
        key: &config.tls_key,
        key_format: KeyFormat::Pem,
        ca: &config.tls_ca,
    };
    let provider = Arc::new(ibex_tls::provider());
    files
        .load(&provider, rustls::ALL_VERSIONS, config.verify()?)
        .map(Arc::new)
}
