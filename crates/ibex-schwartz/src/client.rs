//! A client of one or several databases: where jobs go, where they come from, which database is asked next.
//!
//! Apart from `database.rs` because the choice between databases is a policy: random order, the dead ones rested, the causes kept
//! when none is left. One failing database never shows while another lives.

use crate::database::{Database, Roles, Settings};
use crate::dsn::Address;
use crate::error::{Causes, Error};
use crate::grab::{Grab, GrabbedJob, Only};
use crate::handle::Handle;
use crate::hooks::Hooks;
use crate::insert::Inserted;
use crate::job::{Job, StoredJob};
use crate::list::{Change, Failure, FuncCount, Query, State, Status};
use crate::schema::check_prefix;
use crate::settings::FuncSettings;
use crate::side::Ended;
use crate::stir::Stir;
use crate::tables::Clock;
use crate::wide::{Batch, BatchStatus, ParentStatus};
use ibex_base::rng::Rng;
use ibex_sql::{Db, Tx};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// A database that failed is left alone this long, as the original does.
const REST: Duration = Duration::from_secs(30);

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

/// How a client is made.
#[derive(Default)]
pub struct ClientBuilder {
    urls: Vec<(String, Roles)>,
    shared: Vec<Db>,
    prefix: String,
    secret: Option<String>,
    auto_init: Option<bool>,
    rest: Option<Duration>,
    unique_scope: UniqueScope,
    hooks: Vec<Arc<dyn Hooks>>,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Addresses may hold passwords.
        f.debug_struct("ClientBuilder")
            .field("databases", &(self.urls.len() + self.shared.len()))
            .finish_non_exhaustive()
    }
}

impl ClientBuilder {
    /// The password of every server whose URL has none.
    #[must_use]
    pub fn password(mut self, secret: impl Into<String>) -> Self {
        self.secret = Some(secret.into());
        self
    }

    /// A database by its URL; see [`ibex_sql::Config::new`] for the forms.
    #[must_use]
    pub fn db(self, url: impl Into<String>) -> Self {
        self.db_with_roles(url, Roles::default())
    }

    /// A database that takes only part of the work, for instance one that is being drained.
    #[must_use]
    pub fn db_with_roles(mut self, url: impl Into<String>, roles: Roles) -> Self {
        self.urls.push((url.into(), roles));
        self
    }

    /// A database the program has open already, so that jobs and its own rows can share a transaction.
    #[must_use]
    pub fn shared(mut self, db: Db) -> Self {
        self.shared.push(db);
        self
    }

    /// What the tables' names start with; empty by default.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Whether missing tables are made; by default only in SQLite files.
    #[must_use]
    pub fn auto_init(mut self, auto_init: bool) -> Self {
        self.auto_init = Some(auto_init);
        self
    }

    /// Where unique keys count; in all databases by default.
    #[must_use]
    pub fn unique_scope(mut self, scope: UniqueScope) -> Self {
        self.unique_scope = scope;
        self
    }

    /// Called around every insert of this client and every run of its workers; several are called in order.
    #[must_use]
    pub fn hook(mut self, hook: impl Hooks + 'static) -> Self {
        self.hooks.push(Arc::new(hook));
        self
    }

    /// How long a database that failed is left alone; 30 seconds by default.
    #[must_use]
    pub fn retry_after(mut self, rest: Duration) -> Self {
        self.rest = Some(rest);
        self
    }

    /// Makes the client. Databases that do not answer now are rested and tried later; at least one must answer.
    ///
    /// # Errors
    /// [`Error::Config`] for addresses that make no sense, [`Error::NoDatabase`] when none answers.
    pub async fn build(self) -> Result<Client, Error> {
        let client = self.build_lazy().await?;
        let mut causes = Vec::new();
        for database in client.databases() {
            match database.judge(database.db().await.map(|_| ())) {
                Ok(()) => {}
                Err(Error::Sql(error)) => causes.push((database.address(), error)),
                Err(error) => return Err(error),
            }
        }
        if causes.len() == client.databases().len() {
            Err(Error::NoDatabase(Causes(causes)))
        } else {
            Ok(client)
        }
    }

    /// As [`ClientBuilder::build`], but asks no database yet except those that are open already.
    ///
    /// # Errors
    /// [`Error::Config`] for addresses that make no sense.
    pub async fn build_lazy(self) -> Result<Client, Error> {
        check_prefix(&self.prefix)?;
        let clock = Arc::new(Clock::default());
        let stir = Arc::new(Stir::default());
        let settings = Settings {
            prefix: Arc::from(self.prefix.as_str()),
            auto_init: self.auto_init,
            rest: self.rest.unwrap_or(REST),
        };
        let mut databases = Vec::new();
        for (url, roles) in &self.urls {
            let mut address = Address::parse(url)?;
            if let Some(secret) = self
                .secret
                .as_ref()
                .filter(|_| !address.config.has_password())
            {
                address.config = address.config.with_password(secret);
            }
            databases.push(Database::new(
                address,
                settings.clone(),
                *roles,
                Arc::clone(&clock),
                Arc::clone(&stir),
            ));
        }
        for db in self.shared {
            let database = Database::new(
                Address::of(db.config()),
                settings.clone(),
                Roles::default(),
                Arc::clone(&clock),
                Arc::clone(&stir),
            );
            database.adopt(db).await?;
            databases.push(database);
        }
        if databases.is_empty() {
            return Err(Error::Config(
                "a client needs at least one database".to_owned(),
            ));
        }
        let seed = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .map_or(1, |since| u64::from(since.subsec_nanos()))
            ^ u64::from(std::process::id());
        Ok(Client {
            inner: Arc::new(Inner {
                databases,
                rng: Mutex::new(Rng::new(seed)),
                clock,
                inserted: Notify::new(),
                stir,
                unique_scope: self.unique_scope,
                hooks: self.hooks,
            }),
        })
    }
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

    /// Puts a job into one of the databases; on disk when this returns.
    ///
    /// # Errors
    /// [`Error::Invalid`] and [`Error::TooLarge`] for the job, [`Error::NoDatabase`] with a cause each.
    pub async fn insert(&self, mut job: Job) -> Result<Inserted, Error> {
        self.hooked(std::slice::from_mut(&mut job))?;
        job.check()?;
        self.insert_checked(job).await
    }

    /// Lets the hooks see and change what is about to be inserted.
    fn hooked(&self, jobs: &mut [Job]) -> Result<(), Error> {
        for hook in &self.inner.hooks {
            for job in &mut *jobs {
                hook.before_insert(job)?;
            }
        }
        Ok(())
    }

    pub(crate) fn hooks(&self) -> &[Arc<dyn Hooks>] {
        &self.inner.hooks
    }

    async fn insert_checked(&self, job: Job) -> Result<Inserted, Error> {
        let outcome = if let Some(home) = self.home(&job)? {
            home.judge(home.insert(&job).await)
        } else if self.is_keyed_widely(&job) {
            self.insert_keyed(&job).await
        } else {
            self.insert_anywhere(job).await
        };
        self.wake_after(outcome)
    }

    async fn insert_anywhere(&self, job: Job) -> Result<Inserted, Error> {
        let job = Arc::new(job);
        self.first(
            |roles| roles.insert,
            |database| {
                let job = Arc::clone(&job);
                async move { database.insert(&job).await }
            },
        )
        .await
    }

    /// The database of the parents and the batch a job names; `None` when it names none.
    fn home(&self, job: &Job) -> Result<Option<&Database>, Error> {
        let Some(options) = &job.options else {
            return Ok(None);
        };
        options
            .handles()
            .next()
            .map(|handle| self.of(handle))
            .transpose()
    }

    /// The database of all jobs of a list that name one, else the first of those that may take it.
    fn home_of_all(&self, jobs: &[Job]) -> Result<Option<Database>, Error> {
        for job in jobs {
            if let Some(home) = self.home(job)? {
                return Ok(Some(home.clone()));
            }
        }
        Ok(None)
    }

    /// Whether a job's key counts beyond the database it goes to.
    fn is_keyed_widely(&self, job: &Job) -> bool {
        let has_window = job
            .options
            .as_ref()
            .is_some_and(|options| options.unique.is_some());
        (job.uniqkey.is_some() || has_window)
            && self.inner.unique_scope == UniqueScope::All
            && self.inner.databases.len() > 1
    }

    /// The databases in the order in which this key is tried: the same for every client (rendezvous hashing).
    fn order_for(&self, job: &Job, ukey: Option<&str>) -> Vec<Database> {
        let mut databases: Vec<Database> = self.choose(|_| true);
        databases.sort_by_key(|database| {
            let mut hash = 0xcbf2_9ce4_8422_2325_u64;
            for part in [
                database.hash(),
                &job.funcname,
                job.uniqkey.as_deref().or(ukey).unwrap_or_default(),
            ] {
                for byte in part.bytes().chain([0xff]) {
                    hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
                }
            }
            // FNV leaves the last bytes in the low bits only.
            std::cmp::Reverse((hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15))
        });
        databases
    }

    /// Inserts unless a live database holds the key.
    async fn insert_keyed(&self, job: &Job) -> Result<Inserted, Error> {
        let mut causes = Vec::new();
        let unique = job
            .options
            .as_ref()
            .and_then(|options| options.unique.as_ref());
        let ukey = unique
            .map(|unique| unique.digest(&job.funcname, &job.arg))
            .transpose()?;
        let databases = self.order_for(job, ukey.as_deref());
        for (index, database) in databases
            .iter()
            .enumerate()
            .filter(|(_, database)| database.roles().insert)
        {
            let others = databases
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != index)
                .map(|(_, other)| other.clone());
            let mut asked = tokio::task::JoinSet::new();
            for other in others {
                let (job, ukey) = (job.clone(), ukey.clone());
                asked.spawn(async move { other.judge(other.holder(&job, ukey).await) });
            }
            while let Some(answer) = asked.join_next().await {
                // One that does not answer is not waited for: its keys count again when it is back.
                if let Ok(Ok(Some(handle))) = answer {
                    return Ok(Inserted::Duplicate(Some(handle)));
                }
            }
            match database.judge(database.insert(job).await) {
                Err(Error::Sql(error)) if crate::error::is_down(error.kind()) => {
                    causes.push((database.address(), error))
                }
                other => return other,
            }
        }
        Err(Error::NoDatabase(Causes(causes)))
    }

    /// Puts all jobs into one database in one transaction, or none.
    ///
    /// # Errors
    /// As [`Client::insert`], and [`Error::Duplicate`].
    pub async fn insert_all(&self, mut jobs: Vec<Job>) -> Result<Vec<Handle>, Error> {
        self.hooked(&mut jobs)?;
        let jobs = Arc::new(jobs);
        let outcome = match self.home_of_all(&jobs)? {
            Some(home) => home.judge(home.insert_all(&jobs).await),
            None => {
                self.first(
                    |roles| roles.insert,
                    |database| {
                        let jobs = Arc::clone(&jobs);
                        async move { database.insert_all(&jobs).await }
                    },
                )
                .await
            }
        };
        self.wake_after(outcome)
    }

    /// Puts jobs into one database in one transaction, each with its own outcome: a pending key refuses that job only.
    ///
    /// # Errors
    /// As [`Client::insert`]; then none was written.
    pub async fn insert_each(&self, mut jobs: Vec<Job>) -> Result<Vec<Inserted>, Error> {
        self.hooked(&mut jobs)?;
        let is_linked = jobs.iter().any(|job| {
            job.options
                .as_ref()
                .is_some_and(|options| !options.parents.is_empty() || options.batch.is_some())
        });
        if !is_linked && jobs.iter().any(|job| self.is_keyed_widely(job)) {
            // Each key has its own database then; jobs before a failure stay.
            let mut all = Vec::with_capacity(jobs.len());
            for job in jobs {
                job.check()?;
                all.push(self.insert_checked(job).await?);
            }
            return Ok(all);
        }
        let jobs = Arc::new(jobs);
        let outcome = match self.home_of_all(&jobs)? {
            Some(home) => home.judge(home.insert_each(&jobs).await),
            None => {
                self.first(
                    |roles| roles.insert,
                    |database| {
                        let jobs = Arc::clone(&jobs);
                        async move { database.insert_each(&jobs).await }
                    },
                )
                .await
            }
        };
        self.wake_after(outcome)
    }

    fn wake_after<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
        if outcome.is_ok() {
            self.wake();
        }
        outcome
    }

    /// Inserts inside the caller's own transaction on the first database, see [`Database::insert_tx`]. Workers are not woken before it
    /// commits: call [`Client::wake`] then, or let them poll.
    ///
    /// # Errors
    /// As [`Database::insert_tx`].
    pub async fn insert_tx(&self, tx: &mut Tx, job: &Job) -> Result<Inserted, Error> {
        match self.inner.databases.first() {
            Some(database) => {
                let mut job = job.clone();
                self.hooked(std::slice::from_mut(&mut job))?;
                database.insert_tx(tx, &job).await
            }
            None => Err(Error::NoDatabase(Causes(Vec::new()))),
        }
    }

    /// Takes ready jobs from the databases in turn until `want.max` are there. Databases that fail are passed over while one answers.
    ///
    /// # Errors
    /// [`Error::NoDatabase`] when none answered.
    pub async fn grab(&self, want: &Grab) -> Result<Vec<GrabbedJob>, Error> {
        let mut jobs = Vec::new();
        let mut causes = Vec::new();
        let mut answered = false;
        for database in self.choose(|roles| roles.work) {
            let rest = Grab {
                max: want.max.saturating_sub(jobs.len()),
                ..want.clone()
            };
            if rest.max == 0 {
                break;
            }
            match database.judge(database.grab(&rest).await) {
                Ok(found) => {
                    answered = true;
                    jobs.extend(found);
                }
                Err(Error::Sql(error)) => causes.push((database.address(), error)),
                Err(error) => return Err(error),
            }
        }
        if answered || causes.is_empty() {
            Ok(jobs)
        } else {
            Err(Error::NoDatabase(Causes(causes)))
        }
    }

    /// Takes one job by its handle; `None` when it is gone or another has it.
    ///
    /// # Errors
    /// [`Error::ForeignHandle`], and what a database can answer.
    pub async fn grab_handle(
        &self,
        handle: &Handle,
        grab_for: u64,
    ) -> Result<Option<GrabbedJob>, Error> {
        let database = self.of(handle)?;
        let Some(found) = database.judge(database.peek(handle.jobid()).await)? else {
            return Ok(None);
        };
        let want = Grab {
            only: Only::Job(handle.jobid()),
            grab_for,
            ..Grab::new(vec![found.job.funcname])
        };
        Ok(database
            .judge(database.grab(&want).await)?
            .into_iter()
            .next())
    }

    /// The job behind a handle with the lease it has, without grabbing it (the classic `work_on`).
    ///
    /// # Errors
    /// As [`Client::grab_handle`].
    pub async fn peek(&self, handle: &Handle) -> Result<Option<GrabbedJob>, Error> {
        let database = self.of(handle)?;
        database.judge(database.peek(handle.jobid()).await)
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

    /// The job's row, while it is pending.
    ///
    /// # Errors
    /// As [`Client::grab_handle`].
    pub async fn lookup(&self, handle: &Handle) -> Result<Option<StoredJob>, Error> {
        Ok(self.status(handle).await?.pending.map(|(job, _)| job))
    }

    /// Whether the job's row exists.
    ///
    /// # Errors
    /// As [`Client::grab_handle`].
    pub async fn is_pending(&self, handle: &Handle) -> Result<bool, Error> {
        Ok(self.lookup(handle).await?.is_some())
    }

    /// State, exit status and failures of a job.
    ///
    /// # Errors
    /// As [`Client::grab_handle`].
    pub async fn status(&self, handle: &Handle) -> Result<Status, Error> {
        let database = self.of(handle)?;
        database.judge(database.status(handle.jobid()).await)
    }

    /// The messages of failed runs, oldest first.
    ///
    /// # Errors
    /// As [`Client::grab_handle`].
    pub async fn failure_log(&self, handle: &Handle) -> Result<Vec<String>, Error> {
        let database = self.of(handle)?;
        let failures = database.judge(database.failures_of(handle.jobid()).await)?;
        Ok(failures
            .into_iter()
            .map(|failure| failure.message)
            .collect())
    }

    /// Removes a job that no worker has.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Grabbed`], and as [`Client::grab_handle`].
    pub async fn cancel(&self, handle: &Handle) -> Result<(), Error> {
        let database = self.of(handle)?;
        database.judge(database.cancel(handle.jobid()).await)
    }

    /// Pending jobs, per database up to the limit; nothing is locked.
    ///
    /// # Errors
    /// What a database answers.
    pub async fn list(&self, query: &Query) -> Result<Vec<(Handle, StoredJob, State)>, Error> {
        let mut all = Vec::new();
        for database in self.databases() {
            for (job, state) in database.judge(database.list(query).await)? {
                all.push((Handle::new(database.hash(), job.jobid), job, state));
            }
        }
        Ok(all)
    }

    /// Jobs per function, summed over the databases that answer.
    ///
    /// # Errors
    /// [`Error::NoDatabase`] when none answers.
    pub async fn counts(&self) -> Result<Vec<FuncCount>, Error> {
        let mut sums: std::collections::BTreeMap<String, FuncCount> =
            std::collections::BTreeMap::new();
        let mut causes = Vec::new();
        for database in self.databases() {
            match database.judge(database.counts().await) {
                Ok(counts) => {
                    for count in counts {
                        match sums.get_mut(&count.funcname) {
                            Some(sum) => {
                                sum.ready += count.ready;
                                sum.grabbed += count.grabbed;
                                sum.scheduled += count.scheduled;
                                sum.blocked += count.blocked;
                                sum.paused_until = sum.paused_until.max(count.paused_until);
                                sum.oldest_ready_age =
                                    sum.oldest_ready_age.max(count.oldest_ready_age);
                            }
                            None => drop(sums.insert(count.funcname.clone(), count)),
                        }
                    }
                }
                Err(Error::Sql(error)) => causes.push((database.address(), error)),
                Err(error) => return Err(error),
            }
        }
        if causes.len() == self.databases().len() {
            Err(Error::NoDatabase(Causes(causes)))
        } else {
            Ok(sums.into_values().collect())
        }
    }

    /// The newest failures over all databases, newest first; `since` in epoch seconds.
    ///
    /// # Errors
    /// What a database answers.
    pub async fn errors(
        &self,
        func: Option<&str>,
        since: u64,
        limit: u32,
    ) -> Result<Vec<(Handle, Failure)>, Error> {
        let mut all = Vec::new();
        for database in self.databases() {
            let failures = database.judge(database.errors(func, since, limit).await)?;
            all.extend(
                failures
                    .into_iter()
                    .map(|failure| (Handle::new(database.hash(), failure.jobid), failure)),
            );
        }
        all.sort_by_key(|(_, failure)| std::cmp::Reverse(failure.time));
        all.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(all)
    }

    /// The clock of the first database that answers, in epoch seconds.
    ///
    /// # Errors
    /// [`Error::NoDatabase`].
    pub async fn time(&self) -> Result<u64, Error> {
        self.first(|_| true, |database| async move { database.time().await })
            .await
    }

    /// The largest job number of each database, for noticing inserts of others.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn newest(&self, database: &Database) -> Result<u64, Error> {
        database.judge(database.newest().await)
    }

    /// Functions of jobs with numbers above `after` in a database, how many each, and the largest number now: what others inserted.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn newer(
        &self,
        database: &Database,
        after: u64,
    ) -> Result<(u64, Vec<(String, u64)>), Error> {
        database.judge(database.newer(after).await)
    }

    /// Makes a job that failed for good or was cancelled ready again, under its old handle and with all its runs before it.
    ///
    /// # Errors
    /// [`Error::NotFound`] when nothing is kept of it, [`Error::Duplicate`] when its key is pending again, and as [`Client::grab_handle`].
    pub async fn retry(&self, handle: &Handle) -> Result<(), Error> {
        let database = self.of(handle)?;
        let outcome = database.judge(database.retry(handle.jobid()).await);
        self.wake_after(outcome)
    }

    /// Jobs that ended in `state` (`failed` or `cancelled`) and are kept, newest first, per database up to `limit`.
    ///
    /// # Errors
    /// What a database answers.
    pub async fn ended(
        &self,
        state: &str,
        func: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Ended>, Error> {
        let mut all = Vec::new();
        for database in self.databases() {
            all.extend(database.judge(database.ended_list(state, func, limit).await)?);
        }
        Ok(all)
    }

    /// Makes up to `limit` jobs that failed for good ready again, of one function or of all; answers how many, and how many stay because their
    /// keys are pending again.
    ///
    /// # Errors
    /// What a database answers; jobs before it are ready.
    pub async fn retry_failed(&self, func: Option<&str>, limit: u32) -> Result<(u64, u64), Error> {
        let (mut retried, mut stay) = (0, 0);
        for job in self.ended("failed", func, limit).await? {
            match self.retry(&job.handle).await {
                Ok(()) => retried += 1,
                Err(Error::Duplicate) => stay += 1,
                // Someone else was faster.
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((retried, stay))
    }

    /// Pauses a function in every database, for so many seconds or until it is resumed: none of its jobs is handed out, to Perl workers neither;
    /// those that workers have go on.
    ///
    /// # Errors
    /// As [`Database::pause`].
    pub async fn pause(&self, func: &str, seconds: Option<u64>) -> Result<(), Error> {
        for database in self.databases() {
            database.judge(database.pause(func, seconds).await)?;
        }
        Ok(())
    }

    /// Resumes a function in every database; `false` when it was paused in none.
    ///
    /// # Errors
    /// As [`Database::pause`].
    pub async fn resume(&self, func: &str) -> Result<bool, Error> {
        let mut was_paused = false;
        for database in self.databases() {
            was_paused |= database.judge(database.resume(func).await)?;
        }
        self.wake();
        Ok(was_paused)
    }

    /// Replaces the settings of a function, or of all ([`crate::EVERY_FUNCTION`]), in every database: limits hold in each by itself.
    ///
    /// # Errors
    /// As [`Database::set_func`].
    pub async fn set_func(&self, func: &str, settings: &FuncSettings) -> Result<(), Error> {
        for database in self.databases() {
            database.judge(database.set_func(func, settings).await)?;
        }
        Ok(())
    }

    /// The settings of a function in the first database that answers.
    ///
    /// # Errors
    /// [`Error::NoDatabase`].
    pub async fn func_settings(&self, func: &str) -> Result<FuncSettings, Error> {
        self.first(
            |_| true,
            |database| async move { database.func_settings(func).await },
        )
        .await
    }

    /// Changes a job that no worker has.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Grabbed`], and as [`Client::grab_handle`].
    pub async fn change(&self, handle: &Handle, change: &Change) -> Result<(), Error> {
        let database = self.of(handle)?;
        database.judge(database.change(handle.jobid(), change).await)
    }

    /// Makes a batch that takes jobs until [`Client::close_batch`]; in its parent's database, else in one that takes inserts.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a callback that is no plain job or a parent that is finished, [`Error::Config`] where our own tables are not
    /// allowed, and as [`Client::insert`].
    pub async fn batch(&self, batch: Batch) -> Result<Handle, Error> {
        if let Some(parent) = &batch.parent {
            let home = self.of(parent)?;
            return home.judge(home.batch_make(&batch).await);
        }
        let batch = Arc::new(batch);
        self.first(
            |roles| roles.insert,
            |database| {
                let batch = Arc::clone(&batch);
                async move { database.batch_make(&batch).await }
            },
        )
        .await
    }

    /// A batch is finished, and its callbacks inserted, once it is closed and its jobs are over. Those jobs may add others until then.
    ///
    /// # Errors
    /// [`Error::NotFound`], and as [`Client::grab_handle`].
    pub async fn close_batch(&self, batch: &Handle) -> Result<(), Error> {
        let home = self.of(batch)?;
        home.judge(home.batch_close(batch.jobid()).await)
    }

    /// How a batch stands.
    ///
    /// # Errors
    /// As [`Client::close_batch`].
    pub async fn batch_status(&self, batch: &Handle) -> Result<BatchStatus, Error> {
        let home = self.of(batch)?;
        home.judge(home.batch_status(batch.jobid()).await)
    }

    /// Batches, the newest first, per database up to `limit`.
    ///
    /// # Errors
    /// What a database answers.
    pub async fn batches(&self, limit: u32) -> Result<Vec<BatchStatus>, Error> {
        let mut all = Vec::new();
        for database in self.databases() {
            all.extend(database.judge(database.batch_list(limit).await)?);
        }
        Ok(all)
    }

    /// The parents of a pending job and what they left.
    ///
    /// # Errors
    /// As [`Client::grab_handle`].
    pub async fn parents(&self, handle: &Handle) -> Result<Vec<ParentStatus>, Error> {
        let database = self.of(handle)?;
        database.judge(database.parents(handle.jobid()).await)
    }

    /// Removes one chunk of old errors and exit statuses from a database; call again while it answers more than 0.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn clean(&self, database: &Database) -> Result<u64, Error> {
        database.judge(database.clean().await)
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
