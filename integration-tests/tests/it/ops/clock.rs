//! The wall clock steps by an hour, forwards and back, under a running daemon: nothing ends, nothing stalls, what is asked is answered, and it reloads.
//!
//! libfaketime shows the daemon another date; the monotonic clock goes on, as it does when a real clock is set.

use std::path::{Path, PathBuf};

use ibex_testkit::{Daemon, skip, wait};
use integration_tests::ping;
use rustix::process::Signal;

use super::Case;

const HOUR: i64 = 3600;
/// By which a date that was read a moment ago may differ.
const SLACK: i64 = 120;

fn library() -> Option<PathBuf> {
    let dirs = std::fs::read_dir("/usr/lib").ok()?;
    let found = dirs
        .flatten()
        .map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.is_file());
    if found.is_none() {
        skip::skip("libfaketime is not installed");
    }
    found
}

/// The daemon's date, in seconds from ours: that of its last line in the log. (The Date of its answers waits for a clock that was set back.)
fn offset(daemon: &Daemon) -> Option<i64> {
    let log = daemon.log_text();
    let line: serde_json::Value = serde_json::from_str(log.lines().last()?).ok()?;
    let date: jiff::Timestamp = line["ts"].as_str()?.parse().ok()?;
    Some(date.as_second() - jiff::Timestamp::now().as_second())
}

fn uptime(daemon: &Daemon) -> f64 {
    let status = daemon.admin_get("/-/status").unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.body).unwrap();
    status["uptime_seconds"].as_f64().unwrap()
}

/// Shows the daemon a clock that is `seconds` from ours, and waits until it has seen it.
fn step(daemon: &Daemon, file: &Path, seconds: i64) {
    std::fs::write(file, format!("{seconds:+}s\n")).unwrap();
    wait::until_true("the daemon sees the step", || {
        daemon.signal(Signal::HUP).unwrap();
        offset(daemon).is_some_and(|offset| (offset - seconds).abs() < SLACK)
    })
    .unwrap();
}

pub(super) fn steps(short: &str) {
    let Some(library) = library() else { return };
    let case = Case::new(short);
    let file = case.dir.path().join("clock");
    std::fs::write(&file, "+0s\n").unwrap();
    let daemon = case
        .builder()
        .env("LD_PRELOAD", &library)
        .env("FAKETIME_TIMESTAMP_FILE", &file)
        .env("FAKETIME_NO_CACHE", "1")
        .env("DONT_FAKE_MONOTONIC", "1")
        .start()
        .unwrap();
    let ping = ping::of(short).unwrap();
    let addr = daemon.addr(case.member.listener).unwrap();
    for seconds in [HOUR, 0, -HOUR, HOUR] {
        step(&daemon, &file, seconds);
        ping.fresh(addr).unwrap();
        for path in ["/healthz", "/readyz"] {
            let answer = daemon.admin_get(path).unwrap();
            assert_eq!(
                answer.status,
                200,
                "{path} at {seconds} s: {}",
                answer.text()
            );
        }
    }
    // What is measured in spans knows of no step.
    assert!(uptime(&daemon) < HOUR as f64);
    daemon.stop().unwrap();
}
