//! The same client for programs without an event loop: a thread of our own runs it, the caller's thread waits.
//!
//! Apart because everything else here is asynchronous. Nothing is repeated: [`Client::run`] lends the asynchronous client, whose every call can be waited for;
//! the methods are the ones used daily.
//!
//! ```no_run
//! # fn example() -> Result<(), ibex_memcached_client::Error> {
//! use ibex_memcached_client::{Config, Expiry, blocking};
//!
//! let cache = blocking::Client::connect(Config::new(["127.0.0.1:11211"]))?;
//! cache.set("greeting", "hello", Expiry::Never)?;
//! let versions = cache.run(|cache| cache.version())?;
//! # drop(versions);
//! # Ok(()) }
//! ```

use crate::{ComputeError, Config, Error, Expiry, Item, Key, LeaseOptions};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

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
            .thread_name("ibex-memcached")
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
    /// As [`crate::Client::connect`].
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

    /// Waits for any operation of the asynchronous client.
    pub fn run<'a, F: IntoFuture>(
        &'a self,
        operation: impl FnOnce(&'a crate::Client) -> F,
    ) -> F::Output {
        self.engine
            .wait(async { operation(&self.client).into_future().await })
    }

    /// As [`crate::Client::get`].
    ///
    /// # Errors
    /// See [`Error`]; a miss is none.
    pub fn get<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<Item>, Error> {
        self.engine.wait(self.client.get(key))
    }

    /// As [`crate::Client::get_multi`].
    ///
    /// # Errors
    /// The first server's error.
    pub fn get_multi<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<HashMap<Bytes, Item>, Error> {
        self.engine.wait(self.client.get_multi(keys))
    }

    /// As [`crate::Client::set`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn set<'k>(
        &self,
        key: impl Into<Key<'k>>,
        value: impl AsRef<[u8]>,
        expiry: Expiry,
    ) -> Result<(), Error> {
        self.engine.wait(self.client.set(key, value, expiry))
    }

    /// As [`crate::Client::add`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn add<'k>(
        &self,
        key: impl Into<Key<'k>>,
        value: impl AsRef<[u8]>,
        expiry: Expiry,
    ) -> Result<bool, Error> {
        self.engine.wait(self.client.add(key, value, expiry))
    }

    /// As [`crate::Client::delete`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn delete<'k>(&self, key: impl Into<Key<'k>>) -> Result<bool, Error> {
        self.engine.wait(self.client.delete(key))
    }

    /// As [`crate::Client::incr`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn incr<'k>(&self, key: impl Into<Key<'k>>, delta: u64) -> Result<Option<u64>, Error> {
        self.engine.wait(self.client.incr(key, delta))
    }

    /// As [`crate::Client::get_or_compute`], with a computation that runs on the caller's thread.
    ///
    /// # Errors
    /// As [`crate::Client::get_or_compute`].
    pub fn get_or_compute<'k, E>(
        &self,
        key: impl Into<Key<'k>>,
        options: LeaseOptions,
        compute: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, ComputeError<E>> {
        let compute = || async { compute() };
        self.engine
            .wait(self.client.get_or_compute(key, options, compute))
    }

    /// As [`crate::Client::invalidate`].
    ///
    /// # Errors
    /// See [`Error`].
    pub fn invalidate<'k>(
        &self,
        key: impl Into<Key<'k>>,
        stale_for: Duration,
    ) -> Result<(), Error> {
        self.engine.wait(self.client.invalidate(key, stale_for))
    }
}
