//! Jobs out and finished: fetch, complete, fail, decline, extend, replace, and many finishes at once.

use super::App;
use super::jobs::{job_in, job_out};
use super::wide::BackoffIn;
use crate::held::{Held, Token};
use crate::http::{Refusal, Reply, json_body, ok};
use ::http::{Request, StatusCode};
use hyper::body::Incoming;
use ibex_schwartz::limits::NAME_CHARS_MAX;
use ibex_schwartz::{
    Backoff, Error, Finish, Finished, Grab, GrabbedJob, Handle, Job, Only, RetryPolicy, Said, When,
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Jobs of one fetch.
const FETCH_MAX: usize = 1000;
/// Longest wait of a fetch; below the idle time-outs of usual balancers.
const WAIT_MAX: u64 = 60_000;
/// Finishes of one call.
const FINISHES_MAX: usize = 10_000;
/// A lease of a day; longer ones look like a job that hangs.
const GRAB_FOR_MAX: u64 = 86_400;
/// Longest delay of a retry.
const LATEST: u64 = ibex_schwartz::limits::RUN_AFTER_MAX / 2;

#[derive(Debug, Deserialize)]
struct FetchIn {
    worker: Option<String>,
    funcs: Vec<String>,
    max: Option<usize>,
    wait_ms: Option<u64>,
    grab_for: Option<u64>,
    prioritize: Option<bool>,
    floor: Option<u16>,
    coalesce: Option<CoalesceIn>,
    max_attempts: Option<u32>,
    backoff: Option<BackoffIn>,
}

#[derive(Debug, Deserialize)]
struct CoalesceIn {
    value: Option<String>,
    prefix: Option<String>,
}

/// One finish, as callers write it.
#[derive(Debug, Deserialize)]
struct FinishIn {
    handle: Option<String>,
    op: Option<String>,
    lease: Option<String>,
    message: Option<String>,
    exit_status: Option<u64>,
    result: Option<Value>,
    keep_exit_status_for: Option<u64>,
    retry_in: Option<u64>,
    permanent: Option<bool>,
    delay: Option<u64>,
    run_after: Option<u64>,
    grab_for: Option<u64>,
    jobs: Option<Vec<Value>>,
    progress: Option<Value>,
    otherwise: Option<OtherwiseIn>,
}

/// What the worker's function says; it counts where neither the call, the job nor its function says anything.
#[derive(Debug, Default, Deserialize)]
struct OtherwiseIn {
    max_attempts: Option<u32>,
    retry_in: Option<u64>,
    keep_exit_status_for: Option<u64>,
}

impl OtherwiseIn {
    /// The policy with what this changes of it.
    fn changed(&self, mut policy: RetryPolicy) -> RetryPolicy {
        if let Some(runs) = self.max_attempts {
            policy.max_retries = runs.saturating_sub(1);
        }
        if let Some(seconds) = self.retry_in {
            let seconds = seconds.min(LATEST);
            policy.retry_delay = Arc::new(move |_| seconds);
        }
        policy
    }
}

impl FinishIn {
    /// Seconds the exit status is kept where neither the job nor its function says.
    fn keep(&self, usual: u64) -> u64 {
        let otherwise = self.otherwise.as_ref();
        self.keep_exit_status_for
            .or(otherwise.and_then(|otherwise| otherwise.keep_exit_status_for))
            .unwrap_or(usual)
    }

    /// What the call says for itself, before the job, its function and its worker are asked.
    fn said(&self) -> Said {
        Said {
            retry_in: self.retry_in.map(|seconds| seconds.min(LATEST)),
            keep: self.keep_exit_status_for,
            progress: self.progress.as_ref().map(|value| value.to_string().into()),
        }
    }
}

impl App {
    /// A fetch as a request for jobs.
    pub(crate) fn want(
        &self,
        funcs: Vec<String>,
        max: usize,
        grab_for: Option<u64>,
    ) -> Result<Grab, Refusal> {
        if funcs.is_empty() || funcs.len() > 1000 {
            return Err(Refusal::bad_request("funcs names 1 to 1000 functions"));
        }
        // They are kept while the fetch waits.
        if funcs
            .iter()
            .any(|func| func.chars().count() > NAME_CHARS_MAX)
        {
            return Err(Refusal::bad_request(
                "a function's name has at most 255 characters",
            ));
        }
        if !(1..=FETCH_MAX).contains(&max) {
            return Err(Refusal::bad_request(format!("max is 1 to {FETCH_MAX}")));
        }
        let grab_for = grab_for.unwrap_or_else(|| self.config.load().grab_for.std().as_secs());
        if !(1..=GRAB_FOR_MAX).contains(&grab_for) {
            return Err(Refusal::bad_request(format!(
                "grab_for is 1 to {GRAB_FOR_MAX} seconds"
            )));
        }
        Ok(Grab {
            max,
            grab_for,
            record: self.config.load().count_lost,
            shuffle: false,
            ..Grab::new(funcs)
        })
    }

    pub(super) async fn fetch(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        let body = json_body(request.into_body()).await?;
        let asked: FetchIn = serde_json::from_value(body)
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
        let mut want = self.want(asked.funcs, asked.max.unwrap_or(1), asked.grab_for)?;
        want.prioritize = asked.prioritize.unwrap_or(false);
        want.floor = asked.floor;
        want.only = match asked.coalesce {
            None => Only::Any,
            Some(CoalesceIn {
                value: Some(value),
                prefix: None,
            }) => Only::Coalesce(value),
            Some(CoalesceIn {
                value: None,
                prefix: Some(prefix),
            }) => Only::CoalescePrefix(prefix),
            Some(_) => return Err(Refusal::bad_request("coalesce has a value or a prefix")),
        };
        let policy = self.policy_of(asked.max_attempts, asked.backoff)?;
        let is_long = match &want.only {
            Only::Coalesce(text) | Only::CoalescePrefix(text) => {
                text.chars().count() > NAME_CHARS_MAX
            }
            Only::Any | Only::Job(_) => false,
        };
        if is_long {
            return Err(Refusal::bad_request("coalesce has at most 255 characters"));
        }
        let wait = asked.wait_ms.unwrap_or(0);
        if wait > WAIT_MAX {
            return Err(Refusal::bad_request(format!(
                "wait_ms is at most {WAIT_MAX}"
            )));
        }
        let worker = asked.worker.unwrap_or_default();
        let wait = Duration::from_millis(wait);
        self.roster.saw(&worker, &want.funcs, wait)?;
        let told =
            |order: crate::orders::Order| Ok(ok(&json!({ "jobs": [], "state": order.as_str() })));
        if let Some(order) = self.orders.of(&worker) {
            return told(order);
        }
        let until = Instant::now() + wait;
        let jobs = tokio::select! {
            jobs = self.hub.fetch(&want, until) => jobs,
            order = self.orders.given(&worker) => return told(order),
        };
        let jobs = jobs.map_err(|error| Refusal::from(&*error))?;
        let out: Vec<Value> = jobs
            .iter()
            .map(|job| {
                let out = self.hand_out(job, &worker, want.grab_for, None);
                if let Some(policy) = &policy {
                    self.leases
                        .set_policy(job.handle.database(), job.job.jobid, policy.clone());
                }
                out
            })
            .collect();
        Ok(ok(&json!({ "jobs": out })))
    }

    /// What a worker says of failures; `None` when it says nothing.
    fn policy_of(
        &self,
        max_attempts: Option<u32>,
        backoff: Option<BackoffIn>,
    ) -> Result<Option<RetryPolicy>, Refusal> {
        if max_attempts.is_none() && backoff.is_none() {
            return Ok(None);
        }
        let mut policy = self.retry_policy();
        if let Some(runs) = max_attempts {
            if runs == 0 {
                return Err(Refusal::bad_request("max_attempts is 1 or more"));
            }
            policy.max_retries = runs - 1;
        }
        if let Some(asked) = backoff {
            // Checked as a job's own would be.
            let backoff = Backoff::from(asked);
            Job::new("probe", "").backoff(backoff.clone()).check()?;
            policy.retry_delay = Arc::new(move |failures| backoff.delay(failures));
        }
        Ok(Some(policy))
    }

    /// Notes the lease and writes the job as the worker gets it.
    pub(super) fn hand_out(
        &self,
        job: &GrabbedJob,
        worker: &str,
        grab_for: u64,
        stream: Option<u64>,
    ) -> Value {
        let token = self.note_out(job, worker, grab_for, stream);
        let mut out = job_out(&job.handle, &job.job);
        out.insert("attempt".to_owned(), job.attempt.into());
        out.insert(
            "max_attempts".to_owned(),
            job.max_attempts
                .unwrap_or_else(|| self.config.load().max_attempts)
                .into(),
        );
        if let Some(seconds) = job.timeout_s {
            out.insert("timeout_s".to_owned(), seconds.into());
        }
        if let Some(meta) = &job.meta {
            out.insert("meta".to_owned(), super::jobs::result_out(meta));
        }
        if let Some(trace) = &job.trace {
            out.insert("trace".to_owned(), trace.clone().into());
        }
        out.insert("lease".to_owned(), token.encode().into());
        out.insert("lease_expires".to_owned(), job.lease.into());
        Value::Object(out)
    }

    /// Notes and counts a lease that goes out.
    pub(crate) fn note_out(
        &self,
        job: &GrabbedJob,
        worker: &str,
        grab_for: u64,
        stream: Option<u64>,
    ) -> Token {
        self.metrics
            .grabbed
            .get_or_create(&self.metrics.func(&job.job.funcname))
            .inc();
        self.events.tell("grabbed", &job.job.funcname, &job.handle);
        self.leases.add(job, worker, grab_for, stream)
    }

    pub(super) async fn finish_one(
        self: &Arc<Self>,
        handle: Handle,
        op: &str,
        request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        let body = json_body(request.into_body()).await?;
        let finish: FinishIn = serde_json::from_value(body)
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
        Ok(ok(&self.finish(&handle, op, finish).await?))
    }

    pub(super) async fn finish_many(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Reply, Refusal> {
        #[derive(Deserialize)]
        struct ManyIn {
            results: Vec<FinishIn>,
        }
        let body = json_body(request.into_body()).await?;
        let many: ManyIn = serde_json::from_value(body)
            .map_err(|error| Refusal::bad_request(error.to_string()))?;
        if many.results.len() > FINISHES_MAX {
            return Err(Refusal::bad_request(format!(
                "at most {FINISHES_MAX} results at a time"
            )));
        }
        let mut answers: Vec<Value> = vec![Value::Null; many.results.len()];
        let mut plain: Vec<Plain> = Vec::new();
        for (index, finish) in many.results.into_iter().enumerate() {
            let handle = finish.handle.clone().unwrap_or_default();
            let outcome = match self.as_plain(index, &finish) {
                Some(one) => {
                    plain.push(one);
                    continue;
                }
                None => match super::parse_handle(&handle) {
                    Ok(parsed) => {
                        let op = finish.op.clone().unwrap_or_default();
                        self.finish(&parsed, &op, finish).await
                    }
                    Err(refusal) => Err(refusal),
                },
            };
            put(&mut answers, index, outcome_out(&handle, outcome));
        }
        self.complete_plain(plain, &mut answers).await;
        Ok(ok(&json!({ "results": answers })))
    }

    /// A complete with nothing special, which can share a transaction with others.
    fn as_plain(&self, index: usize, finish: &FinishIn) -> Option<Plain> {
        if finish.op.as_deref() != Some("complete")
            || finish.exit_status.unwrap_or(0) != 0
            || finish.result.is_some()
        {
            return None;
        }
        let handle: Handle = finish.handle.as_deref()?.parse().ok()?;
        let token = Token::decode(finish.lease.as_deref()?)
            .filter(|token| token.jobid == handle.jobid())?;
        let (value, held) = self.leases.value(handle.database(), token)?;
        let keep = finish.keep(self.config.load().keep_exit_status_for.std().as_secs());
        Some(Plain {
            index,
            handle,
            value,
            keep,
            is_said: finish.keep_exit_status_for.is_some(),
            held,
        })
    }

    /// Groups by database and keeping time, each group one transaction.
    async fn complete_plain(&self, plain: Vec<Plain>, answers: &mut [Value]) {
        let mut groups: std::collections::BTreeMap<(String, u64, bool), Vec<Plain>> =
            std::collections::BTreeMap::new();
        for one in plain {
            groups
                .entry((one.handle.database().to_owned(), one.keep, one.is_said))
                .or_default()
                .push(one);
        }
        for ((_, keep, is_said), group) in groups {
            let Some(first) = group.first() else { continue };
            let leases: Vec<(u64, u64)> = group
                .iter()
                .map(|one| (one.handle.jobid(), one.value))
                .collect();
            let done = match self.client.of(&first.handle) {
                Ok(database) if is_said => database.complete_many_keeping(&leases, keep).await,
                Ok(database) => database.complete_many(&leases, keep).await,
                Err(error) => Err(error),
            };
            match done {
                Ok(done) => {
                    for (one, is_done) in group.into_iter().zip(done) {
                        let outcome = if is_done {
                            Ok(Finished::Over)
                        } else {
                            Err(Error::LeaseLost(one.handle.jobid()))
                        };
                        let outcome = self
                            .settled(&one.handle, one.held.as_ref(), outcome, true)
                            .map(|finished| finished_out(&finished, true));
                        put(
                            answers,
                            one.index,
                            outcome_out(&one.handle.to_string(), outcome),
                        );
                    }
                }
                Err(error) => {
                    for one in group {
                        put(
                            answers,
                            one.index,
                            outcome_out(&one.handle.to_string(), Err(Refusal::from(&error))),
                        );
                    }
                }
            }
        }
    }

    async fn finish(&self, handle: &Handle, op: &str, finish: FinishIn) -> Result<Value, Refusal> {
        let Some(text) = &finish.lease else {
            return Err(Refusal::bad_request("lease is missing"));
        };
        let token = Token::decode(text).filter(|token| token.jobid == handle.jobid());
        let Some(token) = token else {
            return Err(Refusal::bad_request("lease is none of this job"));
        };
        let said = finish.said();
        let policy = self.leases.policy(handle.database(), token);
        let end = self.end(op, finish, policy)?;
        let is_complete = is_complete(&end);
        match self.end_run_said(handle, token, end, &said).await? {
            (Finished::Extended(until), cancel) => {
                let lease = Token {
                    value: until,
                    ..token
                }
                .encode();
                Ok(json!({ "lease_expires": until, "lease": lease, "cancel": cancel }))
            }
            (finished, _) => Ok(finished_out(&finished, is_complete)),
        }
    }

    /// Ends a run or makes its lease longer; answers what was done, and whether someone wants the run to stop.
    pub(crate) async fn end_run(
        &self,
        handle: &Handle,
        token: Token,
        end: Finish,
    ) -> Result<(Finished, bool), Refusal> {
        self.end_run_said(handle, token, end, &Said::default())
            .await
    }

    async fn end_run_said(
        &self,
        handle: &Handle,
        token: Token,
        end: Finish,
        said: &Said,
    ) -> Result<(Finished, bool), Refusal> {
        let Some((value, held)) = self.leases.value(handle.database(), token) else {
            self.metrics
                .lost(&self.leases.func(handle.database(), handle.jobid()));
            return Err(Refusal::from(Error::LeaseLost(handle.jobid())));
        };
        let database = self.client.of(handle)?.clone();
        let grab_for = if let Finish::Extend(seconds) = end {
            seconds
        } else {
            0
        };
        let is_stopped = grab_for > 0 && database.is_stopped(handle.jobid(), value).await?;
        let is_complete = is_complete(&end);
        let outcome = database
            .finish_job_said(handle.jobid(), value, end, said)
            .await;
        if let Ok(Finished::Extended(until)) = outcome {
            let cancel = self
                .leases
                .extended(handle.database(), handle.jobid(), until, grab_for);
            return Ok((Finished::Extended(until), cancel || is_stopped));
        }
        let finished = self.settled(handle, held.as_ref(), outcome, is_complete)?;
        Ok((finished, false))
    }

    /// Counts an end, forgets its lease, and wakes who may go on.
    fn settled(
        &self,
        handle: &Handle,
        held: Option<&Held>,
        outcome: Result<Finished, Error>,
        is_complete: bool,
    ) -> Result<Finished, Refusal> {
        let func = held.map_or("", |held| held.func.as_str());
        match &outcome {
            Err(Error::LeaseLost(_) | Error::NotFound(_)) => self.metrics.lost(func),
            Err(error) => return Err(Refusal::from(error)),
            Ok(_) => {}
        }
        self.leases.remove(handle.database(), handle.jobid());
        let finished = outcome?;
        let labels = self.metrics.func(func);
        if let Some(held) = held {
            self.metrics.ran(func, held.since.elapsed().as_secs_f64());
        }
        let kind = match &finished {
            Finished::Over if is_complete => Some("completed"),
            Finished::Over => Some("failed"),
            Finished::Retried { .. } => Some("retried"),
            Finished::Declined => Some("declined"),
            Finished::Replaced(_) => Some("replaced"),
            Finished::Extended(_) => None,
        };
        if let Some(kind) = kind {
            self.events.tell(kind, func, handle);
        }
        match &finished {
            Finished::Over if is_complete => {
                self.metrics.completed.get_or_create(&labels).inc();
            }
            Finished::Over => {
                self.metrics.failed.get_or_create(&labels).inc();
            }
            Finished::Retried { .. } => {
                self.metrics.retried.get_or_create(&labels).inc();
                self.hub.wake(func, 1);
            }
            Finished::Declined => self.hub.wake(func, 1),
            Finished::Extended(_) => {}
            Finished::Replaced(_) => {
                self.metrics.completed.get_or_create(&labels).inc();
                self.look_now();
            }
        }
        Ok(finished)
    }

    /// A call as an end of a run.
    fn end(
        &self,
        op: &str,
        finish: FinishIn,
        policy: Option<RetryPolicy>,
    ) -> Result<Finish, Refusal> {
        let config = self.config.load();
        let keep = finish.keep(config.keep_exit_status_for.std().as_secs());
        // COMPAT(theschwartz): the column is a SMALLINT; what does not fit is the largest that does.
        let status = u16::try_from(finish.exit_status.unwrap_or(0)).unwrap_or(u16::MAX);
        let when = match (finish.run_after, finish.delay) {
            (None, None) => None,
            (Some(epoch), None) if epoch <= ibex_schwartz::limits::RUN_AFTER_MAX => {
                Some(When::At(epoch))
            }
            (None, Some(seconds)) if seconds <= ibex_schwartz::limits::RUN_AFTER_MAX / 2 => {
                Some(When::In(seconds))
            }
            _ => {
                return Err(Refusal::bad_request(
                    "run_after or delay is beyond the end of time, or both are given",
                ));
            }
        };
        match op {
            "complete" => Ok(match finish.result {
                None => Finish::Complete { status, keep },
                Some(result) => Finish::CompleteWith {
                    status,
                    keep,
                    result: result.to_string().into(),
                },
            }),
            "fail" => {
                let retry = if finish.permanent.unwrap_or(false) {
                    RetryPolicy::permanent()
                } else {
                    let policy = policy.unwrap_or_else(|| self.retry_policy());
                    finish.otherwise.unwrap_or_default().changed(policy)
                };
                Ok(Finish::Fail {
                    message: finish.message.unwrap_or_default(),
                    status,
                    retry,
                    keep,
                })
            }
            // Without a time it is ready again at once: over HTTP nobody wants to wait for the lease.
            "decline" => Ok(Finish::Decline(Some(when.unwrap_or(When::Now)))),
            "extend" => {
                let grab_for = finish
                    .grab_for
                    .unwrap_or_else(|| config.grab_for.std().as_secs());
                if !(1..=GRAB_FOR_MAX).contains(&grab_for) {
                    return Err(Refusal::bad_request(format!(
                        "grab_for is 1 to {GRAB_FOR_MAX} seconds"
                    )));
                }
                Ok(Finish::Extend(grab_for))
            }
            "replace" => {
                let arg_bytes_max = config.max_arg_size.as_usize();
                let jobs = finish
                    .jobs
                    .unwrap_or_default()
                    .into_iter()
                    .map(|job| job_in(job, arg_bytes_max))
                    .collect::<Result<_, _>>()?;
                Ok(Finish::Replace { jobs, keep })
            }
            _ => Err(Refusal::not_found(
                "a job can be completed, failed, declined, extended or replaced",
            )),
        }
    }
}

fn is_complete(end: &Finish) -> bool {
    matches!(
        end,
        Finish::Complete { .. } | Finish::CompleteWith { .. } | Finish::Replace { .. }
    )
}

/// What a finish did, as callers read it.
fn finished_out(finished: &Finished, is_complete: bool) -> Value {
    match finished {
        Finished::Over if !is_complete => json!({ "retry": false }),
        Finished::Over | Finished::Declined => json!({}),
        Finished::Retried { run_after } => json!({ "retry": true, "run_after": run_after }),
        Finished::Extended(until) => json!({ "lease_expires": until, "cancel": false }),
        Finished::Replaced(handles) => {
            let jobs: Vec<Value> = handles
                .iter()
                .map(|handle| json!({ "handle": handle.to_string(), "jobid": handle.jobid() }))
                .collect();
            json!({ "jobs": jobs })
        }
    }
}

struct Plain {
    index: usize,
    handle: Handle,
    value: u64,
    keep: u64,
    /// The call said how long.
    is_said: bool,
    held: Option<Held>,
}

fn put(answers: &mut [Value], index: usize, answer: Value) {
    if let Some(place) = answers.get_mut(index) {
        *place = answer;
    }
}

/// One line of the answer to many finishes.
fn outcome_out(handle: &str, outcome: Result<Value, Refusal>) -> Value {
    match outcome {
        Ok(Value::Object(mut out)) => {
            out.insert("handle".to_owned(), handle.into());
            out.insert("status".to_owned(), "ok".into());
            Value::Object(out)
        }
        Ok(_) => json!({ "handle": handle, "status": "ok" }),
        Err(refusal) if refusal.status == StatusCode::NOT_FOUND => {
            json!({ "handle": handle, "status": "not_found" })
        }
        Err(refusal) => {
            json!({ "handle": handle, "status": refusal.code, "message": refusal.message })
        }
    }
}
