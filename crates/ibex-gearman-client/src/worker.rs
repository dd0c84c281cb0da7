//! The worker: functions, how many jobs at once, and an orderly end.
//!
//! [`Worker::run`] keeps one session per server (`worker/session.rs`) and shares one bound on running jobs among them. What a handler sees is in
//! `worker/job.rs`.

mod job;
mod session;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::Error;

pub use ibex_gearman_proto::Grab;
pub use job::{Job, JobError};

/// What a handler returns.
pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Result<Bytes, JobError>> + Send>>;
pub(crate) type Handler = Arc<dyn Fn(Job) -> HandlerFuture + Send + Sync>;

/// How a function is registered.
#[derive(Debug, Clone, Copy, Default)]
#[must_use]
pub struct FunctionOptions {
    timeout: Option<Duration>,
}

impl FunctionOptions {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The server takes a job back after this time (CAN_DO_TIMEOUT), in whole seconds, at least one.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

#[derive(Clone)]
pub(crate) struct Function {
    pub(crate) handler: Handler,
    pub(crate) timeout: Option<Duration>,
}

/// Runs jobs for one or more servers.
#[must_use = "a worker works while `run` is awaited"]
pub struct Worker {
    config: Config,
    id: Option<String>,
    functions: Vec<(Vec<u8>, Function)>,
    concurrency: usize,
    grab: Grab,
    wants: Wants,
    drain_deadline: Duration,
}

/// Extensions a worker may ask for; the others are asked for by every worker.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wants {
    pub(crate) push: Option<u32>,
    pub(crate) wait: bool,
    pub(crate) headers: bool,
    pub(crate) heartbeat: bool,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self
            .functions
            .iter()
            .map(|(name, _)| String::from_utf8_lossy(name))
            .collect();
        f.debug_struct("Worker")
            .field("functions", &names)
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

/// What a session needs to know; shared by all sessions of one worker.
pub(crate) struct Plan {
    pub(crate) config: Config,
    pub(crate) id: Option<String>,
    pub(crate) functions: BTreeMap<Bytes, Function>,
    pub(crate) grab: Grab,
    pub(crate) wants: Wants,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) drain_deadline: Duration,
}

/// Most jobs a server hands over in advance.
const PUSH_MAX: u32 = 10_000;
/// Long enough for a usual job, shorter than a supervisor's patience (systemd's default is 90 s).
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);

impl Worker {
    /// A worker of these servers that can do nothing yet.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            id: None,
            functions: Vec::new(),
            concurrency: 1,
            grab: Grab::All,
            wants: Wants::default(),
            drain_deadline: DRAIN_DEADLINE,
        }
    }

    /// Registers a function. The handler's `Ok` is the job's result; its error becomes WORK_EXCEPTION with the error's text, or WORK_FAIL ([`JobError`]).
    pub fn function<F, R>(self, name: impl AsRef<[u8]>, handler: F) -> Self
    where
        F: Fn(Job) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Bytes, JobError>> + Send + 'static,
    {
        self.function_with(name, FunctionOptions::new(), handler)
    }

    /// [`function`](Self::function) with options.
    pub fn function_with<F, R>(
        mut self,
        name: impl AsRef<[u8]>,
        options: FunctionOptions,
        handler: F,
    ) -> Self
    where
        F: Fn(Job) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Bytes, JobError>> + Send + 'static,
    {
        let function = Function {
            handler: Arc::new(move |job| Box::pin(handler(job))),
            timeout: options.timeout,
        };
        self.functions.push((name.as_ref().to_vec(), function));
        self
    }

    /// Registers a function that blocks its thread; it runs on tokio's blocking pool and cannot send progress.
    pub fn blocking_function<F>(self, name: impl AsRef<[u8]>, handler: F) -> Self
    where
        F: Fn(&Job) -> Result<Bytes, JobError> + Send + Sync + 'static,
    {
        let handler = Arc::new(handler);
        self.function(name, move |job| {
            let handler = Arc::clone(&handler);
            async move {
                tokio::task::spawn_blocking(move || handler(&job))
                    .await
                    .unwrap_or_else(|_| Err(JobError::exception("worker panicked")))
            }
        })
    }

    /// Jobs that may run at once, over all servers. Default 1.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.concurrency = jobs.max(1);
        self
    }

    /// The worker's name in the server's lists.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Which form of GRAB_JOB to use. Default [`Grab::All`]; use [`Grab::Unique`] or [`Grab::Plain`] for servers that do not know it.
    pub fn grab(mut self, grab: Grab) -> Self {
        self.grab = grab;
        self
    }

    /// Servers hand jobs over by themselves, each as long as this worker holds fewer than `jobs` of its: two packets for a job instead of up to six. Those
    /// beyond the [`concurrency`](Self::concurrency) wait here, their timeouts already running. Servers without this extension are asked for each job.
    pub fn push(mut self, jobs: u32) -> Self {
        self.wants.push = Some(jobs.clamp(1, PUSH_MAX));
        self
    }

    /// A server without a job holds the question until it has one, instead of answering no and waking the worker later. Servers without this extension
    /// answer as ever.
    pub fn wait(mut self, wanted: bool) -> Self {
        self.wants.wait = wanted;
        self
    }

    /// Jobs come with their headers ([`Job::header`], [`Job::traceparent`]) from servers that know them. Default false: it costs the server a copy of the
    /// workload.
    pub fn headers(mut self, wanted: bool) -> Self {
        self.wants.headers = wanted;
        self
    }

    /// Progress and parts of the result restart the job's timeout, on servers that know this.
    pub fn heartbeat(mut self, wanted: bool) -> Self {
        self.wants.heartbeat = wanted;
        self
    }

    /// How long running jobs may take once the worker is told to stop. Default 30 s; after it their connections are closed and the servers hand them to others.
    pub fn drain_deadline(mut self, deadline: Duration) -> Self {
        self.drain_deadline = deadline;
        self
    }

    /// Works until `stop` is cancelled, then finishes what it holds, takes its registrations back and returns. Servers that are down are tried again for ever.
    ///
    /// Dropping the future ends everything at once; the servers give held jobs to other workers.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::InvalidArgument`]; never because of a server.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let addresses = self.config.addresses()?;
        let mut functions = BTreeMap::new();
        for (name, function) in self.functions {
            functions.insert(self.config.full_name(&name)?, function);
        }
        let plan = Arc::new(Plan {
            config: self.config,
            id: self.id,
            functions,
            grab: self.grab,
            wants: self.wants,
            permits: Arc::new(Semaphore::new(self.concurrency)),
            drain_deadline: self.drain_deadline,
        });
        let mut sessions = JoinSet::new();
        for address in addresses {
            sessions.spawn(session::keep(Arc::clone(&plan), address, stop.clone()));
        }
        while let Some(ended) = sessions.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        Ok(())
    }
}
