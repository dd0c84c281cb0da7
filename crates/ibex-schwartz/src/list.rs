//! Looking at jobs without touching them: lists, states, failures, counts, and the cleaning of what is past its time.
//!
//! Apart because nothing here takes a lease. It never decides what runs.

use crate::database::Database;
use crate::error::Error;
use crate::grab::like_prefix;
use crate::job::{StoredJob, When};
use crate::pause::PARKED;
use crate::seen::{COLUMNS, columns_cut};
use crate::side::{self, Ended};
use crate::tables::marks;
use crate::wide::{self, Effects, End, Notes, WideStatus};
use bytes::Bytes;
use ibex_sql::{Engine, Value, params};

/// Rows of one cleaning statement, at most, so that no lock is held for long.
const CLEAN_ROWS_MAX: u32 = 1000;
/// Errors are kept for a week, as the original keeps them.
const ERROR_SECONDS: u64 = 7 * 86_400;

/// Where a pending job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its time has not come.
    Scheduled,
    /// A worker may take it.
    Ready,
    /// A worker has it.
    Grabbed,
    /// Its function is paused and it is kept from all workers.
    Blocked,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Only these functions; all when empty.
    pub funcs: Vec<String>,
    /// Only with this coalescing value.
    pub coalesce: Option<String>,
    /// Only with a coalescing value that starts so.
    pub coalesce_prefix: Option<String>,
    /// Only with this tag.
    pub tag: Option<String>,
    /// Only in this state.
    pub state: Option<State>,
    /// Only this one.
    pub jobid: Option<u64>,
    /// Only those after this one.
    pub after: u64,
    /// At most so many; 0 is the classic 50.
    pub limit: u32,
    /// Only so many bytes of each argument are read; all when `None`. See [`StoredJob::arg_bytes`].
    pub arg_bytes: Option<u32>,
}

/// What to change of a pending job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// When it may run.
    pub run_after: Option<When>,
    /// Its priority.
    pub priority: Option<u16>,
    /// Its argument.
    pub arg: Option<Bytes>,
}

/// One failed run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Epoch seconds.
    pub time: u64,
    /// Which job.
    pub jobid: u64,
    /// What it said; the classic column holds 255 characters.
    pub message: String,
    /// Number of the function.
    pub funcid: u32,
}

/// A failed run as our own table has it, which is not cleaned while the job is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Which run it was, from 1.
    pub number: u32,
    /// Epoch seconds.
    pub ended_at: u64,
    /// What it said, at most 65,536 characters.
    pub message: String,
}

/// What is known of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The row, while it is pending, and its state.
    pub pending: Option<(StoredJob, State)>,
    /// The exit status, once it is over and while it is kept.
    pub exit_status: Option<u16>,
    /// Failed runs, oldest first; their texts in full where our own tables are.
    pub failures: Vec<Failure>,
    /// Failed runs by number; those of Perl workers are among the failures only.
    pub attempts: Vec<Attempt>,
    /// Failed runs before the job was brought back by hand: epoch seconds and texts, oldest first. They count no more.
    pub past: Vec<(u64, String)>,
    /// What is kept of a job that failed for good or was cancelled.
    pub ended: Option<Ended>,
    /// What a complete left, while it is kept.
    pub result: Option<Bytes>,
    /// Limits, parents and batch of a job that has some, while it is pending.
    pub wide: Option<WideStatus>,
    /// What it carries and how far its run is, while it is pending.
    pub notes: Notes,
}

/// Jobs of one function in one database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FuncCount {
    /// The function.
    pub funcname: String,
    /// A worker may take them.
    pub ready: u64,
    /// Workers have them.
    pub grabbed: u64,
    /// Their time has not come.
    pub scheduled: u64,
    /// Kept from all workers because the function is paused.
    pub blocked: u64,
    /// Seconds the oldest ready job waits beyond its time.
    pub oldest_ready_age: u64,
    /// Until when it is paused, epoch seconds; [`PARKED`] until it is resumed.
    pub paused_until: Option<u64>,
}

impl State {
    fn of(job: &StoredJob, now: u64) -> Self {
        if job.grabbed_until > now {
            Self::Grabbed
        } else if job.run_after == PARKED {
            Self::Blocked
        } else if job.run_after > now {
            Self::Scheduled
        } else {
            Self::Ready
        }
    }

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Ready => "ready",
            Self::Grabbed => "grabbed",
            Self::Blocked => "blocked",
        }
    }
}

impl Database {
    /// The database's clock, in epoch seconds.
    pub(crate) async fn time(&self) -> Result<u64, Error> {
        match self.query("SELECT :now", params![]).await?.first() {
            Some(row) => Ok(row.get(0)?),
            None => Ok(self.now()),
        }
    }

    pub(crate) async fn list(&self, query: &Query) -> Result<Vec<(StoredJob, State)>, Error> {
        self.db().await?;
        let (columns, mut params) = match query.arg_bytes {
            Some(bytes) => (columns_cut(self.engine()), params![bytes]),
            None => (COLUMNS, params![]),
        };
        let mut template = format!("SELECT {columns}, :now FROM {{p}}job WHERE jobid > ?");
        params.push(query.after.into());
        if !query.funcs.is_empty() {
            let ids = self.funcids(&query.funcs).await?;
            if ids.is_empty() {
                return Ok(Vec::new());
            }
            template.push_str(&format!(" AND funcid IN ({})", marks(ids.len())));
            params.extend(ids.into_iter().map(Value::from));
        }
        if let Some(value) = &query.coalesce {
            template.push_str(" AND coalesce = ?");
            params.push(Value::from(value));
        }
        if let Some(prefix) = &query.coalesce_prefix {
            template.push_str(" AND coalesce LIKE ? ESCAPE '|'");
            params.push(Value::from(like_prefix(prefix)));
        }
        if let Some(tag) = &query.tag {
            if !self.has_side() {
                return Ok(Vec::new());
            }
            template.push_str(" AND jobid IN (SELECT jobid FROM {p}sz_tag WHERE tag = ?)");
            params.push(Value::from(tag));
        }
        if let Some(jobid) = query.jobid {
            template.push_str(" AND jobid = ?");
            params.push(Value::from(jobid));
        }
        match query.state {
            None => {}
            Some(State::Ready) => {
                template.push_str(" AND run_after <= :now AND grabbed_until <= :now")
            }
            Some(State::Scheduled) => template.push_str(
                " AND run_after > :now AND run_after < 4294967295 AND grabbed_until <= :now",
            ),
            Some(State::Blocked) => {
                template.push_str(" AND run_after = 4294967295 AND grabbed_until <= :now")
            }
            Some(State::Grabbed) => template.push_str(" AND grabbed_until > :now"),
        }
        template.push_str(" ORDER BY jobid LIMIT ?");
        params.push(Value::from(if query.limit == 0 { 50 } else { query.limit }));
        let mut jobs = Vec::new();
        for row in self.query(&template, params).await? {
            match self.stored(&row).await {
                Ok(Some(job)) => {
                    let state = State::of(&job, row.get(10)?);
                    jobs.push((job, state));
                }
                Ok(None) => {}
                Err(Error::Sql(error)) if error.kind() == ibex_sql::ErrorKind::Decode => {}
                Err(error) => return Err(error),
            }
        }
        Ok(jobs)
    }

    pub(crate) async fn status(&self, jobid: u64) -> Result<Status, Error> {
        let query = Query {
            jobid: Some(jobid),
            limit: 1,
            ..Query::default()
        };
        let pending = self.list(&query).await?.into_iter().next();
        let exit = self
            .query(
                "SELECT status FROM {p}exitstatus WHERE jobid = ?",
                params![jobid],
            )
            .await?;
        let mut failures = self.failures_of(jobid).await?;
        let texts = self.texts(jobid).await?;
        with_texts(&mut failures, &texts);
        let attempts = texts
            .into_iter()
            .map(|(number, ended_at, message)| Attempt {
                number,
                ended_at,
                message,
            });
        let exit_status = exit
            .first()
            .and_then(|row| row.get::<Option<u16>>(0).ok())
            .flatten();
        let wide = match &pending {
            Some(_) => self.wide_status(jobid).await?,
            None => None,
        };
        Ok(Status {
            exit_status,
            failures,
            attempts: attempts.collect(),
            past: self.past(jobid).await?,
            ended: self.ended(jobid).await?,
            // Plain jobs carry nothing, and nothing is looked for.
            notes: match &wide {
                Some(_) => self.notes(jobid).await?,
                None => Notes::default(),
            },
            wide,
            pending,
            result: self.result(jobid).await?,
        })
    }

    pub(crate) async fn failures_of(&self, jobid: u64) -> Result<Vec<Failure>, Error> {
        let rows = self.query("SELECT error_time, jobid, message, funcid FROM {p}error WHERE jobid = ? ORDER BY error_time", params![jobid]).await?;
        Ok(readable(&rows))
    }

    /// The newest failures, newest first.
    pub(crate) async fn errors(
        &self,
        func: Option<&str>,
        since: u64,
        limit: u32,
    ) -> Result<Vec<Failure>, Error> {
        let mut template =
            "SELECT error_time, jobid, message, funcid FROM {p}error WHERE error_time >= ?"
                .to_owned();
        let mut params = params![since];
        if let Some(func) = func {
            let Some(id) = self.funcids(&[func.to_owned()]).await?.first().copied() else {
                return Ok(Vec::new());
            };
            template.push_str(" AND funcid = ?");
            params.push(Value::from(id));
        }
        template.push_str(" ORDER BY error_time DESC LIMIT ?");
        params.push(Value::from(limit));
        Ok(readable(&self.query(&template, params).await?))
    }

    pub(crate) async fn counts(&self) -> Result<Vec<FuncCount>, Error> {
        let names = self.all_funcs().await?;
        let paused = self.paused().await?;
        let rows = self
            .query(
                "SELECT funcid, SUM(CASE WHEN grabbed_until > :now THEN 1 ELSE 0 END), \
                 SUM(CASE WHEN grabbed_until <= :now AND run_after <= :now THEN 1 ELSE 0 END), \
                 SUM(CASE WHEN grabbed_until <= :now AND run_after > :now AND run_after < 4294967295 THEN 1 ELSE 0 END), \
                 MIN(CASE WHEN grabbed_until <= :now AND run_after <= :now THEN run_after END), :now, \
                 SUM(CASE WHEN grabbed_until <= :now AND run_after = 4294967295 THEN 1 ELSE 0 END) FROM {p}job GROUP BY funcid",
                params![],
            )
            .await?;
        let mut counts = std::collections::BTreeMap::new();
        for row in &rows {
            // SQLite keeps texts in integer columns: functions whose number is none are nobody's.
            let Ok(funcid) = row.get::<u32>(0) else {
                continue;
            };
            let (now, oldest): (u64, Option<u64>) = (row.get(5)?, row.get(4).unwrap_or(None));
            let age = oldest.map_or(0, |oldest| now.saturating_sub(oldest));
            counts.insert(
                funcid,
                (row.get(1)?, row.get(2)?, row.get(3)?, row.get(6)?, age),
            );
        }
        Ok(names
            .into_iter()
            .map(|(id, funcname)| {
                let (grabbed, ready, scheduled, blocked, oldest_ready_age) =
                    counts.get(&id).copied().unwrap_or_default();
                FuncCount {
                    funcname,
                    ready,
                    grabbed,
                    scheduled,
                    blocked,
                    oldest_ready_age,
                    paused_until: paused.get(&id).copied(),
                }
            })
            .collect())
    }

    /// The largest job number; grows with every insert of whoever.
    pub(crate) async fn newest(&self) -> Result<u64, Error> {
        match self
            .query("SELECT MAX(jobid) FROM {p}job", params![])
            .await?
            .first()
        {
            Some(row) => Ok(row.get::<Option<u64>>(0)?.unwrap_or(0)),
            None => Ok(0),
        }
    }

    /// Functions of jobs with numbers above `after`, how many each, and the largest number now.
    pub(crate) async fn newer(&self, after: u64) -> Result<(u64, Vec<(String, u64)>), Error> {
        let rows = self
            .query(&newer_template(self.engine()), params![after])
            .await?;
        let mut newest = after;
        let mut found = Vec::new();
        for row in &rows {
            newest = newest.max(row.get(2)?);
            if row.get::<u32>(0).is_err() {
                continue;
            }
            if let Some(name) = self.funcname(row.get(0)?).await? {
                found.push((name, row.get(1)?));
            }
        }
        Ok((newest, found))
    }

    /// Changes a job that nobody works on: time, priority, argument.
    pub(crate) async fn change(&self, jobid: u64, change: &Change) -> Result<(), Error> {
        if let Some(when) = change.run_after
            && self.change_parked(jobid, when).await?
        {
            // Its row keeps the mark until its turn comes.
            let rest = Change {
                run_after: None,
                ..change.clone()
            };
            return self.change_row(jobid, &rest).await;
        }
        self.change_row(jobid, change).await
    }

    async fn change_row(&self, jobid: u64, change: &Change) -> Result<(), Error> {
        let mut sets = Vec::new();
        let mut params = Vec::new();
        match change.run_after {
            None => {}
            Some(When::Now) => sets.push("run_after = :now"),
            Some(When::In(seconds)) => {
                sets.push("run_after = :now + ?");
                params.push(Value::from(seconds));
            }
            Some(When::At(epoch)) => {
                sets.push("run_after = ?");
                params.push(Value::from(epoch));
            }
        }
        if let Some(priority) = change.priority {
            sets.push("priority = ?");
            params.push(Value::from(priority));
        }
        if let Some(arg) = &change.arg {
            sets.push("arg = ?");
            params.push(Value::from(&self.sealed_for(jobid, arg).await?));
        }
        if sets.is_empty() {
            return Ok(());
        }
        params.push(Value::from(jobid));
        let template = format!(
            "UPDATE {{p}}job SET {} WHERE jobid = ? AND grabbed_until <= :now",
            sets.join(", ")
        );
        if self.execute(&template, params).await?.rows_affected == 1 {
            return Ok(());
        }
        match self
            .query("SELECT jobid FROM {p}job WHERE jobid = ?", params![jobid])
            .await?
            .first()
        {
            Some(_) => Err(Error::Grabbed(jobid)),
            None => Err(Error::NotFound(jobid)),
        }
    }

    /// An argument as it is kept in the row of a job.
    async fn sealed_for(&self, jobid: u64, arg: &Bytes) -> Result<Bytes, Error> {
        if self.keys().is_none() {
            return Ok(arg.clone());
        }
        let rows = self
            .query("SELECT funcid FROM {p}job WHERE jobid = ?", params![jobid])
            .await?;
        let Some(row) = rows.first() else {
            return Err(Error::NotFound(jobid));
        };
        let name = self.funcname(row.get(0)?).await?.unwrap_or_default();
        self.sealed(&name, arg)
    }

    /// Removes one job that nobody works on.
    pub(crate) async fn cancel(&self, jobid: u64) -> Result<(), Error> {
        let scope = self.scope();
        let db = self.db().await?;
        let has_side = self.has_side();
        let removed = db
            .write(move |tx| {
                let scope = scope.clone();
                Box::pin(async move {
                    let mut work = scope.on(tx);
                    let mut effects = Effects::default();
                    if has_side {
                        side::keep(&mut work, jobid, "cancelled", 0).await?;
                    }
                    let done = work
                        .execute(
                            "DELETE FROM {p}job WHERE jobid = ? AND grabbed_until <= :now",
                            params![jobid],
                        )
                        .await?;
                    // Rolls the kept copy back, too.
                    if done.rows_affected != 1 {
                        return Err(Error::NotFound(jobid));
                    }
                    if has_side {
                        wide::ended(&mut work, jobid, End::Cancelled, &mut effects).await?;
                    }
                    Ok(effects)
                })
            })
            .await;
        match removed {
            Ok(effects) => {
                self.tell(&effects).await;
                return Ok(());
            }
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        match self
            .query("SELECT jobid FROM {p}job WHERE jobid = ?", params![jobid])
            .await?
            .first()
        {
            Some(_) => Err(Error::Grabbed(jobid)),
            None => Err(Error::NotFound(jobid)),
        }
    }

    /// One chunk of old errors and exit statuses; answers how many rows went.
    pub(crate) async fn clean(&self) -> Result<u64, Error> {
        let (errors, statuses) = match self.engine() {
            Engine::Sqlite => (
                "DELETE FROM {p}error WHERE rowid IN (SELECT rowid FROM {p}error WHERE error_time < :now - ? LIMIT ?)",
                "DELETE FROM {p}exitstatus WHERE jobid IN (SELECT jobid FROM {p}exitstatus WHERE delete_after < :now LIMIT ?)",
            ),
            Engine::MySql => (
                "DELETE FROM {p}error WHERE error_time < :now - ? LIMIT ?",
                "DELETE FROM {p}exitstatus WHERE delete_after < :now LIMIT ?",
            ),
        };
        let first = self
            .execute(errors, params![ERROR_SECONDS, CLEAN_ROWS_MAX])
            .await?
            .rows_affected;
        Ok(self.clean_side().await?
            + first
            + self
                .execute(statuses, params![CLEAN_ROWS_MAX])
                .await?
                .rows_affected)
    }
}

/// The plus keeps SQLite from walking an index of all jobs in order of function instead of the few newest rows.
fn newer_template(engine: Engine) -> String {
    let group = engine.pick("+funcid", "funcid");
    format!("SELECT funcid, COUNT(*), MAX(jobid) FROM {{p}}job WHERE jobid > ? GROUP BY {group}")
}

/// Gives failures their full texts.
pub(crate) fn with_texts(failures: &mut [Failure], texts: &[(u32, u64, String)]) {
    // The newest errors belong to the newest texts; older ones may have been cleaned, or be of a Perl worker.
    for (failure, (_, time, message)) in failures.iter_mut().rev().zip(texts.iter().rev()) {
        if failure.time == *time && message.starts_with(failure.message.trim_end()) {
            failure.message.clone_from(message);
        }
    }
}

/// Failures whose values are what they should be; a row of SQLite with others hides no other row.
fn readable(rows: &[ibex_sql::Row]) -> Vec<Failure> {
    rows.iter().filter_map(|row| failure(row).ok()).collect()
}

pub(crate) fn failure(row: &ibex_sql::Row) -> Result<Failure, Error> {
    Ok(Failure {
        time: row.get(0)?,
        jobid: row.get(1)?,
        message: row.get(2)?,
        funcid: row.get(3)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, Job};

    #[tokio::test]
    async fn newer_jobs_are_found_without_reading_the_older_ones() {
        let client = Client::open(["sqlite::memory:"]).await.unwrap();
        let database = client.databases()[0].clone();
        client.insert(Job::new("Old", "x")).await.unwrap();
        let newest = client.newest(&database).await.unwrap();
        for func in ["A", "B", "A"] {
            client.insert(Job::new(func, "x")).await.unwrap();
        }
        let (last, mut found) = client.newer(&database, newest).await.unwrap();
        found.sort();
        assert_eq!(found, [("A".to_owned(), 2), ("B".to_owned(), 1)]);
        assert_eq!(last, newest + 3);

        let plan = format!("EXPLAIN QUERY PLAN {}", newer_template(Engine::Sqlite));
        let plan = database.query(&plan, params![newest]).await.unwrap();
        let steps: Vec<String> = plan.iter().map(|row| row.get(3).unwrap()).collect();
        assert!(steps[0].starts_with("SEARCH"), "{steps:?}");
    }
}
