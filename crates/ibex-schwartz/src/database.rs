//! One database of a client: opened when first needed, rested when it is down.
//!
//! Apart from the client because jobs, leases and handles belong to one database. It decides nothing about which database to use.

use crate::crypt::Keys;
use crate::dsn::Address;
use crate::error::Error;
use crate::funcs::Funcs;
use crate::job::{Job, limits};
use crate::schema;
use crate::settings;
use crate::side;
use crate::stir::Stir;
use crate::tables::{Clock, fill};
use crate::tenant::Turn;
use crate::wide::Cursors;
use bytes::Bytes;
use ibex_sql::{Db, Done, Engine, Row, Tx, Value, params};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

/// Room in a packet for everything of a statement but the argument: the text and two names of 255 four-byte characters.
const STATEMENT_BYTES: usize = 4096;

/// What a database is used for, so that one can be drained before it is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Roles {
    /// New jobs go there.
    pub insert: bool,
    /// Its jobs are worked.
    pub work: bool,
}

impl Default for Roles {
    fn default() -> Self {
        Self {
            insert: true,
            work: true,
        }
    }
}

/// How a database is to be treated.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) prefix: Arc<str>,
    pub(crate) auto_init: Option<bool>,
    /// How long a database that failed is left alone.
    pub(crate) rest: Duration,
    /// Arguments are sealed in its rows.
    pub(crate) keys: Option<Keys>,
}

/// One database with the job tables. Clones share it.
#[derive(Clone)]
pub struct Database {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    address: Address,
    settings: Settings,
    roles: Roles,
    db: OnceCell<Db>,
    pub(crate) funcs: Funcs,
    clock: Arc<Clock>,
    down_until: Mutex<Option<Instant>>,
    /// Whether our own tables are there; known once it is open.
    side: AtomicBool,
    /// Bytes of an argument that one statement can carry; known once it is open.
    arg_bytes_max: AtomicUsize,
    stir: Arc<Stir>,
    /// Where the leader's sweep stands.
    cursors: Mutex<Cursors>,
    func_settings: Mutex<settings::Cache>,
    /// Where the turns of tenants stand, by function.
    turns: Mutex<std::collections::BTreeMap<u32, Turn>>,
    /// Shares of functions that are owed, see [`settings::share`].
    credits: Mutex<std::collections::BTreeMap<u32, i64>>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Database({})", self.inner.address.config)
    }
}

impl Database {
    pub(crate) fn new(
        address: Address,
        settings: Settings,
        roles: Roles,
        clock: Arc<Clock>,
        stir: Arc<Stir>,
    ) -> Self {
        let inner = Inner {
            address,
            settings,
            roles,
            db: OnceCell::new(),
            funcs: Funcs::default(),
            clock,
            down_until: Mutex::new(None),
            side: false.into(),
            arg_bytes_max: limits::ARG_BYTES_MAX.into(),
            stir,
            cursors: Mutex::default(),
            func_settings: Mutex::default(),
            turns: Mutex::default(),
            credits: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// One that is open already, for programs that share their database with the jobs.
    pub(crate) async fn adopt(&self, db: Db) -> Result<(), Error> {
        self.prepare(&db).await?;
        // Set once, right after `new`.
        self.inner
            .db
            .set(db)
            .map_err(|_| Error::Config("database is open already".to_owned()))
    }

    /// The 32 hex digits in its handles.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.inner.address.hash
    }

    /// Its address with the password masked.
    #[must_use]
    pub fn address(&self) -> String {
        self.inner.address.config.to_string()
    }

    /// What it is used for.
    #[must_use]
    pub fn roles(&self) -> Roles {
        self.inner.roles
    }

    /// Whether it is a SQLite file, which is cheap to ask often.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.engine() == Engine::Sqlite
    }

    /// Which engine serves it.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.inner.address.config.engine()
    }

    /// The open database; for transactions that hold jobs beside a program's own rows, see [`Database::insert_tx`].
    ///
    /// # Errors
    /// When it cannot be opened, or the tables are missing and may not be made.
    pub async fn db(&self) -> Result<&Db, Error> {
        self.inner
            .db
            .get_or_try_init(|| async {
                let db = Db::open(&self.inner.address.config).await?;
                self.prepare(&db).await?;
                Ok(db)
            })
            .await
    }

    async fn prepare(&self, db: &Db) -> Result<(), Error> {
        let prefix = &self.inner.settings.prefix;
        if !schema::exists(db, prefix).await? {
            // A missing SQLite file gets its tables; a server's database is made by its administrator unless told otherwise.
            if !self
                .inner
                .settings
                .auto_init
                .unwrap_or(db.engine() == Engine::Sqlite)
            {
                return Err(Error::Config(format!(
                    "{} has no job tables; make them first or set auto_init",
                    db.config()
                )));
            }
            schema::create(db, prefix).await?;
        }
        if db.engine() == Engine::MySql
            && let Some(row) = db
                .query_one("SELECT @@max_allowed_packet", params![])
                .await?
        {
            let limit = row.get::<usize>(0)?.saturating_sub(STATEMENT_BYTES);
            self.inner
                .arg_bytes_max
                .store(limit.min(limits::ARG_BYTES_MAX), Ordering::Relaxed);
        }
        schema::extend(db, prefix).await?;
        self.inner
            .side
            .store(side::create(db, prefix).await?, Ordering::Relaxed);
        Ok(())
    }

    /// Refuses what would break the connection: one argument beyond the server's packet size says nothing about the database.
    pub(crate) async fn check_size(&self, job: &Job) -> Result<(), Error> {
        self.db().await?;
        let (bytes, max) = (
            job.arg.len(),
            self.inner.arg_bytes_max.load(Ordering::Relaxed),
        );
        if bytes > max {
            Err(Error::TooLarge { bytes, max })
        } else {
            Ok(())
        }
    }

    /// The keys its arguments are sealed with, if they are.
    pub(crate) fn keys(&self) -> Option<&Keys> {
        self.inner.settings.keys.as_ref()
    }

    /// An argument as it is kept in a row of this function.
    pub(crate) fn sealed(&self, func: &str, arg: &Bytes) -> Result<Bytes, Error> {
        match self.keys() {
            Some(keys) => keys.seal(func, arg),
            None => Ok(arg.clone()),
        }
    }

    /// Whether our own tables are there.
    pub(crate) fn has_side(&self) -> bool {
        self.inner.side.load(Ordering::Relaxed)
    }

    pub(crate) fn stir(&self) -> &Stir {
        &self.inner.stir
    }

    pub(crate) fn settings_cache(&self) -> std::sync::MutexGuard<'_, settings::Cache> {
        self.inner
            .func_settings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn turns(&self) -> std::sync::MutexGuard<'_, std::collections::BTreeMap<u32, Turn>> {
        self.inner
            .turns
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn credits(
        &self,
    ) -> std::sync::MutexGuard<'_, std::collections::BTreeMap<u32, i64>> {
        self.inner
            .credits
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn cursors(&self) -> Cursors {
        *self
            .inner
            .cursors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_cursors(&self, cursors: Cursors) {
        *self
            .inner
            .cursors
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = cursors;
    }

    pub(crate) fn funcs(&self) -> &Funcs {
        &self.inner.funcs
    }

    /// Whether it may be asked now: it is up, or rested long enough for one to try.
    pub(crate) fn admits(&self) -> bool {
        let mut until = self
            .inner
            .down_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match *until {
            Some(time) if Instant::now() < time => false,
            Some(_) => {
                // One caller probes, the others keep waiting.
                *until = Some(Instant::now() + self.inner.settings.rest);
                true
            }
            None => true,
        }
    }

    /// Whether it is being rested after a failure.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.inner
            .down_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    /// Notes from an outcome whether the database is up. Failures of data never count against it.
    pub(crate) fn judge<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        let mut until = self
            .inner
            .down_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &outcome {
            Err(error) if error.is_database_down() => {
                *until = Some(Instant::now() + self.inner.settings.rest)
            }
            Err(Error::Sql(error)) if error.is_outcome_unknown() => {}
            Ok(_) | Err(_) => *until = None,
        }
        outcome
    }

    pub(crate) fn prefix(&self) -> Arc<str> {
        Arc::clone(&self.inner.settings.prefix)
    }

    /// Epoch seconds of our clock; a MySQL server has its own.
    pub(crate) fn now(&self) -> u64 {
        self.inner.clock.now()
    }

    fn fill(&self, template: &str, params: Vec<Value>) -> (String, Vec<Value>) {
        fill(
            template,
            params,
            &self.inner.settings.prefix,
            self.engine(),
            self.now(),
        )
    }

    pub(crate) async fn execute(&self, template: &str, params: Vec<Value>) -> Result<Done, Error> {
        let (sql, params) = self.fill(template, params);
        Ok(self.db().await?.execute(sql, params).await?)
    }

    pub(crate) async fn query(
        &self,
        template: &str,
        params: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        let (sql, params) = self.fill(template, params);
        Ok(self.db().await?.query(sql, params).await?)
    }

    /// What a transaction of this database needs to fill statements.
    pub(crate) fn scope(&self) -> Scope {
        Scope {
            prefix: self.prefix(),
            clock: Arc::clone(&self.inner.clock),
            settings: self.settings_cache().latest(),
        }
    }

    /// Closes it cleanly; later calls fail.
    ///
    /// # Errors
    /// When the last checkpoint fails.
    pub async fn close(&self) -> Result<(), Error> {
        match self.inner.db.get() {
            Some(db) => Ok(db.close().await?),
            None => Ok(()),
        }
    }
}

/// Prefix, clock and settings, carried into a transaction's closure.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    prefix: Arc<str>,
    clock: Arc<Clock>,
    /// As they were read last: they say how long what ends is kept, which need not be newer.
    settings: Arc<settings::Known>,
}

impl Scope {
    /// A transaction that fills templates.
    pub(crate) fn on<'t>(&'t self, tx: &'t mut Tx) -> Work<'t> {
        Work { scope: self, tx }
    }
}

/// A transaction with its scope.
pub(crate) struct Work<'t> {
    scope: &'t Scope,
    tx: &'t mut Tx,
}

impl Work<'_> {
    pub(crate) fn settings(&self) -> &settings::Known {
        &self.scope.settings
    }

    pub(crate) fn engine(&self) -> Engine {
        self.tx.engine()
    }

    fn fill(&self, template: &str, params: Vec<Value>) -> (String, Vec<Value>) {
        fill(
            template,
            params,
            &self.scope.prefix,
            self.tx.engine(),
            self.scope.clock.now(),
        )
    }

    pub(crate) async fn execute(
        &mut self,
        template: &str,
        params: Vec<Value>,
    ) -> Result<Done, Error> {
        let (sql, params) = self.fill(template, params);
        Ok(self.tx.execute(sql, params).await?)
    }

    pub(crate) async fn execute_each(
        &mut self,
        template: &str,
        sets: Vec<Vec<Value>>,
    ) -> Result<Vec<Done>, Error> {
        let mut sql = String::new();
        let mut filled = Vec::with_capacity(sets.len());
        for set in sets {
            let (text, params) = self.fill(template, set);
            sql = text;
            filled.push(params);
        }
        if filled.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.tx.execute_each(sql, filled).await?)
    }

    pub(crate) async fn query(
        &mut self,
        template: &str,
        params: Vec<Value>,
    ) -> Result<Vec<Row>, Error> {
        let (sql, params) = self.fill(template, params);
        Ok(self.tx.query(sql, params).await?)
    }

    pub(crate) async fn query_one(
        &mut self,
        template: &str,
        params: Vec<Value>,
    ) -> Result<Option<Row>, Error> {
        Ok(self.query(template, params).await?.into_iter().next())
    }
}
