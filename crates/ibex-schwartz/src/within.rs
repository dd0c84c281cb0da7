//! A job ended inside a transaction of its worker, and runs asked to stop.
//!
//! Apart from `finish.rs` because nobody commits here: a handler's own transaction does, with what the job did, or it is rolled back with it.

use crate::database::Database;
use crate::ending::Ending;
use crate::error::Error;
use crate::finish::{Fence, Finish};
use crate::policy::Said;
use crate::wide::{self, Effects};
use ibex_sql::{Engine, Tx, params};

impl Database {
    /// Completes a job in the caller's transaction, which must be one of this database.
    pub(crate) async fn complete_in(
        &self,
        tx: &mut Tx,
        fence: Fence,
        keep: u64,
    ) -> Result<(), Error> {
        let scope = self.scope();
        let mut work = scope.on(tx);
        let mut ending = Ending {
            fence,
            has_side: self.has_side(),
            keeps: work.settings().retain(fence.funcid).completed > 0,
            said: Said::default(),
            hash: self.hash().to_owned(),
            // Who waits is told when the run ends, which is after the commit.
            effects: Effects::default(),
        };
        let complete = Finish::Complete { status: 0, keep };
        ending.apply(&mut work, complete, Vec::new()).await?;
        self.tell(&ending.effects).await;
        Ok(())
    }

    /// The same as statements for another driver; every value in them is a number.
    pub(crate) fn complete_sql(&self, fence: Fence, keep: u64) -> Vec<String> {
        let prefix = self.prefix();
        let Fence {
            jobid,
            funcid,
            lease,
            ..
        } = fence;
        let mut statements = vec![format!(
            "DELETE FROM {prefix}job WHERE jobid = {jobid} AND grabbed_until = {lease}"
        )];
        if keep > 0 {
            let now = match self.engine() {
                Engine::Sqlite => self.now().to_string(),
                Engine::MySql => "UNIX_TIMESTAMP()".to_owned(),
            };
            statements.push(format!(
                "REPLACE INTO {prefix}exitstatus (jobid, funcid, status, completion_time, delete_after) \
                 VALUES ({jobid}, {funcid}, 0, {now}, {now} + {keep})"
            ));
        }
        statements
    }

    /// Whether the row is there under this lease.
    pub(crate) async fn is_leased(&self, jobid: u64, lease: u64) -> Result<bool, Error> {
        let rows = self
            .query(
                "SELECT 1 FROM {p}job WHERE jobid = ? AND grabbed_until = ?",
                params![jobid, lease],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    /// Asks the worker that has a job to stop; `false` when nobody has it now, or only those who listen are wanted and it has no lease of a daemon.
    pub(crate) async fn stop_run(&self, jobid: u64, only_daemons: bool) -> Result<bool, Error> {
        self.need_side().await?;
        let scope = self.scope();
        self.db()
            .await?
            .write(move |tx| {
                let scope = scope.clone();
                Box::pin(async move { wide::stop(&mut scope.on(tx), jobid, only_daemons).await })
            })
            .await
    }

    /// Whether the run under this lease was asked to stop, see [`crate::Client::stop_run`].
    ///
    /// # Errors
    /// What the database answers.
    pub async fn is_stopped(&self, jobid: u64, lease: u64) -> Result<bool, Error> {
        if !self.has_side() {
            return Ok(false);
        }
        let rows = self
            .query(
                "SELECT 1 FROM {p}sz_jobx WHERE jobid = ? AND stop = ?",
                params![jobid, lease],
            )
            .await?;
        Ok(!rows.is_empty())
    }
}
