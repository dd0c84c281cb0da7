//! The hostile list row by row: each input gets the answer that is written down, a bystander on another connection is served after every row, and at
//! the end the process has neither grown nor does it spin.
//!
//! `docs/gearman/failure-modes.md` names these tests beside their rows. Peers that do not listen are in `hostile.rs`.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use ibex_gearman_proto::{Grab, Request, Submit, kind};
use ibex_testkit::{Daemon, fuzz, wait};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::packets::{Wire, is_error};

/// What a daemon under attack may grow by: buffers of one turn and the debug build's allocator, far below what the rows announce.
const GROWTH_BYTES_MAX: f64 = 96e6;

/// A daemon, and somebody who is served all the while.
struct Scene {
    daemon: Daemon,
    addr: SocketAddr,
    bystander: Wire,
    resident: f64,
}

impl Scene {
    fn new(settings: &[(&str, &str)]) -> Self {
        let builder = Daemon::builder("ibex-gearmand").set("queue", "memory");
        let daemon = settings
            .iter()
            .fold(builder, |builder, (key, value)| builder.set(key, value))
            .start()
            .unwrap();
        let addr = daemon.addr("gearman").unwrap();
        let mut bystander = Wire::connect(addr);
        assert!(bystander.said().is_empty());
        let resident = daemon.metric("process_resident_memory_bytes").unwrap();
        Self {
            daemon,
            addr,
            bystander,
            resident,
        }
    }

    fn connect(&self) -> Wire {
        Wire::connect(self.addr)
    }

    /// A job goes through while whatever happened happened.
    fn bystander_is_served(&mut self, row: &str) {
        let wire = &mut self.bystander;
        wire.send(Request::CanDo { function: b"calm" });
        wire.send(Request::Submit(Submit::new(b"calm", b"", b"w")));
        let handle = wire.handle();
        wire.send(Request::GrabJob(Grab::Plain));
        let assigned = wire.next().unwrap();
        assert_eq!(assigned, format!("JOB_ASSIGN {handle} calm w"), "{row}");
        let (handle, data) = (handle.as_bytes(), &b"r"[..]);
        wire.send(Request::WorkComplete { handle, data });
        assert!(wire.next().unwrap().starts_with("WORK_COMPLETE "), "{row}");
    }

    /// Nothing was left behind: no memory, no processor time while nobody asks for anything.
    fn end(mut self) {
        self.bystander_is_served("the end");
        let resident = self.daemon.metric("process_resident_memory_bytes").unwrap();
        let grown = resident - self.resident;
        assert!(grown < GROWTH_BYTES_MAX, "grown by {grown} bytes");
        self.is_calm();
        self.daemon.stop().unwrap();
    }

    /// The processor time of a second in which nobody asks for anything is not the second's.
    fn is_calm(&self) {
        let used = || self.daemon.metric("process_cpu_seconds_total").unwrap();
        let before = used();
        std::thread::sleep(Duration::from_secs(1));
        let spent = used() - before;
        assert!(spent < 0.5, "{spent} s of processor time while idle");
    }
}

fn packet(kind: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    header(b"\0REQ", kind, length)
        .into_iter()
        .chain(payload.iter().copied())
        .collect()
}

fn header(magic: &[u8; 4], kind: u32, length: u32) -> Vec<u8> {
    [magic, &kind.to_be_bytes()[..], &length.to_be_bytes()].concat()
}

/// After a row the connection …
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Stays,
    Closes,
}

/// Sends a row on a connection of its own; the answer must begin as told (empty: none comes).
fn row(scene: &mut Scene, name: &str, bytes: &[u8], answer: &str, then: Then) {
    let mut wire = scene.connect();
    wire.send_bytes(bytes);
    if then == Then::Closes {
        if !answer.is_empty() {
            let said = wire.next().unwrap_or_default();
            assert!(said.starts_with(answer), "{name}: {said}");
        }
        assert_eq!(wire.next(), None, "{name} ends the connection");
    } else {
        let said = wire.said();
        match answer {
            "" => assert!(said.is_empty(), "{name}: {said:?}"),
            _ => assert!(
                said.len() == 1 && said[0].starts_with(answer),
                "{name}: {said:?}"
            ),
        }
    }
    scene.bystander_is_served(name);
}

#[test]
fn malformed_frames_row_by_row() {
    let mut scene = Scene::new(&[("packet_size_max", "64K")]);
    let s = &mut scene;
    row(s, "text", b"version\n", "text OK ", Then::Stays);
    for magic in [&b"\0\0"[..], b"\0REX", b"\0req", b"\0RE\0REQ", b"\0RESP"] {
        let wanted = if magic.starts_with(b"\0RES") {
            continue;
        } else {
            ""
        };
        row(s, "another magic", magic, wanted, Then::Closes);
    }
    let bytes = [header(b"\0RES", kind::ECHO_REQ, 1), b"x".to_vec()].concat();
    let answer = "ERROR INVALID_MAGIC Request magic expected";
    row(s, "a server's magic", &bytes, answer, Then::Stays);
    for unknown in [0, 43, 44, 1000, 1004, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        let answer = "ERROR INVALID_COMMAND Unknown packet type";
        row(s, "no type", &packet(unknown, b"a\0b"), answer, Then::Stays);
    }
    for theirs in [5, 6, 8, 10, 11, 17, 19, 20, 27, 31, 40, 42] {
        let answer = "ERROR INVALID_COMMAND Command not expected";
        row(
            s,
            "a server's type",
            &packet(theirs, b"a\0b\0c\0d\0e\0f"),
            answer,
            Then::Stays,
        );
    }
    for size in [(64 << 10) + 1, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
        for kind in [kind::ECHO_REQ, kind::SUBMIT_JOB, kind::GRAB_JOB, 77] {
            let bytes = header(b"\0REQ", kind, size);
            row(
                s,
                "too large",
                &bytes,
                "ERROR DATA_TOO_LARGE ",
                Then::Closes,
            );
        }
    }
    for without in [kind::RESET_ABILITIES, kind::ALL_YOURS, kind::PRE_SLEEP] {
        row(
            s,
            "needless payload",
            &packet(without, b"ju\0nk"),
            "",
            Then::Stays,
        );
    }
    for grab in [kind::GRAB_JOB, kind::GRAB_JOB_UNIQ, kind::GRAB_JOB_ALL] {
        row(
            s,
            "needless payload",
            &packet(grab, b"ju\0nk"),
            "NO_JOB",
            Then::Stays,
        );
    }
    scene.end();
}

#[test]
fn missing_arguments_are_never_looked_for_behind_the_packet() {
    let mut scene = Scene::new(&[]);
    for (kind, separators) in [
        (kind::CAN_DO_TIMEOUT, 1),
        (kind::SUBMIT_JOB, 2),
        (kind::SUBMIT_JOB_BG, 2),
        (kind::SUBMIT_JOB_HIGH, 2),
        (kind::SUBMIT_JOB_HIGH_BG, 2),
        (kind::SUBMIT_JOB_LOW, 2),
        (kind::SUBMIT_JOB_LOW_BG, 2),
        (kind::SUBMIT_JOB_EPOCH, 3),
        (kind::SUBMIT_JOB_SCHED, 7),
        (kind::SUBMIT_REDUCE_JOB, 4),
        (kind::SUBMIT_REDUCE_JOB_BACKGROUND, 4),
        (kind::WORK_STATUS, 2),
        (kind::WORK_COMPLETE, 1),
        (kind::WORK_EXCEPTION, 1),
        (kind::WORK_DATA, 1),
        (kind::WORK_WARNING, 1),
        (kind::NACK, 2),
    ] {
        for found in 0..separators {
            let short = packet(kind, &b"a\0".repeat(found));
            // What follows has all the NULs one could want.
            let bytes = [short, packet(kind::ECHO_REQ, &[0; 32])].concat();
            let name = format!("type {kind} with {found} separators");
            row(
                &mut scene,
                &name,
                &bytes,
                "ERROR INVALID_PACKET ",
                Then::Closes,
            );
        }
    }
    scene.end();
}

#[test]
fn numbers_that_are_none() {
    let mut scene = Scene::new(&[]);
    for epoch in ["", "x", "12x", " 1", "99999999999999999999", "1.5"] {
        let bytes = packet(
            kind::SUBMIT_JOB_EPOCH,
            format!("f\0\0{epoch}\0w").as_bytes(),
        );
        row(
            &mut scene,
            epoch,
            &bytes,
            "ERROR INVALID_ARGUMENT ",
            Then::Stays,
        );
    }
    for timeout in ["", "x", "-1", "99999999999999999999"] {
        let bytes = packet(kind::CAN_DO_TIMEOUT, format!("t\0{timeout}").as_bytes());
        row(&mut scene, timeout, &bytes, "", Then::Stays);
    }
    let (mut client, mut worker) = (scene.connect(), scene.connect());
    worker.send(Request::CanDoTimeout {
        function: b"t",
        timeout: b"soon",
    });
    client.send(Request::Submit(Submit::new(b"t", b"", b"w")));
    let handle = client.handle();
    worker.send(Request::GrabJob(Grab::Plain));
    assert!(worker.next().unwrap().starts_with("JOB_ASSIGN "));
    for (numerator, denominator, known) in [
        ("99999999999999999999", "x7", "4294967295 0"),
        ("3 of", "", "3 0"),
        ("-1", "10", "0 10"),
    ] {
        worker.send(Request::WorkStatus {
            handle: handle.as_bytes(),
            numerator: numerator.as_bytes(),
            denominator: denominator.as_bytes(),
        });
        assert!(worker.said().is_empty());
        let relayed = client.next().unwrap();
        assert_eq!(
            relayed,
            format!("WORK_STATUS {handle} {numerator} {denominator}")
        );
        client.send(Request::GetStatus {
            handle: handle.as_bytes(),
        });
        assert_eq!(
            client.next().unwrap(),
            format!("STATUS_RES {handle} 1 1 {known}")
        );
        scene.bystander_is_served(numerator);
    }
    scene.end();
}

#[test]
fn bounds_of_arguments_at_and_beyond() {
    let mut scene = Scene::new(&[]);
    let s = &mut scene;
    let long = "x".repeat(600);
    let mut cases: Vec<(String, Vec<u8>, &str)> = Vec::new();
    for kind in [kind::GET_STATUS, kind::WORK_FAIL, kind::ATTACH, kind::TOUCH] {
        let known = match kind {
            kind::GET_STATUS => "STATUS_RES ",
            _ => "ERROR JOB_NOT_FOUND ",
        };
        cases.push((
            format!("handle of 63 in {kind}"),
            packet(kind, &long.as_bytes()[..63]),
            known,
        ));
    }
    for kind in [kind::GET_STATUS, kind::WORK_FAIL, kind::TOUCH] {
        let bytes = packet(kind, &long.as_bytes()[..64]);
        cases.push((
            format!("handle of 64 in {kind}"),
            bytes,
            "ERROR ARGUMENT_TOO_LARGE ",
        ));
    }
    for kind in [
        kind::WORK_COMPLETE,
        kind::WORK_DATA,
        kind::WORK_WARNING,
        kind::WORK_EXCEPTION,
    ] {
        let bytes = packet(kind, format!("{}\0d", &long[..64]).as_bytes());
        cases.push((
            format!("handle of 64 in {kind}"),
            bytes,
            "ERROR ARGUMENT_TOO_LARGE ",
        ));
    }
    for (unique, answer) in [
        (64, "JOB_CREATED "),
        (65, "ERROR ARGUMENT_TOO_LARGE Unique value too large"),
    ] {
        let bytes = packet(
            kind::SUBMIT_JOB_BG,
            format!("f\0{}\0w", &long[..unique]).as_bytes(),
        );
        cases.push((format!("unique of {unique}"), bytes, answer));
        let answer = if unique == 64 {
            "STATUS_RES_UNIQUE "
        } else {
            "ERROR ARGUMENT_TOO_LARGE "
        };
        let bytes = packet(kind::GET_STATUS_UNIQUE, &long.as_bytes()[..unique]);
        cases.push((format!("status by unique of {unique}"), bytes, answer));
        let answer = if unique == 64 {
            "JOB_CREATED "
        } else {
            "ERROR ARGUMENT_TOO_LARGE "
        };
        let text = format!("f\0\0{}\0\0w", &long[..unique]);
        let bytes = packet(kind::SUBMIT_REDUCE_JOB, text.as_bytes());
        cases.push((format!("reducer of {unique}"), bytes, answer));
    }
    for (function, answer) in [
        (String::new(), "JOB_CREATED "),
        ("a\tb".to_owned(), "JOB_CREATED "),
        (long[..512].to_owned(), "JOB_CREATED "),
        (long[..513].to_owned(), "ERROR INVALID_FUNCTION_NAME "),
    ] {
        let bytes = packet(kind::SUBMIT_JOB_BG, format!("{function}\0\0w").as_bytes());
        cases.push((format!("function of {}", function.len()), bytes, answer));
        let answer = if function.len() > 512 { answer } else { "" };
        cases.push((
            "CAN_DO of it".to_owned(),
            packet(kind::CAN_DO, function.as_bytes()),
            answer,
        ));
    }
    for (option, answer) in [(63, "ERROR UNKNOWN_OPTION "), (64, "ERROR UNKNOWN_OPTION ")] {
        let bytes = packet(kind::OPTION_REQ, &long.as_bytes()[..option]);
        cases.push((format!("option of {option}"), bytes, answer));
    }
    for (name, bytes, answer) in cases {
        row(s, &name, &bytes, answer, Then::Stays);
    }
    // A client id is cut, not refused.
    let mut named = s.connect();
    named.send(Request::SetClientId {
        id: &long.as_bytes()[..200],
    });
    assert!(named.said().is_empty());
    let workers = s.connect().list("workers");
    let cut = format!(" {} :", &long[..127]);
    assert!(
        workers.iter().any(|line| line.ends_with(&cut)),
        "{workers:?}"
    );
    scene.end();
}

#[test]
fn lines_at_and_beyond_their_bounds() {
    let mut scene = Scene::new(&[]);
    let s = &mut scene;
    let line = |bytes: usize| format!("{}\n", "x".repeat(bytes)).into_bytes();
    row(
        s,
        "8191 bytes",
        &line(8191),
        "text ERR UNKNOWN_COMMAND ",
        Then::Stays,
    );
    row(
        s,
        "8192 bytes",
        &line(8192),
        "text ERR LINE_TOO_LONG ",
        Then::Closes,
    );
    row(
        s,
        "no end",
        &b"y".repeat(100_000),
        "text ERR LINE_TOO_LONG ",
        Then::Closes,
    );
    row(
        s,
        "blanks",
        b"   \r\n",
        "text ERR UNKNOWN_COMMAND ",
        Then::Stays,
    );
    row(
        s,
        "a NUL within",
        b"sta\0tus\n",
        "text ERR UNKNOWN_COMMAND ",
        Then::Stays,
    );
    row(
        s,
        "many words",
        format!("version{}\n", " x".repeat(2000)).as_bytes(),
        "text OK ",
        Then::Stays,
    );
    for (command, answer) in [
        ("create function", "text ERR INVALID_ARGUMENTS "),
        ("drop function", "text ERR INVALID_ARGUMENTS "),
        ("maxqueue", "text ERR INVALID_ARGUMENTS "),
        ("cancel job", "text ERR UNKNOWN_COMMAND "),
        ("maxqueue f 99999999999999999999", "text "),
        ("maxqueue f -5", "text OK"),
        ("maxqueue f x", "text "),
        (
            "limit f running 99999999999999999999",
            "text ERR INVALID_ARGUMENTS ",
        ),
        ("limit f rate 0/0 burst -1", "text ERR INVALID_ARGUMENTS "),
        ("purge nobody sideways", "text "),
        ("retry dead H:none:1", "text "),
        ("drop schedule f", "text "),
        ("show", "text ERR UNKNOWN_COMMAND "),
        ("show nonsense", "text ERR UNKNOWN_SHOW_ARGUMENTS"),
    ] {
        row(
            s,
            command,
            format!("{command}\r\n").as_bytes(),
            answer,
            Then::Stays,
        );
    }
    // No peer can forge a line of a list: not by its name, its functions, or its jobs.
    let mut forger = s.connect();
    let forged = b"a\nb\r.\n\x1b[2J";
    forger.send(Request::SetClientId { id: forged });
    forger.send(Request::CanDo { function: forged });
    forger.send(Request::Submit(
        Submit::new(forged, forged, forged).background(),
    ));
    assert!(forger.next().unwrap().starts_with("JOB_CREATED "));
    let mut operator = s.connect();
    for list in [
        "status",
        "prioritystatus",
        "workers",
        "show jobs",
        "show unique jobs",
        "jobs",
        "clients",
        "show functions",
    ] {
        for line in operator.list(list) {
            assert!(
                !line.contains("\\x1b") && !line.contains("\\r") && line != "b",
                "{list}: {line}"
            );
        }
    }
    scene.end();
}

#[test]
fn functions_without_end_are_refused() {
    let mut scene = Scene::new(&[("functions_max", "50")]);
    scene.bystander_is_served("the first of them");
    let (mut worker, mut client) = (scene.connect(), scene.connect());
    for n in 0..60 {
        let name = format!("f{n}");
        worker.send(Request::CanDo {
            function: name.as_bytes(),
        });
    }
    // One is the bystander's.
    let refused = worker.said();
    assert_eq!(refused.len(), 11, "{refused:?}");
    let too_many = "ERROR QUEUE_ERROR Too many functions";
    assert!(refused.iter().all(|said| said == too_many), "{refused:?}");
    client.send(Request::Submit(Submit::new(b"f60", b"", b"w")));
    assert_eq!(client.next().unwrap(), too_many);
    let created = client.line("create function f61");
    assert_eq!(created, "text ERR TOO_MANY_FUNCTIONS\\r\\n");
    // What is known goes on.
    client.send(Request::Submit(Submit::new(b"f1", b"", b"w").background()));
    assert!(client.next().unwrap().starts_with("JOB_CREATED "));
    worker.send(Request::CanDo { function: b"f1" });
    worker.send(Request::GrabJob(Grab::Plain));
    assert!(worker.next().unwrap().starts_with("JOB_ASSIGN "));
    scene.bystander_is_served("functions without end");
    scene.end();
}

#[test]
fn a_worker_of_ten_thousand_functions_is_served_and_one_of_more_is_not() {
    let mut scene = Scene::new(&[]);
    let mut worker = scene.connect();
    let mut bytes = Vec::new();
    for n in 0..=10_000 {
        let name = format!("f{n}");
        Request::CanDo {
            function: name.as_bytes(),
        }
        .encode(&mut bytes);
    }
    worker.send_bytes(&bytes);
    assert_eq!(worker.said(), ["ERROR QUEUE_ERROR Too many functions"]);
    scene.bystander_is_served("ten thousand functions");
    let mut client = scene.connect();
    client.send(Request::Submit(Submit::new(b"f9999", b"", b"w")));
    client.handle();
    worker.send(Request::GrabJob(Grab::Plain));
    assert!(worker.next().unwrap().starts_with("JOB_ASSIGN "));
    drop(worker);
    scene.bystander_is_served("its end");
    scene.end();
}

#[test]
fn changed_streams_of_both_protocols_against_a_live_server() {
    let mut scene = Scene::new(&[("packet_size_max", "1M"), ("output_max", "1M")]);
    let folder = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../ibex-gearman-proto/fuzz/corpus/stream"
    );
    let mut inputs = fuzz::corpus(folder, 20);
    for line in [
        "status\n",
        "workers\r\n",
        "show jobs\n",
        "maxqueue f 1 2 3\n",
        "limit f rate 1/s burst 2\n",
        "purge f\n",
        "metrics\n",
        "cancel job H:t:1\n",
    ] {
        inputs.push(line.as_bytes().to_vec());
    }
    let grab = [
        packet(kind::CAN_DO, b"f"),
        packet(kind::SUBMIT_JOB, b"f\0u\0w"),
        packet(kind::GRAB_JOB_ALL, b""),
    ]
    .concat();
    inputs.push([grab, b"status\n".to_vec(), packet(kind::PRE_SLEEP, b"")].concat());
    let addr = scene.addr;
    let mut runs = 0;
    let mut held = Vec::new();
    fuzz::neighbours(&inputs, 0x6765_6172, 600, |input| {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        // In two pieces, cut anywhere; a server that has heard enough hangs up.
        let (first, rest) = input.split_at(input.len() / 2);
        drop(
            stream
                .write_all(first)
                .and_then(|()| stream.write_all(rest)),
        );
        runs += 1;
        match runs % 3 {
            // Leaves without reading.
            0 => drop(stream),
            // Stays, deaf.
            1 if held.len() < 100 => held.push(stream),
            // Reads to the end of what was said.
            _ => {
                drop(stream.shutdown(Shutdown::Write));
                let mut sink = [0; 4096];
                while stream.read(&mut sink).is_ok_and(|count| count > 0) {}
            }
        }
        if runs % 50 == 0 {
            // What the streams drained, paused or bounded is theirs; the bystander's function is made free again.
            for line in [
                "drain off\n",
                "resume calm\n",
                "maxqueue calm\n",
                "limit calm running 0\n",
                "limit calm rate 0\n",
            ] {
                let said = scene.bystander.line(line.trim_end());
                assert!(said.starts_with("text "), "{said}");
            }
            scene.bystander_is_served("a changed stream");
        }
    });
    drop(held);
    wait::until_true("all connections but one to be gone", || {
        scene.daemon.metric("ibex_gearmand_connections").unwrap() < 2.0
    })
    .unwrap();
    scene.end();
}

#[test]
fn out_of_descriptors_is_waited_out_without_a_storm() {
    let mut scene = Scene::new(&[]);
    scene.daemon.announce("accepting rests");
    let pid = i32::try_from(scene.daemon.pid().unwrap()).unwrap();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count() as u64;
    // Only privileged processes change the hard bound.
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let hard = files
        .and_then(|line| line.split_whitespace().nth(4))
        .unwrap();
    let maximum = hard.parse().ok();
    let bound = |current: u64| {
        let limit = Rlimit {
            current: Some(current),
            maximum,
        };
        prlimit(Pid::from_raw(pid), Resource::Nofile, limit).unwrap();
    };
    bound(open + 8);
    let waiting: Vec<TcpStream> = (0..60)
        .map(|_| TcpStream::connect(scene.addr).unwrap())
        .collect();
    scene.daemon.wait_log("accepting rests").unwrap();
    scene.bystander_is_served("without descriptors");
    // Neither the log nor the processor is filled meanwhile. The metrics need a descriptor themselves, so it is read from the kernel.
    let used = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let after_name = stat.rsplit_once(") ").unwrap().1.to_owned();
        let ticks = after_name.split(' ').skip(11).take(2);
        ticks.map(|n| n.parse::<u64>().unwrap()).sum::<u64>()
    };
    let before = used();
    std::thread::sleep(Duration::from_secs(1));
    assert!(used() - before < 50, "more than half of a second's ticks");
    let lines = scene.daemon.log_text().matches("accepting rests").count();
    assert!(lines <= 2, "{lines} lines");
    drop(waiting);
    bound(1 << 10);
    wait::until_true("a new connection to be served", || {
        scene.connect().line("version").starts_with("text OK ")
    })
    .unwrap();
    scene.end();
}

#[test]
fn peers_that_close_in_any_way_leave_nothing_behind() {
    let mut scene = Scene::new(&[]);
    let mut half = Vec::new();
    for n in 0..300 {
        let mut stream = TcpStream::connect(scene.addr).unwrap();
        stream.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        let bytes: Vec<u8> = match n % 4 {
            0 => packet(kind::SUBMIT_JOB, b"nobody\0\0w"),
            1 => packet(kind::ECHO_REQ, b"last words"),
            2 => b"\0REQ\0\0".to_vec(),
            _ => [packet(kind::CAN_DO, b"f"), packet(kind::PRE_SLEEP, b"")].concat(),
        };
        stream.write_all(&bytes).unwrap();
        match n % 3 {
            0 => drop(stream),
            1 => {
                // What was asked before is still answered.
                stream.shutdown(Shutdown::Write).unwrap();
                let mut said = Vec::new();
                stream.read_to_end(&mut said).unwrap();
                assert_eq!(!said.is_empty(), n % 4 < 2, "{n}: {}", said.escape_ascii());
            }
            _ => half.push(stream),
        }
    }
    drop(half);
    wait::until_true("all connections but one to be gone", || {
        scene.daemon.metric("ibex_gearmand_connections").unwrap() < 2.0
    })
    .unwrap();
    let lines = scene.bystander.list("status");
    assert!(
        lines.iter().all(|line| line.ends_with("\\t0\\t0\\t0")),
        "jobs and workers of those who left: {lines:?}"
    );
    scene.end();
}

#[test]
fn a_stale_job_neither_wakes_for_ever_nor_keeps_its_timer() {
    let mut scene = Scene::new(&[]);
    let (mut client, mut worker) = (scene.connect(), scene.connect());
    worker.send(Request::CanDoTimeout {
        function: b"stale",
        timeout: b"1",
    });
    client.send(Request::Submit(Submit::new(b"stale", b"", b"w")));
    let handle = client.handle();
    worker.send(Request::GrabJob(Grab::Plain));
    assert!(worker.next().unwrap().starts_with("JOB_ASSIGN "));
    worker.send(Request::PreSleep);
    assert!(worker.said().is_empty());
    // The client leaves, then the time is over: nobody wants it, nobody is woken for it.
    drop(client);
    let mut operator = scene.connect();
    wait::until_true("the job to be gone", || {
        operator
            .list("status")
            .iter()
            .any(|line| line == "stale\\t0\\t0\\t1")
    })
    .unwrap();
    scene.is_calm();
    assert!(worker.said().is_empty());
    // Its late result is nobody's, and no reason to complain.
    worker.send(Request::WorkComplete {
        handle: handle.as_bytes(),
        data: b"late",
    });
    assert!(worker.said().is_empty());
    scene.bystander_is_served("a stale job");
    let mut again = scene.connect();
    again.send(Request::Submit(Submit::new(b"stale", b"", b"w")));
    again.handle();
    assert_eq!(worker.next().unwrap(), "NOOP");
    worker.send(Request::GrabJob(Grab::Plain));
    assert!(worker.next().unwrap().starts_with("JOB_ASSIGN "));
    assert!(
        !worker
            .said()
            .iter()
            .any(|said| is_error(said, "JOB_NOT_FOUND"))
    );
    scene.end();
}

/// A list of every job is made as its peer reads it: what is gone by then is not in it, others are served, and the next command waits its turn.
#[test]
fn long_lists_are_made_as_they_are_read() {
    const JOBS: usize = 100_000;
    let mut scene = Scene::new(&[]);
    let mut submitter = scene.connect();
    for first in (0..JOBS).step_by(5000) {
        let mut packets = Vec::new();
        for number in first..first + 5000 {
            let unique = format!("{number:064}");
            let submit = Submit::new(b"f", unique.as_bytes(), b"").background();
            Request::Submit(submit).encode(&mut packets);
        }
        submitter.send_bytes(&packets);
        for _ in 0..5000 {
            submitter.handle();
        }
    }
    let mut reader = TcpStream::connect(scene.addr).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&reader, 65_536).unwrap();
    reader.write_all(b"show unique jobs\nversion\n").unwrap();
    scene.bystander_is_served("while a list waits to be read");
    // By now the beginning of the list is on its way, and most of it is not made.
    reader.read_exact(&mut [0; 65]).unwrap();
    let mut operator = scene.connect();
    assert_eq!(operator.line("purge f"), format!("text OK {JOBS}\\r\\n"));
    let mut read = std::io::BufReader::new(reader);
    let mut lines = 1;
    loop {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut read, &mut line).unwrap();
        if line == ".\n" {
            break;
        }
        assert_eq!(line, format!("{lines:064}\n"));
        lines += 1;
    }
    assert!((500..JOBS).contains(&lines), "{lines} of {JOBS} lines");
    let mut version = String::new();
    std::io::BufRead::read_line(&mut read, &mut version).unwrap();
    assert_eq!(version, "OK 1.1.21+ibex\n");
    // A connection that may be sent packets at any time has its lists in one piece.
    submitter.send(Request::Submit(Submit::new(b"f", b"", b"")));
    let handle = submitter.handle();
    assert_eq!(
        submitter.list("show jobs"),
        [format!("{handle}\\t0\\t0\\t0")]
    );
    scene.daemon.stop().unwrap();
}
