//! Functions with their depths, the newest failures, databases, workers.

use super::App;
use crate::http::{Refusal, Reply, ok, query_pairs};
use crate::orders::Order;
use ::http::Request;
use hyper::body::Incoming;
use ibex_schwartz::Error;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Failures of one answer.
const ERRORS_MAX: u32 = 1000;

/// Workers of one answer, a database.
const WORKERS_MAX: u32 = 10_000;

impl App {
    pub(super) async fn funcs(&self) -> Result<Reply, Refusal> {
        // Asked now, so that a caller sees what it has just done.
        let counts = crate::upkeep::count(self).await?;
        let mut funcs = Vec::with_capacity(counts.len());
        for count in counts.iter() {
            let settings = self.client.func_settings(&count.funcname).await?;
            let since = self.metrics.since(&count.funcname);
            funcs.push(json!({
                "func": count.funcname, "ready": count.ready, "grabbed": count.grabbed, "scheduled": count.scheduled,
                "blocked": count.blocked, "oldest_ready_age": count.oldest_ready_age, "paused": count.paused_until.is_some(),
                "paused_until": count.paused_until.filter(|until| *until < ibex_schwartz::PARKED), "settings": super::settings::settings_out(&settings),
                "since_start": {
                    "inserted": since.inserted, "grabbed": since.grabbed, "completed": since.completed, "failed": since.failed,
                    "retried": since.retried, "expired": since.expired, "run_seconds": since.run_seconds,
                },
            }));
        }
        let up = self.started.elapsed().as_secs();
        Ok(ok(&json!({ "funcs": funcs, "up_seconds": up })))
    }

    /// GET /v1/databases: what this daemon knows without asking them.
    pub(super) fn databases(&self) -> Reply {
        let seats = self.client.databases().iter().zip(&self.seats);
        let out: Vec<Value> = seats
            .map(|(database, seat)| {
                json!({
                    "address": database.address(), "handles": database.hash(), "up": !database.is_down(), "leads": seat.leads(),
                })
            })
            .collect();
        ok(&json!({ "databases": out, "daemon": self.name }))
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
        let mut out = Vec::with_capacity(errors.len());
        let mut names: BTreeMap<(String, u32), Option<String>> = BTreeMap::new();
        for (handle, failure) in &errors {
            let place = (handle.database().to_owned(), failure.funcid);
            if !names.contains_key(&place) {
                let name = self.client.func_of(handle, failure.funcid).await?;
                names.insert(place.clone(), name);
            }
            let func = names.get(&place).cloned().flatten();
            out.push(json!({
                "time": failure.time, "jobid": failure.jobid, "handle": handle.to_string(), "func": func, "message": failure.message,
            }));
        }
        Ok(ok(&json!({ "errors": out })))
    }

    /// GET /v1/workers: those all daemons on the databases know, with the runs that this one handed out.
    pub(super) async fn workers(&self) -> Result<Reply, Refusal> {
        let mut runs: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for held in self.leases.all() {
            let run = json!({
                "func": held.func, "jobid": held.jobid, "handle": self.client.handle(&held.database, held.jobid).to_string(),
                "attempt": held.attempt, "lease_expires": held.value, "running_seconds": held.since.elapsed().as_secs(),
            });
            runs.entry(held.worker).or_default().push(run);
        }
        let mut workers: BTreeMap<String, Value> = BTreeMap::new();
        match self.client.known_workers(WORKERS_MAX).await {
            Ok(known) => {
                for one in known {
                    let is_dead = one.is_dead();
                    let value = json!({
                        "daemon": one.daemon, "funcs": one.funcs, "running": one.running, "age": one.age,
                        "state": if is_dead { "dead" } else { "alive" },
                    });
                    workers.insert(one.id, value);
                }
            }
            // Without tables of our own it is this daemon's alone.
            Err(Error::Config(_)) => {}
            Err(error) => return Err(error.into()),
        }
        for (name, asked) in self.roster.all() {
            let value = json!({
                "daemon": self.name, "funcs": asked.funcs, "running": runs.get(&name).map_or(0, Vec::len),
                "age": asked.age(), "state": "alive",
            });
            workers.insert(name, value);
        }
        for name in runs.keys() {
            // Of a worker that is busy with its jobs nothing is heard; its leases say that it lives.
            let entry = workers
                .entry(name.clone())
                .or_insert_with(|| json!({ "daemon": self.name, "funcs": [], "age": null }));
            if let Some(entry) = entry.as_object_mut() {
                entry.insert("state".to_owned(), "alive".into());
                entry.insert(
                    "running".to_owned(),
                    runs.get(name).map_or(0, Vec::len).into(),
                );
            }
        }
        let out: Vec<Value> = workers
            .into_iter()
            .filter_map(|(name, mut value)| {
                let entry = value.as_object_mut()?;
                let wanted = self.orders.of(&name).map_or("", Order::as_str);
                entry.insert("wanted".to_owned(), wanted.into());
                entry.insert(
                    "jobs".to_owned(),
                    runs.remove(&name).unwrap_or_default().into(),
                );
                entry.insert("worker".to_owned(), name.into());
                Some(value)
            })
            .collect();
        Ok(ok(&json!({ "workers": out })))
    }

    /// A worker that says goodbye gives its jobs back at once.
    pub(super) async fn goodbye(&self, worker: &str) -> Result<Reply, Refusal> {
        if worker.is_empty() {
            return Err(Refusal::bad_request("a worker has a name"));
        }
        self.roster.forget(worker);
        let held = self.leases.take_worker(worker);
        let count = held.len();
        self.give_back(held).await;
        Ok(ok(&json!({ "released": count })))
    }
}
