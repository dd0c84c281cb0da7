//! Questions to one database of several, and counts of several as one list.
//!
//! Apart from the client's own questions, which go to all of them.

use crate::client::Client;
use crate::crypt::Keys;
use crate::database::Database;
use crate::error::Error;
use crate::handle::Handle;
use crate::list::FuncCount;
use bytes::Bytes;
use ibex_sql::params;
use std::collections::BTreeMap;

impl Client {
    /// Jobs per function of one database.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn counts_of(&self, database: &Database) -> Result<Vec<FuncCount>, Error> {
        database.judge(database.counts().await)
    }

    /// The name of a function by its number in the database of a handle; `None` when it has none.
    ///
    /// # Errors
    /// [`Error::ForeignHandle`], and what the database answers.
    pub async fn func_of(&self, handle: &Handle, funcid: u32) -> Result<Option<String>, Error> {
        let database = self.of(handle)?;
        database.judge(database.funcname(funcid).await)
    }
}

impl Client {
    /// The argument of a job that is over and kept; `None` when nothing is kept of it, or it is encrypted with a key that is not here.
    ///
    /// # Errors
    /// [`Error::ForeignHandle`], and what the database answers.
    pub async fn ended_arg(&self, handle: &Handle) -> Result<Option<Bytes>, Error> {
        let database = self.of(handle)?;
        database.judge(database.ended_arg(handle.jobid()).await)
    }
}

impl Database {
    async fn ended_arg(&self, jobid: u64) -> Result<Option<Bytes>, Error> {
        self.db().await?;
        if !self.has_side() {
            return Ok(None);
        }
        let rows = self
            .query(
                "SELECT arg, funcid FROM {p}sz_done WHERE jobid = ?",
                params![jobid],
            )
            .await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let Some(arg) = row.get::<Option<Bytes>>(0)? else {
            return Ok(None);
        };
        if !Keys::is_sealed(&arg) {
            return Ok(Some(arg));
        }
        let func = self.funcname(row.get(1)?).await?.unwrap_or_default();
        Ok(self.keys().and_then(|keys| keys.open(&func, &arg)))
    }
}

impl FuncCount {
    /// Counts of several databases as one list, by name.
    #[must_use]
    pub fn sum(counts: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut sums = BTreeMap::<String, Self>::new();
        for count in counts {
            match sums.get_mut(&count.funcname) {
                Some(sum) => {
                    sum.ready += count.ready;
                    sum.grabbed += count.grabbed;
                    sum.scheduled += count.scheduled;
                    sum.blocked += count.blocked;
                    sum.paused_until = sum.paused_until.max(count.paused_until);
                    sum.oldest_ready_age = sum.oldest_ready_age.max(count.oldest_ready_age);
                }
                None => drop(sums.insert(count.funcname.clone(), count)),
            }
        }
        sums.into_values().collect()
    }
}
