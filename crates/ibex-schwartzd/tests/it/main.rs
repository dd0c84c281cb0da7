//! Integration tests of `ibex-schwartzd`: the real binary over HTTP.
//!
//! One binary; a module per subject.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::unwrap_in_result,
    clippy::panic,
    clippy::print_stderr,
    reason = "helpers of tests"
)]

mod calls;
mod control;
mod dashboard;
mod faults;
mod fuzzed;
mod galera;
mod gearman;
mod hostile;
mod interface;
mod latency;
mod once;
mod poke;
mod policies;
mod remote;
mod tls;
mod watching;
mod wide;

use ibex_testkit::Daemon;
use ibex_testkit::http::{Request, Response};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// The daemon on a fresh SQLite file.
pub(crate) struct Case {
    pub(crate) daemon: Daemon,
    pub(crate) addr: SocketAddr,
    pub(crate) dir: tempfile::TempDir,
}

impl Case {
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("jobs.db").display());
        // Jobs that a test leaves unfinished are not waited for long at the end.
        let mut builder = Daemon::builder("ibex-schwartzd")
            .set("store.url", &url)
            .set("shutdown.grace", "2s");
        for (key, value) in settings {
            builder = builder.set(key, value);
        }
        let daemon = builder.start().unwrap();
        let addr = daemon.addr("schwartz").unwrap();
        Self { daemon, addr, dir }
    }

    pub(crate) fn url(&self) -> String {
        format!("sqlite:{}", self.dir.path().join("jobs.db").display())
    }

    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        call(self.addr, method, path, body)
    }

    /// A call that must succeed.
    pub(crate) fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(method, path, body);
        assert!(
            (200..300).contains(&status),
            "{method} {path}: {status} {answer}"
        );
        answer
    }

    /// Inserts a job and answers its handle.
    pub(crate) fn insert(&self, job: &Value) -> String {
        self.ok("POST", "/v1/jobs", job)["handle"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    pub(crate) fn fetch(&self, func: &str, wait_ms: u64) -> Vec<Value> {
        let answer = self.ok(
            "POST",
            "/v1/fetch",
            &json!({ "worker": "w", "funcs": [func], "max": 100, "wait_ms": wait_ms }),
        );
        answer["jobs"].as_array().unwrap().clone()
    }

    pub(crate) fn finish(&self, job: &Value, op: &str, more: Value) -> (u16, Value) {
        let mut body = more;
        body["lease"] = job["lease"].clone();
        self.call(
            "POST",
            &format!("/v1/jobs/{}/{op}", job["handle"].as_str().unwrap()),
            &body,
        )
    }
}

/// Returns when so many fetches wait.
pub(crate) fn until_waiting(case: &Case, count: usize) {
    ibex_testkit::wait::until_true("fetches to wait", || {
        let waiting = case.daemon.metric("ibex_schwartzd_fetch_waiters").unwrap();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small count"
        )]
        let waiting = waiting as usize;
        waiting >= count
    })
    .unwrap();
}

pub(crate) fn send(addr: SocketAddr, request: &Request) -> Response {
    request.send(addr).unwrap()
}

pub(crate) fn call(addr: SocketAddr, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let mut request = Request::new(method, path).header("content-type", "application/json");
    if !body.is_null() {
        request = request.body(body.to_string());
    }
    let answer = send(addr, &request);
    (
        answer.status,
        serde_json::from_slice(&answer.body).unwrap_or(Value::Null),
    )
}
