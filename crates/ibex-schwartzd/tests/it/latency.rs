//! How soon a waiting worker hears of a job, whoever inserted it.

use crate::Case;
use ibex_schwartz::{Client, Job};
use serde_json::json;
use std::time::{Duration, Instant};

/// Far above what is measured on a quiet machine, far below any poll of a second.
const SOON: Duration = Duration::from_millis(500);

#[test]
fn an_insert_over_http_wakes_a_waiting_fetch() {
    let case = Case::start(&[]);
    let mut all = Vec::new();
    for n in 0..20 {
        let waits = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let jobs = case.fetch("W", 20_000);
                (jobs, Instant::now())
            });
            ibex_testkit::wait::until_true("the fetch to wait", || {
                case.daemon.metric("ibex_schwartzd_fetch_waiters").unwrap() > 0.5
            })
            .unwrap();
            case.insert(&json!({"func": "W", "arg": format!("{n}")}));
            let inserted = Instant::now();
            let (jobs, at) = waiting.join().unwrap();
            assert_eq!(jobs[0]["arg"], format!("{n}"));
            case.finish(&jobs[0], "complete", json!({}));
            at.saturating_duration_since(inserted)
        });
        all.push(waits);
    }
    // Half of them, so that a machine with other work to do fails nothing: without a wake-up the tick would serve them, each after half a second.
    all.sort();
    assert!(all[10] < SOON, "{all:?}");
    case.daemon.stop().unwrap();
}

#[test]
fn an_insert_of_another_program_into_the_file_is_told_by_the_kernel() {
    // No poll would come in time.
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
    let mut all = Vec::new();
    for _ in 0..10 {
        let waits = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let jobs = case.fetch("Foreign", 20_000);
                (jobs, Instant::now())
            });
            ibex_testkit::wait::until_true("the fetch to wait", || {
                case.daemon.metric("ibex_schwartzd_fetch_waiters").unwrap() > 0.5
            })
            .unwrap();
            runtime
                .block_on(client.insert(Job::new("Foreign", "x")))
                .unwrap();
            let inserted = Instant::now();
            let (jobs, at) = waiting.join().unwrap();
            assert_eq!(jobs.len(), 1);
            at.saturating_duration_since(inserted)
        });
        all.push(waits);
    }
    // The tick of a second alone would give half a second.
    all.sort();
    assert!(all[4] < SOON / 2, "{all:?}");
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
        ibex_testkit::wait::until_true("all fetches to wait", || {
            case.daemon.metric("ibex_schwartzd_fetch_waiters").unwrap() > 29.5
        })
        .unwrap();
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
