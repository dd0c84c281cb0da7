//! TLS: certificates, their refreshing, and a connection's encrypted stream under a non-blocking socket.
//!
//! A [`TlsStream`] looks like a socket to its connection: reads give plain bytes or "would block", writes take plain bytes as long as the encrypted ones before
//! them are gone, so that what waits here is bounded. The handshake happens inside reads. Connections keep the certificate they began with; a refresh is
//! for those that come later.

use crate::config::Config;
use crate::ways::Mode;
use mio::net::TcpStream;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    ServerConnection, SignatureScheme, SupportedCipherSuite, SupportedProtocolVersion,
};
use std::io::{self, Read as _, Write as _};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

#[derive(Debug, Clone)]
struct Loaded {
    usual: Arc<ServerConfig>,
    basic: Arc<ServerConfig>,
    mutual: Arc<ServerConfig>,
}

/// The daemon's certificates.
#[derive(Debug)]
pub(crate) struct Tls {
    loaded: RwLock<Loaded>,
    refreshed_at: AtomicU32,
    write_buffer: usize,
}

/// OpenSSL's names of the cipher suites there are.
const SUITE_NAMES: [(&str, SupportedCipherSuite); 9] = [
    (
        "TLS_AES_256_GCM_SHA384",
        cipher_suite::TLS13_AES_256_GCM_SHA384,
    ),
    (
        "TLS_AES_128_GCM_SHA256",
        cipher_suite::TLS13_AES_128_GCM_SHA256,
    ),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// The cipher suites `names` lists, in its order; all there are if it is empty.
///
/// DIFFERS(memcached): the original hands the text to OpenSSL, which takes classes and exclusions (`HIGH:!aNULL`) and skips what it does not know.
///
/// # Errors
/// A name that is none of a suite there is.
pub(crate) fn suites(names: &str) -> Result<Vec<SupportedCipherSuite>, String> {
    if names.is_empty() {
        return Ok(ring::default_provider().cipher_suites);
    }
    let suite = |name: &str| {
        let known = SUITE_NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, suite)| *suite).ok_or_else(|| {
            let all: Vec<&str> = SUITE_NAMES.iter().map(|(name, _)| *name).collect();
            format!(
                "{name:?} is none of the suites that are spoken: {}",
                all.join(":")
            )
        })
    };
    names.split(':').map(suite).collect()
}

/// A verifier without a single authority: every client certificate is refused, and none too.
#[derive(Debug)]
struct NobodyKnown(Arc<CryptoProvider>);

impl ClientCertVerifier for NobodyKnown {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Err(CertificateError::UnknownIssuer.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The authorities of `tls_ca` as a verifier; certificates are required unless `optional`.
fn verifier(
    config: &Config,
    provider: &Arc<CryptoProvider>,
    optional: bool,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    if config.tls_ca.is_empty() {
        return Ok(Arc::new(NobodyKnown(Arc::clone(provider))));
    }
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls_ca", &config.tls_ca)? {
        let added = roots.add(certificate);
        added.map_err(|error| format!("tls_ca {}: {error}", config.tls_ca))?;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = if optional {
        builder.allow_unauthenticated()
    } else {
        builder
    };
    builder
        .build()
        .map(|verifier| verifier as Arc<dyn ClientCertVerifier>)
        .map_err(|error| error.to_string())
}

fn private_key(config: &Config) -> Result<PrivateKeyDer<'static>, String> {
    let path = &config.tls_key;
    if config.tls_key_format != KEY_FORMAT_DER {
        let key = PrivateKeyDer::from_pem_file(path);
        return key.map_err(|error| format!("tls_key {path}: {error}"));
    }
    let bytes = std::fs::read(path).map_err(|error| format!("tls_key {path}: {error}"))?;
    PrivateKeyDer::try_from(bytes).map_err(|error| format!("tls_key {path}: {error}"))
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

/// A `tls_key_format`, OpenSSL's SSL_FILETYPE_ASN1.
const KEY_FORMAT_DER: u32 = 2;

/// `verify`: 0 none, 1 asked for, 2 and 3 required.
fn server_config(
    config: &Config,
    provider: &Arc<CryptoProvider>,
    verify: u32,
) -> Result<Arc<ServerConfig>, String> {
    let chain = certificates("tls_cert", &config.tls_cert)?;
    let key = private_key(config)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions(&config.tls_min_version))
        .map_err(|error| error.to_string())?;
    let builder = if verify == 0 {
        builder.with_no_client_auth()
    } else {
        builder.with_client_cert_verifier(verifier(config, provider, verify == 1)?)
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
    let provider = Arc::new(CryptoProvider {
        cipher_suites: suites(&config.tls_ciphers)?,
        ..ring::default_provider()
    });
    Ok(Loaded {
        usual: server_config(config, &provider, config.tls_verify)?,
        basic: server_config(config, &provider, 0)?,
        mutual: server_config(config, &provider, 2)?,
    })
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
        let config = Arc::clone(match mode {
            Mode::Mutual => &loaded.mutual,
            Mode::Basic => &loaded.basic,
            Mode::Usual | Mode::Plain => &loaded.usual,
        });
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
