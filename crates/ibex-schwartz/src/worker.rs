//! A worker: functions, one job after another or several at once, leases kept alive, every end accounted for.
//!
//! Apart from the client because it runs other people's code: panics, overruns and forgotten ends become failures of the job and
//! never of the worker.

use crate::client::Client;
use crate::error::Error;
use crate::finish::{Finish, RetryPolicy};
use crate::grab::{Grab, GrabbedJob};
use crate::handle::Handle;
use crate::job::{Job, When};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How a run ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Done.
    Complete,
    /// Done, and this is kept beside the exit status, at least for a second: see [`crate::Status::result`].
    CompleteWith(bytes::Bytes),
    /// Failed: runs again as the function's policy says.
    Fail {
        /// What happened.
        message: String,
        /// Kept when it does not run again; 0 counts as 1.
        status: u16,
    },
    /// Failed for good.
    Permanent {
        /// What happened.
        message: String,
        /// Kept; 0 counts as 1.
        status: u16,
    },
    /// Not now; never counts as a failure.
    Decline(Option<When>),
    /// These jobs instead.
    Replace(Vec<Job>),
}

impl Outcome {
    /// A failure with status 1.
    pub fn fail(message: impl Into<String>) -> Self {
        Self::Fail {
            message: message.into(),
            status: 1,
        }
    }

    /// A failure for good, with status 1.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::Permanent {
            message: message.into(),
            status: 1,
        }
    }
}

impl<E: fmt::Display> From<Result<(), E>> for Outcome {
    fn from(result: Result<(), E>) -> Self {
        match result {
            Ok(()) => Self::Complete,
            Err(error) => Self::fail(error.to_string()),
        }
    }
}

/// The classic settings of a function's jobs.
#[derive(Debug, Clone)]
pub struct FunctionOptions {
    /// Seconds of a lease; kept alive while the job runs.
    pub grab_for: u64,
    /// Whether and when failures run again.
    pub retry: RetryPolicy,
    /// Seconds the exit status is kept; 0 keeps none.
    pub keep_exit_status_for: u64,
    /// A run that takes longer has failed.
    pub timeout: Option<Duration>,
}

impl Default for FunctionOptions {
    fn default() -> Self {
        Self {
            grab_for: 3600,
            retry: RetryPolicy::never(),
            keep_exit_status_for: 0,
            timeout: None,
        }
    }
}

/// What a handler gets: the job, and a way to keep it.
#[derive(Debug, Clone)]
pub struct JobContext {
    grabbed: GrabbedJob,
    lease: Arc<AtomicU64>,
    lost: CancellationToken,
}

impl JobContext {
    /// The argument as it is in the row.
    #[must_use]
    pub fn arg(&self) -> &Bytes {
        &self.grabbed.job.arg
    }

    /// The argument as JSON, whether it was stored as JSON or frozen by Perl.
    #[must_use]
    pub fn arg_json(&self) -> Option<serde_json::Value> {
        if crate::storable::is_frozen(self.arg()) {
            return crate::storable::decode(self.arg()).ok();
        }
        serde_json::from_slice(self.arg()).ok()
    }

    /// The function.
    #[must_use]
    pub fn funcname(&self) -> &str {
        &self.grabbed.job.funcname
    }

    /// The job's name outside.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.grabbed.handle
    }

    /// Which run this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.grabbed.attempt
    }

    /// Its unique key.
    #[must_use]
    pub fn uniqkey(&self) -> Option<&str> {
        self.grabbed.job.uniqkey.as_deref()
    }

    /// What the job carries for its worker beside the argument, see [`crate::Job::meta`].
    #[must_use]
    pub fn meta(&self) -> Option<&Bytes> {
        self.grabbed.meta.as_ref()
    }

    /// The trace context the job carries (W3C `traceparent`).
    #[must_use]
    pub fn trace(&self) -> Option<&str> {
        self.grabbed.trace.as_deref()
    }

    /// Its coalescing value.
    #[must_use]
    pub fn coalesce(&self) -> Option<&str> {
        self.grabbed.job.coalesce.as_deref()
    }

    /// The jobs this one depended on and what they left.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn parents(&self) -> Result<Vec<crate::ParentStatus>, Error> {
        self.grabbed.database.parents(self.grabbed.job.jobid).await
    }

    /// Cancelled when the lease is lost: what is done from now on counts for nothing.
    #[must_use]
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Makes the lease end this many seconds from now, if that is later. The worker does it by itself; this is for handlers that
    /// know better.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn extend(&self, seconds: u64) -> Result<(), Error> {
        let mut grabbed = self.grabbed.clone();
        grabbed.lease = self.lease.load(Ordering::SeqCst);
        match grabbed.finish(Finish::Extend(seconds)).await {
            Ok(crate::Finished::Extended(until)) => {
                self.lease.store(until, Ordering::SeqCst);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(error) => {
                if matches!(error, Error::LeaseLost(_)) {
                    self.lost.cancel();
                }
                Err(error)
            }
        }
    }
}

type Handler =
    Arc<dyn Fn(JobContext) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync>;

#[derive(Clone)]
struct Function {
    handler: Handler,
    options: FunctionOptions,
}

/// A worker of some functions. Clones share the functions.
#[derive(Clone)]
pub struct Worker {
    client: Client,
    functions: BTreeMap<String, Function>,
    concurrency: usize,
    batch_size: usize,
    prioritize: bool,
    floor: Option<u16>,
    poll: Duration,
    /// Functions left out until nothing else is found: no function starves another.
    resting: Arc<Mutex<Vec<String>>>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("functions", &self.functions.keys())
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

/// Seconds between two looks at the databases when nothing wakes the worker; the original's default.
const POLL: Duration = Duration::from_secs(5);

impl Worker {
    /// A worker without functions.
    #[must_use]
    pub fn new(client: &Client) -> Self {
        Self {
            client: client.clone(),
            functions: BTreeMap::new(),
            concurrency: 1,
            batch_size: 50,
            prioritize: false,
            floor: None,
            poll: POLL,
            resting: Arc::default(),
        }
    }

    /// Works `name` with the classic settings: one run, a lease of an hour.
    #[must_use]
    pub fn function<F, Fut, O>(self, name: impl Into<String>, handler: F) -> Self
    where
        F: Fn(JobContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = O> + Send + 'static,
        O: Into<Outcome>,
    {
        self.function_with(name, FunctionOptions::default(), handler)
    }

    /// Works `name`; the handler may answer an [`Outcome`] or a `Result<(), impl Display>`.
    #[must_use]
    pub fn function_with<F, Fut, O>(
        mut self,
        name: impl Into<String>,
        options: FunctionOptions,
        handler: F,
    ) -> Self
    where
        F: Fn(JobContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = O> + Send + 'static,
        O: Into<Outcome>,
    {
        let handler: Handler = Arc::new(move |job| {
            let work = handler(job);
            Box::pin(async move { work.await.into() })
        });
        self.functions
            .insert(name.into(), Function { handler, options });
        self
    }

    /// Jobs at once, for [`Worker::run`]; 1 by default.
    #[must_use]
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.concurrency = jobs.max(1);
        self
    }

    /// Candidates read at a time; 50 by default.
    #[must_use]
    pub fn batch_size(mut self, rows: usize) -> Self {
        self.batch_size = rows.max(1);
        self
    }

    /// The most urgent first, and only those of at least `floor`.
    #[must_use]
    pub fn prioritize(mut self, floor: Option<u16>) -> Self {
        self.prioritize = true;
        self.floor = floor;
        self
    }

    /// Longest time between two looks at the databases; inserts of this process wake the worker at once.
    #[must_use]
    pub fn poll(mut self, every: Duration) -> Self {
        self.poll = every;
        self
    }

    /// The names of its functions.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.functions.keys().map(String::as_str)
    }

    /// Works one job, if there is one.
    ///
    /// # Errors
    /// [`Error::NoDatabase`] when none answered. Failures of the job are recorded at the job and are `Ok(true)`.
    pub async fn work_once(&self) -> Result<bool, Error> {
        match self.next().await? {
            Some(job) => {
                self.work(job).await;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Works until nothing is ready.
    ///
    /// # Errors
    /// As [`Worker::work_once`].
    pub async fn work_until_done(&self) -> Result<u64, Error> {
        let mut count = 0;
        while self.work_once().await? {
            count += 1;
        }
        Ok(count)
    }

    /// Works a job by its handle without grabbing it; `false` when it is gone.
    ///
    /// # Errors
    /// As [`Client::peek`].
    pub async fn work_on(&self, handle: &Handle) -> Result<bool, Error> {
        match self.client.peek(handle).await? {
            Some(job) => {
                self.work(job).await;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Works a job by its handle if nobody has it; `false` when it is gone or grabbed.
    ///
    /// # Errors
    /// As [`Client::grab_handle`].
    pub async fn grab_and_work_on(&self, handle: &Handle) -> Result<bool, Error> {
        let grab_for = self
            .functions
            .values()
            .map(|function| function.options.grab_for)
            .max()
            .unwrap_or(3600);
        match self.client.grab_handle(handle, grab_for).await? {
            Some(job) => {
                self.work(job).await;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Works until `shutdown` is cancelled and the running jobs are done. Databases that are down are waited for.
    pub async fn run(&self, shutdown: CancellationToken) {
        let tracker = TaskTracker::new();
        let places = Arc::new(tokio::sync::Semaphore::new(self.concurrency));
        while !shutdown.is_cancelled() {
            let place = tokio::select! {
                place = Arc::clone(&places).acquire_owned() => place,
                () = shutdown.cancelled() => break,
            };
            let Ok(place) = place else { break };
            // Registered before looking: an insert between the look and the wait is not missed.
            let inserted = self.client.inserted();
            match self.next().await {
                Ok(Some(job)) => {
                    let worker = self.clone();
                    tracker.spawn(async move {
                        worker.work(job).await;
                        drop(place);
                    });
                    continue;
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(error = %error, "no jobs to be had, will try again"),
            }
            drop(place);
            tokio::select! {
                () = inserted => {}
                _ = self.client.stirred() => self.client.wake(),
                () = tokio::time::sleep(self.poll) => {}
                () = shutdown.cancelled() => break,
            }
        }
        tracker.close();
        tracker.wait().await;
    }

    /// The next job: of functions not worked lately, else of any.
    async fn next(&self) -> Result<Option<GrabbedJob>, Error> {
        let resting = self
            .resting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let fresh: Vec<String> = self
            .functions
            .keys()
            .filter(|name| !resting.contains(name))
            .cloned()
            .collect();
        let mut found = if fresh.is_empty() {
            None
        } else {
            self.client.grab(&self.want(fresh)).await?.pop()
        };
        if found.is_none() && !resting.is_empty() {
            self.resting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
            found = self
                .client
                .grab(&self.want(self.functions.keys().cloned().collect()))
                .await?
                .pop();
        }
        if let Some((name, _)) = found.as_ref().and_then(|job| self.find(&job.job.funcname)) {
            self.resting
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(name.clone());
        }
        Ok(found)
    }

    fn want(&self, funcs: Vec<String>) -> Grab {
        let leases = funcs
            .iter()
            .filter_map(|name| self.functions.get(name))
            .map(|function| function.options.grab_for);
        Grab {
            grab_for: leases.min().unwrap_or(3600),
            batch_size: self.batch_size,
            prioritize: self.prioritize,
            floor: self.floor,
            ..Grab::new(funcs)
        }
    }

    /// By name, else without regard to case, as MySQL's collation finds functions.
    fn find(&self, name: &str) -> Option<(&String, &Function)> {
        let lower = name.to_lowercase();
        self.functions.get_key_value(name).or_else(|| {
            self.functions
                .iter()
                .find(|(known, _)| known.to_lowercase() == lower)
        })
    }

    /// Runs one job to its end and records that. Never fails: what cannot be recorded comes back when the lease ends.
    async fn work(&self, grabbed: GrabbedJob) {
        let Some((_, function)) = self.find(&grabbed.job.funcname) else {
            // Handed over by handle, for a function that is not ours.
            tracing::debug!(func = %grabbed.job.funcname, job = %grabbed.handle, "no function for this job, given back");
            if let Err(error) = grabbed.database.release(grabbed.fence()).await {
                tracing::debug!(error = %error, "job comes back when its lease ends");
            }
            return;
        };
        let function = function.clone();
        let context = JobContext {
            lease: Arc::new(AtomicU64::new(grabbed.lease)),
            lost: CancellationToken::new(),
            grabbed: grabbed.clone(),
        };
        for hook in self.client.hooks() {
            hook.before_work(&context);
        }
        let outcome = attend(&function, &context).await;
        for hook in self.client.hooks() {
            hook.after_work(&context, &outcome);
        }
        let mut ours = grabbed;
        ours.lease = context.lease.load(Ordering::SeqCst);
        let failure = match &outcome {
            Outcome::Fail { message, .. } | Outcome::Permanent { message, .. } => {
                Some(message.clone())
            }
            Outcome::Complete
            | Outcome::CompleteWith(_)
            | Outcome::Decline(_)
            | Outcome::Replace(_) => None,
        };
        match ours.finish(ending(outcome, &function.options)).await {
            Ok(crate::Finished::Over) => {
                if let Some(message) = failure {
                    for hook in self.client.hooks() {
                        hook.on_dead(&context, &message);
                    }
                }
            }
            Ok(_) => {}
            Err(Error::LeaseLost(_) | Error::NotFound(_)) => {
                tracing::warn!(job = %ours.handle, func = %ours.job.funcname, "lease was lost, the outcome counts for nothing");
            }
            Err(error) => {
                tracing::warn!(job = %ours.handle, error = %error, "outcome could not be recorded, job comes back when its lease ends")
            }
        }
    }
}

/// Runs the handler under its time limit while the lease is kept alive; a panic is a failure.
async fn attend(function: &Function, context: &JobContext) -> Outcome {
    let mut task = tokio::spawn((function.handler)(context.clone()));
    let beat = Duration::from_secs((function.options.grab_for / 3).max(1));
    let limit = async {
        match function.options.timeout {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(limit);
    loop {
        tokio::select! {
            joined = &mut task => {
                return joined.unwrap_or_else(|error| Outcome::fail(if error.is_panic() { panic_text(error) } else { "cancelled".to_owned() }));
            }
            () = &mut limit => {
                task.abort();
                return Outcome::fail("timeout");
            }
            () = tokio::time::sleep(beat) => {
                if let Err(error) = context.extend(function.options.grab_for).await {
                    tracing::debug!(job = %context.handle(), error = %error, "lease could not be extended");
                }
            }
        }
    }
}

fn panic_text(error: tokio::task::JoinError) -> String {
    let panic = error.into_panic();
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "panicked".to_owned())
}

fn ending(outcome: Outcome, options: &FunctionOptions) -> Finish {
    let keep = options.keep_exit_status_for;
    match outcome {
        Outcome::Complete => Finish::Complete { status: 0, keep },
        Outcome::CompleteWith(result) => Finish::CompleteWith {
            status: 0,
            keep,
            result,
        },
        Outcome::Fail { message, status } => Finish::Fail {
            message,
            status,
            retry: options.retry.clone(),
            keep,
        },
        Outcome::Permanent { message, status } => Finish::Fail {
            message,
            status,
            retry: RetryPolicy::permanent(),
            keep,
        },
        Outcome::Decline(when) => Finish::Decline(when),
        Outcome::Replace(jobs) => Finish::Replace { jobs, keep },
    }
}
