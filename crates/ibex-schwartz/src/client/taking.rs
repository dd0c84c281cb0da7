//! Jobs out: taken under a lease, by function, by handle, or by what they have in common.
//!
//! Apart because a grab goes on where one database fails or has too few. How a row is taken is `grab.rs`.

use super::Client;
use crate::error::{Causes, Error};
use crate::grab::{Grab, GrabbedJob, Only};
use crate::handle::Handle;

impl Client {
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

    /// Takes one ready job of a function with this coalescing value.
    ///
    /// # Errors
    /// As [`Client::grab`].
    pub async fn find_coalescing(
        &self,
        func: &str,
        value: &str,
        grab_for: u64,
    ) -> Result<Option<GrabbedJob>, Error> {
        self.find_only(func, Only::Coalesce(value.to_owned()), grab_for)
            .await
    }

    /// Takes one ready job of a function whose coalescing value starts so.
    ///
    /// # Errors
    /// As [`Client::grab`].
    pub async fn find_coalescing_prefix(
        &self,
        func: &str,
        prefix: &str,
        grab_for: u64,
    ) -> Result<Option<GrabbedJob>, Error> {
        self.find_only(func, Only::CoalescePrefix(prefix.to_owned()), grab_for)
            .await
    }

    async fn find_only(
        &self,
        func: &str,
        only: Only,
        grab_for: u64,
    ) -> Result<Option<GrabbedJob>, Error> {
        let want = Grab {
            only,
            grab_for,
            ..Grab::new(vec![func.to_owned()])
        };
        Ok(self.grab(&want).await?.pop())
    }
}
