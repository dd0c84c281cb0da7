//! Who wakes a waiting worker. Each test goes on until one fetch was woken in the way it is about, however often the second's tick was faster on a busy
//! machine; without that way it would go on for ever. How long it takes is measured by `cargo xtask bench schwartz`.

use crate::{Case, until_waiting};
use ibex_schwartz::{Client, Job};
use ibex_testkit::wait::until_true;
use serde_json::json;

fn pickups(case: &Case, by: &str) -> f64 {
    case.daemon
        .metric(&format!("ibex_schwartzd_pickups_total{{by=\"{by}\"}}"))
        .unwrap_or(0.0)
}

#[test]
fn an_insert_over_http_wakes_a_waiting_fetch() {
    let case = Case::start(&[]);
    until_true("an insert to wake a fetch", || {
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| case.fetch("W", 60_000));
            until_waiting(&case, 1);
            let handle = case.insert(&json!({"func": "W"}));
            let jobs = waiting.join().unwrap();
            assert_eq!(jobs[0]["handle"], handle);
            case.finish(&jobs[0], "complete", json!({}));
        });
        pickups(&case, "own") > 0.0
    })
    .unwrap();
    case.daemon.stop().unwrap();
}

#[test]
fn an_insert_of_another_program_into_the_file_is_told_by_the_kernel() {
    // No poll comes while the test runs.
    foreign_inserts(&[("poll_interval", "1m"), ("sqlite_poll_interval", "1m")]);
}

#[test]
fn an_insert_of_another_program_is_polled_for_where_the_kernel_tells_nothing() {
    foreign_inserts(&[("watch_files", "false")]);
}

fn foreign_inserts(settings: &[(&str, &str)]) {
    let case = Case::start(settings);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = runtime.block_on(Client::open([case.url()])).unwrap();
    until_true("an insert of another program to wake a fetch", || {
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| case.fetch("Foreign", 60_000));
            until_waiting(&case, 1);
            runtime
                .block_on(client.insert(Job::new("Foreign", "x")))
                .unwrap();
            assert_eq!(waiting.join().unwrap().len(), 1);
        });
        pickups(&case, "foreign") > 0.0
    })
    .unwrap();
    case.daemon.stop().unwrap();
}

#[test]
fn one_job_wakes_one_of_many_waiters_and_none_is_forgotten() {
    const WORKERS: usize = 30;
    let case = Case::start(&[]);
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..WORKERS)
            .map(|_| {
                scope.spawn(|| {
                    let answer = case.ok(
                        "POST",
                        "/v1/fetch",
                        &json!({"funcs": ["M"], "max": 1, "wait_ms": 30_000}),
                    );
                    answer["jobs"][0]["handle"].as_str().unwrap().to_owned()
                })
            })
            .collect();
        until_waiting(&case, WORKERS);
        let jobs: Vec<_> = (0..WORKERS)
            .map(|n| json!({"func": "M", "arg": format!("{n}")}))
            .collect();
        case.ok("POST", "/v1/jobs", &json!({ "jobs": jobs }));
        let mut handles: Vec<String> = waiting
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        handles.sort();
        handles.dedup();
        assert_eq!(handles.len(), WORKERS, "each job went to one worker");
    });
    case.daemon.stop().unwrap();
}
