//! TLS and access rules: both protocol versions, large packets both ways, client certificates, plain listeners beside it, refreshed certificates, strangers.

use std::io::{Read as _, Write as _};
use std::path::Path;

use ibex_gearman_client::{Client, Config, Tls, Worker};
use ibex_gearman_proto::{Grab, Request, Submit};
use ibex_testkit::tls::{self, SupportedProtocolVersion, VERSIONS, file, put};
use ibex_testkit::{Daemon, wait};
use tokio_util::sync::CancellationToken;

use crate::packets::{Wire, is_error};

/// A daemon with the files in `dir`, which are the first certificate's.
fn start(dir: &Path, flags: &[&str], settings: &[(&str, &str)]) -> Daemon {
    put(dir, "first");
    let builder = Daemon::builder("ibex-gearmand")
        .arg("--ssl")
        .arg(format!("--ssl-certificate={}", dir.join("cert").display()))
        .arg(format!("--ssl-key={}", dir.join("key").display()));
    let builder = flags
        .iter()
        .fold(builder, |builder, flag| builder.arg(*flag));
    settings
        .iter()
        .fold(builder, |builder, (key, value)| builder.set(key, value))
        .start()
        .unwrap()
}

fn connect(
    daemon: &Daemon,
    name: &str,
    versions: &[&'static SupportedProtocolVersion],
    with_certificate: bool,
) -> tls::Stream {
    tls::connect(
        daemon.addr("gearman").unwrap(),
        name,
        versions,
        with_certificate,
    )
}

fn usual(daemon: &Daemon, with_certificate: bool) -> Wire {
    Wire::over_stream(connect(daemon, "localhost", &VERSIONS, with_certificate))
}

#[test]
fn packets_of_any_size_in_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = start(dir.path(), &[], &[]);
    for version in VERSIONS {
        let mut client = Wire::over_stream(connect(&daemon, "localhost", &[version], false));
        let mut worker = Wire::over_stream(connect(&daemon, "localhost", &[version], false));
        worker.send(Request::CanDo { function: b"f" });
        for bytes in [0, 1, 16_384, 16_385, 3_000_000] {
            let workload = "w".repeat(bytes);
            client.send(Request::Submit(Submit::new(b"f", b"", workload.as_bytes())));
            let handle = client.handle();
            worker.send(Request::GrabJob(Grab::Plain));
            let assigned = worker.next().unwrap();
            assert!(
                assigned == format!("JOB_ASSIGN {handle} f {workload}"),
                "{bytes}"
            );
            worker.send(Request::WorkComplete {
                handle: handle.as_bytes(),
                data: workload.as_bytes(),
            });
            let result = client.next().unwrap();
            assert!(
                result == format!("WORK_COMPLETE {handle} {workload}"),
                "{bytes}"
            );
        }
    }
    // A peer that speaks plainly is closed, and harms nobody.
    let mut plain = Wire::connect(daemon.addr("gearman").unwrap());
    plain.send_bytes(b"status\n");
    while let Some(byte) = plain.byte() {
        assert_ne!(byte, b'.', "no list in plain");
    }
    let failed = || {
        daemon
            .metric("ibex_gearmand_handshakes_failed_total")
            .unwrap()
    };
    assert!(failed() >= 1.0);
    assert_eq!(
        usual(&daemon, false).line("version"),
        "text OK 1.1.21+ibex\\n"
    );
    daemon.stop().unwrap();
}

#[test]
fn a_slow_reader_gets_everything() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = start(dir.path(), &[], &[]);
    let mut stream = connect(&daemon, "localhost", &VERSIONS, false);
    let data = vec![b'e'; 1 << 20];
    let mut packets = Vec::new();
    for _ in 0..24 {
        Request::Echo { data: &data }.encode(&mut packets);
    }
    let expected = packets.len();
    let socket = stream.sock.try_clone().unwrap();
    stream.sock.set_nonblocking(false).unwrap();
    // Written whole before anything is read: far beyond what sockets hold, so both sides wait and go on.
    stream.write_all(&packets).unwrap();
    stream.flush().unwrap();
    drop(socket);
    let mut got = vec![0; expected];
    stream.read_exact(&mut got).unwrap();
    assert!(got.iter().filter(|byte| **byte == b'e').count() >= 24 << 20);
    daemon.stop().unwrap();
}

#[test]
fn client_certificates_and_plain_listeners() {
    let dir = tempfile::tempdir().unwrap();
    let ca = format!("--ssl-ca-file={}", file("ca.pem").display());
    let daemon = start(dir.path(), &[&ca], &[("listen_plain", "[\"127.0.0.1:0\"]")]);
    assert_eq!(
        usual(&daemon, true).line("getpid"),
        format!("text OK {}\\n", daemon.pid().unwrap())
    );
    assert_eq!(
        said_by_a_stranger(&daemon),
        None,
        "a certificate is required"
    );
    let mut plain = Wire::connect(daemon.addr("gearman_plain").unwrap());
    assert!(plain.line("version").starts_with("text OK "));
    daemon.stop().unwrap();
    let daemon = start(dir.path(), &[&ca, "--ssl-verify=optional"], &[]);
    assert!(said_by_a_stranger(&daemon).is_some());
    daemon.stop().unwrap();
}

fn said_by_a_stranger(daemon: &Daemon) -> Option<String> {
    let mut stranger = usual(daemon, false);
    stranger.send_bytes(b"version\n");
    stranger.next()
}

#[test]
fn certificates_are_read_again_at_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = start(dir.path(), &[], &[]);
    let mut old = usual(&daemon, false);
    assert!(old.line("version").starts_with("text OK "));
    put(dir.path(), "second");
    daemon.signal(rustix::process::Signal::HUP).unwrap();
    wait::until_true("the second certificate to be shown", || {
        let mut stream = connect(&daemon, "second.test", &VERSIONS, false);
        stream.write_all(b"version\n").is_ok() && stream.read(&mut [0; 64]).is_ok()
    })
    .unwrap();
    assert!(old.line("version").starts_with("text OK "), "it lives on");
    // One that cannot be read leaves the one before.
    daemon.announce("certificates not read again");
    std::fs::write(dir.path().join("cert"), "nothing").unwrap();
    daemon.signal(rustix::process::Signal::HUP).unwrap();
    daemon.wait_log("certificates not read again").unwrap();
    let mut stream = connect(&daemon, "second.test", &VERSIONS, false);
    stream.write_all(b"version\n").unwrap();
    assert!(stream.read(&mut [0; 64]).unwrap() > 0);
    daemon.stop().unwrap();
}

#[test]
fn names_and_tokens_may_what_the_rules_say() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules");
    std::fs::write(
        &rules,
        "cn=client work f status\ntoken=s3cret submit f* admin\n",
    )
    .unwrap();
    let ca = format!("--ssl-ca-file={}", file("ca.pem").display());
    let acl = format!("--acl-file={}", rules.display());
    let mut daemon = start(dir.path(), &[&ca, "--ssl-verify=optional", &acl], &[]);
    let (mut worker, mut client) = (usual(&daemon, true), usual(&daemon, false));
    worker.send(Request::CanDo { function: b"f" });
    assert!(worker.said().is_empty());
    worker.send(Request::CanDo { function: b"g" });
    assert!(is_error(&worker.next().unwrap(), "UNAUTHORIZED"));
    worker.send(Request::Submit(Submit::new(b"f", b"", b"")));
    assert!(is_error(&worker.next().unwrap(), "UNAUTHORIZED"));
    assert_eq!(worker.list("status"), ["f\\t0\\t0\\t1"]);
    assert_eq!(worker.line("maxqueue f 1"), "text ERR UNAUTHORIZED\\r\\n");
    // The client is nobody before it has shown its token.
    client.send(Request::Submit(Submit::new(b"f", b"", b"")));
    assert!(is_error(&client.next().unwrap(), "UNAUTHORIZED"));
    client.send(Request::Option {
        name: b"auth=guess",
    });
    assert!(is_error(&client.next().unwrap(), "UNAUTHORIZED"));
    client.send(Request::Option {
        name: b"auth=s3cret",
    });
    assert_eq!(client.next().unwrap(), "OPTION_RES auth=s3cret");
    client.send(Request::Submit(Submit::new(b"f", b"", b"")));
    client.handle();
    client.send(Request::CanDo { function: b"f" });
    assert!(is_error(&client.next().unwrap(), "UNAUTHORIZED"));
    assert_eq!(client.line("maxqueue f 1"), "text OK\\r\\n");
    assert_eq!(client.line("status"), "text ERR UNAUTHORIZED\\r\\n");
    assert!(client.line("version").starts_with("text OK "));
    // Rules are read again; bad ones leave those before.
    std::fs::write(&rules, "* status\n").unwrap();
    daemon.signal(rustix::process::Signal::HUP).unwrap();
    wait::until_true("the new rules", || {
        client.send_bytes(b"show jobs\n");
        let first = client.next().unwrap();
        let is_list = !first.starts_with("text ERR");
        if is_list && first != "text .\\n" {
            while client.next().unwrap() != "text .\\n" {}
        }
        is_list
    })
    .unwrap();
    client.send(Request::Submit(Submit::new(b"f", b"", b"")));
    assert!(is_error(&client.next().unwrap(), "UNAUTHORIZED"));
    daemon.announce("access rules not read again");
    std::fs::write(&rules, "* fly\n").unwrap();
    daemon.signal(rustix::process::Signal::HUP).unwrap();
    daemon.wait_log("access rules not read again").unwrap();
    assert_eq!(client.list("show dead"), Vec::<String>::new());
    assert!(
        daemon
            .metric("ibex_gearmand_requests_denied_total")
            .unwrap()
            >= 8.0
    );
    daemon.stop().unwrap();
}

#[test]
fn safety_that_cannot_be_had_refuses_the_start() {
    for (flags, expected) in [
        (vec!["--ssl"], "tls_cert"),
        (
            vec!["--ssl", "--ssl-certificate=/no/such", "--ssl-key=/no/such"],
            "/no/such",
        ),
        (vec!["--acl-file=/no/such"], "/no/such"),
    ] {
        let builder = Daemon::builder("ibex-gearmand");
        let builder = flags
            .iter()
            .fold(builder, |builder, flag| builder.arg(*flag));
        let refused = format!("{:#}", builder.start().unwrap_err());
        assert!(refused.contains(expected), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_library_talks_tls_and_knows_its_server() {
    let dir = tempfile::tempdir().unwrap();
    let ca = format!("--ssl-ca-file={}", file("ca.pem").display());
    let daemon = tokio::task::block_in_place(|| start(dir.path(), &[&ca], &[]));
    let port = daemon.addr("gearman").unwrap().port();
    let files = (file("client.pem"), file("client.key"));
    let tls = Tls::from_files(&file("ca.pem"), Some((&files.0, &files.1))).unwrap();
    let config = Config::new([format!("localhost:{port}")]).with_tls(tls.clone());
    let stop = CancellationToken::new();
    let worker =
        Worker::new(config.clone()).function("f", |job| async move { Ok(job.workload().clone()) });
    let working = tokio::spawn(worker.run(stop.clone()));
    let client = Client::connect(config).await.unwrap();
    let workload = "w".repeat(1 << 20);
    let result = client.call("f", workload.clone()).await.unwrap();
    assert!(result == workload);
    stop.cancel();
    working.await.unwrap().unwrap();
    // Another name than the certificate's, and no certificate of our own.
    let nobody = Tls::from_files(&file("ca.pem"), None).unwrap();
    for (server, tls) in [("127.0.0.1", tls), ("localhost", nobody)] {
        let config = Config::new([format!("{server}:{port}")]).with_tls(tls);
        let client = Client::connect(config).await.unwrap();
        assert!(
            client.submit_background("f", "x").await.is_err(),
            "{server}"
        );
    }
    assert!(Tls::from_files(&file("client.key"), None).is_err());
    tokio::task::block_in_place(|| daemon.stop()).unwrap();
}
