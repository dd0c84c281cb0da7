//! What a job says of its own runs, over HTTP: the engine's own rules are tested in the library, here that callers reach them, and that the daemon
//! ends runs that take too long.

use crate::Case;
use ibex_testkit::wait::until_true;
use serde_json::{Value, json};

fn status(case: &Case, job: &Value) -> Value {
    let handle = job["handle"].as_str().unwrap();
    case.ok("GET", &format!("/v1/jobs/{handle}"), &Value::Null)
}

#[test]
fn a_run_that_takes_too_long_has_failed_whatever_its_worker_says() {
    let case = Case::start(&[]);
    case.insert(&json!({"func": "Slow", "timeout_s": 1, "backoff": [0, 5000], "max_attempts": 3}));
    let first = &case.fetch("Slow", 60_000)[0];
    assert_eq!(
        (&first["timeout_s"], &first["attempt"]),
        (&json!(1), &json!(1))
    );
    // The job comes again by itself while its worker goes on saying that it lives.
    until_true("the run to be ended", || {
        case.finish(first, "extend", json!({"grab_for": 5000})).0 == 409
    })
    .unwrap();
    let second = &case.fetch("Slow", 60_000)[0];
    assert_eq!(second["attempt"], 2);
    let shown = status(&case, second);
    assert_eq!(shown["failures"][0]["message"], "timeout");
    assert_eq!(
        (&shown["attempt"], &shown["attempts"][0]["message"]),
        (&json!(2), &json!("timeout"))
    );
    let (code, answer) = case.finish(second, "fail", json!({"message": "by itself"}));
    let now = second["lease_expires"].as_u64().unwrap() - 60;
    let wait = answer["run_after"].as_u64().unwrap() - now;
    assert_eq!((code, wait / 1000), (200, 5), "the job's second delay");
    case.daemon.stop().unwrap();
}

#[test]
fn the_call_the_job_the_function_and_the_worker_have_their_say_in_this_order() {
    let case = Case::start(&[]);
    let delay = |job: Value, more: Value, finish: Value| {
        let handle = case.insert(&job);
        let mut fetch = json!({"worker": "w", "funcs": ["Say"], "wait_ms": 60_000});
        fetch
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let job = case.ok("POST", "/v1/fetch", &fetch)["jobs"][0].clone();
        let (code, answer) = case.finish(&job, "fail", finish);
        assert_eq!(code, 200, "{answer}");
        let now = job["lease_expires"].as_u64().unwrap() - 60;
        let delay = answer["run_after"].as_u64().map(|at| (at - now) / 1000);
        if delay.is_some() {
            case.ok("DELETE", &format!("/v1/jobs/{handle}"), &Value::Null);
        }
        delay
    };
    let plain = || json!({"func": "Say"});
    let own = || json!({"func": "Say", "backoff": 3000});
    let worker = || json!({"backoff": {"first": 5000, "most": 9000}, "max_attempts": 9});
    let otherwise = || json!({"otherwise": {"retry_in": 6000, "max_attempts": 9}});
    assert_eq!(
        delay(plain(), json!({}), json!({})),
        Some(0),
        "the daemon's"
    );
    assert_eq!(delay(plain(), worker(), json!({})), Some(5), "the fetch's");
    assert_eq!(
        delay(plain(), worker(), otherwise()),
        Some(6),
        "the worker's, with the call"
    );
    assert_eq!(delay(own(), worker(), otherwise()), Some(3), "the job's");
    assert_eq!(
        delay(own(), worker(), json!({"retry_in": 2000})),
        Some(2),
        "the call's"
    );
    case.ok(
        "PUT",
        "/v1/funcs/Say",
        &json!({"backoff": 4000, "max_attempts": 2}),
    );
    assert_eq!(
        case.ok("GET", "/v1/funcs/Say", &Value::Null)["settings"]["backoff"],
        json!([4000])
    );
    until_true("the daemon to know of the settings", || {
        delay(plain(), worker(), otherwise()) == Some(4)
    })
    .unwrap();
    assert_eq!(delay(own(), json!({}), json!({})), Some(3), "the job's");
    let last = json!({"max_attempts": 1});
    case.ok("PUT", "/v1/funcs/Say", &json!({}));
    until_true("the settings to be gone", || {
        delay(plain(), last.clone(), json!({})).is_none()
    })
    .unwrap();
    let refused = json!({"funcs": ["Say"], "max_attempts": 0});
    assert_eq!(case.call("POST", "/v1/fetch", &refused).0, 400);
    case.daemon.stop().unwrap();
}

#[test]
fn tags_progress_and_how_long_an_exit_status_is_kept_are_reached() {
    let case = Case::start(&[]);
    let job = json!({"func": "T", "args": {"n": 1}, "tags": ["tenant:7", "red"], "keep_exit_status_for": 0, "meta": {"a": 1}});
    let handle = case.insert(&job);
    case.insert(&json!({"func": "T", "tags": ["tenant:8"]}));
    let found = case.ok("GET", "/v1/jobs?tag=tenant%3A7", &Value::Null);
    assert_eq!(found["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(found["jobs"][0]["handle"], handle.as_str());
    let taken = case.fetch("T", 60_000);
    let ours = taken
        .iter()
        .find(|job| job["handle"] == handle.as_str())
        .unwrap();
    let progress = json!({"grab_for": 60, "progress": {"percent": 40}});
    assert_eq!(case.finish(ours, "extend", progress).0, 200);
    let shown = status(&case, ours);
    assert_eq!(shown["progress"], json!({"percent": 40}));
    assert_eq!(
        (&shown["tags"], &shown["meta"]),
        (&json!(["red", "tenant:7"]), &json!({"a": 1}))
    );
    assert_eq!(shown["keep_exit_status_for"], 0);
    let large = json!({"grab_for": 60, "progress": "x".repeat(65_536)});
    assert_eq!(case.finish(ours, "extend", large).0, 400);
    assert_eq!(case.finish(ours, "complete", json!({})).0, 200);
    let gone = case.call("GET", &format!("/v1/jobs/{handle}"), &Value::Null);
    assert_eq!(gone.0, 404, "nothing is kept of it");
    // Many at once: the job's word goes before the daemon's, the call's before it.
    let keeps = |func: &str, more: &Value| {
        let jobs = json!({"jobs": [{"func": func, "keep_exit_status_for": 0}, {"func": func}]});
        let made = case.ok("POST", "/v1/jobs", &jobs);
        let results: Vec<Value> = case
            .fetch(func, 60_000)
            .iter()
            .map(|job| {
                let mut one =
                    json!({"handle": job["handle"], "lease": job["lease"], "op": "complete"});
                one.as_object_mut()
                    .unwrap()
                    .extend(more.as_object().unwrap().clone());
                one
            })
            .collect();
        case.ok("POST", "/v1/finish", &json!({ "results": results }));
        [0, 1].map(|n| {
            let handle = made["jobs"][n]["handle"].as_str().unwrap();
            case.call("GET", &format!("/v1/jobs/{handle}"), &Value::Null)
                .0
        })
    };
    assert_eq!(keeps("K1", &json!({})), [404, 200]);
    assert_eq!(
        keeps("K2", &json!({"keep_exit_status_for": 100})),
        [200, 200]
    );
    assert_eq!(keeps("K3", &json!({"keep_exit_status_for": 0})), [404, 404]);
    assert_eq!(
        keeps("K4", &json!({"otherwise": {"keep_exit_status_for": 0}})),
        [404, 404]
    );
    case.daemon.stop().unwrap();
}

/// 48 MiB of arguments make no page of more than 4 KiB each unless the caller wants more, and never one of all.
#[test]
fn a_page_of_jobs_shows_the_beginnings_of_arguments() {
    let case = Case::start(&[]);
    for n in 0..12 {
        case.insert(&json!({"func": "Big", "arg": format!("{n:02}").repeat(2 << 20)}));
    }
    case.insert(&json!({"func": "Big", "args": {"small": true}}));
    let page = |query: &str| {
        let page = case.ok("GET", &format!("/v1/jobs?func=Big{query}"), &Value::Null);
        assert!(page.to_string().len() < 48 << 20);
        page["jobs"].as_array().unwrap().clone()
    };
    let jobs = page("");
    assert_eq!(jobs.len(), 13);
    assert_eq!(
        (&jobs[0]["arg_cut"], &jobs[0]["arg_bytes"]),
        (&json!(true), &json!(4 << 20))
    );
    assert_eq!(jobs[3]["arg"].as_str().unwrap().len(), 4096);
    assert_eq!(
        (&jobs[12]["args"], &jobs[12]["arg_cut"]),
        (&json!({"small": true}), &Value::Null)
    );
    let all = page("&limit=1000&arg_bytes=8388608");
    let shown: usize = all
        .iter()
        .map(|job| job["arg"].as_str().unwrap().len())
        .sum();
    assert!(shown <= 16 << 20, "{shown}");
    let whole = page("&limit=1&arg_bytes=8388608");
    assert_eq!(whole[0]["arg"].as_str().unwrap().len(), 4 << 20);
    let none = page("&arg_bytes=0");
    assert_eq!(
        (&none[0]["arg"], &none[12]["arg"]),
        (&json!(""), &json!(""))
    );
    case.daemon.stop().unwrap();
}
