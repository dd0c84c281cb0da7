//! kill -9, stops, lost workers, databases that go away.

use crate::{Case, call};
use ibex_testkit::Daemon;
use ibex_testkit::mariadb::Server;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};

/// Deaths of one run; more with `IBEX_KILLS`.
fn kills() -> usize {
    std::env::var("IBEX_KILLS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(5)
}

#[test]
fn acknowledged_inserts_and_finishes_survive_kill_nine() {
    let mut case = Case::start(&[]);
    for _ in 0..kills() {
        let over = AtomicBool::new(false);
        let addr = case.daemon.addr("schwartz").unwrap();
        let (inserted, finished) = std::thread::scope(|scope| {
            let producers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut acknowledged = Vec::new();
                        while !over.load(Ordering::SeqCst) {
                            let request = ibex_testkit::http::Request::post(
                                "/v1/jobs",
                                "application/json",
                                br#"{"func":"K"}"#.as_slice(),
                            );
                            let Ok(answer) = request.send(addr) else {
                                break;
                            };
                            if answer.status == 201 {
                                let answer: Value = serde_json::from_slice(&answer.body).unwrap();
                                acknowledged.push(answer["handle"].as_str().unwrap().to_owned());
                            }
                        }
                        acknowledged
                    })
                })
                .collect();
            let worker = scope.spawn(|| {
                let mut finished = Vec::new();
                let post = |path: &str, body: &Value| {
                    let answer = ibex_testkit::http::Request::post(
                        path,
                        "application/json",
                        body.to_string(),
                    )
                    .send(addr)
                    .ok()?;
                    (answer.status == 200)
                        .then(|| serde_json::from_slice::<Value>(&answer.body).ok())
                        .flatten()
                };
                while !over.load(Ordering::SeqCst) {
                    let Some(answer) = post(
                        "/v1/fetch",
                        &json!({"funcs": ["K"], "max": 5, "wait_ms": 100}),
                    ) else {
                        break;
                    };
                    for job in answer["jobs"].as_array().unwrap() {
                        let handle = job["handle"].as_str().unwrap();
                        if post(
                            &format!("/v1/jobs/{handle}/complete"),
                            &json!({"lease": job["lease"]}),
                        )
                        .is_some()
                        {
                            finished.push(handle.to_owned());
                        }
                    }
                }
                finished
            });
            ibex_testkit::wait::until_true("some work to be done", || {
                case.daemon
                    .metric("ibex_schwartzd_jobs_completed_total{func=\"K\"}")
                    .unwrap_or(0.0)
                    > 20.0
            })
            .unwrap();
            case.daemon.kill().unwrap();
            over.store(true, Ordering::SeqCst);
            let inserted: Vec<String> = producers
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect();
            (inserted, worker.join().unwrap())
        });
        case.daemon.restart().unwrap();
        case.addr = case.daemon.addr("schwartz").unwrap();
        let finished: BTreeSet<String> = finished.into_iter().collect();
        for handle in &inserted {
            let (status, answer) = case.call("GET", &format!("/v1/jobs/{handle}"), &Value::Null);
            assert_eq!(status, 200, "acknowledged {handle} is lost");
            if finished.contains(handle) {
                assert_eq!(answer["state"], "completed", "{handle}");
            }
        }
        assert!(inserted.len() > 20);
    }
    case.daemon.stop().unwrap();
}

#[test]
fn a_stop_answers_the_waiting_and_gives_back_what_is_out() {
    let case = Case::start(&[("shutdown.grace", "2s")]);
    case.insert(&json!({"func": "S", "arg": "held"}));
    let held = case.fetch("S", 0).remove(0);
    let url = case.url();
    let Case {
        mut daemon,
        addr,
        dir,
    } = case;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            call(
                addr,
                "POST",
                "/v1/fetch",
                &json!({"funcs": ["S"], "wait_ms": 60_000}),
            )
        });
        ibex_testkit::wait::until_true("the fetch to wait", || {
            daemon.metric("ibex_schwartzd_fetch_waiters").unwrap() > 0.5
        })
        .unwrap();
        daemon.terminate().unwrap();
        let (status, answer) = waiting.join().unwrap();
        assert_eq!(
            (status, answer["jobs"].as_array().map(Vec::len)),
            (200, Some(0))
        );
    });
    let daemon = Daemon::builder("ibex-schwartzd")
        .set("store.url", &url)
        .set("shutdown.grace", "2s")
        .start()
        .unwrap();
    let addr = daemon.addr("schwartz").unwrap();
    let (_, again) = call(addr, "POST", "/v1/fetch", &json!({"funcs": ["S"]}));
    assert_eq!(
        (
            &again["jobs"][0]["handle"],
            again["jobs"][0]["attempt"].as_u64()
        ),
        (&held["handle"], Some(1)),
        "given back, no failure counted"
    );
    daemon.stop().unwrap();
    drop(dir);
}

#[test]
fn a_worker_may_finish_while_the_daemon_drains() {
    let case = Case::start(&[("shutdown.grace", "20s")]);
    let handle = case.insert(&json!({"func": "D", "arg": "x"}));
    let held = case.fetch("D", 0).remove(0);
    case.daemon.signal(rustix::process::Signal::TERM).unwrap();
    ibex_testkit::wait::until_true("the drain to begin", || {
        ibex_testkit::http::get(case.addr, "/readyz").map_or(true, |answer| answer.status == 503)
    })
    .unwrap();
    assert_eq!(
        case.call("POST", "/v1/jobs", &json!({"func": "D"})).0,
        503,
        "nothing new comes in"
    );
    assert_eq!(case.finish(&held, "complete", json!({})).0, 200);
    let url = case.url();
    let Case {
        mut daemon, dir, ..
    } = case;
    daemon
        .wait_exit(std::time::Duration::from_secs(15))
        .unwrap();
    let daemon = Daemon::builder("ibex-schwartzd")
        .set("store.url", &url)
        .set("shutdown.grace", "2s")
        .start()
        .unwrap();
    let (_, status) = call(
        daemon.addr("schwartz").unwrap(),
        "GET",
        &format!("/v1/jobs/{handle}"),
        &Value::Null,
    );
    assert_eq!(status["state"], "completed");
    daemon.stop().unwrap();
    drop(dir);
}

#[test]
fn a_lease_that_ran_out_counts_as_a_failure() {
    let case = Case::start(&[("max_attempts", "2")]);
    let handle = case.insert(&json!({"func": "E", "arg": "x"}));
    let answer = case.ok("POST", "/v1/fetch", &json!({"funcs": ["E"], "grab_for": 1}));
    let job = answer["jobs"][0].clone();
    let look = || case.ok("GET", &format!("/v1/jobs/{handle}"), &Value::Null);
    ibex_testkit::wait::until_true("the lost lease to be counted", || {
        look()["failures"].as_array().map(Vec::len) == Some(1)
    })
    .unwrap();
    let status = look();
    assert_eq!(
        (
            status["failures"][0]["message"].as_str(),
            status["state"].as_str()
        ),
        (Some("lease expired"), Some("scheduled"))
    );
    let (status, _) = case.finish(&job, "complete", json!({}));
    assert_eq!(status, 409, "too late");
    case.ok("PATCH", &format!("/v1/jobs/{handle}"), &json!({"delay": 0}));
    case.ok("POST", "/v1/fetch", &json!({"funcs": ["E"], "grab_for": 1}));
    ibex_testkit::wait::until_true("the job to be over", || look()["state"] == "failed").unwrap();
    case.daemon.stop().unwrap();
}

#[test]
fn heavy_a_database_that_goes_away_and_comes_back() {
    let Some(mut server) = Server::start_own().unwrap() else {
        return;
    };
    let url = {
        let database = server.database().unwrap();
        let url = database.url();
        // Lives as long as the server, which goes with the test.
        std::mem::forget(database);
        url
    };
    let daemon = Daemon::builder("ibex-schwartzd")
        .set(
            "store.url",
            &format!("{url}?timeout=300ms&connect_timeout=300ms"),
        )
        .set("retry_after", "1s")
        .set("shutdown.grace", "2s")
        .announce("database")
        .announce("worker step failed")
        .start()
        .unwrap();
    let addr = daemon.addr("schwartz").unwrap();
    let (status, first) = call(addr, "POST", "/v1/jobs", &json!({"func": "B", "arg": "1"}));
    assert_eq!(status, 201, "{first}");
    server.kill().unwrap();
    let (status, answer) = call(addr, "POST", "/v1/jobs", &json!({"func": "B", "arg": "2"}));
    assert!(
        status == 503 && answer["error"]["code"] == "no_database",
        "{status} {answer}"
    );
    assert_eq!(
        call(addr, "POST", "/v1/fetch", &json!({"funcs": ["B"]})).0,
        503
    );
    server.restart().unwrap();
    ibex_testkit::wait::until_true("inserts to work again", || {
        call(addr, "POST", "/v1/jobs", &json!({"func": "B", "arg": "3"})).0 == 201
    })
    .unwrap();
    let (_, jobs) = call(
        addr,
        "POST",
        "/v1/fetch",
        &json!({"funcs": ["B"], "max": 10, "wait_ms": 5000}),
    );
    assert!(
        jobs["jobs"]
            .as_array()
            .unwrap()
            .iter()
            .any(|job| job["handle"] == first["handle"]),
        "{jobs}"
    );
    daemon.stop().unwrap();
}
