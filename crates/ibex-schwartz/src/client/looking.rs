//! Looking at jobs over all databases; nothing is changed, nothing is locked.
//!
//! Apart because answers of several databases become one here: merged, summed, or the first.

use super::Client;
use crate::database::Database;
use crate::error::{Causes, Error};
use crate::handle::Handle;
use crate::job::StoredJob;
use crate::list::{Failure, FuncCount, Query, State, Status};
use crate::side::Ended;
use crate::wide::ParentStatus;

impl Client {
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
        let mut all = Vec::new();
        let mut causes = Vec::new();
        for database in self.databases() {
            match database.judge(database.counts().await) {
                Ok(counts) => all.extend(counts),
                Err(Error::Sql(error)) => causes.push((database.address(), error)),
                Err(error) => return Err(error),
            }
        }
        if causes.len() == self.databases().len() {
            Err(Error::NoDatabase(Causes(causes)))
        } else {
            Ok(FuncCount::sum(all))
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

    /// The parents of a pending job and what they left.
    ///
    /// # Errors
    /// As [`Client::grab_handle`].
    pub async fn parents(&self, handle: &Handle) -> Result<Vec<ParentStatus>, Error> {
        let database = self.of(handle)?;
        database.judge(database.parents(handle.jobid()).await)
    }
}
