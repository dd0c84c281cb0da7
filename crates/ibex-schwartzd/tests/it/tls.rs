//! The HTTP interface over TLS: both versions of it and of HTTP, callers' certificates, a refreshed certificate, strangers.

use crate::Case;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ibex_testkit::tls::{self, VERSIONS, file, put};
use ibex_testkit::wait::until_true;
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;

/// A daemon with the certificate in `folder`, which is the first.
fn start(folder: &Path, more: &[(&str, &str)]) -> Case {
    put(folder, "first");
    let [cert, key] = ["cert", "key"].map(|name| folder.join(name).display().to_string());
    let mut settings = vec![("tls_cert", cert.as_str()), ("tls_key", key.as_str())];
    settings.extend(more);
    Case::start(&settings)
}

/// Status line of an insert over a connection of its own; `None` if it ends without an answer.
fn insert(stream: &mut tls::Stream, body: &str) -> Option<String> {
    let length = body.len();
    let request = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8(answer).unwrap();
    answer.lines().next().map(str::to_owned)
}

#[test]
fn both_versions_carry_jobs_of_any_size() {
    let folder = tempfile::tempdir().unwrap();
    let case = start(folder.path(), &[]);
    for version in VERSIONS {
        for bytes in [0, 16_384, 3_000_000] {
            let body = serde_json::json!({ "func": "F", "arg": "a".repeat(bytes) }).to_string();
            let mut stream = tls::connect(case.addr, "localhost", &[version], false);
            let status = insert(&mut stream, &body);
            assert_eq!(status.as_deref(), Some("HTTP/1.1 201 Created"), "{bytes}");
        }
    }
    case.daemon.stop().unwrap();
}

#[test]
fn http_2_is_agreed_on_by_alpn() {
    let folder = tempfile::tempdir().unwrap();
    let case = start(folder.path(), &[]);
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(file("ca.pem")).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let addr = case.addr;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(addr).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        drop(tokio::spawn(connection));
        let request = http::Request::post("https://localhost/v1/jobs")
            .body(Full::new(bytes::Bytes::from_static(b"{\"func\":\"F\"}")))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 201);
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(body.starts_with(b"{"));
    });
    case.daemon.stop().unwrap();
}

#[test]
fn callers_show_a_certificate_where_an_authority_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let authority = file("ca.pem").display().to_string();
    let case = start(folder.path(), &[("tls_ca", &authority)]);
    for version in VERSIONS {
        let answer = |with_certificate| {
            let mut stream = tls::connect(case.addr, "localhost", &[version], with_certificate);
            insert(&mut stream, "{\"func\":\"F\"}")
        };
        assert_eq!(answer(true).as_deref(), Some("HTTP/1.1 201 Created"));
        assert_eq!(answer(false), None);
    }
    case.daemon.stop().unwrap();
}

#[test]
fn a_reload_is_for_new_connections_and_wrong_files_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut case = start(folder.path(), &[]);
    let addr = case.addr;
    let is_named = |name: &str| {
        let mut stream = tls::connect(addr, name, &VERSIONS, false);
        insert(&mut stream, "{\"func\":\"F\"}").is_some()
    };
    assert!(is_named("first.test") && !is_named("second.test"));
    put(folder.path(), "second");
    case.daemon.signal(Signal::HUP).unwrap();
    until_true("the second certificate", || is_named("second.test")).unwrap();
    assert!(!is_named("first.test"));
    case.daemon.announce("certificate not read");
    std::fs::write(folder.path().join("key"), "nonsense").unwrap();
    case.daemon.signal(Signal::HUP).unwrap();
    case.daemon
        .wait_log("certificate not read, the old one stays")
        .unwrap();
    assert!(is_named("second.test"));
    case.daemon.stop().unwrap();
}

#[test]
fn who_speaks_plainly_or_leaves_in_the_middle_is_counted_and_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let case = start(folder.path(), &[]);
    let mut plain = TcpStream::connect(case.addr).unwrap();
    plain
        .write_all(b"GET /v1/funcs HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    // The end may come as a reset, because the request was not read to its end.
    let _end = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"));
    drop(TcpStream::connect(case.addr).unwrap());
    until_true("two handshakes to fail", || {
        case.daemon
            .metric("ibex_schwartzd_handshakes_failed_total")
            .unwrap()
            >= 2.0
    })
    .unwrap();
    let mut stream = tls::connect(case.addr, "localhost", &VERSIONS, false);
    assert!(insert(&mut stream, "{\"func\":\"F\"}").is_some());
    case.daemon.stop().unwrap();
}

#[test]
fn files_that_cannot_be_used_refuse_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let cert = file("first.pem").display().to_string();
    let other = file("second.key").display().to_string();
    let absent = folder.path().join("absent").display().to_string();
    for (cert, key, reason) in [
        (cert.as_str(), absent.as_str(), "tls_key "),
        (cert.as_str(), other.as_str(), "tls_cert and tls_key"),
        ("", other.as_str(), "tls_cert and tls_key go together"),
    ] {
        let output =
            std::process::Command::new(ibex_testkit::daemon::binary("ibex-schwartzd").unwrap())
                .args(["--listen", "127.0.0.1:0", "--db"])
                .arg(format!("sqlite:{}/jobs.db", folder.path().display()))
                .env("IBEX_ADMIN__LISTEN", "127.0.0.1:0")
                .env("IBEX_TLS_CERT", cert)
                .env("IBEX_TLS_KEY", key)
                .output()
                .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(reason), "{told}");
    }
}
