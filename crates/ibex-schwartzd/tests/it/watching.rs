//! Events, orders to workers, purged functions.

use crate::Case;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A listener that has been told that it listens.
pub(crate) fn listen(addr: SocketAddr, query: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream
        .write_all(format!("GET /v1/events{query} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
        .unwrap();
    let mut lines = BufReader::new(stream);
    while line(&mut lines) != ": listening" {}
    lines
}

fn line(lines: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    assert!(lines.read_line(&mut line).unwrap() > 0, "the stream ended");
    line.trim_end().to_owned()
}

/// The next event's kind and data.
fn event(lines: &mut BufReader<TcpStream>) -> (String, Value) {
    loop {
        if let Some(kind) = line(lines).strip_prefix("event: ") {
            let data = line(lines);
            let data = data.strip_prefix("data: ").unwrap();
            return (kind.to_owned(), serde_json::from_str(data).unwrap());
        }
    }
}

#[test]
fn events_are_told_and_a_slow_listener_slows_nobody() {
    let case = Case::start(&[]);
    let mut one = listen(case.addr, "?func=E");
    let mut slow = listen(case.addr, "");
    let handle = case.insert(&json!({"func": "E"}));
    case.insert(&json!({"func": "Other"}));
    let job = &case.fetch("E", 0)[0];
    case.finish(job, "decline", json!({}));
    let job = &case.fetch("E", 1000)[0];
    case.finish(job, "fail", json!({"message": "x", "retry_in": 0}));
    let job = &case.fetch("E", 1000)[0];
    case.finish(job, "complete", json!({}));
    for kind in [
        "inserted",
        "grabbed",
        "declined",
        "grabbed",
        "retried",
        "grabbed",
        "completed",
    ] {
        let told = event(&mut one);
        assert_eq!(
            told,
            (kind.to_owned(), json!({"func": "E", "handle": handle}))
        );
    }
    // Far more than the ring and every buffer on the way hold, while nobody reads.
    let func = "f".repeat(255);
    let jobs: Vec<Value> = (0..10_000).map(|_| json!({ "func": func })).collect();
    for _ in 0..3 {
        case.ok("POST", "/v1/jobs", &json!({ "jobs": jobs }));
    }
    loop {
        let (kind, data) = event(&mut slow);
        if kind == "missed" {
            assert!(data["events"].as_u64().unwrap() > 0, "{data}");
            break;
        }
    }
    drop((one, slow));
    case.daemon.stop().unwrap();
}

#[test]
fn a_quiet_worker_gets_nothing_until_it_is_resumed() {
    let case = Case::start(&[]);
    let fetch = |wait_ms: u64| {
        case.ok(
            "POST",
            "/v1/fetch",
            &json!({ "worker": "w one", "funcs": ["Q"], "wait_ms": wait_ms }),
        )
    };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| fetch(60_000));
        ibex_testkit::wait::until_true("the fetch to wait", || {
            case.daemon.metric("ibex_schwartzd_fetch_waiters").unwrap() > 0.5
        })
        .unwrap();
        case.ok("POST", "/v1/workers/w%20one/quiet", &json!({}));
        assert_eq!(
            waiting.join().unwrap(),
            json!({"jobs": [], "state": "quiet"})
        );
    });
    let handle = case.insert(&json!({"func": "Q"}));
    assert_eq!(fetch(0)["state"], "quiet");
    case.ok("POST", "/v1/workers/w%20one/stop", &json!({}));
    assert_eq!(fetch(0)["state"], "stop");
    case.ok("POST", "/v1/workers/w%20one/resume", &json!({}));
    assert_eq!(fetch(0)["jobs"][0]["handle"], handle);
    case.daemon.stop().unwrap();
}

#[test]
fn a_purge_cancels_what_nobody_has_of_one_function() {
    let case = Case::start(&[]);
    let jobs: Vec<Value> = (0..120)
        .map(|n| json!({"func": if n % 2 == 0 { "P" } else { "Kept" }, "delay": n % 3}))
        .collect();
    case.ok("POST", "/v1/jobs", &json!({ "jobs": jobs }));
    let held = case.ok("POST", "/v1/fetch", &json!({"funcs": ["P"]}));
    let held = &held["jobs"][0];
    let answer = case.ok("POST", "/v1/funcs/P/purge", &json!({}));
    assert_eq!(
        (&answer["purged"], &answer["more"]),
        (&json!(59), &json!(false))
    );
    assert!(case.fetch("P", 0).is_empty());
    assert_eq!(case.finish(held, "complete", json!({})).0, 200);
    let listed = case.ok("GET", "/v1/jobs?func=Kept&limit=1000", &Value::Null);
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 60);
    let cancelled = case.ok("GET", "/v1/jobs?state=cancelled&limit=1000", &Value::Null);
    assert_eq!(cancelled["jobs"].as_array().unwrap().len(), 59);
    case.daemon.stop().unwrap();
}
