//! Putting jobs into one database.
//!
//! Apart because a row, a group and a caller's own transaction must write the same columns the same way. Which database is the
//! client's choice.

use crate::database::{Database, Work};
use crate::error::Error;
use crate::handle::Handle;
use crate::job::{Job, When};
use crate::wide::{self, Effects, Extras, Placed};
use bytes::Bytes;
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

/// `arg` as it is kept in the row.
fn values(job: &Job, funcid: u32, arg: &Bytes) -> Vec<Value> {
    let mut values = params![
        funcid,
        arg,
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
        if job.options.is_some() {
            let all = self.insert_each(std::slice::from_ref(job)).await?;
            return all.into_iter().next().ok_or(Error::Duplicate);
        }
        self.check_size(job).await?;
        let funcid = self.funcid(&job.funcname).await?;
        let arg = self.sealed(&self.name_of(funcid, &job.funcname), &job.arg)?;
        match self
            .execute(statement(job.run_after), values(job, funcid, &arg))
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

    /// The job here that keeps this one from being inserted, by its key or its window.
    pub(crate) async fn holder(
        &self,
        job: &Job,
        ukey: Option<String>,
    ) -> Result<Option<Handle>, Error> {
        if job.uniqkey.is_some()
            && let Some(handle) = self.pending_key(job).await?
        {
            return Ok(Some(handle));
        }
        match ukey {
            Some(ukey) => self.unique_holder(&ukey).await,
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
        let (ids, effects) = self
            .db()
            .await?
            .write(move |tx| {
                let (scope, rows) = (scope.clone(), rows.clone());
                Box::pin(async move {
                    let mut effects = Effects::default();
                    let ids = insert_rows(&mut scope.on(tx), rows, &mut effects).await?;
                    Ok::<_, Error>((ids, effects))
                })
            })
            .await?;
        self.tell(&effects).await;
        Ok(ids
            .into_iter()
            .map(|id| Handle::new(self.hash(), id))
            .collect())
    }

    /// All in one transaction, each with its own outcome: a pending key refuses its job and no other.
    pub(crate) async fn insert_each(&self, jobs: &[Job]) -> Result<Vec<Inserted>, Error> {
        let rows = prepared(self, jobs).await?;
        let scope = self.scope();
        let (placed, effects) = self
            .db()
            .await?
            .write(move |tx| {
                let (scope, rows) = (scope.clone(), rows.clone());
                Box::pin(async move {
                    let mut effects = Effects::default();
                    let placed = insert_tolerant(&mut scope.on(tx), rows, &mut effects).await?;
                    Ok::<_, Error>((placed, effects))
                })
            })
            .await?;
        self.tell(&effects).await;
        let mut all = Vec::with_capacity(placed.len());
        for (placed, job) in placed.into_iter().zip(jobs) {
            all.push(match placed {
                Placed::New(id) => Inserted::New(Handle::new(self.hash(), id)),
                Placed::Taken(Some(id)) => Inserted::Duplicate(Some(Handle::new(self.hash(), id))),
                Placed::Taken(None) => {
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
        let rows = vec![row(self, job, funcid)?];
        // Who waits is told by the caller, see [`crate::Client::wake`].
        let mut effects = Effects::default();
        match insert_tolerant(&mut work, rows, &mut effects)
            .await?
            .first()
        {
            Some(Placed::New(id)) => Ok(Inserted::New(Handle::new(self.hash(), *id))),
            Some(Placed::Taken(Some(id))) => {
                Ok(Inserted::Duplicate(Some(Handle::new(self.hash(), *id))))
            }
            Some(Placed::Taken(None)) | None => {
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
        }
    }
}

/// A job's columns, ready for a statement.
#[derive(Clone)]
pub(crate) struct Row {
    when: When,
    is_keyed: bool,
    funcid: u32,
    values: Vec<Value>,
    extras: Option<Extras>,
}

impl Row {
    /// Whether `next` can be another set of the same statement.
    fn goes_with(&self, next: &Self) -> bool {
        self.extras.is_none()
            && next.extras.is_none()
            && statement(self.when) == statement(next.when)
    }
}

/// What is needed of the rows once they are in.
fn linked(rows: &[Row]) -> Option<Vec<(u32, Option<Extras>)>> {
    rows.iter().any(|row| row.extras.is_some()).then(|| {
        rows.iter()
            .map(|row| (row.funcid, row.extras.clone()))
            .collect()
    })
}

/// What became of each, in order; a pending key refuses its job and no other.
pub(crate) async fn insert_tolerant(
    work: &mut Work<'_>,
    rows: Vec<Row>,
    effects: &mut Effects,
) -> Result<Vec<Placed>, Error> {
    let engine = work.engine();
    let mut ids = Vec::with_capacity(rows.len());
    let linked = linked(&rows);
    let mut rows = rows.into_iter().peekable();
    while let Some(row) = rows.next() {
        let (when, is_keyed) = (statement(row.when), row.is_keyed);
        if let Some(extras) = &row.extras {
            ids.push(wide::place(work, row.funcid, row.when, (when, row.values), extras).await?);
            continue;
        }
        if is_keyed && engine == Engine::MySql {
            // A server says by its error which row it refused; the transaction goes on.
            match work.execute(when, row.values).await {
                Ok(done) => ids.push(Placed::New(done.last_insert_id)),
                Err(Error::Sql(error)) if error.is_unique_violation() => {
                    ids.push(Placed::Taken(None));
                }
                Err(error) => return Err(error),
            }
            continue;
        }
        let mut sets = vec![row.values.clone()];
        while let Some(next) = rows.next_if(|next| row.goes_with(next) && next.is_keyed == is_keyed)
        {
            sets.push(next.values);
        }
        let template = if is_keyed {
            format!("{when} ON CONFLICT (funcid, uniqkey) DO NOTHING")
        } else {
            when.to_owned()
        };
        for done in work.execute_each(&template, sets).await? {
            ids.push(if done.rows_affected == 1 {
                Placed::New(done.last_insert_id)
            } else {
                Placed::Taken(None)
            });
        }
    }
    if let Some(linked) = linked {
        wide::link(work, &linked, &ids, effects).await?;
    }
    Ok(ids)
}

/// Inserts prepared rows in order, runs of the same statement together; a pending key refuses all.
pub(crate) async fn insert_rows(
    work: &mut Work<'_>,
    rows: Vec<Row>,
    effects: &mut Effects,
) -> Result<Vec<u64>, Error> {
    if rows.iter().any(|row| row.extras.is_some()) {
        let placed = insert_tolerant(work, rows, effects).await?;
        let ids = placed
            .into_iter()
            .map(|placed| placed.id().ok_or(Error::Duplicate));
        return ids.collect();
    }
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

fn row(database: &Database, job: &Job, funcid: u32) -> Result<Row, Error> {
    let func = database.name_of(funcid, &job.funcname);
    let arg = database.sealed(&func, &job.arg)?;
    Ok(Row {
        when: job.run_after,
        is_keyed: job.uniqkey.is_some(),
        funcid,
        values: values(job, funcid, &arg),
        extras: Extras::of(database, job, &func)?,
    })
}

/// Checked jobs with the numbers of their functions, before a transaction begins.
pub(crate) async fn prepared(database: &Database, jobs: &[Job]) -> Result<Vec<Row>, Error> {
    for job in jobs {
        job.check()?;
    }
    if jobs.iter().any(|job| job.options.is_some()) {
        database.need_side().await?;
    }
    let mut rows = Vec::with_capacity(jobs.len());
    for job in jobs {
        database.check_size(job).await?;
        let funcid = database.funcid(&job.funcname).await?;
        rows.push(row(database, job, funcid)?);
    }
    Ok(rows)
}
