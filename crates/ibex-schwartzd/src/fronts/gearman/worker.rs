//! The daemon as a worker of job servers: the queue's calls as functions, JSON in and out.
//!
//! COMPAT(theschwartz): names and answers are those of the original's unfinished server (`insert_job` answers the bare handle). What cannot be done is
//! WORK_EXCEPTION with the reason.

use crate::api::{App, argument_out, job_in};
use crate::held::Token;
use crate::http::Refusal;
use bytes::Bytes;
use ibex_gearman_client::{Config, Error, JobError, Worker, WorkerJob};
use ibex_schwartz::{Finish, Finished, Handle, RetryPolicy};
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;

/// Calls that run at once: they wait for databases, not for processors.
const CALLS_MAX: usize = 32;
/// Lease of a grab_job that does not say: such a worker cannot make it longer.
const GRAB_FOR: u64 = 3600;

/// Works until `stop`.
pub(super) async fn run(
    app: Arc<App>,
    servers: Vec<String>,
    stop: CancellationToken,
) -> Result<(), Error> {
    let mut worker = Worker::new(Config::new(servers))
        .id("ibex-schwartzd")
        .concurrency(CALLS_MAX);
    for name in [
        "insert_job",
        "insert_jobs",
        "grab_job",
        "mark_completed",
        "mark_failed",
        "get_failure_log",
        "get_status",
    ] {
        let app = Arc::clone(&app);
        worker = worker.function(name, move |job: WorkerJob| {
            let app = Arc::clone(&app);
            async move {
                app.called(name, job.workload())
                    .await
                    .map_err(|refusal| JobError::exception(refusal.message))
            }
        });
    }
    worker.run(stop).await
}

impl App {
    async fn called(self: &Arc<Self>, name: &str, workload: &[u8]) -> Result<Bytes, Refusal> {
        let asked = crate::http::parse(workload)?;
        let answer = match name {
            "insert_job" => {
                let handle = self.put_each(vec![self.called_job(asked)?]).await?.pop();
                return Ok(handle.map_or_else(Bytes::new, |handle| handle.to_string().into()));
            }
            "insert_jobs" => self.called_insert_jobs(asked).await?,
            "grab_job" => self.called_grab(&asked).await?,
            "mark_completed" => self.called_complete(&asked).await?,
            "mark_failed" => self.called_fail(&asked).await?,
            "get_failure_log" => {
                let status = self.client.status(&self.called_handle(&asked)?).await?;
                let log = status.failures.iter();
                log.map(|failure| json!({ "time": failure.time, "message": failure.message }))
                    .collect()
            }
            _ => {
                let status = self.client.status(&self.called_handle(&asked)?).await?;
                json!({ "exitstatus": status.exit_status })
            }
        };
        Ok(answer.to_string().into())
    }

    /// `funcname` or `job` is the function; an argument that is no text is kept as JSON.
    fn called_job(&self, mut asked: Value) -> Result<ibex_schwartz::Job, Refusal> {
        let Some(fields) = asked.as_object_mut() else {
            return Err(Refusal::bad_request("a job is an object"));
        };
        for name in ["funcname", "job"] {
            if let Some(func) = fields.remove(name) {
                fields.insert("func".to_owned(), func);
            }
        }
        if let Some(arg) = fields.remove("arg") {
            let name = if arg.is_string() { "arg" } else { "args" };
            fields.insert(name.to_owned(), arg);
        }
        job_in(asked, self.arg_bytes_max())
    }

    fn called_list(&self, list: Option<&Value>) -> Result<Vec<ibex_schwartz::Job>, Refusal> {
        match list {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(list)) => list
                .iter()
                .map(|job| self.called_job(job.clone()))
                .collect(),
            Some(_) => Err(Refusal::bad_request("jobs are a list")),
        }
    }

    async fn called_insert_jobs(&self, asked: Value) -> Result<Value, Refusal> {
        if self.hub.closing.is_cancelled() {
            return Err(Refusal::bad_request("this daemon stops"));
        }
        let jobs = self.called_list(Some(&asked))?;
        let handles = self.client.insert_all(jobs.clone()).await?;
        for (job, handle) in jobs.iter().zip(&handles) {
            self.inserted(
                job.funcname(),
                &ibex_schwartz::Inserted::New(handle.clone()),
            );
        }
        Ok(handles.iter().map(ToString::to_string).collect())
    }

    async fn called_grab(self: &Arc<Self>, asked: &Value) -> Result<Value, Refusal> {
        let names = asked.get("can_do").and_then(Value::as_array);
        let funcs: Vec<String> = names
            .into_iter()
            .flatten()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect();
        let grab_for = match asked.get("grab_for") {
            None | Some(Value::Null) => GRAB_FOR,
            Some(seconds) => seconds
                .as_u64()
                .ok_or_else(|| Refusal::bad_request("grab_for is a number of seconds"))?,
        };
        let want = self.want(funcs, 1, Some(grab_for))?;
        let jobs = self.hub.fetch(&want, Instant::now()).await;
        let Some(job) = jobs.map_err(|error| Refusal::from(&*error))?.pop() else {
            return Ok(Value::Null);
        };
        let token = self.note_out(&job, "gearman", grab_for, None);
        let mut out = Map::new();
        argument_out(&job.job.arg, &mut out);
        for (name, value) in [
            ("jobid", job.job.jobid.into()),
            ("job", Value::from(job.job.funcname)),
            ("handle", job.handle.to_string().into()),
            ("lease", token.encode().into()),
        ] {
            out.insert(name.to_owned(), value);
        }
        Ok(Value::Object(out))
    }

    /// `handle`, or `jobid` alone when there is one database.
    fn called_handle(&self, asked: &Value) -> Result<Handle, Refusal> {
        let wrong = || Refusal::bad_request("jobid or handle is missing");
        let text = |name: &str| asked.get(name).and_then(Value::as_str);
        if let Some(handle) =
            text("handle").or_else(|| text("jobid").filter(|text| text.contains('-')))
        {
            return Ok(handle.parse()?);
        }
        let jobid = match asked.get("jobid") {
            Some(Value::String(text)) => text.parse().ok(),
            Some(number) => number.as_u64(),
            None => None,
        };
        let jobid: u64 = jobid.ok_or_else(wrong)?;
        match self.client.databases() {
            [database] => Ok(self.client.handle(database, jobid)),
            _ => Err(Refusal::bad_request(
                "there are several databases: give the handle",
            )),
        }
    }

    /// The lease shown, or the one this daemon gave out for the job.
    fn called_lease(&self, asked: &Value) -> Result<(Handle, Token), Refusal> {
        let handle = self.called_handle(asked)?;
        let token = match asked.get("lease").and_then(Value::as_str) {
            Some(text) => Token::decode(text).filter(|token| token.jobid == handle.jobid()),
            None => self.leases.token(handle.database(), handle.jobid()),
        };
        let token =
            token.ok_or_else(|| Refusal::from(ibex_schwartz::Error::LeaseLost(handle.jobid())))?;
        Ok((handle, token))
    }

    async fn called_complete(&self, asked: &Value) -> Result<Value, Refusal> {
        let (handle, token) = self.called_lease(asked)?;
        let jobs = self.called_list(asked.get("replace_with"))?;
        let keep = self.config.load().keep_exit_status_for.std().as_secs();
        let end = if jobs.is_empty() {
            Finish::Complete { status: 0, keep }
        } else {
            Finish::Replace { jobs, keep }
        };
        let handles: Vec<String> = match self.end_run(&handle, token, end).await?.0 {
            Finished::Replaced(handles) => handles.iter().map(ToString::to_string).collect(),
            Finished::Over
            | Finished::Declined
            | Finished::Retried { .. }
            | Finished::Extended(_) => Vec::new(),
        };
        Ok(json!({ "handles": handles }))
    }

    async fn called_fail(&self, asked: &Value) -> Result<Value, Refusal> {
        let (handle, token) = self.called_lease(asked)?;
        let retry = match asked.get("retry_in") {
            // COMPAT(theschwartz): without a time it is over.
            None | Some(Value::Null) => RetryPolicy::never(),
            Some(seconds) => {
                let seconds = seconds
                    .as_u64()
                    .filter(|seconds| *seconds <= ibex_schwartz::limits::RUN_AFTER_MAX / 2)
                    .ok_or_else(|| Refusal::bad_request("retry_in is a number of seconds"))?;
                let retries = self.config.load().max_attempts.saturating_sub(1);
                RetryPolicy::fixed(retries, seconds)
            }
        };
        let text = |name: &str| asked.get(name).and_then(Value::as_str).unwrap_or_default();
        let status = asked
            .get("exit_status")
            .and_then(Value::as_u64)
            .unwrap_or(1);
        let end = Finish::Fail {
            message: text("message").to_owned(),
            status: u16::try_from(status).unwrap_or(u16::MAX),
            retry,
            keep: self.config.load().keep_exit_status_for.std().as_secs(),
        };
        Ok(match self.end_run(&handle, token, end).await?.0 {
            Finished::Retried { run_after } => json!({ "retry": true, "run_after": run_after }),
            Finished::Over | Finished::Declined | Finished::Extended(_) | Finished::Replaced(_) => {
                json!({ "retry": false })
            }
        })
    }
}
