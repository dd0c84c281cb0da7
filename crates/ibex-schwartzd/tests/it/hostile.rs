//! Slow, broken and hostile callers; full disks.

use crate::{Case, send};
use http_body_util::Full;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use ibex_testkit::disk::Small;
use ibex_testkit::http::Request;
use ibex_testkit::wait::until_true;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// A connection on which some bytes were sent.
fn sent(case: &Case, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(case.addr).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// All that comes until the daemon closes.
fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the daemon keeps the connection: {error}"),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn slow_heads_are_cut_off_and_hold_nobody_up() {
    let case = Case::start(&[("head_timeout", "1s")]);
    let mut slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            sent(
                &case,
                b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
            )
        })
        .collect();
    // Before it shows which version they speak, too.
    for start in [b"".as_slice(), b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
        slow.extend((0..10).map(|_| sent(&case, start)));
    }
    case.insert(&json!({"func": "Quick"}));
    assert_eq!(
        case.fetch("Quick", 0).len(),
        1,
        "others are served meanwhile"
    );
    // A byte now and then does not make the time longer.
    for stream in slow.iter_mut().take(100) {
        drop(stream.write_all(b"a"));
    }
    for stream in &mut slow {
        let answer = rest(stream);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 408"),
            "{answer}"
        );
    }
    case.daemon.stop().unwrap();
}

#[test]
fn bodies_that_are_cut_off_insert_nothing() {
    let case = Case::start(&[]);
    let whole = json!({"func": "Cut"}).to_string();
    let head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
    for body in [
        format!("Content-Length: {}\r\n\r\n{whole}", whole.len() + 1),
        format!(
            "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{whole}\r\n",
            whole.len()
        ),
        format!(
            "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{whole}",
            whole.len() + 5
        ),
        format!("Transfer-Encoding: chunked\r\n\r\nnonsense\r\n{whole}"),
        "Content-Length: 5\r\n\r\n".to_owned(),
    ] {
        let mut stream = sent(&case, format!("{head}{body}").as_bytes());
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = rest(&mut stream);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400"),
            "{body}: {answer}"
        );
    }
    assert!(case.fetch("Cut", 0).is_empty());
    case.daemon.stop().unwrap();
}

#[test]
fn a_body_announced_too_large_is_refused_before_it_is_sent() {
    let case = Case::start(&[]);
    let head = "POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16777217\r\n\r\n{";
    let mut stream = sent(&case, head.as_bytes());
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
    case.daemon.stop().unwrap();
}

#[test]
fn idle_long_polls_cost_little_memory_each_and_all_of_them_can_be_served() {
    const POLLS: usize = 500;
    /// Above what is measured, in a debug build, far below what a buffer of a body or a stack each would be.
    const BYTES_EACH_MAX: f64 = 48.0 * 1024.0;
    let case = Case::start(&[]);
    let body = json!({"funcs": ["Idle"], "wait_ms": 60_000}).to_string();
    let request = format!(
        "POST /v1/fetch HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let memory = || case.daemon.metric("process_resident_memory_bytes").unwrap();
    let open = |count: usize| -> Vec<TcpStream> {
        (0..count)
            .map(|_| sent(&case, request.as_bytes()))
            .collect()
    };
    // The first ones pay for what all share.
    let mut polls = open(50);
    crate::until_waiting(&case, 50);
    let before = memory();
    polls.extend(open(POLLS));
    crate::until_waiting(&case, 50 + POLLS);
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let each = (memory() - before) / POLLS as f64;
    eprintln!("{each:.0} bytes a poll");
    assert!(each < BYTES_EACH_MAX, "{each:.0} bytes a poll");
    let jobs: Vec<Value> = polls.iter().map(|_| json!({"func": "Idle"})).collect();
    case.ok("POST", "/v1/jobs", &json!({ "jobs": jobs }));
    for poll in &mut polls {
        let mut start = [0; 12];
        poll.read_exact(&mut start).unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
    }
    until_true("all jobs to be out", || {
        case.ok("GET", "/v1/funcs", &Value::Null)["funcs"][0]["grabbed"] == jobs.len()
    })
    .unwrap();
    case.daemon.stop().unwrap();
}

#[test]
fn idle_long_polls_over_http_2_cost_a_fraction_of_a_connection() {
    const POLLS: usize = 400;
    const BYTES_EACH_MAX: f64 = 16.0 * 1024.0;
    let case = Case::start(&[]);
    let memory = || case.daemon.metric("process_resident_memory_bytes").unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let open = |count: usize| {
        // A client of its own, and so a connection.
        let client: HttpClient<_, Full<bytes::Bytes>> = HttpClient::builder(TokioExecutor::new())
            .http2_only(true)
            .build_http();
        let addr = case.addr;
        (0..count).for_each(|_| {
            let client = client.clone();
            runtime.spawn(async move {
                let body = json!({"funcs": ["Idle"], "wait_ms": 60_000}).to_string();
                let request = http::Request::post(format!("http://{addr}/v1/fetch"));
                drop(
                    client
                        .request(request.body(Full::from(body)).unwrap())
                        .await,
                );
            });
        });
    };
    open(200);
    crate::until_waiting(&case, 200);
    let before = memory();
    open(POLLS / 2);
    open(POLLS / 2);
    crate::until_waiting(&case, 200 + POLLS);
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let each = (memory() - before) / POLLS as f64;
    eprintln!("{each:.0} bytes a poll over HTTP/2");
    assert!(each < BYTES_EACH_MAX, "{each:.0} bytes a poll");
    case.daemon.stop().unwrap();
    runtime.shutdown_background();
}

#[test]
fn a_full_disk_refuses_inserts_loses_nothing_and_needs_no_restart() {
    let Some(small) = Small::mount(3) else { return };
    let url = format!("sqlite:{}", small.path().join("jobs.db").display());
    let mut case = Case::start(&[("store.url", &url), ("retry_after", "1s")]);
    case.daemon.announce("database");
    case.daemon.announce("worker step failed");
    std::fs::write(small.path().join("ballast"), vec![1; 1_000_000]).unwrap();
    let job = json!({"func": "Full", "arg": "x".repeat(20_000)});
    let mut handles = Vec::new();
    let refusal = loop {
        let (status, answer) = case.call("POST", "/v1/jobs", &job);
        if status != 201 {
            break (status, answer);
        }
        handles.push(answer["handle"].as_str().unwrap().to_owned());
        assert!(handles.len() < 10_000, "three megabytes do not fill");
    };
    assert_eq!(
        (refusal.0, refusal.1["error"]["code"].as_str()),
        (503, Some("no_database")),
        "{}",
        refusal.1
    );
    assert!(!handles.is_empty());
    std::fs::remove_file(small.path().join("ballast")).unwrap();
    let last = || case.call("POST", "/v1/jobs", &json!({"func": "After"}));
    until_true("inserts to work again without a restart", || {
        last().0 == 201
    })
    .unwrap();
    for handle in &handles {
        let status = case.ok("GET", &format!("/v1/jobs/{handle}"), &Value::Null);
        assert_eq!(status["state"], "ready", "{handle} was acknowledged");
    }
    let answer = case.ok(
        "POST",
        "/v1/fetch",
        &json!({"funcs": ["Full"], "max": 1000, "wait_ms": 60_000}),
    );
    assert_eq!(answer["jobs"].as_array().unwrap().len(), handles.len());
    case.daemon.stop().unwrap();
}

#[test]
fn numbers_that_are_none_and_texts_that_are_none_are_refused_everywhere() {
    let case = Case::start(&[]);
    let handle = case.insert(&json!({"func": "N"}));
    let one = format!("/v1/jobs/{handle}");
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    for (method, path) in [
        ("POST", "/v1/jobs".to_owned()),
        ("POST", "/v1/fetch".to_owned()),
        ("POST", "/v1/finish".to_owned()),
        ("POST", "/v1/batches".to_owned()),
        ("POST", "/v1/retry".to_owned()),
        ("PATCH", one.clone()),
        ("POST", format!("{one}/complete")),
        ("PUT", "/v1/funcs/N".to_owned()),
        ("PUT", "/v1/cron/N".to_owned()),
    ] {
        for body in [
            b"{\"a\": NaN}".as_slice(),
            b"{\"a\": Infinity}",
            b"{\"a\": 1e999}",
            b"{\"a\": \"\xff\xfe\"}",
            b"{\"a\": \"\\ud800\"}",
            b"{\"a\": 1, \"a\": 1}",
            b"{\"a\": 1} {}",
            b"[",
            deep.as_bytes(),
        ] {
            let answer = send(case.addr, &Request::new(method, &path).body(body));
            let shown = String::from_utf8_lossy(body.get(..20).unwrap_or(body)).into_owned();
            assert_eq!(answer.status, 400, "{method} {path} {shown}");
            assert!(
                answer.text().contains("bad_json"),
                "{method} {path} {shown}: {}",
                answer.text()
            );
        }
    }
    assert_eq!(case.ok("GET", &one, &Value::Null)["state"], "ready");
    case.daemon.stop().unwrap();
}

#[test]
fn clock_steps_lose_no_job_and_no_lease_that_nobody_took() {
    let library = std::fs::read_dir("/usr/lib").ok().and_then(|dirs| {
        dirs.flatten()
            .map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"))
            .find(|path| path.is_file())
    });
    let Some(library) = library else {
        return ibex_testkit::skip::skip("libfaketime is not installed");
    };
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().to_owned();
    let file = place.join("clock");
    // Replaced as a whole, so that no half of it is read.
    let step = |seconds: i64| {
        std::fs::write(place.join("next"), format!("{seconds:+}s\n")).unwrap();
        std::fs::rename(place.join("next"), &file).unwrap();
    };
    step(0);
    let url = format!("sqlite:{}", dir.path().join("jobs.db").display());
    let daemon = ibex_testkit::Daemon::builder("ibex-schwartzd")
        .set("store.url", &url)
        .set("shutdown.grace", "2s")
        .env("LD_PRELOAD", &library)
        .env("FAKETIME_TIMESTAMP_FILE", &file)
        .env("FAKETIME_NO_CACHE", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .start()
        .unwrap();
    let addr = daemon.addr("schwartz").unwrap();
    let case = Case { daemon, addr, dir };
    let fetch = |func: &str| {
        let want = json!({"funcs": [func], "wait_ms": 60_000, "grab_for": 600});
        case.ok("POST", "/v1/fetch", &want)["jobs"][0].clone()
    };
    case.insert(&json!({"func": "A"}));
    case.insert(&json!({"func": "Later", "delay": 1800}));
    let held = fetch("A");
    step(-3600);
    case.insert(&json!({"func": "B"}));
    let after = fetch("B");
    assert_eq!(
        after["attempt"], 1,
        "nothing stands still after a step back"
    );
    assert_eq!(case.finish(&held, "complete", json!({})).0, 200);
    step(3600);
    assert_eq!(fetch("Later")["attempt"], 1, "its time has come");
    assert_eq!(
        case.finish(&after, "complete", json!({})).0,
        200,
        "its lease is over by that clock, and nobody took it"
    );
    let held = {
        case.insert(&json!({"func": "C"}));
        fetch("C")
    };
    step(0);
    assert_eq!(case.finish(&held, "complete", json!({})).0, 200);
    case.insert(&json!({"func": "D"}));
    assert_eq!(fetch("D")["attempt"], 1);
    case.daemon.stop().unwrap();
}
