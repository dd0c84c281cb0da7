//! The wire scripts, whole and in pieces.

use crate::client::{Client, address};
use ibex_testkit::{Daemon, wire};
use std::path::Path;

#[test]
fn every_script() {
    let daemon = Daemon::builder("ibex-memcached").start().unwrap();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire");
    let fresh = |_: &Path| {
        Client::new(&daemon).ask("flush_all\r\n", "OK\r\n");
        Ok(address(&daemon))
    };
    assert!(wire::run_dir(&dir, fresh).unwrap() >= 5);
    daemon.stop().unwrap();
}

/// The same requests in one packet and one byte at a time give the same bytes.
#[test]
fn any_split_gives_the_same_replies() {
    let daemon = Daemon::builder("ibex-memcached").start().unwrap();
    let requests = b"set k 1 0 5\r\nhello\r\nget k absent k\r\nms m 2 c0\r\nmg k v f\r\nset bad 0 0 2\r\nabcd\r\nincr k 1\r\nbogus\r\ndelete k\r\nmn\r\n";
    let mut whole = Client::new(&daemon);
    whole.send(requests);
    let expected = whole.until(b"MN\r\n");
    for size in [1, 2, 3, 7, 16] {
        Client::new(&daemon).ask("flush_all\r\n", "OK\r\n");
        let mut client = Client::new(&daemon);
        for piece in requests.chunks(size) {
            client.send(piece);
        }
        assert_eq!(client.until(b"MN\r\n"), expected, "pieces of {size}");
    }
    daemon.stop().unwrap();
}
