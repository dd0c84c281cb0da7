//! A lease the daemon gave, and the calls that keep or end it.
//!
//! Apart because its token changes with every longer lease. What the worker's function says of retries goes along with an end as `otherwise`: the
//! daemon asks the job and its function first, as the library does on a database.

use super::{Remote, job};
use crate::error::Error;
use crate::finish::{Finish, Finished};
use crate::handle::Handle;
use crate::job::{StoredJob, When};
use crate::wide::ParentStatus;
use crate::worker::FunctionOptions;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// A job a daemon handed out.
#[derive(Debug, Clone)]
pub(crate) struct Grip {
    remote: Remote,
    token: Arc<Mutex<String>>,
    pub(crate) job: StoredJob,
    pub(crate) handle: Handle,
    pub(crate) attempt: u32,
    pub(crate) timeout_s: Option<u64>,
    pub(crate) meta: Option<Bytes>,
    pub(crate) trace: Option<String>,
}

impl Grip {
    pub(super) fn new(remote: &Remote, job: &Value) -> Result<Self, Error> {
        let odd = || Error::unanswered("the daemon's job is none");
        let text = |field: &str| job[field].as_str().map(str::to_owned);
        let handle: Handle = text("handle").ok_or_else(odd)?.parse()?;
        let arg = job["sealed_b64"].as_str().or(job["arg_b64"].as_str());
        let arg: Bytes = STANDARD
            .decode(arg.unwrap_or_default())
            .map_err(|_| odd())?
            .into();
        let funcname = text("func").ok_or_else(odd)?;
        let arg_bytes = u64::try_from(arg.len()).unwrap_or(u64::MAX);
        let opened = remote.opened(&funcname, arg.clone());
        let stored = StoredJob {
            jobid: handle.jobid(),
            funcid: 0,
            funcname,
            arg_bytes,
            is_cut: false,
            is_encrypted: opened.is_none(),
            sealed: if opened.is_none() { arg } else { Bytes::new() },
            arg: opened.unwrap_or_default(),
            uniqkey: text("uniqkey"),
            coalesce: text("coalesce"),
            insert_time: job["insert_time"].as_u64(),
            run_after: job["run_after"].as_u64().unwrap_or(0),
            grabbed_until: job["lease_expires"].as_u64().unwrap_or(0),
            priority: job["priority"]
                .as_u64()
                .and_then(|priority| priority.try_into().ok()),
        };
        let attempt = job["attempt"].as_u64().unwrap_or(1);
        Ok(Self {
            remote: remote.clone(),
            token: Arc::new(Mutex::new(text("lease").ok_or_else(odd)?)),
            job: stored,
            handle,
            attempt: attempt.try_into().unwrap_or(u32::MAX),
            timeout_s: job["timeout_s"].as_u64(),
            meta: job.get("meta").map(|meta| Bytes::from(meta.to_string())),
            trace: text("trace"),
        })
    }

    pub(crate) fn remote(&self) -> &Remote {
        &self.remote
    }

    fn token(&self) -> String {
        self.token
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    async fn call(&self, op: &str, mut body: Value) -> Result<Value, Error> {
        body["lease"] = self.token().into();
        self.remote
            .job_call("POST", &self.handle, op, Some(&body))
            .await
    }

    /// Answers whether someone wants the run to stop.
    pub(crate) async fn extend(
        &self,
        seconds: u64,
        progress: Option<Bytes>,
    ) -> Result<bool, Error> {
        let mut body = json!({ "grab_for": seconds.clamp(1, 86_400) });
        if let Some(progress) = progress {
            body["progress"] = job::json_or_text(&progress);
        }
        let answer = self.call("extend", body).await?;
        if let Some(lease) = answer["lease"].as_str() {
            *self.token.lock().unwrap_or_else(PoisonError::into_inner) = lease.to_owned();
        }
        Ok(answer["cancel"].as_bool().unwrap_or(false))
    }

    /// Gives the job back.
    pub(crate) async fn release(&self) -> Result<(), Error> {
        self.call("decline", json!({})).await.map(drop)
    }

    /// Ends the run. `otherwise` is what counts when neither the job nor its function says.
    pub(crate) async fn finish(
        &self,
        finish: Finish,
        options: &FunctionOptions,
    ) -> Result<Finished, Error> {
        let otherwise = |retry_in: u64| {
            json!({
                "max_attempts": options.retry.max_retries.saturating_add(1), "retry_in": retry_in,
                "keep_exit_status_for": options.keep_exit_status_for,
            })
        };
        match finish {
            Finish::Complete { status, .. } => {
                let body = json!({ "exit_status": status, "otherwise": otherwise(0) });
                self.call("complete", body).await?;
                Ok(Finished::Over)
            }
            Finish::CompleteWith { status, result, .. } => {
                let result = job::json_or_text(&result);
                let body =
                    json!({ "exit_status": status, "result": result, "otherwise": otherwise(0) });
                self.call("complete", body).await?;
                Ok(Finished::Over)
            }
            Finish::Fail {
                message,
                status,
                retry,
                ..
            } => {
                let delay = (retry.retry_delay)(self.attempt);
                let body = json!({
                    "message": message, "exit_status": status, "permanent": retry.is_final, "otherwise": otherwise(delay),
                });
                let answer = self.call("fail", body).await?;
                Ok(match answer["run_after"].as_u64() {
                    Some(run_after) => Finished::Retried { run_after },
                    None => Finished::Over,
                })
            }
            Finish::Decline(when) => {
                let body = match when {
                    // DIFFERS(theschwartz): over HTTP a job that is declined without a time does not wait for its lease to end.
                    None | Some(When::Now) => json!({}),
                    Some(When::In(seconds)) => json!({ "delay": seconds }),
                    Some(When::At(epoch)) => json!({ "run_after": epoch }),
                };
                self.call("decline", body).await?;
                Ok(Finished::Declined)
            }
            Finish::Extend(seconds) => {
                self.extend(seconds, None).await?;
                Ok(Finished::Extended(0))
            }
            Finish::Replace { jobs, .. } => {
                let jobs = self.remote.jobs_out(&jobs)?;
                let body = json!({ "jobs": jobs, "otherwise": otherwise(0) });
                let answer = self.call("replace", body).await?;
                let handles = answer["jobs"].as_array().into_iter().flatten();
                let handles = handles.filter_map(|job| job["handle"].as_str()?.parse().ok());
                Ok(Finished::Replaced(handles.collect()))
            }
        }
    }

    /// What the jobs this one depended on left.
    pub(crate) async fn parents(&self) -> Result<Vec<ParentStatus>, Error> {
        let status = self.remote.status(&self.handle).await?;
        let mut parents = Vec::new();
        for parent in status["parents"].as_array().into_iter().flatten() {
            parents.push(ParentStatus {
                handle: parent["handle"].as_str().unwrap_or_default().parse()?,
                state: parent["state"].as_str().unwrap_or_default().to_owned(),
                result: parent
                    .get("result")
                    .filter(|result| !result.is_null())
                    .map(|result| Bytes::from(result.to_string())),
            });
        }
        Ok(parents)
    }
}
