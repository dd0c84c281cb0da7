//! Putting jobs into one database.
//!
//! Apart because a row, a group and a caller's own transaction must write the same columns the same way. Which database is the
//! client's choice.

use crate::database::{Database, Work};
use crate::error::Error;
use crate::handle::Handle;
use crate::job::{Job, When};
use ibex_sql::{Engine, Tx, Value, params};

/// What became of an insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inserted {
    /// The job is on disk.
    New(Handle),
    /// A job of the function with the same key is pending; nothing was written. Its handle, unless it ended meanwhile.
    Duplicate(Option<Handle>),
}

impl Inserted {
    /// The handle of the job that is pending now, whoever inserted it.
    #[must_use]
    pub fn handle(&self) -> Option<&Handle> {
        match self {
            Self::New(handle) => Some(handle),
            Self::Duplicate(handle) => handle.as_ref(),
        }
    }

    /// Whether nothing was written.
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Duplicate(_))
    }
}

fn statement(when: When) -> &'static str {
    match when {
        When::Now => {
            "INSERT INTO {p}job (funcid, arg, uniqkey, coalesce, priority, insert_time, run_after, grabbed_until) VALUES (?, ?, ?, ?, ?, :now, :now, 0)"
        }
        When::In(_) => {
            "INSERT INTO {p}job (funcid, arg, uniqkey, coalesce, priority, insert_time, run_after, grabbed_until) VALUES (?, ?, ?, ?, ?, :now, :now + ?, 0)"
        }
        When::At(_) => {
            "INSERT INTO {p}job (funcid, arg, uniqkey, coalesce, priority, insert_time, run_after, grabbed_until) VALUES (?, ?, ?, ?, ?, :now, ?, 0)"
        }
    }
}

fn values(job: &Job, funcid: u32) -> Vec<Value> {
    let mut values = params![
        funcid,
        &job.arg,
        job.uniqkey.as_deref(),
        job.coalesce.as_deref(),
        job.priority
    ];
    match job.run_after {
        When::Now => {}
        When::In(seconds) => values.push(Value::from(seconds)),
        When::At(epoch) => values.push(Value::from(epoch)),
    }
    values
}

impl Database {
    pub(crate) async fn insert(&self, job: &Job) -> Result<Inserted, Error> {
        job.check()?;
        self.check_size(job).await?;
        let funcid = self.funcid(&job.funcname).await?;
        match self
            .execute(statement(job.run_after), values(job, funcid))
            .await
        {
            Ok(done) => Ok(Inserted::New(Handle::new(self.hash(), done.last_insert_id))),
            Err(Error::Sql(error)) if error.is_unique_violation() => {
                self.pending(funcid, job).await.map(Inserted::Duplicate)
            }
            Err(error) => Err(error),
        }
    }

    /// The pending job of the function with this job's key, if the database knows the function.
    pub(crate) async fn pending_key(&self, job: &Job) -> Result<Option<Handle>, Error> {
        match self
            .funcids(std::slice::from_ref(&job.funcname))
            .await?
            .first()
        {
            Some(funcid) => self.pending(*funcid, job).await,
            None => Ok(None),
        }
    }

    async fn pending(&self, funcid: u32, job: &Job) -> Result<Option<Handle>, Error> {
        let found = self
            .query(
                "SELECT jobid FROM {p}job WHERE funcid = ? AND uniqkey = ?",
                params![funcid, job.uniqkey.as_deref()],
            )
            .await?;
        match found.first() {
            Some(row) => Ok(Some(Handle::new(self.hash(), row.get(0)?))),
            None => Ok(None),
        }
    }

    /// All in one transaction or none.
    pub(crate) async fn insert_all(&self, jobs: &[Job]) -> Result<Vec<Handle>, Error> {
        let rows = prepared(self, jobs).await?;
        let scope = self.scope();
        let ids = self
            .db()
            .await?
            .write(move |tx| {
                let (scope, rows) = (scope.clone(), rows.clone());
                Box::pin(async move { insert_rows(&mut scope.on(tx), rows).await })
            })
            .await?;
        Ok(ids
            .into_iter()
            .map(|id| Handle::new(self.hash(), id))
            .collect())
    }

    /// All in one transaction, each with its own outcome: a pending key refuses its job and no other.
    pub(crate) async fn insert_each(&self, jobs: &[Job]) -> Result<Vec<Inserted>, Error> {
        let rows = prepared(self, jobs).await?;
        let scope = self.scope();
        let ids = self
            .db()
            .await?
            .write(move |tx| {
                let (scope, rows) = (scope.clone(), rows.clone());
                Box::pin(async move { insert_tolerant(&mut scope.on(tx), rows).await })
            })
            .await?;
        let mut all = Vec::with_capacity(ids.len());
        for (id, job) in ids.into_iter().zip(jobs) {
            all.push(match id {
                Some(id) => Inserted::New(Handle::new(self.hash(), id)),
                None => {
                    Inserted::Duplicate(self.pending(self.funcid(&job.funcname).await?, job).await?)
                }
            });
        }
        Ok(all)
    }

    /// Inserts a job inside the caller's own transaction: it appears when, and only when, that commits. The transaction must be one
    /// of this database, see [`Database::db`].
    ///
    /// # Errors
    /// As an insert; a pending key is [`Inserted::Duplicate`] and leaves the transaction usable.
    pub async fn insert_tx(&self, tx: &mut Tx, job: &Job) -> Result<Inserted, Error> {
        job.check()?;
        let scope = self.scope();
        let mut work = scope.on(tx);
        let funcid = self.funcid_in(&mut work, &job.funcname).await?;
        match insert_rows(&mut work, vec![row(job, funcid)]).await {
            Ok(ids) => Ok(Inserted::New(Handle::new(
                self.hash(),
                ids.first().copied().unwrap_or_default(),
            ))),
            Err(Error::Duplicate) => {
                let found = work
                    .query_one(
                        "SELECT jobid FROM {p}job WHERE funcid = ? AND uniqkey = ?",
                        params![funcid, job.uniqkey.as_deref()],
                    )
                    .await?;
                Ok(Inserted::Duplicate(
                    found
                        .map(|row| row.get(0))
                        .transpose()?
                        .map(|id| Handle::new(self.hash(), id)),
                ))
            }
            Err(error) => Err(error),
        }
    }
}

/// A job's columns, ready for a statement.
#[derive(Clone)]
pub(crate) struct Row {
    when: When,
    is_keyed: bool,
    values: Vec<Value>,
}

/// Ids in order; `None` where the key is pending.
pub(crate) async fn insert_tolerant(
    work: &mut Work<'_>,
    rows: Vec<Row>,
) -> Result<Vec<Option<u64>>, Error> {
    let engine = work.engine();
    let mut ids = Vec::with_capacity(rows.len());
    let mut rows = rows.into_iter().peekable();
    while let Some(row) = rows.next() {
        let (when, is_keyed) = (statement(row.when), row.is_keyed);
        if is_keyed && engine == Engine::MySql {
            // A server says by its error which row it refused; the transaction goes on.
            match work.execute(when, row.values).await {
                Ok(done) => ids.push(Some(done.last_insert_id)),
                Err(Error::Sql(error)) if error.is_unique_violation() => ids.push(None),
                Err(error) => return Err(error),
            }
            continue;
        }
        let mut sets = vec![row.values];
        while let Some(next) =
            rows.next_if(|next| statement(next.when) == when && next.is_keyed == is_keyed)
        {
            sets.push(next.values);
        }
        let template = if is_keyed {
            format!("{when} ON CONFLICT (funcid, uniqkey) DO NOTHING")
        } else {
            when.to_owned()
        };
        for done in work.execute_each(&template, sets).await? {
            ids.push((done.rows_affected == 1).then_some(done.last_insert_id));
        }
    }
    Ok(ids)
}

/// Inserts prepared rows in order, runs of the same statement together; a pending key refuses all.
pub(crate) async fn insert_rows(work: &mut Work<'_>, rows: Vec<Row>) -> Result<Vec<u64>, Error> {
    let mut ids = Vec::with_capacity(rows.len());
    let mut rows = rows.into_iter().peekable();
    while let Some(row) = rows.next() {
        let template = statement(row.when);
        let mut sets = vec![row.values];
        while let Some(next) = rows.next_if(|next| statement(next.when) == template) {
            sets.push(next.values);
        }
        match work.execute_each(template, sets).await {
            Ok(done) => ids.extend(done.into_iter().map(|done| done.last_insert_id)),
            Err(Error::Sql(error)) if error.is_unique_violation() => return Err(Error::Duplicate),
            Err(error) => return Err(error),
        }
    }
    Ok(ids)
}

fn row(job: &Job, funcid: u32) -> Row {
    Row {
        when: job.run_after,
        is_keyed: job.uniqkey.is_some(),
        values: values(job, funcid),
    }
}

/// Checked jobs with the numbers of their functions, before a transaction begins.
pub(crate) async fn prepared(database: &Database, jobs: &[Job]) -> Result<Vec<Row>, Error> {
    for job in jobs {
        job.check()?;
    }
    let mut rows = Vec::with_capacity(jobs.len());
    for job in jobs {
        database.check_size(job).await?;
        rows.push(row(job, database.funcid(&job.funcname).await?));
    }
    Ok(rows)
}
