//! Jobs in: which database a job goes to, and what becomes of several.
//!
//! Apart because where a job goes depends on what it asks for: any database, the one of its parents, or the one its key belongs to.

use super::{Client, UniqueScope};
use crate::database::Database;
use crate::error::{Causes, Error};
use crate::handle::Handle;
use crate::hooks::Hooks;
use crate::insert::Inserted;
use crate::job::Job;
use crate::rendezvous;
use ibex_sql::Tx;
use std::sync::Arc;

/// How several jobs belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atomic {
    /// All are written or none.
    All,
    /// Each has its own outcome.
    Each,
}

impl Client {
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
        let key = job.uniqkey.as_deref().or(ukey).unwrap_or_default();
        rendezvous::sort(&mut databases, &[&job.funcname, key]);
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

    /// Puts several jobs in: all or none ([`Client::insert_all`]), or each with its own outcome ([`Client::insert_each`]).
    ///
    /// # Errors
    /// As there.
    pub async fn insert_many(
        &self,
        jobs: Vec<Job>,
        atomic: Atomic,
    ) -> Result<Vec<Inserted>, Error> {
        match atomic {
            Atomic::All => {
                let handles = self.insert_all(jobs).await?;
                Ok(handles.into_iter().map(Inserted::New).collect())
            }
            Atomic::Each => self.insert_each(jobs).await,
        }
    }

    pub(super) fn wake_after<T>(&self, outcome: Result<T, Error>) -> Result<T, Error> {
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
}
