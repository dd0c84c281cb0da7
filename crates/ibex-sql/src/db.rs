//! [`Db`] and [`Tx`]: what callers hold. Sends each call to its engine and repeats what may be repeated.
//!
//! Apart from the engines so that the retry loop exists once. A transaction's closure is called again from its start when a
//! retryable class stopped it, so it must do nothing but talk to its `Tx` and compute.

use crate::config::{Config, Target};
use crate::error::{Error, ErrorKind};
use crate::migrate::{self, Migration};
use crate::mysql::{MyDb, MyTx};
use crate::retry::Backoff;
use crate::sqlite::{LiteDb, LiteTx};
use crate::value::{Done, Row, Value};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

/// A boxed future, as the closures of [`Db::write`] and [`Db::read`] return.
pub type BoxFuture<'t, T> = Pin<Box<dyn Future<Output = T> + Send + 't>>;

/// Which SQL dialect a database speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Engine {
    /// SQLite, compiled in.
    Sqlite,
    /// MySQL or MariaDB.
    MySql,
}

impl Engine {
    /// The text for this engine.
    #[must_use]
    pub fn pick<'a>(self, sqlite: &'a str, mysql: &'a str) -> &'a str {
        match self {
            Self::Sqlite => sqlite,
            Self::MySql => mysql,
        }
    }
}

/// Counts since the database was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Write transactions acknowledged, single statements included.
    pub writes: u64,
    /// Commits that reached the disk for them; fewer than `writes` when callers were grouped (SQLite only).
    pub commits: u64,
    /// Most writes that shared one commit.
    pub group_max: u64,
    /// Transactions repeated after a retryable failure.
    pub retries: u64,
}

/// An open database. Clones are cheap and share it; the last one closes it.
#[derive(Clone)]
pub struct Db {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    driver: Driver,
    retries: std::sync::atomic::AtomicU64,
}

enum Driver {
    Lite(LiteDb),
    My(MyDb),
}

impl fmt::Debug for Db {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Db({})", self.shared.config)
    }
}

impl Db {
    /// Opens the file (making it when missing) or connects to the server once, so that a wrong address shows at start.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for refused credentials and unusable paths, [`ErrorKind::ConnectionLost`] when no host answers, and the rest of the classes.
    pub async fn open(config: &Config) -> Result<Self, Error> {
        let driver = match &config.target {
            Target::Sqlite(target) => Driver::Lite(LiteDb::open(target).await?),
            Target::MySql(target) => Driver::My(MyDb::open(target).await?),
        };
        Ok(Self {
            shared: Arc::new(Shared {
                config: config.clone(),
                driver,
                retries: 0.into(),
            }),
        })
    }

    /// The dialect.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.shared.config.engine()
    }

    /// What this was opened with; prints masked.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Counts since it was opened.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = match &self.shared.driver {
            Driver::Lite(db) => db.stats(),
            Driver::My(db) => db.stats(),
        };
        stats.retries = self
            .shared
            .retries
            .load(std::sync::atomic::Ordering::Relaxed);
        stats
    }

    /// Brings `component`'s tables to the last of `steps`, which are in order of version and never change once released.
    ///
    /// Two programs that start at once wait for each other. A database that is newer than `steps` is refused.
    ///
    /// # Errors
    /// [`ErrorKind::Migration`], naming the versions or the step; the classes of the database otherwise.
    pub async fn migrate(&self, component: &str, steps: &[Migration]) -> Result<(), Error> {
        migrate::check_steps(component, steps)?;
        let steps: Vec<Migration> = steps.to_vec();
        match &self.shared.driver {
            Driver::Lite(_) => {
                let component = component.to_owned();
                self.write(move |tx| {
                    let (component, steps) = (component.clone(), steps.clone());
                    Box::pin(async move { migrate::sqlite(tx, &component, &steps).await })
                })
                .await
            }
            Driver::My(db) => migrate::mysql(db, component, &steps).await,
        }
    }

    /// One statement that changes rows, in its own transaction; acknowledged when committed.
    ///
    /// # Errors
    /// Any class; [`ErrorKind::OutcomeUnknown`] when the connection broke under it.
    pub async fn execute(&self, sql: impl AsRef<str>, params: Vec<Value>) -> Result<Done, Error> {
        let mut backoff = Backoff::new(self.shared.config.timeout);
        loop {
            let outcome = match &self.shared.driver {
                Driver::Lite(db) => {
                    db.execute(sql.as_ref(), params.clone(), backoff.deadline())
                        .await
                }
                Driver::My(db) => {
                    within(
                        backoff.deadline(),
                        true,
                        db.execute(sql.as_ref(), params.clone()),
                    )
                    .await
                }
            };
            match outcome {
                Err(error) if error.is_retryable() && backoff.pause().await => {
                    self.count_retry(&error)
                }
                other => return other,
            }
        }
    }

    /// One statement that only reads, on a reader connection; every row.
    ///
    /// # Errors
    /// Any class but [`ErrorKind::OutcomeUnknown`]; a statement that writes is [`ErrorKind::ReadOnly`] on SQLite.
    pub async fn query(&self, sql: impl AsRef<str>, params: Vec<Value>) -> Result<Vec<Row>, Error> {
        let mut backoff = Backoff::new(self.shared.config.timeout);
        loop {
            let outcome = match &self.shared.driver {
                Driver::Lite(db) => {
                    db.query(sql.as_ref(), params.clone(), backoff.deadline())
                        .await
                }
                Driver::My(db) => {
                    within(
                        backoff.deadline(),
                        false,
                        db.query(sql.as_ref(), params.clone()),
                    )
                    .await
                }
            };
            match outcome {
                Err(error) if error.is_retryable() && backoff.pause().await => {
                    self.count_retry(&error)
                }
                other => return other,
            }
        }
    }

    /// Whether the database answers, asked once and without a second try.
    ///
    /// # Errors
    /// As [`Db::query`]; [`ErrorKind::Timeout`] when `patience` is over.
    pub async fn ping(&self, patience: std::time::Duration) -> Result<(), Error> {
        let deadline = Instant::now() + patience;
        let answer = match &self.shared.driver {
            Driver::Lite(db) => db.query("SELECT 1", Vec::new(), deadline).await,
            Driver::My(db) => within(deadline, false, db.query("SELECT 1", Vec::new())).await,
        };
        answer.map(drop)
    }

    /// The first row of [`Db::query`].
    ///
    /// # Errors
    /// As [`Db::query`].
    pub async fn query_one(
        &self,
        sql: impl AsRef<str>,
        params: Vec<Value>,
    ) -> Result<Option<Row>, Error> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }

    /// Runs `work` in one write transaction and acknowledges it after the commit. Retryable classes (busy, deadlock, lock timeout,
    /// a connection lost before the commit) call `work` again from its start until the deadline, so it must have no other effects.
    /// `Err` from `work` rolls back; its own errors are returned as they are.
    ///
    /// On SQLite one writer exists: do not call the same `Db`'s `write` inside `work`, and do not wait for other things there — a
    /// closure that stalls is rolled back ([`ErrorKind::Timeout`]).
    ///
    /// # Errors
    /// Whatever `work` returns; [`ErrorKind::OutcomeUnknown`] when the connection broke during the commit.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send,
        E: From<Error>,
    {
        self.transact(Access::Write, work).await
    }

    /// Runs `work` in one read transaction: every statement sees the same snapshot. Retried as [`Db::write`].
    ///
    /// # Errors
    /// Whatever `work` returns.
    pub async fn read<T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send,
        E: From<Error>,
    {
        self.transact(Access::Read, work).await
    }

    async fn transact<T, E, F>(&self, access: Access, work: F) -> Result<T, E>
    where
        F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send,
        E: From<Error>,
    {
        let mut backoff = Backoff::new(self.shared.config.timeout);
        loop {
            let (failure, error) = match self.attempt(access, backoff.deadline(), &work).await {
                Ok(value) => return Ok(value),
                Err(failed) => failed,
            };
            match failure {
                Some(kind) if kind.is_retryable() && backoff.pause().await => {
                    self.count_retry(&kind)
                }
                Some(_) | None => return Err(error),
            }
        }
    }

    /// One run of the closure. The error carries the class that stopped it, if a statement did.
    async fn attempt<T, E, F>(
        &self,
        access: Access,
        deadline: Instant,
        work: &F,
    ) -> Result<T, (Option<ErrorKind>, E)>
    where
        F: for<'t> Fn(&'t mut Tx) -> BoxFuture<'t, Result<T, E>> + Send,
        E: From<Error>,
    {
        let sql = |error: Error| (Some(error.kind()), E::from(error));
        let mut tx = self.begin(access, deadline).await.map_err(sql)?;
        match work(&mut tx).await {
            Ok(value) => {
                tx.commit().await.map_err(sql)?;
                if let (Driver::My(db), Access::Write) = (&self.shared.driver, access) {
                    db.written();
                }
                Ok(value)
            }
            Err(error) => {
                let failure = tx.failure;
                tx.rollback().await;
                Err((failure, error))
            }
        }
    }

    async fn begin(&self, access: Access, deadline: Instant) -> Result<Tx, Error> {
        let inner = match &self.shared.driver {
            Driver::Lite(db) => Inner::Lite(db.begin(access, deadline).await?),
            Driver::My(db) => Inner::My(Box::new(within(deadline, false, db.begin(access)).await?)),
        };
        Ok(Tx {
            inner,
            failure: None,
            deadline,
        })
    }

    fn count_retry(&self, why: &dyn fmt::Debug) {
        self.shared
            .retries
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tracing::debug!(database = %self.shared.config, error = ?why, "database call repeated");
    }

    /// Waits for what is under way, folds the WAL back into the file, and closes. Later calls fail with [`ErrorKind::Closed`].
    ///
    /// # Errors
    /// When the last checkpoint or the good-bye to the server fails; the database is closed nevertheless.
    pub async fn close(&self) -> Result<(), Error> {
        match &self.shared.driver {
            Driver::Lite(db) => db.close().await,
            Driver::My(db) => db.close().await,
        }
    }
}

/// What a transaction may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    Read,
}

/// `work` until `deadline`. A single write cut off by it may still happen.
pub(crate) async fn within<T>(
    deadline: Instant,
    writes: bool,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout_at(deadline.into(), work).await {
        Ok(outcome) => outcome,
        Err(_) if writes => Err(Error::new(
            ErrorKind::OutcomeUnknown,
            "no answer before the deadline",
        )),
        Err(_) => Err(Error::new(
            ErrorKind::Timeout,
            "no answer before the deadline",
        )),
    }
}

/// An open transaction, lent to the closure of [`Db::write`] or [`Db::read`].
pub struct Tx {
    inner: Inner,
    /// Class of the last statement that failed; decides whether the closure is called again.
    failure: Option<ErrorKind>,
    deadline: Instant,
}

enum Inner {
    Lite(LiteTx),
    My(Box<MyTx>),
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx")
            .field("engine", &self.engine())
            .field("failure", &self.failure)
            .finish_non_exhaustive()
    }
}

impl Tx {
    /// The dialect.
    #[must_use]
    pub fn engine(&self) -> Engine {
        match self.inner {
            Inner::Lite(_) => Engine::Sqlite,
            Inner::My(_) => Engine::MySql,
        }
    }

    /// One statement that changes rows. A constraint that refuses it leaves the transaction usable.
    ///
    /// # Errors
    /// Any class.
    pub async fn execute(
        &mut self,
        sql: impl AsRef<str> + Send,
        params: Vec<Value>,
    ) -> Result<Done, Error> {
        let outcome = match &mut self.inner {
            Inner::Lite(tx) => tx.execute(sql.as_ref(), params).await,
            Inner::My(tx) => within(self.deadline, false, tx.execute(sql.as_ref(), params)).await,
        };
        self.note(outcome)
    }

    /// One statement once per set of parameters, in order; stops at the first that fails. On SQLite all of them travel to the writer
    /// together, which is what makes bulk work fast.
    ///
    /// # Errors
    /// The class of the first set that fails; the sets before it stay part of the transaction.
    pub async fn execute_each(
        &mut self,
        sql: impl AsRef<str> + Send,
        sets: Vec<Vec<Value>>,
    ) -> Result<Vec<Done>, Error> {
        let outcome = match &mut self.inner {
            Inner::Lite(tx) => tx.execute_each(sql.as_ref(), sets).await,
            Inner::My(tx) => {
                within(self.deadline, false, tx.execute_each(sql.as_ref(), sets)).await
            }
        };
        self.note(outcome)
    }

    /// Every row of a statement; `INSERT … RETURNING` is one, too.
    ///
    /// # Errors
    /// Any class.
    pub async fn query(
        &mut self,
        sql: impl AsRef<str> + Send,
        params: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        let outcome = match &mut self.inner {
            Inner::Lite(tx) => tx.query(sql.as_ref(), params).await,
            Inner::My(tx) => within(self.deadline, false, tx.query(sql.as_ref(), params)).await,
        };
        self.note(outcome)
    }

    /// The first row of [`Tx::query`].
    ///
    /// # Errors
    /// Any class.
    pub async fn query_one(
        &mut self,
        sql: impl AsRef<str> + Send,
        params: Vec<Value>,
    ) -> Result<Option<Row>, Error> {
        Ok(self.query(sql, params).await?.into_iter().next())
    }

    fn note<T>(&mut self, outcome: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &outcome {
            self.failure = Some(error.kind());
        }
        outcome
    }

    async fn commit(self) -> Result<(), Error> {
        if let Some(kind) = self.failure.filter(|kind| kind.is_retryable()) {
            // The engine may have rolled the whole transaction back; a closure that swallowed that must not commit half of it.
            self.rollback().await;
            return Err(Error::new(
                kind,
                "a statement of the transaction failed and was ignored",
            ));
        }
        match self.inner {
            Inner::Lite(tx) => tx.commit().await,
            Inner::My(tx) => within(self.deadline, true, tx.commit()).await,
        }
    }

    async fn rollback(self) {
        match self.inner {
            Inner::Lite(tx) => drop(tx),
            Inner::My(tx) => tx.rollback().await,
        }
    }
}
