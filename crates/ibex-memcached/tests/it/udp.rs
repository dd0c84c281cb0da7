//! Requests in datagrams: frames, replies in several, bounds, what is not to be had.

use crate::client::Client;
use ibex_testkit::{Daemon, wait};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

fn start(args: &[&str]) -> Daemon {
    let builder = Daemon::builder("ibex-memcached");
    let builder = builder.arg("--set").arg("udp=[\"127.0.0.1:0\"]");
    args.iter()
        .fold(builder, |builder, arg| builder.arg(*arg))
        .start()
        .unwrap()
}

struct Sender {
    socket: UdpSocket,
    id: u16,
}

impl Sender {
    fn new(daemon: &Daemon) -> Self {
        let address: SocketAddr = daemon.addr("memcached_udp").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(address).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        Self { socket, id: 0xfff0 }
    }

    fn send(&self, frame: [u16; 4], payload: &[u8]) {
        let frame = frame.iter().flat_map(|number| number.to_be_bytes());
        let datagram: Vec<u8> = frame.chain(payload.iter().copied()).collect();
        self.socket.send(&datagram).unwrap();
    }

    /// The whole reply to a request; each datagram's frame is checked.
    fn ask(&mut self, payload: &[u8]) -> Vec<u8> {
        self.id = self.id.wrapping_add(1);
        self.send([self.id, 0, 1, 0], payload);
        self.reply()
    }

    fn reply(&self) -> Vec<u8> {
        let (mut reply, mut sequence) = (Vec::new(), 0_u16);
        loop {
            let mut datagram = [0; 2000];
            let bytes = self.socket.recv(&mut datagram).unwrap();
            assert!((8..=1400).contains(&bytes), "{bytes}");
            let number = |at: usize| u16::from_be_bytes([datagram[at], datagram[at + 1]]);
            assert_eq!((number(0), number(2), number(6)), (self.id, sequence, 0));
            reply.extend_from_slice(&datagram[8..bytes]);
            sequence += 1;
            if sequence == number(4) {
                return reply;
            }
        }
    }
}

#[test]
fn text_and_packets_with_replies_of_any_size() {
    let daemon = start(&[]);
    let mut sender = Sender::new(&daemon);
    assert_eq!(sender.ask(b"set k 7 0 3\r\nabc\r\n"), b"STORED\r\n");
    assert_eq!(
        sender.ask(b"get k none\r\n"),
        b"VALUE k 7 3\r\nabc\r\nEND\r\n"
    );
    assert_eq!(
        sender.ask(b"mg k v\r\nmg none v\r\nmn\r\n"),
        b"VA 3\r\nabc\r\nEN\r\nMN\r\n"
    );
    let mut noop = [0; 24];
    (noop[0], noop[1], noop[15]) = (0x80, 0x0a, 9);
    let reply = sender.ask(&noop);
    assert_eq!(
        (reply.len(), reply[0], reply[1], reply[15]),
        (24, 0x81, 0x0a, 9)
    );
    // The protocol is chosen by each datagram.
    assert_eq!(sender.ask(b"mn\r\n"), b"MN\r\n");
    let mut client = Client::new(&daemon);
    for bytes in [1392 - 27, 1393 - 27, 20_000, 60_000] {
        let value = "v".repeat(bytes);
        client.ask(&format!("set big 0 0 {bytes}\r\n{value}\r\n"), "STORED\r\n");
        let expected = format!("VALUE big 0 {bytes}\r\n{value}\r\nEND\r\n");
        assert_eq!(sender.ask(b"get big\r\n"), expected.as_bytes(), "{bytes}");
    }
    assert_eq!(client.stat("cmd_set"), 5);
    let conns = client.ask("stats conns\r\n", "END\r\n");
    assert!(conns.contains(":addr udp:127.0.0.1:"), "{conns}");
    daemon.stop().unwrap();
}

/// A forged sender cannot have much sent to somebody else, nor streams, nor the daemon stopped.
#[test]
fn replies_are_bounded() {
    let daemon = start(&["-A", "--set", "udp_reply_max=\"8K\""]);
    let mut sender = Sender::new(&daemon);
    let mut client = Client::new(&daemon);
    client.ask(
        &format!("set big 0 0 9000\r\n{}\r\n", "v".repeat(9000)),
        "STORED\r\n",
    );
    let too_large = b"SERVER_ERROR reply too large for UDP\r\n";
    assert_eq!(sender.ask(b"get big\r\n"), too_large);
    let many = format!("get{}\r\n", " big".repeat(10_000));
    assert_eq!(sender.ask(many.as_bytes()), too_large);
    for refused in [
        "lru_crawler metadump all\r\n",
        "watch fetchers\r\n",
        "shutdown\r\n",
    ] {
        assert_eq!(sender.ask(refused.as_bytes()), b"ERROR\r\n", "{refused}");
    }
    assert_eq!(sender.ask(b"mn\r\n"), b"MN\r\n");
    daemon.stop().unwrap();
}

#[test]
fn what_is_no_whole_request_is_dropped() {
    let daemon = start(&[]);
    let mut sender = Sender::new(&daemon);
    sender.socket.send(b"").unwrap();
    sender.socket.send(b"1234567").unwrap();
    sender.send([1, 0, 1, 0], b"");
    sender.send([1, 0, 2, 0], b"mn\r\n");
    sender.send([1, 0, 1, 0], b"set k 0 0 10\r\nabc");
    sender.send([1, 0, 1, 0], b"get k");
    sender.send([1, 0, 1, 0], b"set k 0 0 1 noreply\r\nx\r\n");
    assert_eq!(sender.ask(b"mn\r\n"), b"MN\r\n");
    let dropped = || daemon.metric("ibex_memcached_datagrams_dropped_total");
    wait::until_true("all are counted", || {
        dropped().is_ok_and(|count| (count - 6.0).abs() < 0.5)
    })
    .unwrap();
    assert_eq!(sender.ask(b"get k\r\n"), b"VALUE k 0 1\r\nx\r\nEND\r\n");
    daemon.stop().unwrap();
}

#[test]
fn not_together_with_a_login() {
    let dir = tempfile::tempdir().unwrap();
    let users = dir.path().join("users");
    std::fs::write(&users, "foo:bar").unwrap();
    let outcome = Daemon::builder("ibex-memcached")
        .arg("-U")
        .arg("-1")
        .arg("-Y")
        .arg(users)
        .start();
    assert!(format!("{:?}", outcome.err().unwrap()).contains("must be empty with a login"));
}
