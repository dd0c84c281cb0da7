//! Text and SASL logins.

use crate::client::Client;
use ibex_testkit::Daemon;

fn users(dir: &tempfile::TempDir) -> std::path::PathBuf {
    let path = dir.path().join("users");
    std::fs::write(&path, "foo:bar\nspacy:two words").unwrap();
    path
}

#[test]
fn a_text_login() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::builder("ibex-memcached")
        .arg("-Y")
        .arg(users(&dir))
        .start()
        .unwrap();
    let mut client = Client::new(&daemon);
    assert_eq!(
        client.ask("get secret\r\n", "\r\n"),
        "CLIENT_ERROR unauthenticated\r\n"
    );
    assert_eq!(
        client.ask("\r\n", "\r\n"),
        "CLIENT_ERROR unauthenticated\r\n"
    );
    assert_eq!(
        client.ask("set x 0 0 7\r\nfoo baz\r\n", "\r\n"),
        "CLIENT_ERROR authentication failure\r\n"
    );
    assert_eq!(
        client.ask("set x 0 0 6\r\nfoobar\r\n", "\r\n"),
        "CLIENT_ERROR bad authentication token format\r\n"
    );
    assert_eq!(
        client.ask("set x 0 0 15\r\nspacy two words\r\n", "\r\n"),
        "STORED\r\n"
    );
    assert_eq!(client.ask("set k 0 0 1\r\nx\r\n", "\r\n"), "STORED\r\n");
    assert_eq!(
        (client.stat("auth_cmds"), client.stat("auth_errors")),
        (3, 2)
    );
    let mut long = Client::new(&daemon);
    assert_eq!(
        long.ask("set x 0 0 16385\r\n", "\r\n"),
        "CLIENT_ERROR auth token too long\r\n"
    );
    // The connection goes on, as the original's does.
    assert_eq!(long.ask("set x 0 0 7\r\nfoo bar\r\n", "\r\n"), "STORED\r\n");
    daemon.stop().unwrap();
}

fn packet(opcode: u8, key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let header = ibex_memcached_proto::binary::Header {
        opcode,
        key_bytes: u16::try_from(key.len()).unwrap(),
        extras_bytes: 0,
        body_bytes: u32::try_from(key.len() + value.len()).unwrap(),
        opaque: 0,
        cas: 0,
    };
    header.write(&mut packet);
    packet.extend_from_slice(key);
    packet.extend_from_slice(value);
    packet
}

#[test]
fn a_sasl_login() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::builder("ibex-memcached")
        .arg("-S")
        .arg("-Y")
        .arg(users(&dir))
        .start()
        .unwrap();
    let mut stranger = Client::new(&daemon);
    stranger.send(&packet(0x00, b"k", b""));
    assert!(stranger.rest().ends_with(b"Auth failure."));
    let mut client = Client::new(&daemon);
    client.send(&packet(0x20, b"", b""));
    client.until(b"PLAIN");
    client.send(&packet(0x21, b"PLAIN", b"\0foo\0wrong"));
    client.until(b"Auth failure.");
    client.send(&packet(0x21, b"PLAIN", b"\0foo\0bar"));
    client.until(b"Authenticated");
    client.send(&packet(0x00, b"k", b""));
    client.until(b"Not found");
    // A mechanism that cannot be one is no login; a second step of a login that has one is a failed one.
    let mut odd = Client::new(&daemon);
    odd.send(&packet(0x21, &[b'X'; 40], b"\0foo\0bar"));
    odd.until(b"Invalid arguments");
    odd.send(&packet(0x22, b"PLAIN", b"\0foo\0bar"));
    odd.until(b"Auth failure.");
    odd.send(&packet(0x21, b"PLAIN", b"\0foo\0bar"));
    odd.until(b"Authenticated");
    odd.send(&packet(0x10, b"", b""));
    let stats = odd.until(b"auth_errors2");
    assert!(stats.windows(10).any(|window| window == b"auth_cmds4"));
    let mut text = Client::new(&daemon);
    text.send(b"version\r\n");
    assert_eq!(text.rest(), b"");
    daemon.stop().unwrap();
}
