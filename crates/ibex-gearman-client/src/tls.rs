//! TLS towards job servers (feature `tls`): whom to trust, and who we are.
//!
//! Made once from PEM files and shared by all connections. A server must show a certificate of a trusted authority for the host name (or address) it is
//! called by.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::error::Error;

/// How connections to servers are encrypted. Cheap to clone.
#[derive(Clone)]
pub struct Tls(TlsConnector);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// The client's certificate chain and key, PEM files.
pub type ClientFiles<'a> = (&'a Path, &'a Path);

impl Tls {
    /// Trusts servers with a certificate signed by one of the authorities in the PEM file `ca`; shows a certificate of its own if one is given.
    ///
    /// # Errors
    /// [`Error::Config`]: a file cannot be read, or says nothing usable.
    pub fn from_files(ca: &Path, client: Option<ClientFiles<'_>>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(|error| bad(ca, &error))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(ca, &error))?
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(key, &error))?;
                builder
                    .with_client_auth_cert(certificates(chain)?, secret)
                    .map_err(|error| bad(chain, &error))?
            }
        };
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// The files named by `GEARMAND_CA_CERTIFICATE`, `GEARMAN_CLIENT_PEM` and `GEARMAN_CLIENT_KEY`, the variables of libgearman.
    ///
    /// # Errors
    /// [`Error::Config`]: the first is not set, one of the others without the other, or a file is not usable.
    pub fn from_env() -> Result<Self, Error> {
        let named = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty());
        let ca = named("GEARMAND_CA_CERTIFICATE");
        let ca = ca.ok_or_else(|| {
            Error::Config("TLS needs GEARMAND_CA_CERTIFICATE, the file of authorities".to_owned())
        })?;
        let files = (named("GEARMAN_CLIENT_PEM"), named("GEARMAN_CLIENT_KEY"));
        let client = match &files {
            (Some(chain), Some(key)) => Some((Path::new(chain), Path::new(key))),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                let both = "GEARMAN_CLIENT_PEM and GEARMAN_CLIENT_KEY go together";
                return Err(Error::Config(both.to_owned()));
            }
        };
        Self::from_files(Path::new(&ca), client)
    }

    /// Shakes hands over a connection to `host`.
    ///
    /// # Errors
    /// The name cannot be one of a certificate, the certificate is not good for it, or the connection breaks.
    pub async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        self.0.connect(name, stream).await
    }
}

fn bad(path: &Path, error: &dyn fmt::Display) -> Error {
    Error::Config(format!("{}: {error}", path.display()))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|error| bad(path, &error))?
        .collect();
    let all = all.map_err(|error| bad(path, &error))?;
    if all.is_empty() {
        return Err(bad(path, &"holds no certificate"));
    }
    Ok(all)
}
