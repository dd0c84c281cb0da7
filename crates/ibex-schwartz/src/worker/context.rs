//! What a handler gets: the job, ways to keep it and to say how far it is, and a way to end it inside a transaction of its own.
//!
//! Apart because handlers hold it while the runtime works on: the lease may move, be lost or be ended by the handler itself, and both sides must
//! see the same.

use crate::database::Database;
use crate::error::Error;
use crate::finish::{Finish, Finished};
use crate::grab::GrabbedJob;
use crate::handle::Handle;
use crate::job::StoredJob;
use crate::policy::Said;
use crate::remote::{Grip, Remote};
use crate::worker::FunctionOptions;
use bytes::Bytes;
use ibex_sql::Tx;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;

/// What a handler gets: the job, and a way to keep it. Clones are the same run.
#[derive(Debug, Clone)]
pub struct JobContext {
    run: Arc<Run>,
}

#[derive(Debug)]
struct Run {
    held: Held,
    lease: AtomicU64,
    lost: CancellationToken,
    cancelled: CancellationToken,
    /// The handler ended the job in a transaction of its own, which may yet be rolled back.
    is_ended: AtomicBool,
    /// It has a row beside its classic one, at the latest since it said how far it is.
    is_wide: AtomicBool,
    grab_for: u64,
    keep: u64,
}

/// A job that was taken, and from whom.
#[derive(Clone)]
pub(crate) enum Held {
    /// A row of a database.
    Row(Box<GrabbedJob>),
    /// A lease that a daemon gave out.
    Lease(Box<Grip>),
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({})", self.handle())
    }
}

impl Held {
    pub(crate) fn job(&self) -> &StoredJob {
        match self {
            Self::Row(grabbed) => &grabbed.job,
            Self::Lease(grip) => &grip.job,
        }
    }

    pub(crate) fn handle(&self) -> &Handle {
        match self {
            Self::Row(grabbed) => &grabbed.handle,
            Self::Lease(grip) => &grip.handle,
        }
    }

    /// Seconds the run may take, by the job's or its function's wish.
    pub(crate) fn timeout_s(&self) -> Option<u64> {
        match self {
            Self::Row(grabbed) => grabbed.timeout_s,
            Self::Lease(grip) => grip.timeout_s,
        }
    }

    /// Gives the job back, as if it had never been taken.
    pub(crate) async fn release(&self) -> Result<(), Error> {
        match self {
            Self::Row(grabbed) => grabbed.database.release(grabbed.fence()).await,
            Self::Lease(grip) => grip.release().await,
        }
    }
}

impl JobContext {
    pub(crate) fn new(held: Held, options: &FunctionOptions) -> Self {
        let (lease, is_wide) = match &held {
            Held::Row(grabbed) => (grabbed.lease, grabbed.is_wide),
            Held::Lease(_) => (0, false),
        };
        let run = Run {
            held,
            lease: lease.into(),
            lost: CancellationToken::new(),
            cancelled: CancellationToken::new(),
            is_ended: false.into(),
            is_wide: is_wide.into(),
            grab_for: options.grab_for,
            keep: options.keep_exit_status_for,
        };
        Self { run: Arc::new(run) }
    }

    pub(crate) fn held(&self) -> &Held {
        &self.run.held
    }

    fn job(&self) -> &StoredJob {
        self.run.held.job()
    }

    /// The argument as it is in the row.
    #[must_use]
    pub fn arg(&self) -> &Bytes {
        &self.job().arg
    }

    /// The argument is sealed with a key this worker does not have: [`JobContext::arg`] is empty.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.job().is_encrypted
    }

    /// The argument as JSON, whether it was stored as JSON or frozen by Perl.
    #[must_use]
    pub fn arg_json(&self) -> Option<serde_json::Value> {
        if crate::storable::is_frozen(self.arg()) {
            return crate::storable::decode(self.arg()).ok();
        }
        serde_json::from_slice(self.arg()).ok()
    }

    /// The function.
    #[must_use]
    pub fn funcname(&self) -> &str {
        &self.job().funcname
    }

    /// The job's name outside.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        self.run.held.handle()
    }

    /// Which run this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        match &self.run.held {
            Held::Row(grabbed) => grabbed.attempt,
            Held::Lease(grip) => grip.attempt,
        }
    }

    /// Its unique key.
    #[must_use]
    pub fn uniqkey(&self) -> Option<&str> {
        self.job().uniqkey.as_deref()
    }

    /// What the job carries for its worker beside the argument, see [`crate::Job::meta`].
    #[must_use]
    pub fn meta(&self) -> Option<&Bytes> {
        match &self.run.held {
            Held::Row(grabbed) => grabbed.meta.as_ref(),
            Held::Lease(grip) => grip.meta.as_ref(),
        }
    }

    /// The trace context the job carries (W3C `traceparent`).
    #[must_use]
    pub fn trace(&self) -> Option<&str> {
        match &self.run.held {
            Held::Row(grabbed) => grabbed.trace.as_deref(),
            Held::Lease(grip) => grip.trace.as_deref(),
        }
    }

    /// Its coalescing value.
    #[must_use]
    pub fn coalesce(&self) -> Option<&str> {
        self.job().coalesce.as_deref()
    }

    /// The jobs this one depended on and what they left.
    ///
    /// # Errors
    /// What the database or the daemon answers.
    pub async fn parents(&self) -> Result<Vec<crate::ParentStatus>, Error> {
        match &self.run.held {
            Held::Row(grabbed) => grabbed.database.parents(grabbed.job.jobid).await,
            Held::Lease(grip) => grip.parents().await,
        }
    }

    /// Cancelled when the lease is lost: what is done from now on counts for nothing.
    #[must_use]
    pub fn lost(&self) -> &CancellationToken {
        &self.run.lost
    }

    /// Cancelled when someone asked this run to stop ([`crate::Client::stop_run`], `DELETE` over HTTP) and a heartbeat heard of it. How the run
    /// ends is the handler's choice.
    #[must_use]
    pub fn cancelled(&self) -> &CancellationToken {
        &self.run.cancelled
    }

    /// Says that the run goes on: the lease is as long again as it was. The worker does it by itself at a third of the lease.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn heartbeat(&self) -> Result<(), Error> {
        self.extend(self.run.grab_for).await
    }

    /// Makes the lease end this many seconds from now, if that is later. This is for handlers that know better than the worker.
    ///
    /// # Errors
    /// [`Error::LeaseLost`].
    pub async fn extend(&self, seconds: u64) -> Result<(), Error> {
        self.longer(seconds, Said::default()).await
    }

    /// Says how far the run is, for whoever looks at the job ([`crate::Status::notes`]); a heartbeat, too. At most 65,536 bytes of JSON.
    ///
    /// # Errors
    /// [`Error::LeaseLost`]; [`Error::Invalid`] for what is too large or no JSON.
    pub async fn progress<P: Serialize + Sync + ?Sized>(&self, progress: &P) -> Result<(), Error> {
        let json =
            serde_json::to_vec(progress).map_err(|error| Error::Invalid(error.to_string()))?;
        let said = Said {
            progress: Some(json.into()),
            ..Said::default()
        };
        self.longer(self.run.grab_for, said).await?;
        self.run.is_wide.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn longer(&self, seconds: u64, said: Said) -> Result<(), Error> {
        if self.is_ended() {
            return Ok(());
        }
        let outcome = match &self.run.held {
            Held::Row(grabbed) => self.longer_row(grabbed, seconds, &said).await,
            Held::Lease(grip) => grip.extend(seconds, said.progress).await,
        };
        match outcome {
            Ok(is_cancelled) => {
                if is_cancelled {
                    self.run.cancelled.cancel();
                }
                Ok(())
            }
            // The row is gone because the handler's own transaction ended the job.
            Err(_) if self.is_ended() => Ok(()),
            Err(error) => {
                if matches!(error, Error::LeaseLost(_) | Error::NotFound(_)) {
                    self.run.lost.cancel();
                }
                Err(error)
            }
        }
    }

    async fn longer_row(
        &self,
        grabbed: &GrabbedJob,
        seconds: u64,
        said: &Said,
    ) -> Result<bool, Error> {
        let ours = self.current(grabbed);
        let is_cancelled = ours
            .database
            .is_stopped(grabbed.job.jobid, ours.lease)
            .await?;
        if let Finished::Extended(until) = ours.finish_said(Finish::Extend(seconds), said).await? {
            self.run.lease.store(until, Ordering::SeqCst);
        }
        Ok(is_cancelled)
    }

    /// The row as it is held now.
    fn current(&self, grabbed: &GrabbedJob) -> GrabbedJob {
        GrabbedJob {
            lease: self.run.lease.load(Ordering::SeqCst),
            is_wide: self.run.is_wide.load(Ordering::SeqCst),
            ..grabbed.clone()
        }
    }

    /// Completes the job inside a transaction of the same database, with what the job did: both are committed, or neither, and so the job takes
    /// effect exactly once. Answer [`crate::Outcome::Complete`] after the commit; if it was not committed, that counts as a failure.
    ///
    /// # Errors
    /// [`Error::LeaseLost`] when another has the job: roll back. [`Error::Invalid`] for a job of a daemon, which has no transaction to share.
    pub async fn complete_tx(&self, tx: &mut Tx) -> Result<(), Error> {
        let Held::Row(grabbed) = &self.run.held else {
            return Err(no_transaction());
        };
        self.run.is_ended.store(true, Ordering::SeqCst);
        let ours = self.current(grabbed);
        let done = ours
            .database
            .complete_in(tx, ours.fence(), self.run.keep)
            .await;
        if done.is_err() {
            self.run.is_ended.store(false, Ordering::SeqCst);
        }
        done
    }

    /// As [`JobContext::complete_tx`] for a transaction of any other driver on the same database (rusqlite, `mysql_async`, an object mapper):
    /// statements without parameters to send in it. The first must change exactly one row; if it does not, another has the job: roll back. What
    /// follows from the end of a job with limits, parents or a batch is done by the daemon that leads.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a job of a daemon.
    pub fn complete_sql(&self) -> Result<Vec<String>, Error> {
        let Held::Row(grabbed) = &self.run.held else {
            return Err(no_transaction());
        };
        self.run.is_ended.store(true, Ordering::SeqCst);
        let ours = self.current(grabbed);
        Ok(ours.database.complete_sql(ours.fence(), self.run.keep))
    }

    /// The database of the job, for [`JobContext::complete_tx`]; `None` when it came from a daemon.
    #[must_use]
    pub fn database(&self) -> Option<&Database> {
        match &self.run.held {
            Held::Row(grabbed) => Some(&grabbed.database),
            Held::Lease(_) => None,
        }
    }

    /// Whether the handler ended the job itself, if it committed.
    pub(crate) fn is_ended(&self) -> bool {
        self.run.is_ended.load(Ordering::SeqCst)
    }

    /// Whether the row is still there under our lease: then what the handler did in its own transaction was not committed.
    pub(crate) async fn is_still_ours(&self) -> Result<bool, Error> {
        match &self.run.held {
            Held::Row(grabbed) => {
                let ours = self.current(grabbed);
                ours.database.is_leased(ours.job.jobid, ours.lease).await
            }
            Held::Lease(_) => Ok(true),
        }
    }

    /// Records how the run ended.
    pub(crate) async fn finish(
        &self,
        finish: Finish,
        options: &FunctionOptions,
    ) -> Result<Finished, Error> {
        match &self.run.held {
            Held::Row(grabbed) => self.current(grabbed).finish(finish).await,
            Held::Lease(grip) => grip.finish(finish, options).await,
        }
    }

    /// The daemon the job came from.
    #[must_use]
    pub fn daemon(&self) -> Option<&Remote> {
        match &self.run.held {
            Held::Row(_) => None,
            Held::Lease(grip) => Some(grip.remote()),
        }
    }
}

fn no_transaction() -> Error {
    Error::Invalid("a job that came from a daemon has no transaction to share".to_owned())
}
