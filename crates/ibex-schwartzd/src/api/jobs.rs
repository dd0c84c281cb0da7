//! Jobs in, and jobs looked at: insert, list, status, cancel, change.

use super::App;
use crate::http::{Refusal, Reply, json_body, ok, query_pairs, reply};
use ::http::{Request, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::body::Incoming;
use ibex_schwartz::{
    Change, Handle, Inserted, Job, Query, State, Status, StoredJob, When, storable,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Instant;

/// Jobs of one insert: a transaction of some milliseconds.
pub(super) const JOBS_MAX: usize = 10_000;
/// Jobs of one page.
const PAGE_MAX: u32 = 1000;
/// Bytes of all arguments of one page: each job has an equal share. They are read by the database as far as that and no further.
const PAGE_ARG_BYTES: u32 = 16 << 20;
/// Bytes of an argument that a page shows when the caller does not say.
const ARG_BYTES: u32 = 4096;

/// A job as callers write it.
#[derive(Debug, Deserialize)]
pub(super) struct JobIn {
    func: String,
    arg: Option<String>,
    arg_b64: Option<String>,
    args: Option<Value>,
    format: Option<String>,
    uniqkey: Option<String>,
    coalesce: Option<String>,
    priority: Option<u16>,
    run_after: Option<u64>,
    delay: Option<u64>,
}

/// Reads one job.
pub(crate) fn job_in(value: Value, arg_bytes_max: usize) -> Result<Job, Refusal> {
    let asked = super::wide::asked(&value)?;
    let job: JobIn =
        serde_json::from_value(value).map_err(|error| Refusal::bad_request(error.to_string()))?;
    let arg = argument(&job)?;
    if arg.len() > arg_bytes_max {
        return Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("an argument has at most {arg_bytes_max} bytes"),
        ));
    }
    let mut new = Job::new(job.func, arg);
    if let Some(key) = job.uniqkey {
        new = new.uniqkey(key);
    }
    if let Some(value) = job.coalesce {
        new = new.coalesce(value);
    }
    if let Some(priority) = job.priority {
        new = new.priority(priority);
    }
    new = match (job.run_after, job.delay) {
        (None, None) => new,
        (Some(epoch), None) => new.run_after(epoch),
        (None, Some(seconds)) => new.delay(seconds),
        (Some(_), Some(_)) => {
            return Err(Refusal::bad_request(
                "run_after and delay exclude each other",
            ));
        }
    };
    if let Some(asked) = asked {
        new = super::wide::options_in(new, asked)?;
    }
    new.check()?;
    Ok(new)
}

fn argument(job: &JobIn) -> Result<Bytes, Refusal> {
    let format = job.format.as_deref().unwrap_or("json");
    match (&job.arg, &job.arg_b64, &job.args) {
        (None, None, None) => Ok(Bytes::new()),
        (Some(text), None, None) => Ok(Bytes::from(text.clone())),
        (None, Some(text), None) => STANDARD
            .decode(text)
            .map(Bytes::from)
            .map_err(|_| Refusal::bad_request("arg_b64 is no base64")),
        (None, None, Some(value)) => match format {
            "json" => Ok(Bytes::from(value.to_string())),
            "storable" => storable::encode(value)
                .map(Bytes::from)
                .map_err(|error| Refusal::bad_request(error.to_string())),
            _ => Err(Refusal::bad_request("format is json or storable")),
        },
        _ => Err(Refusal::bad_request(
            "arg, arg_b64 and args exclude each other",
        )),
    }
}

/// The argument as callers read it: bytes always, text when it is text, structure when it is one.
pub(crate) fn argument_out(arg: &[u8], into: &mut Map<String, Value>) {
    into.insert("arg_b64".to_owned(), STANDARD.encode(arg).into());
    if storable::is_frozen(arg) {
        match storable::decode(arg) {
            Ok(value) => {
                into.insert("format".to_owned(), "storable".into());
                into.insert("args".to_owned(), value);
            }
            Err(_) => drop(into.insert("format".to_owned(), "bytes".into())),
        }
        return;
    }
    let Ok(text) = std::str::from_utf8(arg) else {
        into.insert("format".to_owned(), "bytes".into());
        return;
    };
    into.insert("arg".to_owned(), text.into());
    match serde_json::from_str::<Value>(text) {
        Ok(value) if value.is_array() || value.is_object() => {
            into.insert("format".to_owned(), "json".into());
            into.insert("args".to_owned(), value);
        }
        Ok(_) | Err(_) => drop(into.insert("format".to_owned(), "text".into())),
    }
}

/// A result as callers read it: JSON if it is some, else text.
pub(super) fn result_out(result: &[u8]) -> Value {
    serde_json::from_slice(result)
        .unwrap_or_else(|_| String::from_utf8_lossy(result).into_owned().into())
}

/// The fields every answer about a job has.
pub(super) fn job_out(handle: &Handle, job: &StoredJob) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("handle".to_owned(), handle.to_string().into());
    out.insert("jobid".to_owned(), job.jobid.into());
    out.insert("func".to_owned(), job.funcname.clone().into());
    out.insert("uniqkey".to_owned(), job.uniqkey.clone().into());
    out.insert("coalesce".to_owned(), job.coalesce.clone().into());
    out.insert("priority".to_owned(), job.priority.into());
    out.insert("run_after".to_owned(), job.run_after.into());
    out.insert("insert_time".to_owned(), job.insert_time.into());
    if job.is_encrypted {
        out.insert("encrypted".to_owned(), true.into());
        if !job.sealed.is_empty() {
            out.insert("sealed_b64".to_owned(), STANDARD.encode(&job.sealed).into());
        }
    } else if job.is_cut {
        argument_cut(job, &mut out);
    } else {
        argument_out(&job.arg, &mut out);
    }
    out
}

/// The beginning of an argument: how long it is, and what it begins with as text when it is some.
fn argument_cut(job: &StoredJob, into: &mut Map<String, Value>) {
    into.insert("arg_cut".to_owned(), true.into());
    into.insert("arg_bytes".to_owned(), job.arg_bytes.into());
    into.insert("arg_b64".to_owned(), STANDARD.encode(&job.arg).into());
    let text = match std::str::from_utf8(&job.arg) {
        Ok(text) => Some(text),
        // A character of at most four bytes may have been cut.
        Err(error) if error.valid_up_to() + 4 > job.arg.len() => {
            std::str::from_utf8(job.arg.get(..error.valid_up_to()).unwrap_or_default()).ok()
        }
        Err(_) => None,
    };
    let is_text = !storable::is_frozen(&job.arg) && text.is_some();
    if let Some(text) = text.filter(|_| is_text) {
        into.insert("arg".to_owned(), text.into());
    }
    let format = if is_text { "text" } else { "bytes" };
    into.insert("format".to_owned(), format.into());
}

/// Which run it is, and the failed ones before it.
fn runs_out(status: &Status, is_running: bool, out: &mut Map<String, Value>) {
    // Errors are cleaned after a week, and runs of Perl workers are nowhere else.
    let recorded = status.attempts.last().map_or(0, |run| run.number);
    let failed = recorded.max(u32::try_from(status.failures.len()).unwrap_or(u32::MAX));
    let attempt = failed.saturating_add(u32::from(is_running));
    out.insert("attempt".to_owned(), attempt.into());
    let attempts = status.attempts.iter().map(
        |run| json!({ "attempt": run.number, "ended_at": run.ended_at, "message": run.message }),
    );
    out.insert("attempts".to_owned(), attempts.collect::<Vec<_>>().into());
}

/// Bytes of each argument of a page, so that all together are at most [`PAGE_ARG_BYTES`].
fn arg_share(asked: Option<u32>, limit: u32) -> u32 {
    asked
        .unwrap_or(ARG_BYTES)
        .min(PAGE_ARG_BYTES / limit.max(1))
}

/// The fields of the answer to one insert.
pub(super) fn inserted_out(inserted: &Inserted) -> Value {
    let handle = inserted.handle();
    json!({
        "handle": handle.map(ToString::to_string), "jobid": handle.map(Handle::jobid), "duplicate": inserted.is_duplicate(),
    })
}

/// An insert with a key that is pending: what the caller wants then.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnDuplicate {
    Tell,
    Refuse,
    Replace,
}

impl App {
    pub(crate) fn arg_bytes_max(&self) -> usize {
        self.config.load().max_arg_size.as_usize()
    }

    /// Wakes and pokes for one inserted job; the answer's fields.
    pub(crate) fn inserted(&self, func: &str, inserted: &Inserted) -> Value {
        let labels = self.metrics.func(func);
        match inserted {
            Inserted::New(handle) => {
                self.metrics.inserted.get_or_create(&labels).inc();
                self.events.tell("inserted", func, handle);
                self.hub.wake(func, 1);
                self.poker.poke(func, handle);
            }
            Inserted::Duplicate(_) => {
                self.metrics.duplicates.get_or_create(&labels).inc();
            }
        }
        inserted_out(inserted)
    }

    pub(super) async fn insert(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        if self.hub.closing.is_cancelled() {
            return Err(Refusal::shutting_down());
        }
        let started = Instant::now();
        let on_duplicate = match query_pairs(request.uri().query())
            .get("on_duplicate")
            .map(String::as_str)
        {
            None => OnDuplicate::Tell,
            Some("error") => OnDuplicate::Refuse,
            Some("replace") => OnDuplicate::Replace,
            Some(_) => return Err(Refusal::bad_request("on_duplicate is error or replace")),
        };
        let trace = crate::trace::of(request.headers());
        let mut body = json_body(request.into_body()).await?;
        if let Some(trace) = trace {
            crate::trace::give(&mut body, &trace);
        }
        let is_atomic = body.get("atomic").and_then(Value::as_bool).unwrap_or(false);
        let outcome = match body.get("jobs") {
            None => {
                self.insert_one(job_in(body, self.arg_bytes_max())?, on_duplicate)
                    .await
            }
            Some(Value::Array(list)) => self.insert_list(list.clone(), is_atomic).await,
            Some(_) => Err(Refusal::bad_request("jobs is a list")),
        };
        self.metrics
            .insert_seconds
            .observe(started.elapsed().as_secs_f64());
        outcome
    }

    async fn insert_one(&self, job: Job, on_duplicate: OnDuplicate) -> Result<Reply, Refusal> {
        let inserted = self.client.insert(job.clone()).await?;
        let answer = self.inserted(job.funcname(), &inserted);
        let Inserted::Duplicate(pending) = inserted else {
            return Ok(reply(StatusCode::CREATED, &answer));
        };
        match (on_duplicate, pending) {
            (OnDuplicate::Refuse, _) => Err(Refusal::new(
                StatusCode::CONFLICT,
                "conflict",
                "a job with this key is pending",
            )),
            (OnDuplicate::Replace, Some(handle)) => {
                let change = Change {
                    run_after: Some(job.when()),
                    priority: job.priority_value(),
                    arg: Some(job.arg().clone()),
                };
                self.client.change(&handle, &change).await?;
                self.hub.wake(job.funcname(), 1);
                Ok(ok(&answer))
            }
            (OnDuplicate::Tell | OnDuplicate::Replace, _) => Ok(ok(&answer)),
        }
    }

    async fn insert_list(&self, list: Vec<Value>, is_atomic: bool) -> Result<Reply, Refusal> {
        if list.len() > JOBS_MAX {
            return Err(Refusal::bad_request(format!(
                "at most {JOBS_MAX} jobs at a time"
            )));
        }
        let arg_bytes_max = self.arg_bytes_max();
        let read: Vec<Result<Job, Refusal>> = list
            .into_iter()
            .map(|value| job_in(value, arg_bytes_max))
            .collect();
        let mut names = Vec::new();
        let mut jobs = Vec::new();
        for (index, one) in read.iter().enumerate() {
            match one {
                Ok(job) => {
                    names.push(job.funcname().to_owned());
                    jobs.push(job.clone());
                }
                Err(refusal) if is_atomic => {
                    return Err(Refusal {
                        message: format!("job {index}: {}", refusal.message),
                        status: refusal.status,
                        code: refusal.code,
                    });
                }
                Err(_) => {}
            }
        }
        let inserted: Vec<Inserted> = if jobs.is_empty() {
            Vec::new()
        } else if is_atomic {
            self.client
                .insert_all(jobs)
                .await?
                .into_iter()
                .map(Inserted::New)
                .collect()
        } else {
            self.client.insert_each(jobs).await?
        };
        let mut answers = names
            .iter()
            .zip(&inserted)
            .map(|(func, inserted)| self.inserted(func, inserted));
        let out: Vec<Value> = read
            .iter()
            .map(|one| match one {
                Ok(_) => answers.next().unwrap_or_else(|| json!({})),
                Err(refusal) => json!({ "error": refusal.to_json() }),
            })
            .collect();
        Ok(reply(StatusCode::CREATED, &json!({ "jobs": out })))
    }

    pub(super) async fn status(&self, handle: Handle) -> Result<Reply, Refusal> {
        let status = self.client.status(&handle).await?;
        let failures: Vec<Value> = status
            .failures
            .iter()
            .map(|failure| json!({ "time": failure.time, "message": failure.message }))
            .collect();
        let mut out = match &status.pending {
            Some((job, _)) => job_out(&handle, job),
            None => Map::from_iter([
                ("handle".to_owned(), handle.to_string().into()),
                ("jobid".to_owned(), handle.jobid().into()),
            ]),
        };
        let state = match (&status.pending, &status.ended, status.exit_status) {
            (Some((_, state)), ..) => state.as_str(),
            (None, Some(ended), _) => ended.state.as_str(),
            (None, None, Some(0)) => "completed",
            (None, None, Some(_)) => "failed",
            (None, None, None) => {
                return Err(Refusal::not_found("no such job, or nothing is kept of it"));
            }
        };
        if let Some(ended) = &status.ended {
            out.insert("func".to_owned(), ended.funcname.clone().into());
            out.insert("finished_at".to_owned(), ended.finished_at.into());
            if let Some(arg) = self.client.ended_arg(&handle).await? {
                argument_out(&arg, &mut out);
            }
        }
        out.insert("state".to_owned(), state.into());
        runs_out(&status, state == "grabbed", &mut out);
        out.insert(
            "grabbed_until".to_owned(),
            status
                .pending
                .as_ref()
                .map(|(job, _)| job.grabbed_until)
                .into(),
        );
        out.insert("exit_status".to_owned(), status.exit_status.into());
        out.insert("failures".to_owned(), failures.into());
        if !status.past.is_empty() {
            let past = status.past.iter();
            let past: Vec<Value> = past
                .map(|(time, message)| json!({ "time": time, "message": message }))
                .collect();
            out.insert("past".to_owned(), past.into());
        }
        if let Some(result) = &status.result {
            out.insert("result".to_owned(), result_out(result));
        }
        if let Some(wide) = &status.wide {
            super::wide::wide_out(wide, &mut out);
        }
        super::wide::notes_out(&status.notes, &mut out);
        Ok(ok(&Value::Object(out)))
    }

    pub(super) async fn list(&self, request: &Request<Incoming>) -> Result<Reply, Refusal> {
        let pairs = query_pairs(request.uri().query());
        let number = |name: &str| match pairs.get(name) {
            Some(text) => text
                .parse::<u32>()
                .map(Some)
                .map_err(|_| Refusal::bad_request(format!("{name} is a number"))),
            None => Ok(None),
        };
        if let Some(state @ ("failed" | "cancelled" | "expired" | "completed")) =
            pairs.get("state").map(String::as_str)
        {
            let limit = number("limit")?.unwrap_or(50).clamp(1, PAGE_MAX);
            let ended = self
                .client
                .ended(state, pairs.get("func").map(String::as_str), limit)
                .await?;
            let out: Vec<Value> = ended
                .iter()
                .map(|job| {
                    json!({
                        "handle": job.handle.to_string(), "jobid": job.handle.jobid(), "func": job.funcname, "state": job.state,
                        "attempt": job.attempts, "finished_at": job.finished_at,
                    })
                })
                .collect();
            return Ok(ok(&json!({ "jobs": out })));
        }
        let state = match pairs.get("state").map(String::as_str) {
            None => None,
            Some("ready") => Some(State::Ready),
            Some("grabbed") => Some(State::Grabbed),
            Some("scheduled") => Some(State::Scheduled),
            Some("blocked") => Some(State::Blocked),
            Some(_) => {
                return Err(Refusal::bad_request(
                    "state is ready, grabbed, scheduled, blocked, completed, failed, cancelled or expired",
                ));
            }
        };
        let after = match pairs.get("after") {
            Some(handle) => super::parse_handle(handle)?.jobid(),
            None => 0,
        };
        let limit = number("limit")?.unwrap_or(50).clamp(1, PAGE_MAX);
        let query = Query {
            arg_bytes: Some(arg_share(number("arg_bytes")?, limit)),
            tag: pairs.get("tag").cloned(),
            funcs: pairs
                .get("func")
                .map(|func| vec![func.clone()])
                .unwrap_or_default(),
            coalesce: pairs.get("coalesce").cloned(),
            coalesce_prefix: pairs.get("coalesce_prefix").cloned(),
            state,
            jobid: None,
            after,
            limit,
        };
        let jobs = self.client.list(&query).await?;
        let out: Vec<Value> = jobs
            .iter()
            .map(|(handle, job, state)| {
                let mut out = job_out(handle, job);
                out.insert("state".to_owned(), state.as_str().into());
                out.insert("grabbed_until".to_owned(), job.grabbed_until.into());
                Value::Object(out)
            })
            .collect();
        Ok(ok(&json!({ "jobs": out })))
    }

    pub(crate) async fn cancel(&self, handle: Handle) -> Result<Reply, Refusal> {
        match self.client.cancel(&handle).await {
            Ok(()) => Ok(ok(&json!({ "state": "cancelled" }))),
            Err(ibex_schwartz::Error::Grabbed(_))
                if self.leases.cancel(handle.database(), handle.jobid()) =>
            {
                Ok(ok(&json!({ "state": "grabbed", "cancel_requested": true })))
            }
            // The worker of another daemon hears of it with its next heartbeat there.
            Err(ibex_schwartz::Error::Grabbed(_))
                if self.client.stop_daemon_run(&handle).await? =>
            {
                Ok(ok(&json!({ "state": "grabbed", "cancel_requested": true })))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A job that failed for good or was cancelled, ready again.
    pub(super) async fn retry(&self, handle: &Handle) -> Result<Reply, Refusal> {
        self.client.retry(handle).await?;
        self.look_now();
        Ok(ok(
            &json!({ "handle": handle.to_string(), "state": "ready" }),
        ))
    }

    pub(super) async fn change(
        &self,
        handle: Handle,
        request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        #[derive(Deserialize)]
        struct ChangeIn {
            run_after: Option<u64>,
            delay: Option<u64>,
            priority: Option<u16>,
            arg: Option<String>,
            arg_b64: Option<String>,
        }
        let body = json_body(request.into_body()).await?;
        let new: ChangeIn = serde_json::from_value(body)
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
        let run_after = match (new.run_after, new.delay) {
            (None, None) => None,
            (Some(epoch), None) => Some(When::At(epoch)),
            (None, Some(seconds)) => Some(When::In(seconds)),
            (Some(_), Some(_)) => {
                return Err(Refusal::bad_request(
                    "run_after and delay exclude each other",
                ));
            }
        };
        let arg = match (new.arg, new.arg_b64) {
            (None, None) => None,
            (Some(text), None) => Some(Bytes::from(text)),
            (None, Some(text)) => Some(
                STANDARD
                    .decode(text)
                    .map(Bytes::from)
                    .map_err(|_| Refusal::bad_request("arg_b64 is no base64"))?,
            ),
            (Some(_), Some(_)) => {
                return Err(Refusal::bad_request("arg and arg_b64 exclude each other"));
            }
        };
        if arg
            .as_ref()
            .is_some_and(|arg| arg.len() > self.arg_bytes_max())
        {
            return Err(Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_large",
                "argument is too large",
            ));
        }
        let mut probe = Job::new("probe", "");
        if let Some(When::At(epoch)) = run_after {
            probe = probe.run_after(epoch);
        }
        if let Some(When::In(seconds)) = run_after {
            probe = probe.delay(seconds);
        }
        probe.check()?;
        self.client
            .change(
                &handle,
                &Change {
                    run_after,
                    priority: new.priority,
                    arg,
                },
            )
            .await?;
        self.look_now();
        Ok(ok(&json!({ "handle": handle.to_string() })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(job: Value) -> &'static str {
        job_in(job, 100).unwrap_err().code
    }

    #[test]
    fn jobs_that_are_none() {
        assert_eq!(refused(json!({})), "bad_request");
        assert_eq!(refused(json!([])), "bad_request");
        assert_eq!(refused(json!({"func": ""})), "bad_request");
        assert_eq!(refused(json!({"func": "f", "arg": 5})), "bad_request");
        assert_eq!(
            refused(json!({"func": "f", "priority": 65536})),
            "bad_request"
        );
        assert_eq!(refused(json!({"func": "f", "priority": -1})), "bad_request");
        assert_eq!(refused(json!({"func": "f", "delay": -1})), "bad_request");
        assert_eq!(
            refused(json!({"func": "f", "run_after": 4_294_967_295_u64})),
            "bad_request"
        );
        assert_eq!(
            refused(json!({"func": "f", "delay": 1, "run_after": 1})),
            "bad_request"
        );
        assert_eq!(
            refused(json!({"func": "f", "arg": "a", "args": []})),
            "bad_request"
        );
        assert_eq!(refused(json!({"func": "f", "arg_b64": "?"})), "bad_request");
        assert_eq!(
            refused(json!({"func": "f", "args": 5, "format": "storable"})),
            "bad_request"
        );
        assert_eq!(
            refused(json!({"func": "f", "backoff": "slow", "arg": "x"})),
            "bad_request"
        );
        assert_eq!(
            refused(json!({"func": "f", "arg": "x".repeat(101)})),
            "too_large"
        );
        assert!(
            job_in(
                json!({"func": "f", "arg": "x".repeat(100), "colour": "red"}),
                100
            )
            .is_ok()
        );
    }

    #[test]
    fn a_page_of_arguments_is_bounded_whatever_is_asked_for() {
        for limit in [0, 1, 7, 50, PAGE_MAX] {
            for asked in [None, Some(0), Some(1), Some(1 << 23), Some(u32::MAX)] {
                let share = arg_share(asked, limit);
                assert!(u64::from(share) * u64::from(limit) <= u64::from(PAGE_ARG_BYTES));
            }
        }
        assert_eq!(arg_share(Some(8 << 20), 1), 8 << 20, "one is shown whole");
        assert_eq!(arg_share(None, 50), ARG_BYTES);
    }

    #[test]
    fn cut_arguments_say_so_and_end_between_characters() {
        let cut = |arg: &[u8]| {
            let job = StoredJob {
                jobid: 1,
                funcid: 1,
                funcname: "f".to_owned(),
                arg: Bytes::copy_from_slice(arg),
                uniqkey: None,
                coalesce: None,
                insert_time: None,
                run_after: 0,
                grabbed_until: 0,
                priority: None,
                arg_bytes: 1000,
                is_encrypted: false,
                sealed: Bytes::new(),
                is_cut: true,
            };
            let mut out = Map::new();
            argument_cut(&job, &mut out);
            Value::Object(out)
        };
        let smiles = cut("☺☺".get(..3).unwrap_or_default().as_bytes());
        assert_eq!(
            (&smiles["arg"], &smiles["arg_cut"]),
            (&json!("☺"), &json!(true))
        );
        assert_eq!(cut(&"☺☺".as_bytes()[..5])["arg"], "☺");
        assert_eq!(cut(&[0xff; 9])["format"], "bytes");
        assert_eq!(cut(b"{\"a\":")["arg_bytes"], 1000);
    }

    #[test]
    fn arguments_are_shown_as_what_they_are() {
        let shown = |arg: &[u8]| {
            let mut out = Map::new();
            argument_out(arg, &mut out);
            Value::Object(out)
        };
        assert_eq!(
            shown(b"plain"),
            json!({"arg": "plain", "arg_b64": "cGxhaW4=", "format": "text"})
        );
        assert_eq!(
            shown(b"[1]"),
            json!({"arg": "[1]", "arg_b64": "WzFd", "args": [1], "format": "json"})
        );
        assert_eq!(
            shown(&[0xff]),
            json!({"arg_b64": "/w==", "format": "bytes"})
        );
        assert_eq!(
            shown(&storable::encode(&json!({"a": 1})).unwrap())["args"],
            json!({"a": 1})
        );
    }
}
