//! TLS: certificates, their refreshing, and a connection's encrypted stream under a non-blocking socket.
//!
//! A [`TlsStream`] looks like a socket to its connection: reads give plain bytes or "would block", writes take plain bytes as long as the encrypted ones before
//! them are gone, so that what waits here is bounded. The handshake happens inside reads. Connections keep the certificate they began with; a refresh is
//! for those that come later.

use crate::config::Config;
use mio::net::TcpStream;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection, SupportedProtocolVersion};
use std::io::{self, Read as _, Write as _};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// What a listener asks of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// No TLS.
    Plain,
    /// TLS; client certificates as configured.
    Tls,
    /// TLS with a client certificate in any case.
    Mutual,
}

#[derive(Debug, Clone)]
struct Loaded {
    usual: Arc<ServerConfig>,
    mutual: Option<Arc<ServerConfig>>,
}

/// The daemon's certificates.
#[derive(Debug)]
pub(crate) struct Tls {
    loaded: RwLock<Loaded>,
    refreshed_at: AtomicU32,
    write_buffer: usize,
}

fn versions(min_version: &str) -> &'static [&'static SupportedProtocolVersion] {
    static ALL: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];
    if min_version == "1.3" {
        &ALL[1..]
    } else {
        &ALL
    }
}

fn certificates(what: &str, path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let failed = |error: rustls::pki_types::pem::Error| format!("{what} {path}: {error}");
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(failed)?
        .collect();
    let all = all.map_err(failed)?;
    if all.is_empty() {
        return Err(format!("{what} {path}: holds no certificate"));
    }
    Ok(all)
}

/// `verify`: 0 none, 1 asked for, 2 and 3 required.
fn server_config(
    config: &Config,
    provider: &Arc<CryptoProvider>,
    verify: u32,
) -> Result<Arc<ServerConfig>, String> {
    let chain = certificates("tls_cert", &config.tls_cert)?;
    let key = PrivateKeyDer::from_pem_file(&config.tls_key)
        .map_err(|error| format!("tls_key {}: {error}", config.tls_key))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions(&config.tls_min_version))
        .map_err(|error| error.to_string())?;
    let builder = if verify == 0 {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("tls_ca", &config.tls_ca)? {
            let added = roots.add(certificate);
            added.map_err(|error| format!("tls_ca {}: {error}", config.tls_ca))?;
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let verifier = if verify == 1 {
            verifier.allow_unauthenticated()
        } else {
            verifier
        };
        builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
    };
    let mut made = builder
        .with_single_cert(chain, key)
        .map_err(|error| format!("tls_cert and tls_key: {error}"))?;
    if !config.tls_session_cache {
        made.session_storage = Arc::new(NoServerSessionStorage {});
    }
    Ok(Arc::new(made))
}

fn load(config: &Config) -> Result<Loaded, String> {
    let provider = Arc::new(ring::default_provider());
    let usual = server_config(config, &provider, config.tls_verify)?;
    let mutual = if config.listen_mtls.is_empty() {
        None
    } else {
        Some(server_config(config, &provider, 2)?)
    };
    Ok(Loaded { usual, mutual })
}

impl Tls {
    /// Reads the configured files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn open(config: &Config, now: u32) -> Result<Self, String> {
        Ok(Self {
            loaded: RwLock::new(load(config)?),
            refreshed_at: AtomicU32::new(now),
            write_buffer: config.tls_write_buffer.as_usize(),
        })
    }

    /// Reads the files again; the old certificates stay if something is wrong with them.
    ///
    /// # Errors
    /// What is wrong.
    pub(crate) fn refresh(&self, config: &Config, now: u32) -> Result<(), String> {
        let fresh = load(config)?;
        *self.loaded.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        self.refreshed_at.store(now, Ordering::Relaxed);
        Ok(())
    }

    /// The second of the last refresh.
    pub(crate) fn refreshed_at(&self) -> u32 {
        self.refreshed_at.load(Ordering::Relaxed)
    }

    /// A stream over a socket that was just accepted.
    pub(crate) fn accept(&self, socket: TcpStream, mode: Mode) -> io::Result<TlsStream> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let config = match (mode, &loaded.mutual) {
            (Mode::Mutual, Some(mutual)) => Arc::clone(mutual),
            _ => Arc::clone(&loaded.usual),
        };
        drop(loaded);
        let mut session = ServerConnection::new(config).map_err(io::Error::other)?;
        session.set_buffer_limit(Some(self.write_buffer));
        Ok(TlsStream { socket, session })
    }
}

/// A socket and its TLS session.
#[derive(Debug)]
pub(crate) struct TlsStream {
    pub(crate) socket: TcpStream,
    session: ServerConnection,
}

impl TlsStream {
    pub(crate) fn is_handshaking(&self) -> bool {
        self.session.is_handshaking()
    }

    /// Plain bytes; 0 at the peer's end.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The peer closed without saying so within TLS. Requests are delimited by themselves, so nothing was cut off unseen.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if self.session.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            let outcome = self.session.process_new_packets();
            // Handshake messages, or the alert that tells the peer what was wrong.
            let flushed = self.flush();
            outcome.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match flushed {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => other?,
            }
        }
    }

    /// Takes plain bytes, unless encrypted ones wait.
    pub(crate) fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let taken = self.session.writer().write(buf)?;
        if taken == 0 && !buf.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match self.flush() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    /// Sends what is encrypted.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket)?;
        }
        Ok(())
    }

    /// Whether encrypted bytes wait for the socket.
    pub(crate) fn has_pending(&self) -> bool {
        self.session.wants_write()
    }

    /// Says goodbye, as far as the socket takes it.
    pub(crate) fn close(&mut self) {
        self.session.send_close_notify();
        let _told = self.flush().is_ok();
    }
}
