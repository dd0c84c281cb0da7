//! A daemon reached over HTTP: the same jobs and the same handlers, without a database of one's own.
//!
//! Apart from the client of databases because a daemon decides what a database would: who gets which job, and for how long. One module per
//! concern: `connection` (requests and answers), `job` (a job as the daemon reads it), `grip` (a lease the daemon gave).
//!
//! ```no_run
//! # async fn example() -> Result<(), ibex_schwartz::Error> {
//! use ibex_schwartz::{Job, Outcome, Remote, Worker};
//!
//! let remote = Remote::new("http://127.0.0.1:7373")?;
//! remote.insert(&Job::new("SendMail", "to=fred@example.org")).await?;
//! let worker = Worker::new(&remote).register_fn("SendMail", |_| async { Outcome::Complete });
//! worker.work_until_done().await?;
//! # Ok(()) }
//! ```

mod connection;
mod grip;
mod job;

pub(crate) use grip::Grip;

use crate::crypt::Keys;
use crate::error::Error;
use crate::grab::{Grab, Only};
use crate::handle::Handle;
use crate::insert::Inserted;
use crate::job::Job;
use bytes::Bytes;
use connection::Connections;
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Longest time a daemon is asked to hold a call.
const WAIT_MAX: Duration = Duration::from_secs(20);
/// A call that is not held is answered within this time, or has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Distinguishes workers of one process.
static WORKERS: AtomicU64 = AtomicU64::new(1);

/// A daemon reached over HTTP. Clones share its connections.
#[derive(Clone)]
pub struct Remote {
    inner: Arc<Inner>,
}

struct Inner {
    connections: Connections,
    worker: String,
    keys: Option<Keys>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("address", &self.inner.connections.address())
            .field("worker", &self.inner.worker)
            .finish()
    }
}

impl Remote {
    /// A daemon by its address, `http://HOST:PORT`; nothing is asked of it yet.
    ///
    /// # Errors
    /// [`Error::Config`] for another form of address.
    pub fn new(url: &str) -> Result<Self, Error> {
        Self::with_token(url, "")
    }

    /// A daemon that does not see arguments: they are sealed here, and opened by workers with the keys. A daemon with keys of its own leaves them as
    /// they are.
    ///
    /// # Errors
    /// As [`Remote::with_token`].
    pub fn with_keys(url: &str, token: &str, keys: Keys) -> Result<Self, Error> {
        Self::make(url, token, Some(keys))
    }

    /// The same, with the bearer token it wants.
    ///
    /// # Errors
    /// [`Error::Config`] for another form of address, or a token that cannot be sent.
    pub fn with_token(url: &str, token: &str) -> Result<Self, Error> {
        Self::make(url, token, None)
    }

    fn make(url: &str, token: &str, keys: Option<Keys>) -> Result<Self, Error> {
        let number = WORKERS.fetch_add(1, Ordering::Relaxed);
        let inner = Inner {
            connections: Connections::new(url, token)?,
            worker: format!("rust-{}-{number}", std::process::id()),
            keys,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The name the daemon knows this worker by.
    #[must_use]
    pub fn worker(&self) -> &str {
        &self.inner.worker
    }

    /// Puts a job in; committed when this returns. A call whose answer got lost may have been done: give such jobs a `uniqkey`.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::TooLarge`] for the job, [`Error::Daemon`] when the daemon refuses or does not answer.
    pub async fn insert(&self, job: &Job) -> Result<Inserted, Error> {
        job.check()?;
        let body = self.job_out(job)?;
        let answer = self.call("POST", "/v1/jobs", Some(&body), PATIENCE).await?;
        inserted(&answer)
    }

    fn job_out(&self, job: &Job) -> Result<Value, Error> {
        match &self.inner.keys {
            Some(keys) => Ok(job::out(job, &keys.seal(&job.funcname, &job.arg)?)),
            None => Ok(job::out(job, &job.arg)),
        }
    }

    pub(crate) fn jobs_out(&self, jobs: &[Job]) -> Result<Vec<Value>, Error> {
        jobs.iter().map(|job| self.job_out(job)).collect()
    }

    /// An argument as the daemon gave it; `None` when it is sealed with a key that is not here.
    pub(crate) fn opened(&self, func: &str, arg: Bytes) -> Option<Bytes> {
        if !Keys::is_sealed(&arg) {
            return Some(arg);
        }
        self.inner
            .keys
            .as_ref()
            .and_then(|keys| keys.open(func, &arg))
    }

    /// Puts several jobs in, all in one transaction or none.
    ///
    /// # Errors
    /// As [`Remote::insert`], and [`Error::Duplicate`].
    pub async fn insert_all(&self, jobs: &[Job]) -> Result<Vec<Handle>, Error> {
        for job in jobs {
            job.check()?;
        }
        let list = self.jobs_out(jobs)?;
        let body = json!({ "jobs": list, "atomic": true });
        let answer = self.call("POST", "/v1/jobs", Some(&body), PATIENCE).await?;
        let mut handles = Vec::with_capacity(jobs.len());
        for one in answer["jobs"].as_array().into_iter().flatten() {
            handles.extend(inserted(one)?.handle().cloned());
        }
        Ok(handles)
    }

    /// What the daemon says of a job, as JSON; see `GET /v1/jobs/{handle}`.
    ///
    /// # Errors
    /// [`Error::NotFound`] when nothing is kept of it, [`Error::Daemon`].
    pub async fn status(&self, handle: &Handle) -> Result<Value, Error> {
        self.job_call("GET", handle, "", None).await
    }

    /// One job of the wanted functions; the daemon holds the call up to `wait`.
    pub(crate) async fn fetch(&self, want: &Grab, wait: Duration) -> Result<Option<Grip>, Error> {
        let wait = wait.min(WAIT_MAX);
        let mut body = json!({
            "worker": self.inner.worker, "funcs": want.funcs, "max": 1, "wait_ms": u64::try_from(wait.as_millis()).unwrap_or(0),
            "grab_for": want.grab_for.min(86_400), "prioritize": want.prioritize, "floor": want.floor,
        });
        match &want.only {
            Only::Any | Only::Job(_) => {}
            Only::Coalesce(value) => body["coalesce"] = json!({ "value": value }),
            Only::CoalescePrefix(prefix) => body["coalesce"] = json!({ "prefix": prefix }),
        }
        let answer = self
            .call("POST", "/v1/fetch", Some(&body), wait + PATIENCE)
            .await?;
        match answer["jobs"].get(0) {
            Some(job) => Grip::new(self, job).map(Some),
            None => Ok(None),
        }
    }

    /// A call about one job; refusals are told as the library tells them.
    pub(crate) async fn job_call(
        &self,
        method: &str,
        handle: &Handle,
        op: &str,
        body: Option<&Value>,
    ) -> Result<Value, Error> {
        let path = if op.is_empty() {
            format!("/v1/jobs/{handle}")
        } else {
            format!("/v1/jobs/{handle}/{op}")
        };
        let outcome = self.call(method, &path, body, PATIENCE).await;
        match outcome {
            Err(Error::Daemon { code, .. }) if code == "lease_lost" => {
                Err(Error::LeaseLost(handle.jobid()))
            }
            Err(Error::Daemon { code, .. }) if code == "not_found" => {
                Err(Error::NotFound(handle.jobid()))
            }
            other => other,
        }
    }

    async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Value, Error> {
        let connections = &self.inner.connections;
        let sent = tokio::time::timeout(patience, connections.exchange(method, path, body));
        let (status, answer) = match sent.await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(Error::unanswered("no answer in time")),
        };
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let text = |field: &str| {
            let text = answer["error"][field].as_str();
            text.unwrap_or_default().to_owned()
        };
        match text("code").as_str() {
            "bad_request" | "bad_json" => Err(Error::Invalid(text("message"))),
            "conflict" if path == "/v1/jobs" => Err(Error::Duplicate),
            code => Err(Error::Daemon {
                code: code.to_owned(),
                message: format!("{status} {}", text("message")),
            }),
        }
    }
}

fn inserted(answer: &Value) -> Result<Inserted, Error> {
    let handle = match answer["handle"].as_str() {
        Some(text) => Some(text.parse()?),
        None => None,
    };
    match (answer["duplicate"].as_bool(), handle) {
        (Some(false), Some(handle)) => Ok(Inserted::New(handle)),
        (Some(true), handle) => Ok(Inserted::Duplicate(handle)),
        _ => Err(Error::unanswered("the answer is none to an insert")),
    }
}
