//! `ibex cache bench` against a server that stalls: an open loop must see the stall in every request that was due meanwhile, a closed one cannot.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

const STALL: Duration = Duration::from_millis(500);

/// A server of misses for one connection, which falls silent once, after `answers` answers.
fn stalling(answers: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let mut replies = stream.try_clone().unwrap();
        for (n, line) in BufReader::new(stream).lines().enumerate() {
            if n == answers {
                std::thread::sleep(STALL);
            }
            if line.is_err() || replies.write_all(b"END\r\n").is_err() {
                return;
            }
        }
    });
    addr
}

fn bench(server: SocketAddr, more: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_ibex"))
        .args(["--output", "json", "cache", "--server", &server.to_string()])
        .args(["bench", "--no-fill", "--connections", "1", "--warmup", "0"])
        .args(more)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(&text).unwrap_or_else(|_| {
        panic!("{text}{}", String::from_utf8_lossy(&output.stderr));
    })
}

fn number(row: &serde_json::Value, name: &str) -> f64 {
    row[name].as_str().unwrap().parse().unwrap()
}

#[test]
fn an_open_loop_counts_the_stall_for_all_who_were_due_in_it() {
    let open = [
        "--rate",
        "1000",
        "--arrivals",
        "constant",
        "--duration",
        "1",
    ];
    let rows = bench(stalling(100), &open);
    // A thousand requests were due, half of them in the stall: half of those waited for a quarter of a second or more.
    assert_eq!(number(&rows[0], "requests"), 1000.0, "{rows}");
    assert!(number(&rows[0], "p90_us") >= 250_000.0, "{rows}");
    assert!(number(&rows[0], "max_us") >= 490_000.0, "{rows}");
}

#[test]
fn a_closed_loop_counts_it_for_one() {
    let rows = bench(stalling(10), &["--duration", "1"]);
    assert!(number(&rows[0], "max_us") >= 490_000.0, "{rows}");
    assert!(number(&rows[0], "requests") > 10.0, "{rows}");
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_ibex"))
        .args(["cache", "--server", "127.0.0.1:1", "bench"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69));
    assert!(String::from_utf8_lossy(&output.stderr).contains("connect to 127.0.0.1:1"));
}
