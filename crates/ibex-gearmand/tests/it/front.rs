//! The HTTP front: submissions and their results, parts as they come, what is refused, callers that leave.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread::JoinHandle;

use ibex_gearman_proto::{Grab, Request};
use ibex_testkit::http::{Request as Http, Response};
use ibex_testkit::{Daemon, ports, tls, wait};
use rustix::process::Signal;

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
    for (metric, least) in [
        ("ibex_gearmand_requests_denied_total", 1.0),
        ("ibex_gearmand_http_requests_total", 12.0),
        // Over its time, and the queue full.
        ("ibex_gearmand_http_failures_total", 2.0),
    ] {
        let counted = daemon.metric(metric).unwrap();
        assert!(counted >= least, "{metric}: {counted}");
    }
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

#[test]
fn tokens_open_what_the_rules_say() {
    let dir = tempfile::tempdir().unwrap();
    let rules = dir.path().join("rules");
    std::fs::write(&rules, "token=s3cret submit f*\n* submit g work * admin\n").unwrap();
    let daemon = start(&[("acl_file", &rules.display().to_string())]);
    let addr = daemon.addr("gearman_http").unwrap();
    let background = |function: &str, token: Option<&str>| {
        let request = post(function, "x").header("X-Gearman-Background", "true");
        let request = match token {
            Some(token) => request.header("Authorization", token),
            None => request,
        };
        let answer = request.send(addr).unwrap();
        let challenge = answer.header("www-authenticate").map(str::to_owned);
        (answer.status, challenge)
    };
    let refused = (401, Some("Bearer".to_owned()));
    assert_eq!(background("f", None), refused);
    assert_eq!(background("f", Some("Bearer wrong")), refused);
    assert_eq!(background("f", Some("Basic s3cret")), refused);
    assert_eq!(background("f", Some("Bearer")), refused);
    assert_eq!(background("f", Some("Bearer s3cret")), (200, None));
    assert_eq!(background("f", Some("bearer  s3cret ")), (200, None));
    // Known, and not allowed to.
    assert_eq!(background("h", Some("Bearer s3cret")), (403, None));
    assert_eq!(background("g", None), (200, None));
    // A token is for its request alone.
    assert_eq!(background("f", None), refused);
    daemon.stop().unwrap();
}

#[test]
fn requests_over_tls_by_certificate() {
    let dir = tempfile::tempdir().unwrap();
    tls::put(dir.path(), "first");
    let rules = dir.path().join("rules");
    std::fs::write(&rules, "cn=* submit f\n").unwrap();
    let at = |name: &str| dir.path().join(name).display().to_string();
    let daemon = start(&[
        ("http_tls", "true"),
        ("tls_cert", &at("cert")),
        ("tls_key", &at("key")),
        ("tls_ca", &tls::file("ca.pem").display().to_string()),
        ("tls_verify", "optional"),
        ("acl_file", &rules.display().to_string()),
    ]);
    let addr = daemon.addr("gearman_http").unwrap();
    let status = |version, with_certificate| {
        let mut stream = tls::connect(addr, "localhost", &[version], with_certificate);
        stream
            .write_all(b"POST /f HTTP/1.1\r\nHost: h\r\nX-Gearman-Background: true\r\nContent-Length: 1\r\n\r\nx")
            .unwrap();
        stream.flush().unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    };
    for version in tls::VERSIONS {
        assert_eq!(status(version, true), "HTTP/1.1 200 OK\r\n");
        assert_eq!(status(version, false), "HTTP/1.1 403 Forbidden\r\n");
    }
    // The data port is plain all the same; a plain caller of the front is not understood, and counted.
    assert!(
        Wire::connect(daemon.addr("gearman").unwrap())
            .said()
            .is_empty()
    );
    let mut plain = TcpStream::connect(addr).unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    drop(plain.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP"), "{}", answer.escape_ascii());
    wait::until_true("the failed handshake to be counted", || {
        let failed = daemon.metric("ibex_gearmand_handshakes_failed_total");
        failed.unwrap() >= 1.0
    })
    .unwrap();
    daemon.stop().unwrap();
}

#[test]
fn addresses_of_the_front_follow_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("gearmand.toml");
    let configure = |path: &Path, addrs: &[SocketAddr]| {
        let addrs: Vec<String> = addrs.iter().map(ToString::to_string).collect();
        std::fs::write(path, format!("http_listen = {addrs:?}\n")).unwrap();
    };
    let [kept, removed, added] = [(); 3].map(|()| ports::free());
    configure(&config, &[kept, removed]);
    let daemon = Daemon::builder("ibex-gearmand")
        .without_env("IBEX_HTTP_LISTEN")
        .arg("--config")
        .arg(config.as_os_str())
        .start()
        .unwrap();
    let is_open = |addr: SocketAddr| TcpStream::connect(addr).is_ok();
    let status = |stream: &mut BufReader<TcpStream>| {
        stream
            .get_mut()
            .write_all(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
            .unwrap();
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(stream.read_line(&mut head).unwrap() > 0);
        }
        head.lines().next().unwrap_or_default().to_owned()
    };
    let mut leaving = BufReader::new(TcpStream::connect(removed).unwrap());
    assert_eq!(status(&mut leaving), "HTTP/1.1 200 OK");
    configure(&config, &[kept, added]);
    daemon.signal(Signal::HUP).unwrap();
    wait::until_true("the new address to open", || is_open(added)).unwrap();
    wait::until_true("the old address to close", || !is_open(removed)).unwrap();
    // Whoever was connected there is served on.
    assert_eq!(status(&mut leaving), "HTTP/1.1 200 OK");
    for addr in [kept, added] {
        let mut stream = BufReader::new(TcpStream::connect(addr).unwrap());
        assert_eq!(status(&mut stream), "HTTP/1.1 200 OK");
    }
    configure(&config, &[]);
    daemon.signal(Signal::HUP).unwrap();
    for addr in [kept, added] {
        wait::until_true("the address to close", || !is_open(addr)).unwrap();
    }
    configure(&config, &[kept]);
    daemon.signal(Signal::HUP).unwrap();
    wait::until_true("the address to open again", || is_open(kept)).unwrap();
    daemon.stop().unwrap();
}

#[test]
fn callers_that_stop_amid_a_request_or_an_answer_are_let_go() {
    let daemon = start(&[("slow_client_timeout", "1s"), ("output_max", "1M")]);
    let addr = daemon.addr("gearman_http").unwrap();
    let slow = || {
        daemon
            .metric("ibex_gearmand_connections_slow_total")
            .unwrap()
    };
    let answer = |sent: &[u8]| {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(sent).unwrap();
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer));
        String::from_utf8_lossy(&answer).into_owned()
    };
    // Half a head, half a body.
    let said = answer(b"POST /f HTTP/1.1\r\nHo");
    assert!(
        said.is_empty() || said.starts_with("HTTP/1.1 408 "),
        "{said}"
    );
    let said = answer(b"POST /f HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nab");
    assert!(said.starts_with("HTTP/1.1 408 "), "{said}");
    assert!(slow() >= 1.0);
    let before = slow();
    // An answer that nobody reads: far beyond what the sockets hold.
    let mut deaf = TcpStream::connect(addr).unwrap();
    deaf.write_all(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    let (mut worker, packet) = taken(&daemon, b"large");
    worker.send(Request::WorkComplete {
        handle: handle_in(&packet).as_bytes(),
        data: &vec![b'x'; 32 << 20],
    });
    wait::until_true("the deaf caller to be closed", || slow() > before).unwrap();
    assert!(worker.said().is_empty());
    wait::until_true("its connection to be gone", || {
        daemon.metric("ibex_gearmand_connections").unwrap() < 2.0
    })
    .unwrap();
    drop(deaf);
    daemon.stop().unwrap();
}

#[test]
fn bounds_of_heads_and_bodies() {
    let daemon = start(&[("packet_size_max", "2K")]);
    let addr = daemon.addr("gearman_http").unwrap();
    let status = |request: Http| request.send(addr).unwrap().status;
    let mut many = Http::get("/f");
    for n in 0..200 {
        many = many.header(&format!("X-{n}"), "y");
    }
    assert_eq!(status(many), 431);
    let background = |body: &str| post("f", body).header("X-Gearman-Background", "true");
    assert_eq!(status(background(&"x".repeat(2048))), 200);
    assert_eq!(status(background(&"x".repeat(2049))), 413);
    // The same without an announced length.
    let chunked = |bytes: usize| {
        let mut stream = TcpStream::connect(addr).unwrap();
        stream
            .write_all(b"POST /f HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Gearman-Background: true\r\nTransfer-Encoding: chunked\r\n\r\n")
            .unwrap();
        for _ in 0..bytes / 128 {
            // A server that has heard enough may have hung up.
            drop(stream.write_all(format!("80\r\n{}\r\n", "x".repeat(128)).as_bytes()));
        }
        drop(stream.write_all(b"0\r\n\r\n"));
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line
    };
    assert_eq!(chunked(2048), "HTTP/1.1 200 OK\r\n");
    assert_eq!(chunked(2048 + 128), "HTTP/1.1 413 Payload Too Large\r\n");
    assert_eq!(
        status(Http::get("/f").header("traceparent", &"t".repeat(4090))),
        400
    );
    daemon.stop().unwrap();
}

#[test]
fn parts_end_with_the_callers_time() {
    let daemon = start(&[]);
    let mut caller = TcpStream::connect(daemon.addr("gearman_http").unwrap()).unwrap();
    caller
        .write_all(b"GET /parts HTTP/1.1\r\nHost: h\r\nX-Gearman-Timeout: 1\r\n\r\n")
        .unwrap();
    let (mut worker, packet) = taken(&daemon, b"parts");
    worker.send(Request::WorkData {
        handle: handle_in(&packet).as_bytes(),
        data: b"first",
    });
    let mut answer = Vec::new();
    let _cut = caller.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    // On a busy machine the time may be over before the part is there.
    assert!(
        answer.starts_with("HTTP/1.1 504 ") || answer.ends_with("5\r\nfirst\r\n"),
        "{answer}"
    );
    daemon.stop().unwrap();
}

#[test]
fn a_graceful_close_takes_no_more_callers_and_answers_those_it_has() {
    let mut daemon = start(&[]);
    let addr = daemon.addr("gearman_http").unwrap();
    let asking = ask(addr, post("last", "x"));
    let (mut worker, packet) = taken(&daemon, b"last");
    daemon.signal(Signal::USR1).unwrap();
    for addr in [addr, daemon.addr("gearman").unwrap()] {
        wait::until_true("the address to close", || TcpStream::connect(addr).is_err()).unwrap();
    }
    worker.send(Request::WorkComplete {
        handle: handle_in(&packet).as_bytes(),
        data: b"done",
    });
    let answer = asking.join().unwrap();
    assert_eq!((answer.status, &answer.body[..]), (200, &b"done"[..]));
    let status = daemon.wait_exit(wait::PATIENCE).unwrap();
    assert!(status.success());
}

#[test]
fn callers_that_wait_do_not_hold_up_the_stop() {
    let daemon = start(&[]);
    let mut caller = TcpStream::connect(daemon.addr("gearman_http").unwrap()).unwrap();
    caller
        .write_all(b"GET /never HTTP/1.1\r\nHost: h\r\n\r\n")
        .unwrap();
    let mut operator = Wire::connect(daemon.addr("gearman").unwrap());
    wait::until_true("the job to wait", || {
        operator.list("status") == ["never\\t1\\t0\\t0"]
    })
    .unwrap();
    daemon.stop().unwrap();
    let mut answer = Vec::new();
    let _cut = caller.read_to_end(&mut answer);
    assert!(answer.is_empty(), "{}", answer.escape_ascii());
}
