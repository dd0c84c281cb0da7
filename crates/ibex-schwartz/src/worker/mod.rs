//! A worker: functions, one job after another or several at once, leases kept alive, every end accounted for.
//!
//! Apart from the client because it runs other people's code: panics, overruns and forgotten ends become failures of the job and
//! never of the worker. One module per concern: `context` (what a handler gets), `outcome` (what it answers), `source` (where jobs come from),
//! `attend` (one run from its start to its record).

mod attend;
mod context;
mod outcome;
mod source;

pub(crate) use context::Held;
pub use context::JobContext;
pub use outcome::{FunctionOptions, Outcome};
pub use source::Source;

use crate::error::Error;
use crate::grab::Grab;
use crate::handle::Handle;
use crate::handler::Handler;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

type Call = Arc<dyn Fn(JobContext) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync>;

#[derive(Clone)]
struct Function {
    handler: Call,
    options: FunctionOptions,
}

/// A worker of some functions. Clones share the functions.
#[derive(Clone)]
pub struct Worker {
    source: Source,
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
/// Longest pause after a look that failed.
const AWAY: Duration = Duration::from_secs(1);

impl Worker {
    /// A worker without functions.
    #[must_use]
    pub fn new(source: impl Into<Source>) -> Self {
        Self {
            source: source.into(),
            functions: BTreeMap::new(),
            concurrency: 1,
            batch_size: 50,
            prioritize: false,
            floor: None,
            poll: POLL,
            resting: Arc::default(),
        }
    }

    /// Works a function by its [`Handler`], made by its default.
    #[must_use]
    pub fn register<H: Handler + Default>(self) -> Self {
        self.register_with(H::default())
    }

    /// Works a function by its [`Handler`].
    #[must_use]
    pub fn register_with<H: Handler>(self, handler: H) -> Self {
        let handler = Arc::new(handler);
        let options = crate::handler::options(&handler);
        self.function_with(H::FUNC, options, move |job: JobContext| {
            let handler = Arc::clone(&handler);
            async move { crate::handler::run(handler.as_ref(), job).await }
        })
    }

    /// As [`Worker::function`].
    #[must_use]
    pub fn register_fn<F, Fut, O>(self, name: impl Into<String>, handler: F) -> Self
    where
        F: Fn(JobContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = O> + Send + 'static,
        O: Into<Outcome>,
    {
        self.function(name, handler)
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
        let handler: Call = Arc::new(move |job| {
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
    /// [`Error::NoDatabase`] when none answered, [`Error::Daemon`] when the daemon did not. Failures of the job are recorded at the job and are
    /// `Ok(true)`.
    pub async fn work_once(&self) -> Result<bool, Error> {
        let found = self.next(Duration::ZERO).await?;
        Ok(self.work_on_it(found).await)
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

    /// Works a job by its handle without grabbing it; `false` when it is gone. Not of a daemon.
    ///
    /// # Errors
    /// As [`crate::Client::peek`].
    pub async fn work_on(&self, handle: &Handle) -> Result<bool, Error> {
        let found = self.source.peek(handle).await?;
        Ok(self.work_on_it(found).await)
    }

    /// Works a job by its handle if nobody has it; `false` when it is gone or grabbed. Not of a daemon.
    ///
    /// # Errors
    /// As [`crate::Client::grab_handle`].
    pub async fn grab_and_work_on(&self, handle: &Handle) -> Result<bool, Error> {
        let grab_for = self
            .functions
            .values()
            .map(|function| function.options.grab_for)
            .max()
            .unwrap_or(3600);
        let found = self.source.grab_handle(handle, grab_for).await?;
        Ok(self.work_on_it(found).await)
    }

    async fn work_on_it(&self, found: Option<Held>) -> bool {
        match found {
            Some(job) => {
                self.work(job).await;
                true
            }
            None => false,
        }
    }

    /// Works until `shutdown` is cancelled and the running jobs are done. Databases that are down, or a daemon that is, are waited for.
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
            let inserted = self.source.inserted();
            let pause = match self.look(&shutdown).await {
                Ok(Some(job)) => {
                    let worker = self.clone();
                    tracker.spawn(async move {
                        worker.work(job).await;
                        drop(place);
                    });
                    continue;
                }
                // A daemon has waited already.
                Ok(None) if self.source.is_daemon() => continue,
                Ok(None) => self.poll,
                Err(error) => {
                    tracing::warn!(error = %error, "no jobs to be had, will try again");
                    self.poll.min(AWAY)
                }
            };
            drop(place);
            let inserted = async {
                match inserted {
                    Some(inserted) => inserted.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = inserted => {}
                () = self.source.stirred() => {}
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => break,
            }
        }
        tracker.close();
        tracker.wait().await;
    }

    /// The next job. A call that a daemon holds is left at a stop: it gives the job to another.
    async fn look(&self, shutdown: &CancellationToken) -> Result<Option<Held>, Error> {
        if !self.source.is_daemon() {
            return self.next(Duration::ZERO).await;
        }
        tokio::select! {
            found = self.next(self.poll) => found,
            () = shutdown.cancelled() => Ok(None),
        }
    }

    /// The next job: of functions not worked lately, else of any. A daemon sees to that by itself.
    async fn next(&self, wait: Duration) -> Result<Option<Held>, Error> {
        if self.source.is_daemon() {
            let all = self.functions.keys().cloned().collect();
            return self.source.grab(&self.want(all), wait).await;
        }
        let resting = self.resting().clone();
        let fresh: Vec<String> = self
            .functions
            .keys()
            .filter(|name| !resting.contains(name))
            .cloned()
            .collect();
        let mut found = if fresh.is_empty() {
            None
        } else {
            self.source.grab(&self.want(fresh), wait).await?
        };
        if found.is_none() && !resting.is_empty() {
            self.resting().clear();
            let all = self.functions.keys().cloned().collect();
            found = self.source.grab(&self.want(all), wait).await?;
        }
        if let Some((name, _)) = found
            .as_ref()
            .and_then(|job| self.find(&job.job().funcname))
        {
            self.resting().push(name.clone());
        }
        Ok(found)
    }

    fn resting(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
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
}
