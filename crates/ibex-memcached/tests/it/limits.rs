//! Every limit of a connection, at its edge.

use crate::client::Client;
use ibex_testkit::{Daemon, wait};

fn start(args: &[&str]) -> Daemon {
    args.iter()
        .fold(Daemon::builder("ibex-memcached"), |builder, arg| {
            builder.arg(*arg)
        })
        .start()
        .unwrap()
}

/// 59 + key + value must be at most -I, as in the original.
#[test]
fn item_size_at_minus_one_zero_plus_one() {
    let daemon = start(&[]);
    let mut client = Client::new(&daemon);
    let edge = (1 << 20) - 59 - 1;
    for (bytes, reply) in [
        (edge - 1, "STORED\r\n"),
        (edge, "STORED\r\n"),
        (edge + 1, "SERVER_ERROR object too large for cache\r\n"),
    ] {
        let request = format!("set k 0 0 {bytes}\r\n{}\r\n", "v".repeat(bytes));
        assert_eq!(client.ask(&request, "\r\n"), reply, "{bytes}");
    }
    // The old value is gone with the failed set, and the connection goes on.
    assert_eq!(client.ask("get k\r\n", "END\r\n"), "END\r\n");
    assert_eq!(client.stat("store_too_large"), 1);
    daemon.stop().unwrap();
}

#[test]
fn a_large_value_comes_back_as_it_went() {
    let daemon = start(&["-m", "64", "-I", "8m"]);
    let mut client = Client::new(&daemon);
    for bytes in [8_000, 8_200, 70_000, 1_000_000, 8_000_000] {
        let value: String = (0..bytes)
            .map(|at| char::from(b'a' + u8::try_from(at % 23).unwrap()))
            .collect();
        client.ask(
            &format!("set k{bytes} 0 0 {bytes}\r\n{value}\r\n"),
            "STORED\r\n",
        );
        let got = client.ask(&format!("get k{bytes}\r\n"), "\r\nEND\r\n");
        assert!(got.ends_with(&format!("{value}\r\nEND\r\n")), "{bytes}");
    }
    daemon.stop().unwrap();
}

#[test]
fn requests_over_the_turn_yield() {
    let daemon = start(&["-R", "1"]);
    let mut client = Client::new(&daemon);
    client.send("set k 0 0 1\r\nx\r\n".repeat(6).as_bytes());
    for _ in 0..6 {
        client.until(b"STORED\r\n");
    }
    assert!(client.stat("conn_yields") >= 5);
    daemon.stop().unwrap();
}

#[test]
fn connections_at_the_limit_and_over_it() {
    let daemon = start(&["-c", "3"]);
    let mut clients: Vec<Client> = (0..3).map(|_| Client::new(&daemon)).collect();
    for client in &mut clients {
        client.ask("mn\r\n", "MN\r\n");
    }
    assert_eq!(
        Client::new(&daemon).rest(),
        b"ERROR Too many open connections\r\n"
    );
    assert_eq!(clients[0].stat("rejected_connections"), 1);
    drop(clients.pop());
    wait::until_true("a place is free again", || {
        Client::new(&daemon).rest_or_answer() == b"MN\r\n"
    })
    .unwrap();
    daemon.stop().unwrap();
}

impl Client {
    /// Asks `mn` and returns the first reply, whatever it is.
    fn rest_or_answer(&mut self) -> Vec<u8> {
        self.send(b"mn\r\n");
        self.until(b"\r\n")
    }
}

/// A client that asks for a hundred megabytes and does not read it holds no more than its bound, and others are served meanwhile.
#[test]
fn unread_replies_are_bounded() {
    let daemon = start(&["-m", "64", "-t", "1"]);
    let mut client = Client::new(&daemon);
    client.ask(
        &format!("set big 0 0 500000\r\n{}\r\n", "v".repeat(500_000)),
        "STORED\r\n",
    );
    let mut greedy = Client::new(&daemon);
    greedy.send(format!("get{}\r\n", " big".repeat(200)).as_bytes());
    let buffers = || {
        daemon
            .metric("ibex_memcached_connection_buffer_bytes")
            .unwrap()
    };
    wait::until_true("the reply is on its way", || buffers() > 100_000.0).unwrap();
    for _ in 0..100 {
        assert_eq!(client.ask("mn\r\n", "MN\r\n"), "MN\r\n");
    }
    assert!(buffers() < 8e6, "{}", buffers());
    // When it does read, everything comes.
    let all = greedy.until(b"END\r\n");
    assert_eq!(
        all.len(),
        200 * (500_000 + "VALUE big 0 500000\r\n\r\n".len()) + 5
    );
    daemon.stop().unwrap();
}

/// Stalled uploads together stay under read_buf_mem_limit: the ones over it are told and closed.
#[test]
fn buffers_of_all_connections_are_bounded() {
    let daemon = start(&["-t", "1", "-o", "read_buf_mem_limit=1"]);
    let mut stalled: Vec<Client> = Vec::new();
    let mut asking = Client::new(&daemon);
    for _ in 0..100 {
        let mut client = Client::new(&daemon);
        client.send(format!("set k 0 0 40000\r\n{}", "v".repeat(20_000)).as_bytes());
        stalled.push(client);
    }
    wait::until_true("some are over the limit", || {
        asking.stat("read_buf_oom") > 30
    })
    .unwrap();
    let buffers = daemon
        .metric("ibex_memcached_connection_buffer_bytes")
        .unwrap();
    assert!(buffers <= 1.2e6, "{buffers}");
    let closed = stalled.pop().unwrap().rest();
    assert_eq!(closed, b"SERVER_ERROR out of memory reading request\r\n");
    assert_eq!(asking.ask("mn\r\n", "MN\r\n"), "MN\r\n");
    daemon.stop().unwrap();
}

/// Without a limit of their own, buffers take no more than a quarter of the memory, and what they take is taken from the items.
#[test]
fn stalled_uploads_take_a_quarter_of_the_memory_at_most() {
    const MIB: f64 = 1_048_576.0;
    let daemon = start(&["-m", "32", "-t", "2"]);
    let mut asking = Client::new(&daemon);
    let uploads: Vec<Client> = (0..60)
        .map(|_| {
            let mut client = Client::new(&daemon);
            client.send_until_closed(b"set k 0 0 1000000\r\n");
            client.send_until_closed(&vec![b'u'; 500_000]);
            client
        })
        .collect();
    wait::until_true("some are over the limit", || {
        asking.stat("read_buf_oom") > 20
    })
    .unwrap();
    let buffers = || {
        daemon
            .metric("ibex_memcached_connection_buffer_bytes")
            .unwrap()
    };
    wait::until_true("the others fit", || buffers() <= 8.0 * MIB).unwrap();
    assert_eq!(asking.ask("mn\r\n", "MN\r\n"), "MN\r\n");
    drop(uploads);
    daemon.stop().unwrap();
}

#[test]
fn an_idle_connection_is_closed() {
    let daemon = start(&["-o", "idle_timeout=1"]);
    let mut idle = Client::new(&daemon);
    idle.ask("mn\r\n", "MN\r\n");
    assert_eq!(idle.rest(), b"");
    assert_eq!(Client::new(&daemon).stat("idle_kicks"), 1);
    daemon.stop().unwrap();
}
