//! A client of one or several databases: where jobs go, where they come from, which database is asked next.
//!
//! Apart from `database.rs` because the choice between databases is a policy: random order, the dead ones rested, the causes kept
//! when none is left. One failing database never shows while another lives.

//!
//! One module per concern: `builder` (how one is made), `inserting`, `taking`, `looking`, `managing` (jobs, functions and batches changed).

mod builder;
mod inserting;
mod looking;
mod managing;
mod taking;

pub use builder::ClientBuilder;
pub use inserting::Atomic;

use crate::database::{Database, Roles};
use crate::error::{Causes, Error};
use crate::handle::Handle;
use crate::hooks::Hooks;
use crate::stir::Stir;
use crate::tables::Clock;
use ibex_base::rng::Rng;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// A client. Clones share its databases and what it knows of them.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    databases: Vec<Database>,
    rng: Mutex<Rng>,
    clock: Arc<Clock>,
    /// Wakes workers of this process after an insert of this process.
    inserted: Notify,
    /// What became ready without an insert.
    stir: Arc<Stir>,
    unique_scope: UniqueScope,
    hooks: Vec<Arc<dyn Hooks>>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("databases", &self.inner.databases)
            .finish_non_exhaustive()
    }
}

/// Where a unique key counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UniqueScope {
    /// In all databases: a job with a key is always tried at the same database first, and the other live ones are asked whether the key is
    /// pending there. While a database is away a key may be taken twice.
    #[default]
    All,
    /// In each database by itself, as the original does it.
    Database,
}

impl Client {
    /// Opens a client of these databases, see [`ClientBuilder`] for more.
    ///
    /// # Errors
    /// As [`ClientBuilder::build`].
    pub async fn open<U: Into<String>>(urls: impl IntoIterator<Item = U>) -> Result<Self, Error> {
        urls.into_iter()
            .fold(Self::builder(), |builder, url| builder.db(url))
            .build()
            .await
    }

    /// A client step by step.
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Its databases, in the order they were given.
    #[must_use]
    pub fn databases(&self) -> &[Database] {
        &self.inner.databases
    }

    /// Waits until this process inserted a job. Register before looking, then await.
    pub fn inserted(&self) -> tokio::sync::futures::Notified<'_> {
        self.inner.inserted.notified()
    }

    /// Functions some of whose jobs became ready in this process without an insert, because a limit, a parent or a batch let them go. Waits for the
    /// first; one caller at a time.
    pub async fn stirred(&self) -> Vec<(String, u64)> {
        self.inner.stir.next().await
    }

    /// Wakes the workers of this process: someone else inserted.
    pub fn wake(&self) {
        self.inner.inserted.notify_waiters();
    }

    /// Makes the clock of SQLite databases stand at this second since the epoch, for tests; only [`Client::advance_clock`] moves it then.
    pub fn hold_clock(&self, epoch: u64) {
        self.inner.clock.hold(epoch);
    }

    /// Moves the clock of SQLite databases ahead, for tests of delays and leases. A MySQL server keeps its own time.
    pub fn advance_clock(&self, by: Duration) {
        self.inner.clock.advance(by.as_secs());
    }

    /// Databases with a role, in random order, the rested ones left out.
    fn choose(&self, role: impl Fn(Roles) -> bool) -> Vec<Database> {
        let mut chosen: Vec<Database> = self
            .inner
            .databases
            .iter()
            .filter(|database| role(database.roles()))
            .cloned()
            .collect();
        self.inner
            .rng
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .shuffle(&mut chosen);
        let admitted: Vec<Database> = chosen
            .iter()
            .filter(|database| database.admits())
            .cloned()
            .collect();
        // When all are down each call tries them anyway: an error of now is worth more than one of half a minute ago.
        if admitted.is_empty() {
            chosen
        } else {
            admitted
        }
    }

    /// Tries databases in turn until one answers; only a failure of the database as a whole goes on to the next.
    async fn first<T, F>(
        &self,
        role: impl Fn(Roles) -> bool,
        call: impl Fn(Database) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut causes = Vec::new();
        for database in self.choose(role) {
            match database.judge(call(database.clone()).await) {
                Err(Error::Sql(error)) if crate::error::is_down(error.kind()) => {
                    causes.push((database.address(), error))
                }
                other => return other,
            }
        }
        Err(Error::NoDatabase(Causes(causes)))
    }

    /// The database a handle belongs to.
    ///
    /// # Errors
    /// [`Error::ForeignHandle`].
    pub fn of(&self, handle: &Handle) -> Result<&Database, Error> {
        let found = self
            .inner
            .databases
            .iter()
            .find(|database| database.hash() == handle.database());
        found.ok_or_else(|| Error::ForeignHandle(handle.to_string()))
    }

    /// The handle of a job of a database.
    #[must_use]
    pub fn handle(&self, database: &Database, jobid: u64) -> Handle {
        Handle::new(database.hash(), jobid)
    }

    /// Closes every database cleanly.
    ///
    /// # Errors
    /// The first failure; all are closed.
    pub async fn close(&self) -> Result<(), Error> {
        let mut outcome = Ok(());
        for database in self.databases() {
            outcome = outcome.and(database.close().await);
        }
        outcome
    }
}
