//! The HTTP front: submissions and their results, parts as they come, what is refused, callers that leave.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;

use ibex_gearman_proto::{Grab, Request};
use ibex_testkit::http::{Request as Http, Response};
use ibex_testkit::{Daemon, wait};

use crate::packets::Wire;

fn start(settings: &[(&str, &str)]) -> Daemon {
    let builder = Daemon::builder("ibex-gearmand").set("http_listen", "[\"127.0.0.1:0\"]");
    settings
        .iter()
        .fold(builder, |builder, (key, value)| builder.set(key, value))
        .start()
        .unwrap()
}

fn ask(addr: SocketAddr, request: Http) -> JoinHandle<Response> {
    std::thread::spawn(move || request.send(addr).unwrap())
}

fn post(function: &str, body: &str) -> Http {
    Http::new("POST", &format!("/{function}")).body(body)
}

/// A worker that has taken a job: its connection and the packet.
fn taken(daemon: &Daemon, function: &'static [u8]) -> (Wire, String) {
    let mut worker = Wire::connect(daemon.addr("gearman").unwrap());
    worker.send(Request::CanDo { function });
    let mut packet = String::new();
    wait::until_true("the job to come", || {
        worker.send(Request::GrabJob(Grab::Unique));
        packet = worker.next().unwrap();
        packet != "NO_JOB"
    })
    .unwrap();
    (worker, packet)
}

fn handle_in(packet: &str) -> String {
    packet.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn a_request_is_a_job_and_its_answer_the_result() {
    let daemon = start(&[]);
    let addr = daemon.addr("gearman_http").unwrap();
    let request = Http::new("PUT", "/re%20verse?x=1")
        .body("abc")
        .header("X-Gearman-Unique", "key")
        .header("X-Gearman-Priority", "High")
        .header("traceparent", "00-1-2-01");
    let asking = ask(addr, request);
    let (mut worker, packet) = taken(&daemon, b"re verse");
    let handle = handle_in(&packet);
    assert_eq!(packet, format!("JOB_ASSIGN_UNIQ {handle} re verse key abc"));
    worker.send(Request::WorkStatus {
        handle: handle.as_bytes(),
        numerator: b"1",
        denominator: b"2",
    });
    worker.send(Request::WorkComplete {
        handle: handle.as_bytes(),
        data: b"cba",
    });
    let answer = asking.join().unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"cba"[..]));
    assert_eq!(answer.header("x-gearman-job-handle"), Some(&handle[..]));
    assert_eq!(answer.header("x-gearman-command"), Some("WORK_COMPLETE"));
    assert_eq!(answer.header("content-length"), Some("3"));
    assert_eq!(answer.header("server"), Some("Gearman/1.1.21+ibex"));
    assert_eq!(answer.header("traceparent"), Some("00-1-2-01"));
    // A background job is answered at once, and runs without anybody.
    let request = post("mail", "x").header("X-Gearman-Background", "true");
    let answer = request.send(addr).unwrap();
    assert_eq!(answer.header("x-gearman-command"), Some("JOB_CREATED"));
    let (_, packet) = taken(&daemon, b"mail");
    assert_eq!(
        Some(&handle_in(&packet)[..]),
        answer.header("x-gearman-job-handle")
    );
    // GET has no workload.
    let asking = ask(addr, Http::get("/now"));
    let (mut worker, packet) = taken(&daemon, b"now");
    assert!(packet.ends_with(" now - "), "{packet}");
    worker.send(Request::WorkFail {
        handle: handle_in(&packet).as_bytes(),
    });
    let answer = asking.join().unwrap();
    assert_eq!(
        (answer.status, answer.header("x-gearman-command")),
        (502, Some("WORK_FAIL"))
    );
    daemon.stop().unwrap();
}

#[test]
fn parts_come_as_they_are_made_and_a_cut_says_that_it_failed() {
    let daemon = start(&[]);
    let addr = daemon.addr("gearman_http").unwrap();
    for is_well in [true, false] {
        let mut caller = TcpStream::connect(addr).unwrap();
        caller
            .write_all(b"POST /parts HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx")
            .unwrap();
        let (mut worker, packet) = taken(&daemon, b"parts");
        let handle = handle_in(&packet);
        worker.send(Request::WorkData {
            handle: handle.as_bytes(),
            data: b"first",
        });
        let mut reader = BufReader::new(caller);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0);
        }
        assert!(head.contains("x-gearman-command: WORK_DATA\r\n"), "{head}");
        let mut chunk = [0; 10];
        reader.read_exact(&mut chunk).unwrap();
        assert_eq!(&chunk, b"5\r\nfirst\r\n", "before the job has ended");
        let mut rest = Vec::new();
        if is_well {
            worker.send(Request::WorkComplete {
                handle: handle.as_bytes(),
                data: b"last",
            });
            let mut chunk = [0; 14];
            reader.read_exact(&mut chunk).unwrap();
            assert_eq!(&chunk, b"4\r\nlast\r\n0\r\n\r\n");
            // The connection is there for the next one.
            let caller = reader.get_mut();
            caller
                .write_all(b"HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                .unwrap();
            reader.read_to_end(&mut rest).unwrap();
            assert!(rest.starts_with(b"HTTP/1.1 200 "));
        } else {
            worker.send(Request::WorkFail {
                handle: handle.as_bytes(),
            });
            let _cut = reader.read_to_end(&mut rest);
            assert!(!rest.ends_with(b"0\r\n\r\n"), "it does not look whole");
        }
    }
    daemon.stop().unwrap();
}

#[test]
fn what_cannot_be_done_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules");
    std::fs::write(&rules, "* submit f* work * admin\n").unwrap();
    let daemon = start(&[
        ("acl_file", &rules.display().to_string()),
        ("packet_size_max", "2K"),
        ("jobs_max", "1"),
    ]);
    let addr = daemon.addr("gearman_http").unwrap();
    let status = |request: Http| request.send(addr).unwrap().status;
    assert_eq!(status(Http::new("HEAD", "/")), 200);
    assert_eq!(status(Http::get("/")), 404);
    assert_eq!(status(Http::new("DELETE", "/f")), 405);
    assert_eq!(status(Http::get("/f%00")), 400);
    assert_eq!(status(Http::get(&format!("/f{}", "x".repeat(512)))), 400);
    assert_eq!(
        status(Http::get("/f").header("X-Gearman-Priority", "urgent")),
        400
    );
    assert_eq!(
        status(Http::get("/f").header("X-Gearman-Timeout", "soon")),
        400
    );
    assert_eq!(
        status(Http::get("/f").header("X-Gearman-Unique", &"u".repeat(65))),
        400
    );
    assert_eq!(status(post("f", &"x".repeat(3000))), 413);
    assert_eq!(status(Http::get("/other")), 403);
    // Nobody works: the time is over, and with it the job.
    assert_eq!(
        status(Http::get("/f").header("X-Gearman-Timeout", "1")),
        504
    );
    let background = || post("f", "1").header("X-Gearman-Background", "true");
    assert_eq!(status(background()), 200);
    let full = post("f", "2")
        .header("X-Gearman-Unique", "")
        .send(addr)
        .unwrap();
    assert_eq!((full.status, full.header("retry-after")), (503, Some("1")));
    assert!(
        daemon
            .metric("ibex_gearmand_requests_denied_total")
            .unwrap()
            >= 1.0
    );
    daemon.stop().unwrap();
}

#[test]
fn a_caller_that_leaves_takes_its_job_along() {
    let daemon = start(&[]);
    let mut caller = TcpStream::connect(daemon.addr("gearman_http").unwrap()).unwrap();
    caller
        .write_all(b"GET /f HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    let mut operator = Wire::connect(daemon.addr("gearman").unwrap());
    wait::until_true("the job to wait", || {
        operator.list("status") == ["f\\t1\\t0\\t0"]
    })
    .unwrap();
    drop(caller);
    wait::until_true("the job to be gone", || {
        operator.list("status") == ["f\\t0\\t0\\t0"]
    })
    .unwrap();
    daemon.stop().unwrap();
}
