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

use crate::{Config, Error, Handle, Status, Worker};

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

    /// Asks every server for an echo; the answers in the order of the configuration.
    pub fn ping(&self) -> Vec<(crate::Address, Result<Duration, Error>)> {
        self.engine.wait(self.client.ping())
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
