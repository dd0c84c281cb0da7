//! The same client and worker for programs without an event loop: a thread of our own runs it, the caller's thread waits.
//!
//! Apart because everything else here is asynchronous. Nothing is repeated: [`Client::run`] lends the asynchronous client, whose every call can be waited for.
//!
//! ```no_run
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use ibex_gearman_client::{Config, blocking};
//!
//! let client = blocking::Client::connect(Config::new(["127.0.0.1:4730"]))?;
//! println!("{:?}", client.call("reverse", "abc")?);
//! let thumbnail = client.run(|c| c.call("resize", "photo").unique("42").timeout(Duration::from_secs(3)))?;
//! # drop(thumbnail);
//! # Ok(()) }
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::{Config, Error, Event, Handle, Outcome, Status, Worker};

/// [`crate::Client`] for threads that wait. A cheap handle: clone it freely, use it from many threads at once.
///
/// # Panics
/// Every call panics inside an asynchronous context: use [`crate::Client`] there.
#[derive(Debug, Clone)]
pub struct Client {
    client: crate::Client,
    engine: Arc<Engine>,
}

/// The thread behind all clones; it ends with the last, wherever that is dropped.
#[derive(Debug)]
struct Engine(Option<Runtime>);

impl Engine {
    fn new() -> Result<Self, Error> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("ibex-gearman")
            .enable_all()
            .build()
            .map_err(|error| Error::Config(format!("no thread for the client: {error}")))?;
        Ok(Self(Some(runtime)))
    }

    fn wait<F: Future>(&self, future: F) -> F::Output {
        self.0
            .as_ref()
            .expect("there until the drop")
            .block_on(future)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Client {
    /// A client of these servers. Nothing is connected yet: the first call does that.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn connect(config: Config) -> Result<Self, Error> {
        let engine = Engine::new()?;
        let client = engine.wait(crate::Client::connect(config))?;
        Ok(Self {
            client,
            engine: Arc::new(engine),
        })
    }

    /// Waits for any operation of the asynchronous client, with all its options.
    pub fn run<'a, F: IntoFuture>(
        &'a self,
        operation: impl FnOnce(&'a crate::Client) -> F,
    ) -> F::Output {
        // Inside the runtime, because building an operation may already need its clock.
        self.engine
            .wait(async { operation(&self.client).into_future().await })
    }

    /// Submits a foreground job and waits for its result, as long as it takes; for a deadline see [`run`](Self::run).
    ///
    /// # Errors
    /// As [`crate::Client::call`].
    pub fn call(
        &self,
        function: impl AsRef<[u8]>,
        workload: impl Into<Bytes>,
    ) -> Result<Bytes, Error> {
        self.run(|client| client.call(function, workload))
    }

    /// Submits a foreground job and returns when the server has it; for options see [`adopt`](Self::adopt).
    ///
    /// # Errors
    /// As [`crate::Client::submit`].
    pub fn submit(
        &self,
        function: impl AsRef<[u8]>,
        workload: impl Into<Bytes>,
    ) -> Result<Job, Error> {
        let job = self.run(|client| client.submit(function, workload))?;
        Ok(self.adopt(job))
    }

    /// A job that [`run`](Self::run) has submitted, for threads that wait: `client.adopt(client.run(|c| c.submit("f", "x").unique("k"))?)`.
    #[must_use]
    pub fn adopt(&self, job: crate::Job) -> Job {
        Job {
            job,
            engine: Arc::clone(&self.engine),
        }
    }

    /// Waits for a job that somebody has submitted, as if this client had.
    ///
    /// # Errors
    /// As [`crate::Client::attach`].
    pub fn attach(&self, handle: &Handle) -> Result<Job, Error> {
        let job = self.engine.wait(self.client.attach(handle))?;
        Ok(self.adopt(job))
    }

    /// Waits for the result of a job that somebody has submitted.
    ///
    /// # Errors
    /// As [`crate::Client::result`].
    pub fn result(&self, handle: &Handle) -> Result<Bytes, Error> {
        self.engine.wait(self.client.result(handle))
    }

    /// What has become of a job, without waiting for it.
    ///
    /// # Errors
    /// As [`crate::Client::outcome`].
    pub fn outcome(&self, handle: &Handle) -> Result<Outcome, Error> {
        self.engine.wait(self.client.outcome(handle))
    }

    /// Submits a background job. A durable server answers when the job is on disk.
    ///
    /// # Errors
    /// As [`crate::Client::submit_background`].
    pub fn submit_background(
        &self,
        function: impl AsRef<[u8]>,
        workload: impl Into<Bytes>,
    ) -> Result<Handle, Error> {
        self.run(|client| client.submit_background(function, workload))
    }

    /// Runs `function` over `workloads`, at most `concurrency` at once; results in the order of the workloads, each with its own fate.
    pub fn map<W: Into<Bytes>>(
        &self,
        function: impl AsRef<[u8]>,
        workloads: impl IntoIterator<Item = W>,
        concurrency: usize,
    ) -> Vec<Result<Bytes, Error>> {
        self.engine
            .wait(self.client.map(function, workloads, concurrency))
    }

    /// What the job's server knows about it.
    ///
    /// # Errors
    /// As [`crate::Client::status`].
    pub fn status(&self, handle: &Handle) -> Result<Status, Error> {
        self.engine.wait(self.client.status(handle))
    }

    /// What is known about the job with this unique key, on the server where such jobs meet.
    ///
    /// # Errors
    /// As [`crate::Client::status_unique`].
    pub fn status_unique(
        &self,
        function: impl AsRef<[u8]>,
        unique: impl AsRef<[u8]>,
    ) -> Result<Status, Error> {
        self.engine
            .wait(self.client.status_unique(function, unique))
    }

    /// Asks every server for an echo; the answers in the order of the configuration.
    pub fn ping(&self) -> Vec<(crate::Address, Result<Duration, Error>)> {
        self.engine.wait(self.client.ping())
    }
}

/// [`crate::Job`] for threads that wait.
#[derive(Debug)]
pub struct Job {
    job: crate::Job,
    engine: Arc<Engine>,
}

impl Job {
    /// The handle.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        self.job.handle()
    }

    /// The next event; `None` after the end.
    ///
    /// # Errors
    /// As [`crate::Job::next`].
    #[expect(
        clippy::should_implement_trait,
        reason = "the asynchronous job's name; errors end no iterator"
    )]
    pub fn next(&mut self) -> Result<Option<Event>, Error> {
        self.engine.wait(self.job.next())
    }

    /// Waits for the end: all parts of the result, joined.
    ///
    /// # Errors
    /// As [`crate::Job::complete`].
    pub fn complete(self) -> Result<Bytes, Error> {
        self.engine.wait(self.job.complete())
    }

    /// [`complete`](Self::complete), but no longer than `deadline`.
    ///
    /// # Errors
    /// As [`crate::Job::complete_within`].
    pub fn complete_within(self, deadline: Duration) -> Result<Bytes, Error> {
        // Inside the runtime, whose clock it needs.
        let job = self.job;
        self.engine
            .wait(async move { job.complete_within(deadline).await })
    }
}

/// Works until `stop` is cancelled (from another thread) and what the worker holds is done. Handlers given as
/// [`blocking_function`](Worker::blocking_function) run on threads of their own, as many as the worker's concurrency.
///
/// # Errors
/// As [`Worker::run`].
///
/// # Panics
/// Inside an asynchronous context.
pub fn work(worker: Worker, stop: CancellationToken) -> Result<(), Error> {
    Engine::new()?.wait(worker.run(stop))
}
