//! Peers that mean harm or do not listen: each is dealt with, and nobody else notices.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ibex_gearman_proto::{Grab, Request, Submit};
use ibex_testkit::{Daemon, wait};

use crate::packets::{Wire, is_error};

/// A round trip of other clients while somebody misbehaves ends within this; the usual one is a fraction of a millisecond, but the machine may be busy.
const OTHERS_MAX: Duration = Duration::from_secs(30);

fn others_are_served(addr: SocketAddr) {
    let begun = Instant::now();
    assert!(Wire::connect(addr).said().is_empty());
    assert!(begun.elapsed() < OTHERS_MAX, "took {:?}", begun.elapsed());
}

fn packet(magic: &[u8; 4], kind: u32, length: u32, payload: &[u8]) -> Vec<u8> {
    [
        magic,
        &kind.to_be_bytes()[..],
        &length.to_be_bytes(),
        payload,
    ]
    .concat()
}

#[test]
fn malformed_packets() {
    let daemon = Daemon::builder("ibex-gearmand").start().unwrap();
    let addr = daemon.addr("gearman").unwrap();
    let mut wire = Wire::connect(addr);
    for kind in [0_u32, 5, 8, 43, 0x8000_0000, u32::MAX] {
        wire.send_bytes(&packet(b"\0REQ", kind, 3, b"abc"));
        let said = wire.said();
        assert!(
            said.len() == 1 && is_error(&said[0], "INVALID_COMMAND"),
            "{kind}: {said:?}"
        );
    }
    wire.send_bytes(&packet(b"\0RES", 16, 1, b"x"));
    assert_eq!(wire.said(), ["ERROR INVALID_MAGIC Request magic expected"]);
    for (bytes, farewell) in [
        (
            packet(b"\0REQ", 7, 3, b"f\0u"),
            Some("ERROR INVALID_PACKET Not enough arguments in packet"),
        ),
        (
            packet(b"\0REQ", 7, u32::MAX, b""),
            Some("ERROR DATA_TOO_LARGE Packet exceeds the size limit"),
        ),
        (b"\0\xff\xff\xff".to_vec(), None),
    ] {
        let mut wire = Wire::connect(addr);
        wire.send_bytes(&bytes);
        assert_eq!(wire.next().as_deref(), farewell);
        if farewell.is_some() {
            assert_eq!(wire.next(), None, "closed after the farewell");
        }
    }
    others_are_served(addr);
    daemon.stop().unwrap();
}

#[test]
fn one_byte_at_a_time() {
    let daemon = Daemon::builder("ibex-gearmand").start().unwrap();
    let mut wire = Wire::connect(daemon.addr("gearman").unwrap());
    let mut bytes = Vec::new();
    Request::Echo { data: b"slow" }.encode(&mut bytes);
    bytes.extend_from_slice(b"version\r\n");
    for byte in bytes {
        wire.send_bytes(&[byte]);
    }
    assert_eq!(wire.next().unwrap(), "ECHO_RES slow");
    assert!(wire.next().unwrap().starts_with("text OK"));
    daemon.stop().unwrap();
}

#[test]
fn a_thousand_half_headers_and_silent_workers() {
    let daemon = Daemon::builder("ibex-gearmand").start().unwrap();
    let addr = daemon.addr("gearman").unwrap();
    let mut silent = Vec::new();
    for n in 0..1000 {
        let mut stream = TcpStream::connect(addr).unwrap();
        if n % 2 == 0 {
            stream.write_all(b"\0REQ\0\0").unwrap();
        } else {
            let mut bytes = Vec::new();
            Request::CanDo { function: b"f" }.encode(&mut bytes);
            Request::PreSleep.encode(&mut bytes);
            stream.write_all(&bytes).unwrap();
        }
        silent.push(stream);
    }
    others_are_served(addr);
    // A worker that is awake gets the job although five hundred were woken for it first, or could be.
    let (mut client, mut worker) = (Wire::connect(addr), Wire::connect(addr));
    worker.send(Request::CanDo { function: b"f" });
    worker.said();
    client.send(Request::Submit(Submit::new(b"f", b"", b"x")));
    client.handle();
    worker.send(Request::GrabJob(Grab::Plain));
    assert!(worker.next().unwrap().starts_with("JOB_ASSIGN "));
    drop(silent);
    wait::until_true("the silent are gone", || {
        daemon.metric("ibex_gearmand_connections").unwrap() < 4.0
    })
    .unwrap();
    daemon.stop().unwrap();
}

#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let daemon = Daemon::builder("ibex-gearmand")
        .set("output_max", "1M")
        .set("slow_client_timeout", "1s")
        .start()
        .unwrap();
    let addr = daemon.addr("gearman").unwrap();
    let mut deaf = TcpStream::connect(addr).unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let mut echo = Vec::new();
    Request::Echo {
        data: &vec![b'x'; 256 << 10],
    }
    .encode(&mut echo);
    let deadline = Instant::now() + Duration::from_secs(30);
    // It is not read any more, then closed; memory is bounded by the output bound and what one turn adds.
    while deaf.write_all(&echo).is_ok() {
        assert!(Instant::now() < deadline, "a deaf client was never held up");
    }
    others_are_served(addr);
    wait::until_true("the deaf client is closed", || {
        daemon
            .metric("ibex_gearmand_connections_slow_total")
            .unwrap()
            >= 1.0
    })
    .unwrap();
    let resident = daemon.metric("process_resident_memory_bytes").unwrap();
    assert!(resident < 200e6, "{resident} bytes resident");
    daemon.stop().unwrap();
}

#[test]
fn one_address_has_no_more_connections_than_it_may() {
    let daemon = Daemon::builder("ibex-gearmand")
        .set("connections_per_address", "3")
        .start()
        .unwrap();
    let addr = daemon.addr("gearman").unwrap();
    let mut wires: Vec<Wire> = (0..3).map(|_| Wire::connect(addr)).collect();
    for wire in &mut wires {
        assert!(wire.said().is_empty());
    }
    let mut refused = TcpStream::connect(addr).unwrap();
    let mut answer = Vec::new();
    // Closed at once: an end or a reset, never an answer.
    drop(refused.read_to_end(&mut answer));
    assert!(answer.is_empty(), "{answer:?}");
    let shed = daemon
        .metric("ibex_gearmand_connections_shed_total")
        .unwrap();
    assert!((shed - 1.0).abs() < f64::EPSILON, "{shed} were shed");
    // A place that is free again is given again.
    drop(wires.pop());
    wait::until_true("a place to be free", || {
        let mut stream = TcpStream::connect(addr).unwrap();
        let mut answer = [0; 2];
        stream.write_all(b"version\n").is_ok()
            && stream.read_exact(&mut answer).is_ok()
            && &answer == b"OK"
    })
    .unwrap();
    daemon.stop().unwrap();
}

#[test]
fn small_commands_with_large_answers_are_run_as_they_are_read() {
    let daemon = Daemon::builder("ibex-gearmand")
        .set("output_max", "1M")
        .set("slow_client_timeout", "60s")
        .start()
        .unwrap();
    let addr = daemon.addr("gearman").unwrap();
    let mut wire = Wire::connect(addr);
    for n in 0..1000 {
        let name = format!("{n:0>500}");
        wire.send(Request::CanDo {
            function: name.as_bytes(),
        });
    }
    wire.said();
    // 35 kB of commands, two and a half gigabytes of answers.
    let mut greedy = TcpStream::connect(addr).unwrap();
    greedy.write_all(&b"status\n".repeat(5000)).unwrap();
    let mut reader = BufReader::new(greedy);
    let mut lines = 0;
    for _ in 0..10 {
        loop {
            let mut line = String::new();
            assert!(reader.read_line(&mut line).unwrap() > 0, "the stream ended");
            if line == ".\n" {
                break;
            }
            lines += 1;
        }
    }
    assert_eq!(lines, 10 * 1000);
    let resident = daemon.metric("process_resident_memory_bytes").unwrap();
    assert!(resident < 200e6, "{resident} bytes resident");
    others_are_served(addr);
    daemon.stop().unwrap();
}

#[test]
fn bounds_of_names_keys_and_packets() {
    let daemon = Daemon::builder("ibex-gearmand")
        .set("packet_size_max", "1K")
        .start()
        .unwrap();
    let addr = daemon.addr("gearman").unwrap();
    let mut wire = Wire::connect(addr);
    let long = [b'x'; 600];
    for (submit, code) in [
        (Submit::new(&long[..512], &long[..64], b""), None),
        (
            Submit::new(&long[..513], b"", b""),
            Some("INVALID_FUNCTION_NAME"),
        ),
        (
            Submit::new(b"f", &long[..65], b""),
            Some("ARGUMENT_TOO_LARGE"),
        ),
        (Submit::new(b"", b"", b""), None),
    ] {
        wire.send(Request::Submit(submit.background()));
        let packet = wire.next().unwrap();
        match code {
            None => assert!(packet.starts_with("JOB_CREATED "), "{packet}"),
            Some(code) => assert!(is_error(&packet, code), "{packet}"),
        }
    }
    wire.send(Request::Echo { data: &[0; 1024] });
    assert!(wire.next().unwrap().starts_with("ECHO_RES"));
    wire.send(Request::Echo { data: &[0; 1025] });
    assert!(is_error(&wire.next().unwrap(), "DATA_TOO_LARGE"));
    assert_eq!(wire.next(), None);
    daemon.stop().unwrap();
}
