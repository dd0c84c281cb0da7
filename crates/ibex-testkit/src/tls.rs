//! TLS in tests: certificates (files of this crate, see `tls/README.md`), and a client that blocks.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

pub use rustls::SupportedProtocolVersion;

use crate::wait;

/// Both versions that the family speaks.
pub const VERSIONS: [&SupportedProtocolVersion; 2] =
    [&rustls::version::TLS12, &rustls::version::TLS13];

/// A connection over TLS: the handshake happens with the first byte read or written.
pub type Stream = StreamOwned<ClientConnection, TcpStream>;

/// The path of one of the files: `ca.pem`, and `first`, `second` (of servers) and `client` with `.pem` and `.key`.
#[must_use]
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tls").join(name)
}

/// Puts the server certificate called `name` into `folder`, as the files `cert` and `key`.
///
/// # Panics
/// If the folder cannot be written to.
pub fn put(folder: &Path, name: &str) {
    for (from, to) in [("pem", "cert"), ("key", "key")] {
        let from = file(&format!("{name}.{from}"));
        std::fs::copy(&from, folder.join(to))
            .unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
}

/// Connects to the server at `addr`, which must show a certificate of the tests' authority for `name`; shows the client's own if it is told to. Reads wait as
/// long as tests wait for anything.
///
/// # Panics
/// If nobody listens there.
#[must_use]
pub fn connect(
    addr: SocketAddr,
    name: &str,
    versions: &[&'static SupportedProtocolVersion],
    with_certificate: bool,
) -> Stream {
    let certificate = |name| CertificateDer::from_pem_file(file(name)).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca.pem")).expect("an authority");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .expect("versions that ring knows")
        .with_root_certificates(roots);
    let config = if with_certificate {
        let key = PrivateKeyDer::from_pem_file(file("client.key")).expect("a key");
        config
            .with_client_auth_cert(vec![certificate("client.pem")], key)
            .expect("a key that fits")
    } else {
        config.with_no_client_auth()
    };
    let name = ServerName::try_from(name.to_owned()).expect("a server's name");
    let session = ClientConnection::new(Arc::new(config), name).expect("a session");
    let socket = TcpStream::connect(addr).expect("somebody listens");
    socket
        .set_read_timeout(Some(wait::PATIENCE))
        .expect("a time-out above zero");
    StreamOwned::new(session, socket)
}
