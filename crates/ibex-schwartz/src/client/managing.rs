//! What operators do: jobs cancelled, changed and brought back, functions paused and set, batches made and closed, old rows removed.
//!
//! Apart because it acts on what is there; jobs in and out are elsewhere.

use super::Client;
use crate::database::Database;
use crate::error::Error;
use crate::handle::Handle;
use crate::list::Change;
use crate::settings::FuncSettings;
use crate::wide::{Batch, BatchStatus};
use std::sync::Arc;

impl Client {
    /// Removes a job that no worker has.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Grabbed`], and as [`Client::grab_handle`].
    pub async fn cancel(&self, handle: &Handle) -> Result<(), Error> {
        let database = self.of(handle)?;
        database.judge(database.cancel(handle.jobid()).await)
    }

    /// Asks the worker that has a job to stop: it hears of it with its next heartbeat ([`crate::JobContext::cancelled`]) and ends the run as it sees
    /// fit. `false` when nobody has the job. Perl workers do not listen.
    ///
    /// # Errors
    /// [`Error::NotFound`], and as [`Client::grab_handle`].
    pub async fn stop_run(&self, handle: &Handle) -> Result<bool, Error> {
        let database = self.of(handle)?;
        database.judge(database.stop_run(handle.jobid(), false).await)
    }

    /// As [`Client::stop_run`], but only of a worker that has the job through a daemon that records its leases ([`crate::Grab::record`]): such a
    /// worker is known to listen. `false` for all others.
    ///
    /// # Errors
    /// As there.
    pub async fn stop_daemon_run(&self, handle: &Handle) -> Result<bool, Error> {
        let database = self.of(handle)?;
        database.db().await?;
        if !database.has_side() {
            return Ok(false);
        }
        database.judge(database.stop_run(handle.jobid(), true).await)
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

    /// Removes one chunk of old errors and exit statuses from a database; call again while it answers more than 0.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn clean(&self, database: &Database) -> Result<u64, Error> {
        database.judge(database.clean().await)
    }
}
