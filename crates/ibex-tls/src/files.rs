//! From PEM files to a server's configuration. Every error names the key of the daemon's configuration that names the file.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// None is asked for.
    Unasked,
    /// One that is shown must be good.
    Checked,
    /// A good one must be shown.
    Required,
}

/// How the file of the private key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeyFormat {
    /// Text.
    #[default]
    Pem,
    /// The bytes themselves (OpenSSL's `SSL_FILETYPE_ASN1`).
    Der,
}

/// The files of a server. Empty names are files that are not configured.
#[derive(Debug, Clone, Copy)]
pub struct Files<'a> {
    /// The server's certificate and those above it, as PEM: the key `tls_cert`.
    pub cert: &'a str,
    /// Its private key: the key `tls_key`.
    pub key: &'a str,
    /// How that is written.
    pub key_format: KeyFormat,
    /// The authorities of clients, as PEM: the key `tls_ca`. Without it no client certificate is good.
    pub ca: &'a str,
}

/// The algorithms of the family's servers.
#[must_use]
pub fn provider() -> CryptoProvider {
    ring::default_provider()
}

impl Files<'_> {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with them, as a text for the operator.
    pub fn load(
        &self,
        provider: &Arc<CryptoProvider>,
        versions: &[&'static SupportedProtocolVersion],
        clients: Clients,
    ) -> Result<ServerConfig, String> {
        let chain = certificates("tls_cert", self.cert)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(versions)
            .map_err(|error| error.to_string())?;
        let builder = match clients {
            Clients::Unasked => builder.with_no_client_auth(),
            Clients::Checked | Clients::Required => {
                builder.with_client_cert_verifier(self.verifier(provider, clients)?)
            }
        };
        builder
            .with_single_cert(chain, self.private_key()?)
            .map_err(|error| format!("tls_cert and tls_key: {error}"))
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, String> {
        let path = self.key;
        match self.key_format {
            KeyFormat::Pem => PrivateKeyDer::from_pem_file(path)
                .map_err(|error| format!("tls_key {path}: {error}")),
            KeyFormat::Der => {
                let bytes =
                    std::fs::read(path).map_err(|error| format!("tls_key {path}: {error}"))?;
                PrivateKeyDer::try_from(bytes).map_err(|error| format!("tls_key {path}: {error}"))
            }
        }
    }

    fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
        clients: Clients,
    ) -> Result<Arc<dyn ClientCertVerifier>, String> {
        if self.ca.is_empty() {
            return Ok(Arc::new(NobodyKnown(Arc::clone(provider))));
        }
        let mut roots = RootCertStore::empty();
        for certificate in certificates("tls_ca", self.ca)? {
            let added = roots.add(certificate);
            added.map_err(|error| format!("tls_ca {}: {error}", self.ca))?;
        }
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        let builder = if clients == Clients::Required {
            builder
        } else {
            builder.allow_unauthenticated()
        };
        builder
            .build()
            .map(|verifier| verifier as Arc<dyn ClientCertVerifier>)
            .map_err(|error| error.to_string())
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

#[cfg(test)]
mod tests {
    use super::*;
    use ibex_testkit::tls;

    fn load(cert: &str, key: &str, ca: &str, clients: Clients) -> Result<ServerConfig, String> {
        let files = Files {
            cert,
            key,
            key_format: KeyFormat::Pem,
            ca,
        };
        files.load(&Arc::new(provider()), rustls::ALL_VERSIONS, clients)
    }

    #[test]
    fn what_is_wrong_with_a_file_is_told_by_its_key() {
        let file = |name| tls::file(name).to_string_lossy().into_owned();
        let [cert, key, ca] = ["first.pem", "first.key", "ca.pem"].map(file);
        for clients in [Clients::Unasked, Clients::Checked, Clients::Required] {
            assert!(load(&cert, &key, &ca, clients).is_ok(), "{clients:?}");
            assert!(load(&cert, &key, "", clients).is_ok(), "{clients:?}");
        }
        let refused = |cert, key, ca| load(cert, key, ca, Clients::Checked).unwrap_err();
        assert!(refused("/absent", &key, &ca).starts_with("tls_cert /absent: "));
        assert!(refused(&key, &key, &ca).ends_with("holds no certificate"));
        assert!(refused(&cert, &cert, &ca).starts_with("tls_key "));
        assert!(refused(&cert, &key, "/absent").starts_with("tls_ca /absent: "));
        let other = file("second.key");
        assert!(refused(&cert, &other, &ca).starts_with("tls_cert and tls_key: "));
    }
}
