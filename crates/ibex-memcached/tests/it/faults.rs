//! What the outside world does to a daemon: no descriptors, no disk, no places, peers that close half.

use crate::client::{Client, address};
use ibex_testkit::{Daemon, wait};
use rustix::process::{Pid, Resource, Rlimit, Signal};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

fn start(args: &[&str]) -> Daemon {
    let builder = Daemon::builder("ibex-memcached");
    args.iter()
        .fold(builder, |builder, arg| builder.arg(*arg))
        .start()
        .unwrap()
}

fn open_files(daemon: &Daemon) -> u64 {
    let dir = format!("/proc/{}/fd", daemon.pid().unwrap());
    std::fs::read_dir(dir).unwrap().count() as u64
}

/// Out of descriptors, who is in is served, and who waits comes in when there are some again.
#[test]
fn without_descriptors_clients_wait() {
    let mut daemon = start(&[]);
    daemon.announce("accept failed, will retry");
    let mut inside = Client::new(&daemon);
    inside.ask("mn\r\n", "MN\r\n");
    let pid = Pid::from_raw(i32::try_from(daemon.pid().unwrap()).unwrap());
    let limit = |current| {
        let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
        let current = Some(current);
        rustix::process::prlimit(pid, Resource::Nofile, Rlimit { current, maximum }).unwrap()
    };
    // The next descriptor is the lowest that is free, which is not above their number.
    let before = limit(open_files(&daemon));
    let mut waiting: Vec<Client> = (0..8).map(|_| Client::new(&daemon)).collect();
    for client in &mut waiting {
        client.send(b"mn\r\n");
    }
    daemon.wait_log("accept failed, will retry").unwrap();
    assert_eq!(inside.ask("mn\r\n", "MN\r\n"), "MN\r\n");
    limit(before.current.unwrap());
    for client in &mut waiting {
        assert_eq!(client.until(b"\r\n"), b"MN\r\n");
    }
    daemon.stop().unwrap();
}

/// Items that cannot be written are lost, which the exit code and the log say; the next start is empty.
#[test]
fn a_full_disk_is_told_at_the_stop() {
    let mut daemon = Daemon::builder("ibex-memcached")
        .announce("stopping")
        .arg("-e")
        .arg("/dev/full")
        .start()
        .unwrap();
    let mut client = Client::new(&daemon);
    client.ask("set k 0 0 1\r\nx\r\n", "STORED\r\n");
    daemon.signal(Signal::USR1).unwrap();
    let status = daemon.wait_exit(Duration::from_secs(60)).unwrap();
    assert_eq!(status.code(), Some(74));
    let log = daemon.log_text();
    assert!(log.contains("memory_file /dev/full: write: "), "{log}");
    assert!(!std::path::Path::new("/dev/full.meta").exists());
}

/// A peer that has said all it wants to say still gets every answer.
#[test]
fn a_half_closed_peer_is_answered() {
    let daemon = start(&[]);
    let value = "v".repeat(200_000);
    Client::new(&daemon).ask(&format!("set k 0 0 200000\r\n{value}\r\n"), "STORED\r\n");
    let mut stream = TcpStream::connect(address(&daemon)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream.write_all("get k\r\n".repeat(20).as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(
        all.len(),
        20 * (200_000 + "VALUE k 0 200000\r\n\r\nEND\r\n".len())
    );
    daemon.stop().unwrap();
}

/// A peer that goes without taking its answers leaves nothing behind.
#[test]
fn a_peer_that_is_gone_is_forgotten() {
    let daemon = start(&[]);
    let mut client = Client::new(&daemon);
    let value = "v".repeat(500_000);
    client.ask(&format!("set k 0 0 500000\r\n{value}\r\n"), "STORED\r\n");
    for _ in 0..5 {
        let mut gone = Client::new(&daemon);
        gone.send("get k\r\n".repeat(100).as_bytes());
        gone.until(b"VALUE k 0 500000\r\n");
    }
    wait::until_true("they are forgotten", || {
        client.stat("curr_connections") == 1
    })
    .unwrap();
    let buffers = || {
        daemon
            .metric("ibex_memcached_connection_buffer_bytes")
            .unwrap()
    };
    wait::until_true("their buffers are free", || buffers() < 1e5).unwrap();
    daemon.stop().unwrap();
}

/// A request that is refused takes no earlier answer with it.
#[test]
fn answers_before_a_refused_request_arrive() {
    let daemon = start(&[]);
    let mut client = Client::new(&daemon);
    let key = "k".repeat(251);
    let request = format!("set a 0 0 1\r\n1\r\nget a\r\nget a {key}\r\nget a\r\n");
    let hit = "VALUE a 0 1\r\n1\r\nEND\r\n";
    let refused = "CLIENT_ERROR bad command line format\r\n";
    let expected = format!("STORED\r\n{hit}{refused}{hit}");
    assert_eq!(
        client.ask(&format!("{request}mn\r\n"), "MN\r\n"),
        format!("{expected}MN\r\n")
    );
    daemon.stop().unwrap();
}

/// With `no_maxconns_fast` who is too many is not refused but waits outside.
#[test]
fn too_many_clients_wait_if_they_are_to() {
    let daemon = start(&["-c", "2", "-o", "no_maxconns_fast"]);
    let mut first = Client::new(&daemon);
    let mut second = Client::new(&daemon);
    first.ask("mn\r\n", "MN\r\n");
    second.ask("mn\r\n", "MN\r\n");
    let mut third = Client::new(&daemon);
    third.send(b"mn\r\n");
    wait::until_true("no more are taken", || first.stat("accepting_conns") == 0).unwrap();
    assert_eq!(first.stat("listen_disabled_num"), 1);
    assert_eq!(first.stat("rejected_connections"), 0);
    drop(second);
    assert_eq!(third.until(b"\r\n"), b"MN\r\n");
    wait::until_true("a place was free again", || {
        first.stat("time_in_listen_disabled_us") > 0
    })
    .unwrap();
    daemon.stop().unwrap();
}

/// A large value is read by one client while others overwrite, delete and flush it: it comes as it was, whole.
#[test]
fn a_value_on_its_way_out_stays_as_it_was() {
    let daemon = start(&["-t", "2", "-I", "8m"]);
    let value = |letter: char| letter.to_string().repeat(4_000_000);
    let store = |client: &mut Client, letter| {
        let request = format!("set k 0 0 4000000\r\n{}\r\n", value(letter));
        assert_eq!(client.ask(&request, "\r\n"), "STORED\r\n");
    };
    let mut writer = Client::new(&daemon);
    for (first, then) in [('a', 'b'), ('c', 'd'), ('e', 'f')] {
        store(&mut writer, first);
        let mut readers: Vec<Client> = (0..3).map(|_| Client::new(&daemon)).collect();
        for reader in &mut readers {
            reader.send(b"get k\r\n");
            // The first bytes are here: the request has been carried out.
            reader.until(b"VALUE k 0 4000000\r\n");
        }
        store(&mut writer, then);
        writer.ask("delete k\r\nflush_all\r\n", "OK\r\n");
        for reader in &mut readers {
            let rest = reader.until(b"END\r\n");
            let whole = format!("{}\r\nEND\r\n", value(first));
            assert!(rest == whole.as_bytes(), "not the value of the request");
        }
    }
    daemon.stop().unwrap();
}
