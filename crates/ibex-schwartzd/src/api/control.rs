//! What operators do to functions and periodic jobs: pause, resume, bring failed jobs back, cron.
//!
//! Apart because none of it is a worker's or a producer's call.

use super::App;
use super::jobs::job_in;
use crate::http::{Refusal, Reply, json_body, ok, query_pairs, reply};
use ::http::{Request, StatusCode};
use hyper::body::Incoming;
use ibex_schwartz::{CatchUp, CronEntry, Database, Error, Handle, Query};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;

/// Jobs one call brings back.
const RETRIES_MAX: u32 = 1000;

/// Jobs one purge cancels, a transaction each: a few seconds.
const PURGED_MAX: u32 = 10_000;
/// Jobs it reads at a time.
const PURGE_PAGE: u32 = 50;

/// The smallest of the databases' last job numbers.
fn pages_end<A, B>(jobs: &[(Handle, A, B)]) -> Option<u64> {
    let mut ends = std::collections::BTreeMap::<&str, u64>::new();
    for (handle, ..) in jobs {
        let end = ends.entry(handle.database()).or_default();
        *end = handle.jobid().max(*end);
    }
    ends.into_values().min()
}

impl App {
    pub(super) async fn pause(
        &self,
        func: &str,
        request: &Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        let seconds = match query_pairs(request.uri().query()).get("for") {
            None => None,
            Some(text) => match text.parse::<u64>() {
                Ok(seconds) if seconds > 0 => Some(seconds),
                Ok(_) | Err(_) => {
                    return Err(Refusal::bad_request("for is a number of seconds from 1"));
                }
            },
        };
        self.client.pause(func, seconds).await?;
        tracing::info!(func, seconds, "function paused");
        Ok(ok(&json!({ "func": func, "paused": true })))
    }

    pub(super) async fn resume(&self, func: &str) -> Result<Reply, Refusal> {
        let was_paused = self.client.resume(func).await?;
        self.look_now();
        tracing::info!(func, was_paused, "function resumed");
        Ok(ok(
            &json!({ "func": func, "paused": false, "was_paused": was_paused }),
        ))
    }

    /// Jobs of a function nobody has are cancelled, up to a bound.
    pub(super) async fn purge(&self, func: &str) -> Result<Reply, Refusal> {
        let (mut purged, mut after) = (0_u32, 0);
        while purged < PURGED_MAX {
            let query = Query {
                funcs: vec![func.to_owned()],
                after,
                limit: PURGE_PAGE,
                ..Query::default()
            };
            let jobs = self.client.list(&query).await?;
            // Each database has a page; the next one begins behind the shortest of those that may go on.
            let Some(last) = pages_end(&jobs) else { break };
            for (handle, ..) in jobs.iter().filter(|(handle, ..)| handle.jobid() <= last) {
                match self.client.cancel(handle).await {
                    Ok(()) => {
                        purged += 1;
                        self.events.tell("cancelled", func, handle);
                    }
                    // A worker has it, or it is over.
                    Err(Error::Grabbed(_) | Error::NotFound(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            after = last;
        }
        tracing::info!(func, purged, "function purged");
        let more = purged >= PURGED_MAX;
        Ok(ok(&json!({ "func": func, "purged": purged, "more": more })))
    }

    /// Many failed jobs ready again.
    pub(super) async fn retry_failed(&self, request: Request<Incoming>) -> Result<Reply, Refusal> {
        #[derive(Deserialize)]
        struct RetryIn {
            func: Option<String>,
            limit: Option<u32>,
        }
        let asked: RetryIn = serde_json::from_value(json_body(request.into_body()).await?)
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
        let limit = asked.limit.unwrap_or(RETRIES_MAX);
        if !(1..=RETRIES_MAX).contains(&limit) {
            return Err(Refusal::bad_request(format!("limit is 1 to {RETRIES_MAX}")));
        }
        let (retried, duplicates) = self
            .client
            .retry_failed(asked.func.as_deref(), limit)
            .await?;
        self.look_now();
        Ok(ok(&json!({ "retried": retried, "duplicates": duplicates })))
    }

    /// Periodic jobs live in the first database.
    fn cron_database(&self) -> Result<&Database, Refusal> {
        self.client.databases().first().ok_or_else(|| {
            Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no_database",
                "no database",
            )
        })
    }

    pub(super) async fn cron_list(&self) -> Result<Reply, Refusal> {
        let entries = self.cron_database()?.cron_list().await?;
        let out: Vec<Value> = entries.iter().map(entry_out).collect();
        Ok(ok(&json!({ "cron": out })))
    }

    async fn cron_entry(&self, name: &str) -> Result<CronEntry, Refusal> {
        let entries = self.cron_database()?.cron_list().await?;
        entries
            .into_iter()
            .find(|entry| entry.name == name)
            .ok_or_else(|| Refusal::not_found("no periodic job of that name"))
    }

    pub(super) async fn cron_get(&self, name: &str) -> Result<Reply, Refusal> {
        Ok(ok(&entry_out(&self.cron_entry(name).await?)))
    }

    pub(super) async fn cron_put(
        &self,
        name: &str,
        request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        #[derive(Deserialize)]
        struct CronIn {
            spec: String,
            #[serde(default)]
            zone: String,
            catch_up: Option<String>,
            job: Value,
        }
        let new: CronIn = serde_json::from_value(json_body(request.into_body()).await?)
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
        if !new.job.get("run_after").is_none_or(Value::is_null) {
            return Err(Refusal::bad_request(
                "a periodic job has no run_after; delay is counted from each run",
            ));
        }
        job_in(new.job.clone(), self.arg_bytes_max())?;
        let catch_up = match new.catch_up.as_deref() {
            None => CatchUp::None,
            Some(word) => CatchUp::from_word(word)
                .ok_or_else(|| Refusal::bad_request("catch_up is none, one or all"))?,
        };
        let entry = self
            .cron_database()?
            .cron_put(name, &new.spec, &new.zone, catch_up, &new.job.to_string())
            .await?;
        Ok(ok(&entry_out(&entry)))
    }

    pub(super) async fn cron_delete(&self, name: &str) -> Result<Reply, Refusal> {
        if self.cron_database()?.cron_delete(name).await? {
            Ok(ok(&json!({})))
        } else {
            Err(Refusal::not_found("no periodic job of that name"))
        }
    }

    /// One run now; the schedule goes on as it was.
    pub(super) async fn cron_run(self: &Arc<Self>, name: &str) -> Result<Reply, Refusal> {
        let entry = self.cron_entry(name).await?;
        let job = self.cron_job(&entry)?;
        let inserted = self.client.insert(job.clone()).await?;
        Ok(reply(
            StatusCode::CREATED,
            &self.inserted(job.funcname(), &inserted),
        ))
    }

    /// The job of a periodic entry.
    pub(crate) fn cron_job(&self, entry: &CronEntry) -> Result<ibex_schwartz::Job, Refusal> {
        let template = crate::http::parse(entry.template.as_bytes())?;
        job_in(template, self.arg_bytes_max())
    }
}

fn entry_out(entry: &CronEntry) -> Value {
    json!({
        "name": entry.name, "spec": entry.spec, "zone": entry.zone, "catch_up": entry.catch_up.as_str(),
        "job": serde_json::from_str::<Value>(&entry.template).unwrap_or(Value::Null),
        "next_at": entry.next_at, "last_at": entry.last_at,
    })
}
