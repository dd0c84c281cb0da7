//! TLS: both protocol versions, large values both ways, client certificates, plain listeners beside it, refreshed certificates, strangers.

use crate::client::Client;
use ibex_testkit::Daemon;
use ibex_testkit::tls::{self, VERSIONS, file, put};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

/// A daemon with the files in `dir`, which are the first certificate's.
fn start(dir: &Path, args: &[&str]) -> Daemon {
    put(dir, "first");
    let builder = Daemon::builder("ibex-memcached")
        .arg("-Z")
        .arg("-o")
        .arg(format!("ssl_chain_cert={}", dir.join("cert").display()))
        .arg("-o")
        .arg(format!("ssl_key={}", dir.join("key").display()))
        .arg("-o")
        .arg(format!("ssl_ca_cert={}", file("ca.pem").display()));
    args.iter()
        .fold(builder, |builder, arg| builder.arg(*arg))
        .start()
        .unwrap()
}

struct TlsClient {
    stream: tls::Stream,
    read: Vec<u8>,
}

impl TlsClient {
    fn new(
        daemon: &Daemon,
        listener: &str,
        name: &str,
        versions: &[&'static tls::SupportedProtocolVersion],
        with_certificate: bool,
    ) -> Self {
        Self {
            stream: tls::connect(
                daemon.addr(listener).unwrap(),
                name,
                versions,
                with_certificate,
            ),
            read: Vec::new(),
        }
    }

    fn usual(daemon: &Daemon) -> Self {
        Self::new(daemon, "memcached", "localhost", &VERSIONS, false)
    }

    fn try_ask(&mut self, request: &str, end: &str) -> io::Result<String> {
        self.stream.write_all(request.as_bytes())?;
        self.stream.flush()?;
        let mut buffer = vec![0; 65_536];
        let mut searched = 0;
        loop {
            let unseen = &self.read[searched..];
            let found = unseen
                .windows(end.len())
                .position(|window| window == end.as_bytes());
            if let Some(at) = found {
                let reply: Vec<u8> = self.read.drain(..searched + at + end.len()).collect();
                return Ok(String::from_utf8_lossy(&reply).into_owned());
            }
            searched = self.read.len().saturating_sub(end.len());
            let read = self.stream.read(&mut buffer)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.read.extend_from_slice(&buffer[..read]);
        }
    }

    fn ask(&mut self, request: &str, end: &str) -> String {
        self.try_ask(request, end).unwrap()
    }
}

#[test]
fn both_versions_and_values_of_any_size() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = start(dir.path(), &["-I", "4m"]);
    for version in VERSIONS {
        let mut client = TlsClient::new(&daemon, "memcached", "localhost", &[version], false);
        for bytes in [0, 1, 16_000, 16_384, 16_385, 100_000, 3_000_000] {
            let value = "v".repeat(bytes);
            let stored = client.ask(&format!("set k 0 0 {bytes}\r\n{value}\r\n"), "\r\n");
            assert_eq!(stored, "STORED\r\n");
            let got = client.ask("get k\r\nmn\r\n", "MN\r\n");
            assert!(
                got == format!("VALUE k 0 {bytes}\r\n{value}\r\nEND\r\nMN\r\n"),
                "{bytes}"
            );
        }
        client.ask(&"mn\r\n".repeat(500), &"MN\r\n".repeat(500));
        client.stream.write_all(b"quit\r\n").unwrap();
        let mut rest = Vec::new();
        // Closed with a goodbye, or the client would call it an error.
        assert_eq!(client.stream.read_to_end(&mut rest).unwrap(), 0);
    }
    let settings = TlsClient::usual(&daemon).ask("stats settings\r\n", "END\r\n");
    assert!(settings.contains("STAT ssl_enabled yes\r\n"));
    assert!(settings.contains("STAT ssl_min_version tlsv1.2\r\n"));
    daemon.stop().unwrap();
}

/// Replies that are not read wait as they do without TLS, and come when they are.
#[test]
fn unread_replies_are_bounded_and_come_later() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = start(dir.path(), &["-t", "1"]);
    let mut client = TlsClient::usual(&daemon);
    let value = "v".repeat(500_000);
    client.ask(&format!("set big 0 0 500000\r\n{value}\r\n"), "STORED\r\n");
    let mut greedy = TlsClient::usual(&daemon);
    greedy.ask("mn\r\n", "MN\r\n");
    let gets = format!("get{}\r\n", " big".repeat(40));
    greedy.stream.write_all(gets.as_bytes()).unwrap();
    greedy.stream.flush().unwrap();
    let buffers = || {
        daemon
            .metric("ibex_memcached_connection_buffer_bytes")
            .unwrap()
    };
    ibex_testkit::wait::until_true("the reply waits", || buffers() > 100_000.0).unwrap();
    for _ in 0..100 {
        assert_eq!(client.ask("mn\r\n", "MN\r\n"), "MN\r\n");
    }
    assert!(buffers() < 8e6);
    let all = greedy.ask("", "END\r\n");
    assert_eq!(
        all.len(),
        40 * (500_000 + "VALUE big 0 500000\r\n\r\n".len()) + 5
    );
    daemon.stop().unwrap();
}

#[test]
fn client_certificates_and_plain_listeners() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = start(
        dir.path(),
        &["-l", "127.0.0.1:0,notls:127.0.0.1:0,mtls:127.0.0.1:0"],
    );
    assert_eq!(
        TlsClient::usual(&daemon).ask("set k 0 0 1\r\nx\r\n", "\r\n"),
        "STORED\r\n"
    );
    let mut plain = Client::to(daemon.addr("memcached_plain").unwrap());
    assert_eq!(
        plain.ask("get k\r\n", "END\r\n"),
        "VALUE k 0 1\r\nx\r\nEND\r\n"
    );
    for version in VERSIONS {
        let mutual = |with_certificate| {
            TlsClient::new(
                &daemon,
                "memcached_mtls",
                "localhost",
                &[version],
                with_certificate,
            )
        };
        assert_eq!(mutual(true).ask("mn\r\n", "\r\n"), "MN\r\n");
        assert!(mutual(false).try_ask("mn\r\n", "\r\n").is_err());
    }
    daemon.stop().unwrap();
}

#[test]
fn certificates_are_refreshed_for_new_connections() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = start(dir.path(), &["-l", "127.0.0.1:0"]);
    let named = |name: &str| {
        let mut client = TlsClient::new(&daemon, "memcached", name, &VERSIONS, false);
        client.try_ask("mn\r\n", "\r\n").is_ok()
    };
    assert!(named("first.test") && !named("second.test"));
    let mut old = TlsClient::usual(&daemon);
    put(dir.path(), "second");
    assert!(named("first.test"));
    assert_eq!(old.ask("refresh_certs\r\n", "\r\n"), "OK\r\n");
    assert!(!named("first.test") && named("second.test"));
    std::fs::write(dir.path().join("key"), "nonsense").unwrap();
    let error = old.ask("refresh_certs\r\n", "\r\n");
    assert!(
        error.starts_with("Error loading certificates: tls_key "),
        "{error}"
    );
    assert!(named("second.test"));
    daemon.stop().unwrap();
}

#[test]
fn strangers_and_wrong_files() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = start(dir.path(), &["-t", "1"]);
    let mut client = TlsClient::usual(&daemon);
    client.ask("mn\r\n", "MN\r\n");
    // Somebody without TLS, somebody who goes in the middle of the handshake.
    let mut stranger = Client::new(&daemon);
    stranger.send(b"get k\r\n");
    assert!(!stranger.rest().starts_with(b"END"));
    Client::new(&daemon).send(&[0x16, 3, 1, 2, 0, 1]);
    let stats = client.ask("stats\r\n", "END\r\n");
    assert!(stats.contains("STAT ssl_handshake_errors 1\r\n"), "{stats}");
    assert_eq!(stats.lines().count(), 96 + 1);
    daemon.stop().unwrap();
    let refused = |args: &[&str]| {
        let builder = Daemon::builder("ibex-memcached");
        let builder = args.iter().fold(builder, |builder, arg| builder.arg(*arg));
        format!("{:?}", builder.start().err().unwrap())
    };
    assert!(refused(&["-Z"]).contains("is needed with tls"));
    let ca = file("ca.pem");
    let (cert, key) = (
        format!("ssl_chain_cert={}", ca.display()),
        "ssl_key=/does/not/exist",
    );
    assert!(refused(&["-Z", "-o", &cert, "-o", key]).contains("tls_key /does/not/exist"));
    let other = format!("ssl_key={}", file("first.key").display());
    assert!(refused(&["-Z", "-o", &cert, "-o", &other]).contains("tls_cert and tls_key"));
}

/// A listener may ask for no certificate although the others do; without any authority nobody has a valid one.
#[test]
fn each_listener_asks_for_what_its_item_says() {
    let dir = tempfile::tempdir().unwrap();
    let list = "127.0.0.1:0,btls:127.0.0.1:0,mtls:proto[ascii]:127.0.0.1:0";
    let daemon = start(dir.path(), &["-l", list, "-o", "ssl_verify_mode=2"]);
    let ask = |listener: &str, with_certificate: bool| {
        let mut client =
            TlsClient::new(&daemon, listener, "localhost", &VERSIONS, with_certificate);
        client.try_ask("mn\r\n", "\r\n").is_ok()
    };
    for (listener, with_certificate, is_let_in) in [
        ("memcached", true, true),
        ("memcached", false, false),
        ("memcached_btls", false, true),
        ("memcached_mtls_ascii", true, true),
        ("memcached_mtls_ascii", false, false),
    ] {
        assert_eq!(
            ask(listener, with_certificate),
            is_let_in,
            "{listener} {with_certificate}"
        );
    }
    daemon.stop().unwrap();
}

#[test]
fn without_an_authority_no_certificate_is_valid() {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), "first");
    let cert = format!("ssl_chain_cert={}", dir.path().join("cert").display());
    let key = format!("ssl_key={}", dir.path().join("key").display());
    let args = [
        "-Z",
        "-o",
        &cert,
        "-o",
        &key,
        "-l",
        "127.0.0.1:0,mtls:127.0.0.1:0",
    ];
    let builder = Daemon::builder("ibex-memcached").announce("tls_ca is empty");
    let builder = args.iter().fold(builder, |builder, arg| builder.arg(*arg));
    let daemon = builder.start().unwrap();
    assert_eq!(TlsClient::usual(&daemon).ask("mn\r\n", "\r\n"), "MN\r\n");
    for version in VERSIONS {
        for with_certificate in [true, false] {
            let mut client = TlsClient::new(
                &daemon,
                "memcached_mtls",
                "localhost",
                &[version],
                with_certificate,
            );
            assert!(client.try_ask("mn\r\n", "\r\n").is_err());
        }
    }
    daemon.stop().unwrap();
}

#[test]
fn cipher_suites_are_those_that_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for (names, version, is_spoken) in [
        (
            "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256",
            VERSIONS[0],
            true,
        ),
        (
            "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256",
            VERSIONS[1],
            false,
        ),
        ("TLS_AES_128_GCM_SHA256", VERSIONS[1], true),
        ("TLS_AES_128_GCM_SHA256", VERSIONS[0], false),
    ] {
        let daemon = start(dir.path(), &["-o", &format!("ssl_ciphers={names}")]);
        let mut client = TlsClient::new(&daemon, "memcached", "localhost", &[version], false);
        assert_eq!(
            client.try_ask("mn\r\n", "\r\n").is_ok(),
            is_spoken,
            "{names}"
        );
        if is_spoken {
            let suite = client.stream.conn.negotiated_cipher_suite().unwrap();
            let suite = format!("{:?}", suite.suite());
            assert!(suite.contains("AES_128_GCM"), "{suite}");
            let settings = client.ask("stats settings\r\n", "END\r\n");
            assert!(settings.contains(&format!("STAT ssl_ciphers {names}\r\n")));
        }
        daemon.stop().unwrap();
    }
}

#[test]
fn a_key_may_be_in_der() {
    let dir = tempfile::tempdir().unwrap();
    let key = PrivateKeyDer::from_pem_file(file("first.key")).unwrap();
    let der = dir.path().join("key.der");
    std::fs::write(&der, key.secret_der()).unwrap();
    let key = format!("ssl_key={},ssl_keyformat=2", der.display());
    let daemon = start(dir.path(), &["-o", &key]);
    assert_eq!(TlsClient::usual(&daemon).ask("mn\r\n", "\r\n"), "MN\r\n");
    daemon.stop().unwrap();
}
