//! Many completes in one transaction: the fast way out for workers that take and finish jobs by the hundred.
//!
//! Apart from `finish.rs` because nothing here can fail alone: each statement is sent once for all jobs, and a lease that is lost is an answer
//! and no error.

use crate::database::{Database, Work};
use crate::error::Error;
use crate::lease::{DELETE, upsert};
use crate::side;
use crate::tables::id_list;
use crate::wide::{self, Effects, End};
use ibex_sql::params;
use std::collections::BTreeMap;

/// How long exit statuses are kept.
#[derive(Debug, Clone, Copy)]
struct Keep {
    seconds: u64,
    /// The call said so itself: nobody else has a say.
    is_said: bool,
}

impl Database {
    /// Several completes in one transaction, each with its own outcome. Exit statuses are kept for `keep` seconds unless the job or its function
    /// says otherwise.
    ///
    /// # Errors
    /// When the whole group failed; per job `false` says that its lease is lost.
    pub async fn complete_many(&self, jobs: &[(u64, u64)], keep: u64) -> Result<Vec<bool>, Error> {
        let keep = Keep {
            seconds: keep,
            is_said: false,
        };
        self.complete_group(jobs, keep).await
    }

    /// As [`Database::complete_many`], but exit statuses are kept for `keep` seconds whatever else says.
    ///
    /// # Errors
    /// As there.
    pub async fn complete_many_keeping(
        &self,
        jobs: &[(u64, u64)],
        keep: u64,
    ) -> Result<Vec<bool>, Error> {
        let keep = Keep {
            seconds: keep,
            is_said: true,
        };
        self.complete_group(jobs, keep).await
    }

    async fn complete_group(&self, jobs: &[(u64, u64)], keep: Keep) -> Result<Vec<bool>, Error> {
        let keeps = self.settings().await?.keeps_completed();
        let scope = self.scope();
        let jobs = jobs.to_vec();
        let has_side = self.has_side();
        let outcome = self
            .db()
            .await?
            .write(move |tx| {
                let (scope, jobs) = (scope.clone(), jobs.clone());
                Box::pin(async move {
                    let mut effects = Effects::default();
                    let mut work = scope.on(tx);
                    if keeps {
                        keep_rows(&mut work, &jobs).await?;
                    }
                    let done = complete(&mut work, &jobs, keep, has_side, &mut effects).await?;
                    Ok::<_, Error>((done, effects))
                })
            })
            .await;
        let (done, effects) = self.judge(outcome)?;
        self.tell(&effects).await;
        Ok(done)
    }
}

/// Keeps those of the jobs whose function says so; one whose lease is lost is not.
async fn keep_rows(work: &mut Work<'_>, jobs: &[(u64, u64)]) -> Result<(), Error> {
    for (jobid, lease) in jobs {
        let row = work
            .query_one(
                "SELECT funcid FROM {p}job WHERE jobid = ? AND grabbed_until = ?",
                params![*jobid, *lease],
            )
            .await?;
        if let Some(row) = row
            && work.settings().retain(row.get(0)?).completed > 0
        {
            side::keep(work, *jobid, End::Completed.as_str(), 0).await?;
        }
    }
    Ok(())
}

/// What is needed of jobs before their rows go.
#[derive(Debug, Default)]
struct Before {
    funcids: BTreeMap<u64, u32>,
    /// Those with a row beside the classic one, and how long they want their exit status kept.
    wide: BTreeMap<u64, Option<u64>>,
}

impl Before {
    async fn read(
        work: &mut Work<'_>,
        jobs: &[(u64, u64)],
        keep: Keep,
        has_side: bool,
    ) -> Result<Self, Error> {
        let mut before = Self::default();
        let (list, ids) = id_list(&jobs.iter().map(|(jobid, _)| *jobid).collect::<Vec<_>>());
        if keep.seconds > 0 || work.settings().has_keep() {
            for row in work
                .query(
                    &format!("SELECT jobid, funcid FROM {{p}}job WHERE jobid IN ({list})"),
                    ids.clone(),
                )
                .await?
            {
                before.funcids.insert(row.get(0)?, row.get(1)?);
            }
        }
        if has_side {
            for row in work
                .query(
                    &format!(
                        "SELECT jobid, keep_exit, funcid FROM {{p}}sz_jobx WHERE jobid IN ({list})"
                    ),
                    ids,
                )
                .await?
            {
                before.wide.insert(row.get(0)?, row.get(1)?);
                before.funcids.insert(row.get(0)?, row.get(2)?);
            }
        }
        Ok(before)
    }

    fn keep(&self, work: &Work<'_>, jobid: u64, keep: Keep) -> u64 {
        if keep.is_said {
            return keep.seconds;
        }
        let own = self.wide.get(&jobid).copied().flatten();
        let funcid = self.funcids.get(&jobid);
        own.or_else(|| funcid.and_then(|funcid| work.settings().keep(*funcid)))
            .unwrap_or(keep.seconds)
    }
}

async fn complete(
    work: &mut Work<'_>,
    jobs: &[(u64, u64)],
    keep: Keep,
    has_side: bool,
    effects: &mut Effects,
) -> Result<Vec<bool>, Error> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let before = Before::read(work, jobs, keep, has_side).await?;
    let sets = jobs
        .iter()
        .map(|(jobid, lease)| params![*jobid, *lease])
        .collect();
    let removed: Vec<bool> = work
        .execute_each(DELETE, sets)
        .await?
        .iter()
        .map(|done| done.rows_affected == 1)
        .collect();
    let mut sets = Vec::new();
    for ((jobid, _), _) in jobs.iter().zip(&removed).filter(|(_, removed)| **removed) {
        let seconds = before.keep(work, *jobid, keep);
        if seconds > 0 {
            let funcid = before.funcids.get(jobid).copied().unwrap_or(0);
            sets.push(params![*jobid, funcid, 0, seconds]);
        }
    }
    work.execute_each(upsert(work.engine()), sets).await?;
    for ((jobid, _), removed) in jobs.iter().zip(&removed) {
        if *removed && before.wide.contains_key(jobid) {
            wide::ended(work, *jobid, End::Completed, effects).await?;
        }
    }
    Ok(removed)
}
