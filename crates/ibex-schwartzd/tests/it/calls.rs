//! Every call of the interface, its answers and refusals.

use crate::{Case, send};
use ibex_testkit::http::{Request, get};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

#[test]
fn a_job_goes_in_out_and_is_finished_once() {
    let case = Case::start(&[]);
    let job = json!({"func": "SendMail", "args": {"to": "fred"}, "uniqkey": "k", "coalesce": "c", "priority": 7, "colour": "red"});
    let (status, first) = case.call("POST", "/v1/jobs", &job);
    assert_eq!((status, first["duplicate"].as_bool()), (201, Some(false)));
    let (status, second) = case.call("POST", "/v1/jobs", &job);
    assert_eq!(
        (status, &second["handle"], second["duplicate"].as_bool()),
        (200, &first["handle"], Some(true))
    );
    assert_eq!(
        case.call("POST", "/v1/jobs?on_duplicate=error", &job).0,
        409
    );
    let changed = json!({"func": "SendMail", "args": {"to": "eve"}, "uniqkey": "k"});
    assert_eq!(
        case.call("POST", "/v1/jobs?on_duplicate=replace", &changed)
            .0,
        200
    );
    let jobs = case.fetch("SendMail", 0);
    assert_eq!(jobs.len(), 1);
    let job = &jobs[0];
    assert_eq!(
        (
            &job["args"],
            job["attempt"].as_u64(),
            job["uniqkey"].as_str()
        ),
        (&json!({"to": "eve"}), Some(1), Some("k"))
    );
    assert!(case.fetch("SendMail", 0).is_empty());
    let handle = job["handle"].as_str().unwrap();
    assert_eq!(
        case.ok("GET", &format!("/v1/jobs/{handle}"), &Value::Null)["state"],
        "grabbed"
    );
    assert_eq!(case.finish(job, "complete", json!({})).0, 200);
    let (status, answer) = case.finish(job, "complete", json!({}));
    assert!(status == 404 || status == 409, "{status} {answer}");
    let status = case.ok("GET", &format!("/v1/jobs/{handle}"), &Value::Null);
    assert_eq!(
        (status["state"].as_str(), status["exit_status"].as_u64()),
        (Some("completed"), Some(0))
    );
    assert_eq!(
        case.call(
            "GET",
            &format!("/v1/jobs/{}-999", handle.split('-').next().unwrap()),
            &Value::Null
        )
        .0,
        404
    );
    case.daemon.stop().unwrap();
}

#[test]
fn many_jobs_in_and_many_finishes() {
    let case = Case::start(&[]);
    let jobs: Vec<Value> = (0..250)
        .map(|n| json!({"func": "Bulk", "arg": format!("{n}")}))
        .collect();
    let answer = case.ok("POST", "/v1/jobs", &json!({"jobs": jobs, "atomic": true}));
    assert_eq!(answer["jobs"].as_array().unwrap().len(), 250);
    let mixed = json!({"jobs": [{"func": "Bulk", "uniqkey": "a"}, {"func": ""}, {"func": "Bulk", "uniqkey": "a"}]});
    let answer = case.ok("POST", "/v1/jobs", &mixed);
    assert_eq!(answer["jobs"][0]["duplicate"], false);
    assert_eq!(answer["jobs"][1]["error"]["code"], "bad_request");
    assert_eq!(answer["jobs"][2]["handle"], answer["jobs"][0]["handle"]);
    let (status, _) = case.call(
        "POST",
        "/v1/jobs",
        &json!({"jobs": [{"func": "Bulk"}, {"func": ""}], "atomic": true}),
    );
    assert_eq!(status, 400);
    let (status, _) = case.call(
        "POST",
        "/v1/jobs",
        &json!({"jobs": [{"func": "Bulk"}, {"func": "Bulk", "uniqkey": "a"}], "atomic": true}),
    );
    assert_eq!(status, 409, "all or none");
    let mut left = 251;
    while left > 0 {
        let jobs = case.fetch("Bulk", 0);
        assert!(!jobs.is_empty(), "{left} left");
        left -= jobs.len();
        let mut results: Vec<Value> = jobs
            .iter()
            .map(|job| json!({"handle": job["handle"], "lease": job["lease"], "op": "complete"}))
            .collect();
        results[0]["op"] = json!("fail");
        results[0]["permanent"] = json!(true);
        results.push(results[1].clone());
        results.push(json!({"handle": "nonsense", "op": "complete", "lease": "x"}));
        let answer = case.ok("POST", "/v1/finish", &json!({"results": results}));
        let answers = answer["results"].as_array().unwrap();
        assert!(
            answers
                .iter()
                .take(jobs.len())
                .all(|one| one["status"] == "ok"),
            "{answer}"
        );
        assert_eq!(answers[jobs.len()]["status"], "lease_lost");
        assert_eq!(answers[jobs.len() + 1]["status"], "bad_request");
    }
    assert!(
        case.daemon
            .metric("ibex_schwartzd_jobs_completed_total{func=\"Bulk\"}")
            .unwrap()
            > 200.0
    );
    case.daemon.stop().unwrap();
}

#[test]
fn every_way_to_finish() {
    let case = Case::start(&[]);
    let handle = case.insert(&json!({"func": "F", "arg": "x"}));
    let job = case.fetch("F", 0).remove(0);
    let (_, longer) = case.finish(&job, "extend", json!({"grab_for": 500}));
    assert!(
        longer["lease_expires"].as_u64() > job["lease_expires"].as_u64(),
        "{longer}"
    );
    assert_eq!(
        case.finish(&job, "decline", json!({})).0,
        200,
        "the token outlives the longer lease"
    );
    let job = case.fetch("F", 0).remove(0);
    assert_eq!(job["attempt"], 1, "declining is no failure");
    let (_, answer) = case.finish(&job, "fail", json!({"message": "no luck", "retry_in": 0}));
    assert_eq!(answer["retry"], true);
    let job = case.fetch("F", 0).remove(0);
    assert_eq!(job["attempt"], 2);
    let (_, answer) = case.finish(&job, "fail", json!({"message": "no luck again"}));
    assert_eq!(answer["retry"], true);
    let status = case.ok("GET", &format!("/v1/jobs/{handle}"), &Value::Null);
    assert_eq!(
        (
            status["state"].as_str(),
            status["failures"].as_array().map(Vec::len)
        ),
        (Some("scheduled"), Some(2))
    );
    case.ok(
        "PATCH",
        &format!("/v1/jobs/{handle}"),
        &json!({"delay": 0, "arg": "y"}),
    );
    let job = case.fetch("F", 0).remove(0);
    assert_eq!(job["arg"], "y");
    let (_, answer) = case.finish(
        &job,
        "replace",
        json!({"jobs": [{"func": "G", "arg": "1"}, {"func": "G", "arg": "2"}]}),
    );
    assert_eq!(answer["jobs"].as_array().map(Vec::len), Some(2));
    let jobs = case.fetch("G", 0);
    assert_eq!(jobs.len(), 2);
    let (_, answer) = case.finish(
        &jobs[0],
        "fail",
        json!({"permanent": true, "exit_status": 100_000, "message": "over"}),
    );
    assert_eq!(answer["retry"], false);
    let status = case.ok(
        "GET",
        &format!("/v1/jobs/{}", jobs[0]["handle"].as_str().unwrap()),
        &Value::Null,
    );
    assert_eq!(
        (status["state"].as_str(), status["exit_status"].as_u64()),
        (Some("failed"), Some(65535))
    );
    assert_eq!(case.finish(&jobs[1], "explode", json!({})).0, 404);
    let mut other = jobs[1].clone();
    other["lease"] = jobs[0]["lease"].clone();
    assert_eq!(
        case.finish(&other, "complete", json!({})).0,
        400,
        "a lease of another job"
    );
    let errors = case.ok("GET", "/v1/errors?last=10", &Value::Null);
    assert_eq!(errors["errors"].as_array().map(Vec::len), Some(3));
    assert_eq!(
        case.ok("GET", "/v1/errors?func=G&inlast=60", &Value::Null)["errors"][0]["message"],
        "over"
    );
    let path = format!("/v1/jobs/{}", jobs[0]["handle"].as_str().unwrap());
    let dead = case.ok("GET", "/v1/jobs?state=failed&func=G", &Value::Null);
    assert_eq!(dead["jobs"][0]["handle"], jobs[0]["handle"]);
    assert_eq!(
        case.ok("POST", &format!("{path}/retry"), &Value::Null)["state"],
        "ready"
    );
    assert_eq!(
        case.call("POST", &format!("{path}/retry"), &Value::Null).0,
        404
    );
    assert_eq!(case.fetch("G", 0)[0]["attempt"], 1);
    case.daemon.stop().unwrap();
}

#[test]
fn looking_cancelling_and_goodbye() {
    let case = Case::start(&[]);
    for n in 0..5 {
        case.insert(
            &json!({"func": "L", "arg": format!("{n}"), "coalesce": format!("g{}", n % 2)}),
        );
    }
    let later = case.insert(&json!({"func": "L", "delay": 1000}));
    let list = |query: &str| {
        case.ok("GET", &format!("/v1/jobs?func=L{query}"), &Value::Null)["jobs"]
            .as_array()
            .unwrap()
            .clone()
    };
    assert_eq!(
        (
            list("").len(),
            list("&state=scheduled").len(),
            list("&coalesce=g1").len()
        ),
        (6, 1, 2)
    );
    let page = list("&limit=2");
    assert_eq!(
        list(&format!("&after={}", page[1]["handle"].as_str().unwrap())).len(),
        4
    );
    assert_eq!(case.call("GET", "/v1/jobs?state=lost", &Value::Null).0, 400);
    assert_eq!(
        case.ok("DELETE", &format!("/v1/jobs/{later}"), &Value::Null)["state"],
        "cancelled"
    );
    let want = json!({"worker": "one", "funcs": ["L"], "max": 9, "coalesce": {"prefix": "g1"}});
    let jobs = case.ok("POST", "/v1/fetch", &want)["jobs"]
        .as_array()
        .unwrap()
        .clone();
    assert_eq!(jobs.len(), 2);
    let handle = jobs[0]["handle"].as_str().unwrap();
    assert_eq!(
        case.ok("DELETE", &format!("/v1/jobs/{handle}"), &Value::Null)["cancel_requested"],
        true
    );
    assert_eq!(case.finish(&jobs[0], "extend", json!({})).1["cancel"], true);
    let workers = case.ok("GET", "/v1/workers", &Value::Null);
    assert_eq!(
        (
            workers["workers"][0]["worker"].as_str(),
            workers["workers"][0]["jobs"].as_array().map(Vec::len)
        ),
        (Some("one"), Some(2))
    );
    let funcs = case.ok("GET", "/v1/funcs", &Value::Null);
    assert_eq!(
        (
            funcs["funcs"][0]["ready"].as_u64(),
            funcs["funcs"][0]["grabbed"].as_u64()
        ),
        (Some(3), Some(2))
    );
    assert_eq!(
        case.ok("POST", "/v1/workers/one/goodbye", &Value::Null)["released"],
        2
    );
    assert_eq!(case.fetch("L", 0).len(), 5);
    assert!(
        get(case.addr, "/")
            .unwrap()
            .text()
            .contains("Newest failures")
    );
    assert_eq!(get(case.addr, "/readyz").unwrap().status, 200);
    case.daemon.stop().unwrap();
}

#[test]
fn a_stream_of_jobs_gives_back_what_it_did_not_finish() {
    let case = Case::start(&[]);
    for n in 0..3 {
        case.insert(&json!({"func": "T", "arg": format!("{n}")}));
    }
    let mut stream = TcpStream::connect(case.addr).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
        .write_all(
            b"GET /v1/take?funcs=T,U&worker=s&prefetch=2 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        )
        .unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut next = || loop {
        let line = lines.next().unwrap().unwrap();
        if line.starts_with('{') {
            return serde_json::from_str::<Value>(&line).unwrap();
        }
    };
    let (first, second) = (next(), next());
    assert_eq!(
        (first["arg"].as_str(), second["arg"].as_str()),
        (Some("0"), Some("1"))
    );
    assert_eq!(
        case.fetch("T", 0).len(),
        1,
        "the third is free: two are in hand"
    );
    assert_eq!(case.finish(&first, "complete", json!({})).0, 200);
    case.insert(&json!({"func": "U", "arg": "3"}));
    assert_eq!(next()["arg"], "3", "room again");
    drop(lines);
    stream.shutdown(std::net::Shutdown::Both).unwrap();
    drop(stream);
    let back = case.fetch("T", 10_000);
    assert_eq!((back.len(), back[0]["attempt"].as_u64()), (1, Some(1)));
    case.daemon.stop().unwrap();
}

#[test]
fn strangers_input_is_refused_and_nothing_breaks() {
    let case = Case::start(&[("max_arg_size", "1K")]);
    let post = |body: &[u8]| {
        send(
            case.addr,
            &Request::post("/v1/jobs", "application/json", body),
        )
        .status
    };
    for body in [
        &b"{"[..],
        b"\xff\xfe",
        b"[]",
        b"5",
        br#"{"func":"f","func":"g"}"#,
        br#"{"func":"f","priority":1e99}"#,
        br#"{"func":"f","delay":NaN}"#,
    ] {
        assert_eq!(post(body), 400, "{}", String::from_utf8_lossy(body));
    }
    assert_eq!(
        post(
            format!(
                "{{\"args\":{}{}}}",
                "[".repeat(100_000),
                "]".repeat(100_000)
            )
            .as_bytes()
        ),
        400
    );
    assert_eq!(
        post(format!("{{\"func\":\"f\",\"arg\":\"{}\"}}", "x".repeat(1025)).as_bytes()),
        413
    );
    assert_eq!(
        post(format!("{{\"func\":\"f\",\"arg\":\"{}\"}}", "x".repeat(1024)).as_bytes()),
        201
    );
    assert_eq!(post(&vec![b' '; (16 << 20) + 1]), 413);
    assert_eq!(case.call("GET", "/v1/jobs/nonsense", &Value::Null).0, 400);
    assert_eq!(
        case.call(
            "GET",
            &format!("/v1/jobs/{}-5", "0".repeat(32)),
            &Value::Null
        )
        .0,
        404
    );
    assert_eq!(case.call("GET", "/nothing", &Value::Null).0, 404);
    assert_eq!(case.call("PUT", "/v1/jobs", &json!({})).0, 404);
    for fetch in [
        json!({}),
        json!({"funcs": []}),
        json!({"funcs": ["f"], "max": 0}),
        json!({"funcs": ["f"], "wait_ms": 60_001}),
        json!({"funcs": ["f"], "grab_for": 0}),
    ] {
        assert_eq!(case.call("POST", "/v1/fetch", &fetch).0, 400, "{fetch}");
    }
    let cross = Request::post(
        "/v1/jobs",
        "application/json",
        br#"{"func":"f"}"#.as_slice(),
    );
    assert_eq!(
        send(
            case.addr,
            &cross.clone().header("origin", "http://evil.example")
        )
        .status,
        403
    );
    assert_eq!(
        send(case.addr, &cross.header("sec-fetch-site", "cross-site")).status,
        403
    );
    // A request that never ends holds nobody up.
    let mut slow = TcpStream::connect(case.addr).unwrap();
    slow.write_all(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        .unwrap();
    assert_eq!(case.fetch("f", 0).len(), 1);
    drop(slow);
    case.daemon.stop().unwrap();
}

#[test]
fn with_a_token_nobody_comes_in_without() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "open sesame\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let url = format!("sqlite:{}", dir.path().join("jobs.db").display());
    let daemon = ibex_testkit::Daemon::builder("ibex-schwartzd")
        .arg("--db")
        .arg(&url)
        .arg("--token-file")
        .arg(&file)
        .start()
        .unwrap();
    let addr = daemon.addr("schwartz").unwrap();
    let case = Case { daemon, addr, dir };
    assert_eq!(case.call("GET", "/v1/funcs", &Value::Null).0, 401);
    let with = |token: &str| {
        send(
            case.addr,
            &Request::get("/v1/funcs").header("authorization", &format!("Bearer {token}")),
        )
        .status
    };
    assert_eq!(
        (with("open sesame"), with("open"), with("open sesame2")),
        (200, 403, 403)
    );
    assert_eq!(get(case.addr, "/readyz").unwrap().status, 200);
    case.daemon.stop().unwrap();
}
