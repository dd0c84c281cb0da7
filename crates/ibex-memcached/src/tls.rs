//! The daemon's certificates, what is asked of clients by each kind of listener, and their refreshing. Connections keep the certificate they began with; a
//! refresh is for those that come later.

use crate::config::Config;
use crate::ways::Mode;
use ibex_tls::{Clients, Files, KeyFormat, TlsStream};
use mio::net::TcpStream;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite;
use rustls::server::NoServerSessionStorage;
use rustls::{ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};
use std::io;
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
        return Ok(ibex_tls::provider().cipher_suites);
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

fn versions(min_version: &str) -> &'static [&'static SupportedProtocolVersion] {
    static ALL: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];
    if min_version == "1.3" {
        &ALL[1..]
    } else {
        &ALL
    }
}

/// A `tls_key_format`, OpenSSL's SSL_FILETYPE_ASN1.
const KEY_FORMAT_DER: u32 = 2;

fn server_config(
    config: &Config,
    provider: &Arc<CryptoProvider>,
    clients: Clients,
) -> Result<Arc<ServerConfig>, String> {
    let files = Files {
        cert: &config.tls_cert,
        key: &config.tls_key,
        key_format: if config.tls_key_format == KEY_FORMAT_DER {
            KeyFormat::Der
        } else {
            KeyFormat::Pem
        },
        ca: &config.tls_ca,
    };
    let mut made = files.load(provider, versions(&config.tls_min_version), clients)?;
    if !config.tls_session_cache {
        made.session_storage = Arc::new(NoServerSessionStorage {});
    }
    Ok(Arc::new(made))
}

fn load(config: &Config) -> Result<Loaded, String> {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: suites(&config.tls_ciphers)?,
        ..ibex_tls::provider()
    });
    let usual = match config.tls_verify {
        0 => Clients::Unasked,
        1 => Clients::Checked,
        _ => Clients::Required,
    };
    Ok(Loaded {
        usual: server_config(config, &provider, usual)?,
        basic: server_config(config, &provider, Clients::Unasked)?,
        mutual: server_config(config, &provider, Clients::Required)?,
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
    pub(crate) fn accept(&self, socket: TcpStream, mode: Mode) -> io::Result<TlsStream<TcpStream>> {
        let loaded = self.loaded.read().unwrap_or_else(PoisonError::into_inner);
        let config = Arc::clone(match mode {
            Mode::Mutual => &loaded.mutual,
            Mode::Basic => &loaded.basic,
            Mode::Usual | Mode::Plain => &loaded.usual,
        });
        drop(loaded);
        TlsStream::new(socket, config, self.write_buffer)
    }
}
