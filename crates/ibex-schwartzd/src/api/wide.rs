//! What jobs ask for beyond the classic columns, as callers write it; batches.
//!
//! Apart from `jobs` because a plain job is read without any of it.

use super::App;
use super::jobs::job_in;
use crate::http::{Refusal, Reply, json_body, ok, reply};
use ::http::{Request, StatusCode};
use hyper::body::Incoming;
use ibex_schwartz::{
    Backoff, Batch, BatchStatus, Concurrency, Handle, Inserted, Job, Merge, Notes, OnDeath, OnFail,
    Parent, Rate, Unique, UniqueBy, WideStatus,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Fields that make a job more than a classic row.
const FIELDS: [&str; 15] = [
    "concurrency",
    "rate",
    "unique",
    "depends_on",
    "batch",
    "expires_in",
    "max_attempts",
    "coalesce_merge",
    "meta",
    "trace",
    "backoff",
    "timeout_s",
    "tags",
    "tenant",
    "keep_exit_status_for",
];
/// Batches of one page.
const BATCHES_MAX: u32 = 100;

/// What a job asks for, as it was written.
#[derive(Debug, Deserialize)]
pub(super) struct OptionsIn {
    concurrency: Option<ConcurrencyIn>,
    rate: Option<RateIn>,
    unique: Option<UniqueIn>,
    depends_on: Option<Vec<ParentIn>>,
    batch: Option<String>,
    expires_in: Option<u64>,
    max_attempts: Option<u32>,
    coalesce_merge: Option<String>,
    meta: Option<Value>,
    trace: Option<String>,
    backoff: Option<BackoffIn>,
    timeout_s: Option<u64>,
    tags: Option<Vec<String>>,
    tenant: Option<TenantIn>,
    keep_exit_status_for: Option<u64>,
}

/// Whose a job is, and what it counts as.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum TenantIn {
    Key(String),
    With { key: String, cost: Option<u32> },
}

/// Delays between runs: the same each time, one after the other, or twice as many each time.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum BackoffIn {
    Seconds(u32),
    Steps(Vec<u32>),
    Doubling { first: u32, most: u32 },
}

impl From<BackoffIn> for Backoff {
    fn from(asked: BackoffIn) -> Self {
        match asked {
            BackoffIn::Seconds(seconds) => Self::fixed(seconds),
            BackoffIn::Steps(steps) => Self::Steps(steps),
            BackoffIn::Doubling { first, most } => Self::Doubling { first, most },
        }
    }
}

/// As callers write it.
pub(super) fn backoff_out(backoff: &Backoff) -> Value {
    match backoff {
        Backoff::Steps(steps) => steps.clone().into(),
        Backoff::Doubling { first, most } => json!({ "first": first, "most": most }),
    }
}

#[derive(Debug, Deserialize)]
struct ConcurrencyIn {
    key: String,
    limit: u32,
    on_fail: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RateIn {
    key: String,
    n: u32,
    per: u64,
}

#[derive(Debug, Deserialize)]
struct UniqueIn {
    by: Option<ByIn>,
    #[serde(rename = "for")]
    window: Option<u64>,
    states: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ByIn {
    Word(String),
    Fields(Vec<String>),
    Key { key: String },
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ParentIn {
    Job(String),
    With {
        job: String,
        on_death: Option<String>,
    },
}

fn word<T: Copy>(field: &str, word: &str, words: &[(&str, T)]) -> Result<T, Refusal> {
    let found = words.iter().find(|(known, _)| *known == word);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(known, _)| *known).collect();
        Refusal::bad_request(format!("{field} is {}", known.join(" or ")))
    })
}

/// Reads what a job asks for beyond its classic columns; nothing is read of a job that asks for nothing.
pub(super) fn asked(value: &Value) -> Result<Option<OptionsIn>, Refusal> {
    let asks = |field: &str| value.get(field).is_some_and(|field| !field.is_null());
    if !FIELDS.iter().any(|field| asks(field)) {
        return Ok(None);
    }
    OptionsIn::deserialize(value)
        .map(Some)
        .map_err(|error| Refusal::bad_request(error.to_string()))
}

/// Adds it to the job.
pub(super) fn options_in(mut job: Job, options: OptionsIn) -> Result<Job, Refusal> {
    if let Some(asked) = options.concurrency {
        let mut concurrency = Concurrency::new(asked.key, asked.limit);
        if let Some(on_fail) = &asked.on_fail {
            let words = [("block", OnFail::Block), ("skip", OnFail::Skip)];
            concurrency.on_fail = word("on_fail", on_fail, &words)?;
        }
        job = job.concurrency(concurrency);
    }
    if let Some(RateIn { key, n, per }) = options.rate {
        job = job.rate(Rate { key, jobs: n, per });
    }
    if let Some(unique) = options.unique {
        job = job.unique(unique_in(unique)?);
    }
    for parent in options.depends_on.into_iter().flatten() {
        let (parent, on_death) = match parent {
            ParentIn::Job(parent) => (parent, None),
            ParentIn::With { job, on_death } => (job, on_death),
        };
        let on_death = match on_death {
            Some(text) => word(
                "on_death",
                &text,
                &[("cancel", OnDeath::Cancel), ("run", OnDeath::Run)],
            )?,
            None => OnDeath::Cancel,
        };
        let parent = match parent.strip_prefix('#') {
            Some(index) => Parent::InList(index.parse().map_err(|_| {
                Refusal::bad_request("depends_on names handles or places of the list, \"#0\"")
            })?),
            None => Parent::Job(super::parse_handle(&parent)?),
        };
        job = job.depends_on(parent, on_death);
    }
    if let Some(batch) = &options.batch {
        job = job.batch(&super::parse_handle(batch)?);
    }
    if let Some(seconds) = options.expires_in {
        job = job.expires_in(seconds);
    }
    if let Some(meta) = options.meta {
        job = job.meta(meta.to_string());
    }
    if let Some(trace) = options.trace {
        job = job.trace(trace);
    }
    if let Some(runs) = options.max_attempts {
        job = job.max_attempts(runs);
    }
    if let Some(backoff) = options.backoff {
        job = job.backoff(backoff.into());
    }
    if let Some(seconds) = options.timeout_s {
        job = job.timeout(seconds);
    }
    if let Some(seconds) = options.keep_exit_status_for {
        job = job.keep_exit_status_for(seconds);
    }
    job = match options.tenant {
        None => job,
        Some(TenantIn::Key(key)) => job.tenant(key),
        Some(TenantIn::With { key, cost }) => job.tenant_cost(key, cost.unwrap_or(1)),
    };
    for tag in options.tags.into_iter().flatten() {
        job = job.tag(tag);
    }
    if let Some(text) = &options.coalesce_merge {
        let words = [
            ("append", Merge::Append),
            ("last", Merge::Last),
            ("max_delay", Merge::MaxDelay),
        ];
        job = job.merge(word("coalesce_merge", text, &words)?);
    }
    Ok(job)
}

fn unique_in(asked: UniqueIn) -> Result<Unique, Refusal> {
    let by = match asked.by {
        None => UniqueBy::Arg,
        Some(ByIn::Fields(fields)) => UniqueBy::Fields(fields),
        Some(ByIn::Key { key }) => UniqueBy::Key(key),
        Some(ByIn::Word(text)) if text == "args" => UniqueBy::Arg,
        Some(ByIn::Word(text)) if text == "func" => UniqueBy::Func,
        Some(ByIn::Word(_)) => {
            return Err(Refusal::bad_request(
                "unique.by is func, args, a list of fields or {\"key\"}",
            ));
        }
    };
    let mut unique = match asked.window {
        Some(seconds) => Unique::window(by, seconds),
        None => Unique::until_done(by),
    };
    if let Some(states) = asked.states {
        (unique.pending, unique.grabbed, unique.completed) = (false, false, false);
        for state in states {
            match state.as_str() {
                "pending" => unique.pending = true,
                "grabbed" => unique.grabbed = true,
                "completed" => unique.completed = true,
                _ => {
                    return Err(Refusal::bad_request(
                        "unique.states are pending, grabbed and completed",
                    ));
                }
            }
        }
    }
    Ok(unique)
}

/// What a status says beyond the classic row.
pub(super) fn wide_out(wide: &WideStatus, out: &mut Map<String, Value>) {
    if wide.is_parked {
        // The row's own says 4294967295 as long as it waits for its turn.
        out.insert("run_after".to_owned(), wide.due.into());
    }
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            out.insert(name.to_owned(), value);
        }
    };
    put("concurrency", wide.concurrency.clone().into());
    put("rate", wide.rate.clone().into());
    put("batch", wide.batch.as_ref().map(Handle::to_string).into());
    put("max_attempts", wide.max_attempts.into());
    put(
        "backoff",
        wide.backoff.as_ref().map_or(Value::Null, backoff_out),
    );
    put("timeout_s", wide.timeout_s.into());
    put("keep_exit_status_for", wide.keep_exit_status_for.into());
    if let Some((key, cost)) = &wide.tenant {
        put("tenant", json!({ "key": key, "cost": cost }));
    }
    if !wide.tags.is_empty() {
        put("tags", wide.tags.clone().into());
    }
    if !wide.parents.is_empty() {
        let parents: Vec<Value> = wide
            .parents
            .iter()
            .map(|parent| {
                let result = parent.result.as_deref().map(super::jobs::result_out);
                json!({ "handle": parent.handle.to_string(), "state": parent.state, "result": result })
            })
            .collect();
        put("parents", parents.into());
    }
}

/// What a job carries and how far its run is.
pub(super) fn notes_out(notes: &Notes, out: &mut Map<String, Value>) {
    for (name, note) in [("meta", &notes.meta), ("progress", &notes.progress)] {
        if let Some(note) = note {
            out.insert(name.to_owned(), super::jobs::result_out(note));
        }
    }
    if let Some(trace) = &notes.trace {
        out.insert("trace".to_owned(), trace.clone().into());
    }
}

fn batch_out(batch: &BatchStatus) -> Value {
    json!({
        "batch": batch.handle.to_string(), "parent": batch.parent.as_ref().map(Handle::to_string), "jobs": batch.jobs, "done": batch.done,
        "failed": batch.failed, "open": batch.is_open, "created_at": batch.created_at, "finished_at": batch.finished_at,
    })
}

impl App {
    /// A batch, with its first jobs in one transaction after it; it is closed unless it is to stay open.
    pub(super) async fn batch_make(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        #[derive(Deserialize)]
        struct BatchIn {
            parent: Option<String>,
            on_success: Option<Value>,
            on_death: Option<Value>,
            on_complete: Option<Value>,
            #[serde(default)]
            jobs: Vec<Value>,
            #[serde(default)]
            open: bool,
        }
        let asked: BatchIn = serde_json::from_value(json_body(request.into_body()).await?)
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
        let arg_bytes_max = self.arg_bytes_max();
        let callback = |job: Option<Value>| job.map(|job| job_in(job, arg_bytes_max)).transpose();
        let mut jobs = Vec::with_capacity(asked.jobs.len());
        for job in asked.jobs {
            jobs.push(job_in(job, arg_bytes_max)?);
        }
        let batch = self
            .client
            .batch(Batch {
                parent: asked
                    .parent
                    .as_deref()
                    .map(super::parse_handle)
                    .transpose()?,
                on_success: callback(asked.on_success)?,
                on_death: callback(asked.on_death)?,
                on_complete: callback(asked.on_complete)?,
            })
            .await?;
        let jobs: Vec<Job> = jobs.into_iter().map(|job| job.batch(&batch)).collect();
        let names: Vec<String> = jobs.iter().map(|job| job.funcname().to_owned()).collect();
        let handles = if jobs.is_empty() {
            Vec::new()
        } else {
            self.client.insert_all(jobs).await?
        };
        let out: Vec<Value> = names
            .iter()
            .zip(handles)
            .map(|(func, handle)| self.inserted(func, &Inserted::New(handle)))
            .collect();
        if !asked.open {
            self.client.close_batch(&batch).await?;
        }
        Ok(reply(
            StatusCode::CREATED,
            &json!({ "batch": batch.to_string(), "jobs": out }),
        ))
    }

    pub(super) async fn batch_close(&self, batch: &Handle) -> Result<Reply, Refusal> {
        self.client.close_batch(batch).await?;
        self.batch_get(batch).await
    }

    pub(super) async fn batch_get(&self, batch: &Handle) -> Result<Reply, Refusal> {
        Ok(ok(&batch_out(&self.client.batch_status(batch).await?)))
    }

    pub(super) async fn batch_list(&self) -> Result<Reply, Refusal> {
        let batches = self.client.batches(BATCHES_MAX).await?;
        let out: Vec<Value> = batches.iter().map(batch_out).collect();
        Ok(ok(&json!({ "batches": out })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(more: &Value) -> Result<Job, Refusal> {
        let mut job = json!({ "func": "f", "args": { "id": 1 } });
        if let (Some(job), Some(more)) = (job.as_object_mut(), more.as_object()) {
            job.extend(more.clone());
        }
        job_in(job, 100)
    }

    #[test]
    fn options_are_read_or_refused() {
        for good in [
            json!({"concurrency": {"key": "k", "limit": 1, "on_fail": "skip"}}),
            json!({"rate": {"key": "k", "n": 5, "per": 60}}),
            json!({"unique": {}}),
            json!({"unique": {"by": ["id"], "for": 60, "states": ["completed"]}}),
            json!({"unique": {"by": {"key": "k"}}}),
            json!({"unique": {"by": "func"}}),
            json!({"depends_on": ["#0", {"job": "#1", "on_death": "run"}]}),
            json!({"expires_in": 60, "max_attempts": 1}),
            json!({"meta": {"tenant": 7}, "trace": "00-1-2-01"}),
            json!({"coalesce": "c", "coalesce_merge": "append"}),
            json!({"rate": null, "batch": null, "backoff": null}),
            json!({"backoff": 0}),
            json!({"backoff": [1, 60, 3600], "timeout_s": 1, "keep_exit_status_for": 0}),
            json!({"backoff": {"first": 1, "most": 60}, "tags": ["a", "a", "☺"]}),
            json!({"tags": []}),
            json!({"tenant": "t"}),
            json!({"tenant": {"key": "t", "cost": 1000}}),
        ] {
            read(&good).unwrap();
        }
        for bad in [
            json!({"concurrency": {"key": "k"}}),
            json!({"concurrency": {"key": "k", "limit": 0}}),
            json!({"concurrency": {"key": "k", "limit": 1, "on_fail": "wait"}}),
            json!({"rate": {"key": "k", "n": 5, "per": 0}}),
            json!({"unique": {"by": "day"}}),
            json!({"unique": {"states": ["failed"]}}),
            json!({"unique": {"states": []}}),
            json!({"unique": {"states": ["completed"]}}),
            json!({"depends_on": ["#x"]}),
            json!({"depends_on": ["nobody"]}),
            json!({"depends_on": [{"job": "#1", "on_death": "weep"}]}),
            json!({"batch": "x"}),
            json!({"expires_in": 0}),
            json!({"max_attempts": 0}),
            json!({"backoff": []}),
            json!({"backoff": -1}),
            json!({"backoff": "slow"}),
            json!({"backoff": {"first": 0, "most": 60}}),
            json!({"backoff": {"first": 61, "most": 60}}),
            json!({"timeout_s": 0}),
            json!({"timeout_s": 1.5}),
            json!({"keep_exit_status_for": -1}),
            json!({"tags": [""]}),
            json!({"tags": ["x".repeat(65)]}),
            json!({"tags": "a"}),
            json!({"tenant": ""}),
            json!({"tenant": {"key": "t", "cost": 0}}),
            json!({"tenant": 7}),
            json!({"trace": "x".repeat(1025)}),
            json!({"meta": "x".repeat(65_536)}),
            json!({"coalesce_merge": "append"}),
            json!({"coalesce": "c", "coalesce_merge": "first"}),
        ] {
            assert_eq!(read(&bad).unwrap_err().code, "bad_request", "{bad}");
        }
    }
}
