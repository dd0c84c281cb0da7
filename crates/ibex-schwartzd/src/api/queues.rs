//! Functions with their depths, the newest failures, the workers that hold leases.

use super::App;
use crate::http::{Refusal, Reply, ok, query_pairs};
use ::http::Request;
use hyper::body::Incoming;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Failures of one answer.
const ERRORS_MAX: u32 = 1000;

impl App {
    pub(super) async fn funcs(&self) -> Result<Reply, Refusal> {
        let counts = self.client.counts().await?;
        self.metrics.depths(&counts);
        let mut funcs = Vec::with_capacity(counts.len());
        for count in &counts {
            let settings = self.client.func_settings(&count.funcname).await?;
            funcs.push(json!({
                    "func": count.funcname, "ready": count.ready, "grabbed": count.grabbed, "scheduled": count.scheduled,
                    "blocked": count.blocked, "oldest_ready_age": count.oldest_ready_age, "paused": count.paused_until.is_some(),
                    "paused_until": count.paused_until.filter(|until| *until < ibex_schwartz::PARKED), "settings": super::settings::settings_out(&settings),
            }));
        }
        self.depths.store(Arc::new(counts));
        Ok(ok(&json!({ "funcs": funcs })))
    }

    pub(super) async fn errors(&self, request: &Request<Incoming>) -> Result<Reply, Refusal> {
        let pairs = query_pairs(request.uri().query());
        let number = |name: &str| match pairs.get(name) {
            Some(text) => text
                .parse::<u64>()
                .map(Some)
                .map_err(|_| Refusal::bad_request(format!("{name} is a number"))),
            None => Ok(None),
        };
        let since = match number("inlast")? {
            Some(seconds) => self.client.time().await?.saturating_sub(seconds),
            None => 0,
        };
        let limit = u32::try_from(number("last")?.unwrap_or(100))
            .unwrap_or(u32::MAX)
            .clamp(1, ERRORS_MAX);
        let errors = self
            .client
            .errors(pairs.get("func").map(String::as_str), since, limit)
            .await?;
        let out: Vec<Value> = errors
            .iter()
            .map(|(handle, failure)| json!({ "time": failure.time, "jobid": failure.jobid, "handle": handle.to_string(), "message": failure.message }))
            .collect();
        Ok(ok(&json!({ "errors": out })))
    }

    pub(super) fn workers(&self) -> Reply {
        let mut workers: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for held in self.leases.all() {
            let run = json!({
                "func": held.func, "jobid": held.jobid, "attempt": held.attempt, "lease_expires": held.value,
                "running_seconds": held.since.elapsed().as_secs(),
            });
            workers.entry(held.worker).or_default().push(run);
        }
        let out: Vec<Value> = workers
            .into_iter()
            .map(|(worker, jobs)| json!({ "worker": worker, "jobs": jobs }))
            .collect();
        ok(&json!({ "workers": out }))
    }

    /// A worker that says goodbye gives its jobs back at once.
    pub(super) async fn goodbye(&self, worker: &str) -> Result<Reply, Refusal> {
        if worker.is_empty() {
            return Err(Refusal::bad_request("a worker has a name"));
        }
        let held = self.leases.take_worker(worker);
        let count = held.len();
        self.give_back(held).await;
        Ok(ok(&json!({ "released": count })))
    }
}
