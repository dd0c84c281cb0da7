//! TLS: certificates, their refreshing, and a connection's encrypted stream under a non-blocking socket.
//!
//! A [`TlsStream`] looks like a socket to its connection: reads give plain bytes or "would block", writes take plain bytes while the encrypted ones before
//! them are gone, so that what waits here is bounded. The handshake happens inside reads, on the event loop: a slow peer holds up nobody. Connections keep the
//! certificate they began with; a refresh is for those that come later. Who a client certificate names is read here too, for the access rules.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use mio::net::TcpStream;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use crate::config::Config;

/// Encrypted bytes that may wait for the socket: four records.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verify {
    /// None is asked for.
    Nothing,
    /// One that is shown must be good.
    Shown,
    /// One must be shown.
    Required,
}

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

    /// A stream over a socket that was just accepted.
    ///
    /// # Errors
    /// The library cannot make a session.
    pub(crate) fn accept(&self, socket: TcpStream) -> io::Result<TlsStream> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let mut session = ServerConnection::new(Arc::clone(&current)).map_err(io::Error::other)?;
        drop(current);
        session.set_buffer_limit(Some(WRITE_BYTES_MAX));
        Ok(TlsStream { socket, session })
    }
}

fn load(config: &Config) -> Result<Arc<ServerConfig>, String> {
    let chain = certificates("tls_cert", &config.tls_cert)?;
    let path = &config.tls_key;
    let key =
        PrivateKeyDer::from_pem_file(path).map_err(|error| format!("tls_key {path}: {error}"))?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let verify = config.verify()?;
    let builder = if verify == Verify::Nothing {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("tls_ca", &config.tls_ca)? {
            let added = roots.add(certificate);
            added.map_err(|error| format!("tls_ca {}: {error}", config.tls_ca))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = match verify {
            Verify::Required => verifier,
            Verify::Shown | Verify::Nothing => verifier.allow_unauthenticated(),
        };
        builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
    };
    let made = builder
        .with_single_cert(chain, key)
        .map_err(|error| format!("tls_cert and tls_key: {error}"))?;
    Ok(Arc::new(made))
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

    /// Whether encrypted bytes wait for the socket.
    pub(crate) fn has_pending(&self) -> bool {
        self.session.wants_write()
    }

    /// The common name in the certificate the peer has shown, which was found good.
    pub(crate) fn common_name(&self) -> Option<Vec<u8>> {
        let shown = self.session.peer_certificates()?.first()?;
        common_name(shown).map(<[u8]>::to_vec)
    }

    /// Says goodbye, as far as the socket takes it.
    pub(crate) fn close(&mut self) {
        self.session.send_close_notify();
        let _told = self.send().is_ok();
    }

    /// Sends what is encrypted.
    pub(crate) fn send(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

impl io::Read for TlsStream {
    /// Plain bytes; 0 at the peer's end.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The peer closed without saying so within TLS. Packets are delimited by themselves, so nothing was cut off unseen.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
                other => return other,
            }
            if self.session.read_tls(&mut self.socket)? == 0 {
                return Ok(0);
            }
            let outcome = self.session.process_new_packets();
            // Handshake messages, or the alert that tells the peer what was wrong.
            let sent = self.send();
            outcome.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => other?,
            }
        }
    }
}

impl io::Write for TlsStream {
    /// Takes plain bytes, unless encrypted ones wait.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send()?;
        let taken = self.session.writer().write(bytes)?;
        if taken == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match self.send() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}

/// Object identifier 2.5.4.3, the common name.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// One element in DER: its tag, its content, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        let length = digits
            .iter()
            .fold(0, |length, digit| length << 8 | usize::from(*digit));
        (length, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// The last common name of a certificate's subject (RFC 5280, 4.1: version, serial number, signature, issuer, validity, subject).
fn common_name(certificate: &[u8]) -> Option<&[u8]> {
    const VERSION: u8 = 0xa0;
    let (_, certificate, _) = element(certificate)?;
    let (_, mut rest, _) = element(certificate)?;
    let (tag, _, after_version) = element(rest)?;
    if tag == VERSION {
        rest = after_version;
    }
    for _ in ["serial number", "signature", "issuer", "validity"] {
        (_, _, rest) = element(rest)?;
    }
    let (_, mut names, _) = element(rest)?;
    let mut found = None;
    while let Some((_, set, after)) = element(names) {
        names = after;
        let (_, attribute, _) = element(set)?;
        let (_, kind, value) = element(attribute)?;
        if kind == COMMON_NAME {
            found = element(value).map(|(_, text, _)| text);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(name: &str) -> CertificateDer<'static> {
        let path = format!("{}/tests/tls/{name}.pem", env!("CARGO_MANIFEST_DIR"));
        CertificateDer::from_pem_file(path).unwrap()
    }

    #[test]
    fn a_certificate_names_its_owner() {
        let client = certificate("client");
        let name = common_name(&client).map(String::from_utf8_lossy);
        assert_eq!(name.as_deref(), Some("client"));
        // Cut or changed anywhere it is read or refused, never a panic.
        for cut in 0..client.len() {
            let _named = common_name(&client[..cut]);
            let mut changed = client.to_vec();
            changed[cut] ^= 0xff;
            let _named = common_name(&changed);
        }
    }
}
