//! What strangers send.

use crate::client::Client;
use ibex_base::rng::Rng;
use ibex_testkit::{Daemon, wait};

#[test]
fn a_long_line_is_closed_and_a_long_multiget_is_answered() {
    let daemon = Daemon::builder("ibex-memcached").start().unwrap();
    let mut junk = Client::new(&daemon);
    junk.send(&[b'x'; 2100]);
    assert_eq!(junk.rest(), b"");
    let mut client = Client::new(&daemon);
    client.ask("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    let keys = " absent".repeat(130_000);
    let reply = client.ask(&format!("get{keys} k\r\n"), "END\r\n");
    assert_eq!(reply, "VALUE k 0 1\r\nx\r\nEND\r\n");
    daemon.stop().unwrap();
}

/// Values that are announced and never sent cost little, and go when the connection goes.
#[test]
fn stalled_uploads_hold_no_memory() {
    let daemon = Daemon::builder("ibex-memcached")
        .arg("-I")
        .arg("16m")
        .start()
        .unwrap();
    let mut clients: Vec<Client> = (0..100).map(|_| Client::new(&daemon)).collect();
    for client in &mut clients {
        client.send(b"set k 0 0 16000000\r\nonly this");
    }
    wait::until_true("all are read", || {
        daemon.metric("ibex_memcached_requests_total").unwrap() >= 100.0
    })
    .unwrap();
    let buffers = || {
        daemon
            .metric("ibex_memcached_connection_buffer_bytes")
            .unwrap()
    };
    assert!(buffers() < 100.0 * 65_536.0, "{}", buffers());
    drop(clients);
    wait::until_true("buffers are gone", || buffers() < 1.0).unwrap();
    daemon.stop().unwrap();
}

/// Random bytes, seeded, mixed with pieces of valid requests: the daemon answers or closes, and lives.
#[test]
fn random_streams_do_no_harm() {
    let daemon = Daemon::builder("ibex-memcached").start().unwrap();
    let pieces: [&[u8]; 12] = [
        b"get ",
        b"set k 0 0 5\r\n",
        b"hello\r\n",
        b"\r\n",
        b"ms k 3 ",
        b"mg k v ",
        b"\x80",
        b"noreply",
        b" 99999999999 ",
        b"ma k ",
        b"\0",
        b"stats\r\n",
    ];
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut stream = Vec::new();
        for _ in 0..rng.below(60) {
            if rng.chance(1, 3) {
                stream.push(u8::try_from(rng.below(256)).unwrap());
            } else {
                stream.extend_from_slice(rng.pick(&pieces).unwrap());
            }
        }
        let mut client = std::net::TcpStream::connect(crate::client::address(&daemon)).unwrap();
        // The daemon may close first.
        drop(std::io::Write::write_all(&mut client, &stream));
    }
    assert_eq!(Client::new(&daemon).ask("mn\r\n", "MN\r\n"), "MN\r\n");
    daemon.stop().unwrap();
}

/// Of 64 clients that ask for a missing key at once, one wins.
#[test]
fn one_of_64_clients_gets_the_lease() {
    let daemon = Daemon::builder("ibex-memcached").start().unwrap();
    let address = crate::client::address(&daemon);
    for round in 0..5 {
        let wins: usize = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..64)
                .map(|_| {
                    scope.spawn(move || {
                        let mut client = Client::to(address);
                        usize::from(
                            client
                                .ask(&format!("mg lease{round} N30\r\n"), "\r\n")
                                .contains(" W"),
                        )
                    })
                })
                .collect();
            clients
                .into_iter()
                .map(|client| client.join().unwrap())
                .sum()
        });
        assert_eq!(wins, 1);
    }
    daemon.stop().unwrap();
}
