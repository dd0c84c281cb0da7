//! Inserting jobs that ask for more than the classic columns can say.
//!
//! Apart from `insert.rs` so that plain jobs stay groups of one statement. Everything here is inside the insert's transaction.

use super::{Effects, Wide, admit, batch, unique};
use crate::crypt::Keys;
use crate::database::{Database, Work};
use crate::error::Error;
use crate::handle::Handle;
use crate::job::{Job, When, limits};
use crate::options::{Merge, OnDeath, Options, Parent};
use crate::pause::PARKED;
use crate::policy::Backoff;
use crate::tenant;
use bytes::Bytes;
use ibex_sql::{Engine, Value, params};

/// What of a job is not in its classic columns.
#[derive(Debug, Clone)]
pub(crate) struct Extras {
    options: Options,
    /// The database it goes to.
    hash: String,
    ukey: Option<String>,
    coalesce: Option<String>,
    arg: Bytes,
    /// What the argument is sealed for, and with.
    func: String,
    keys: Option<Keys>,
}

impl Extras {
    /// `func` is the function's name as the database has it.
    pub(crate) fn of(database: &Database, job: &Job, func: &str) -> Result<Option<Self>, Error> {
        let Some(options) = &job.options else {
            return Ok(None);
        };
        let hash = database.hash();
        if options.handles().any(|handle| handle.database() != hash) {
            return Err(Error::Invalid(
                "a job is in the database of its parents and its batch".to_owned(),
            ));
        }
        let ukey = options
            .unique
            .as_ref()
            .map(|unique| unique.digest(&job.funcname, &job.arg))
            .transpose()?;
        Ok(Some(Self {
            options: options.as_ref().clone(),
            hash: hash.to_owned(),
            ukey,
            coalesce: job.coalesce.clone(),
            arg: job.arg.clone(),
            func: func.to_owned(),
            keys: database.keys().cloned(),
        }))
    }

    fn seal(&self, arg: &Bytes) -> Result<Bytes, Error> {
        match &self.keys {
            Some(keys) => keys.seal(&self.func, arg),
            None => Ok(arg.clone()),
        }
    }

    /// An argument of a row; `None` when it is sealed with a key that is not here.
    fn open(&self, arg: Bytes) -> Option<Bytes> {
        if !Keys::is_sealed(&arg) {
            return Some(arg);
        }
        self.keys
            .as_ref()
            .and_then(|keys| keys.open(&self.func, &arg))
    }
}

/// What became of one row of an insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    /// Its number.
    New(u64),
    /// Nothing new was written; the job that counts instead, if it is known.
    Taken(Option<u64>),
}

impl Placed {
    pub(crate) fn id(self) -> Option<u64> {
        match self {
            Self::New(id) => Some(id),
            Self::Taken(_) => None,
        }
    }
}

/// Inserts one. `values` are those of the plain statement: funcid, arg, uniqkey, coalesce, priority, and the time unless it is now.
pub(crate) async fn place(
    work: &mut Work<'_>,
    funcid: u32,
    when: When,
    plain: (&str, Vec<Value>),
    extras: &Extras,
) -> Result<Placed, Error> {
    let options = &extras.options;
    if let Some(merge) = options.merge
        && let Some(jobid) = fold(work, funcid, when, merge, extras).await?
    {
        return Ok(Placed::Taken(Some(jobid)));
    }
    if let Some(ukey) = &extras.ukey
        && let Some(holder) = unique::claim(work, ukey).await?
    {
        return Ok(Placed::Taken(Some(holder)));
    }
    let Some(jobid) = classic(work, plain, options.is_gated()).await? else {
        if let Some(ukey) = &extras.ukey {
            unique::give_back(work, ukey).await?;
        }
        return Ok(Placed::Taken(None));
    };
    if let (Some(ukey), Some(unique)) = (&extras.ukey, &options.unique) {
        unique::bind(work, ukey, jobid, unique).await?;
    }
    if options.has_row() {
        note(work, jobid, funcid, when, options).await?;
        if let Some(tenant) = &options.tenant {
            tenant::note(work, funcid, jobid, tenant).await?;
        }
        for tag in &options.tags {
            work.execute(
                "INSERT INTO {p}sz_tag (tag, jobid) VALUES (?, ?)",
                params![tag, jobid],
            )
            .await?;
        }
        let notes = [
            ("sz.meta", options.meta.clone()),
            ("sz.trace", options.trace.clone().map(Bytes::from)),
        ];
        for (key, value) in notes {
            if let Some(value) = value {
                work.execute(
                    "INSERT INTO {p}note (jobid, notekey, value) VALUES (?, ?, ?)",
                    params![jobid, key, value],
                )
                .await?;
            }
        }
        if let Some(concurrency) = &options.concurrency {
            admit::set_concurrency(work, concurrency).await?;
        }
        if let Some(rate) = &options.rate {
            admit::set_rate(work, rate).await?;
        }
        if let Some(batch) = &options.batch {
            batch::join(work, batch.jobid()).await?;
        }
        for (parent, on_death) in &options.parents {
            if let Parent::Job(handle) = parent {
                depend(work, jobid, handle, *on_death).await?;
            }
        }
    }
    Ok(Placed::New(jobid))
}

/// The classic row; `None` when its key is pending.
async fn classic(
    work: &mut Work<'_>,
    (template, mut values): (&str, Vec<Value>),
    is_gated: bool,
) -> Result<Option<u64>, Error> {
    let mut template = template.to_owned();
    if is_gated {
        values.truncate(5);
        values.push(Value::from(PARKED));
        template = "INSERT INTO {p}job (funcid, arg, uniqkey, coalesce, priority, insert_time, run_after, grabbed_until) VALUES (?, ?, ?, ?, ?, :now, ?, 0)".to_owned();
    }
    if work.engine() == Engine::Sqlite {
        template.push_str(" ON CONFLICT (funcid, uniqkey) DO NOTHING");
    }
    match work.execute(&template, values).await {
        Ok(done) => Ok((done.rows_affected == 1).then_some(done.last_insert_id)),
        Err(Error::Sql(error)) if error.is_unique_violation() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn note(
    work: &mut Work<'_>,
    jobid: u64,
    funcid: u32,
    when: When,
    options: &Options,
) -> Result<(), Error> {
    let (due, time) = match when {
        When::Now => (":now + ?", 0),
        When::In(seconds) => (":now + ?", seconds),
        When::At(epoch) => ("?", epoch),
    };
    let expires = if options.expires_in.is_some() {
        ":now + ?"
    } else {
        "?"
    };
    let in_list = options
        .parents
        .iter()
        .filter(|(parent, _)| matches!(parent, Parent::InList(_)))
        .count();
    let concurrency = options.concurrency.as_ref();
    work.execute(
        &format!(
            "INSERT INTO {{p}}sz_jobx (jobid, funcid, parked, due, ckey, blocks, rkey, batch, deps_left, max_attempts, expires_at, backoff, timeout_s, keep_exit, tenant, cost) \
             VALUES (?, ?, ?, {due}, ?, ?, ?, ?, ?, ?, {expires}, ?, ?, ?, ?, ?)"
        ),
        params![
            jobid,
            funcid,
            u32::from(options.is_gated()),
            time,
            concurrency.map(|concurrency| concurrency.key.as_str()),
            u32::from(concurrency.is_some_and(|concurrency| concurrency.on_fail == crate::options::OnFail::Block)),
            options.rate.as_ref().map(|rate| rate.key.as_str()),
            options.batch.as_ref().map(Handle::jobid),
            in_list,
            options.max_attempts,
            options.expires_in,
            options.backoff.as_ref().map(Backoff::text),
            options.timeout_s,
            options.keep,
            options.tenant.as_ref().map(|tenant| tenant.key.as_str()),
            options.tenant.as_ref().map(|tenant| tenant.cost)
        ],
    )
    .await?;
    Ok(())
}

/// A parent that was inserted before: it is waited for, or what became of it is noted.
async fn depend(
    work: &mut Work<'_>,
    child: u64,
    parent: &Handle,
    on_death: OnDeath,
) -> Result<(), Error> {
    // Locked, so that it cannot end before the edge is there.
    let lock = work.engine().pick("", " FOR UPDATE");
    let row = work
        .query_one(
            &format!("SELECT funcid FROM {{p}}job WHERE jobid = ?{lock}"),
            params![parent.jobid()],
        )
        .await?;
    let state = match row {
        Some(row) => {
            mark(work, parent.jobid(), row.get(0)?).await?;
            "pending".to_owned()
        }
        None => ended_as(work, parent.jobid()).await?.ok_or_else(|| {
            Error::Invalid(format!(
                "nothing is kept of job {parent}, on which this one depends"
            ))
        })?,
    };
    let is_dead = !matches!(state.as_str(), "pending" | "completed");
    if is_dead && on_death == OnDeath::Cancel {
        return Err(Error::Invalid(format!(
            "job {parent}, on which this one depends, is {state}"
        )));
    }
    edge(work, parent.jobid(), child, on_death, &state).await
}

/// What became of a job whose row is gone.
pub(super) async fn ended_as(work: &mut Work<'_>, jobid: u64) -> Result<Option<String>, Error> {
    if let Some(row) = work
        .query_one(
            "SELECT state FROM {p}sz_done WHERE jobid = ?",
            params![jobid],
        )
        .await?
    {
        return Ok(Some(row.get(0)?));
    }
    let exit = work
        .query_one(
            "SELECT status FROM {p}exitstatus WHERE jobid = ?",
            params![jobid],
        )
        .await?;
    Ok(match exit {
        Some(row) if row.get::<Option<u32>>(0)?.unwrap_or(0) == 0 => Some("completed".to_owned()),
        Some(_) => Some("failed".to_owned()),
        None => None,
    })
}

/// A plain job that others depend on, or whose runs are noted, has a row beside it from now on.
pub(super) async fn mark(work: &mut Work<'_>, jobid: u64, funcid: u32) -> Result<(), Error> {
    let ignore = work.engine().pick("OR IGNORE", "IGNORE");
    work.execute(
        &format!("INSERT {ignore} INTO {{p}}sz_jobx (jobid, funcid, parked, due, blocks, deps_left) VALUES (?, ?, 0, 0, 0, 0)"),
        params![jobid, funcid],
    )
    .await?;
    Ok(())
}

async fn edge(
    work: &mut Work<'_>,
    parent: u64,
    child: u64,
    on_death: OnDeath,
    state: &str,
) -> Result<(), Error> {
    let ignore = work.engine().pick("OR IGNORE", "IGNORE");
    let done = work
        .execute(
            &format!("INSERT {ignore} INTO {{p}}sz_edge (parent, child, on_death, state) VALUES (?, ?, ?, ?)"),
            params![parent, child, u32::from(on_death == OnDeath::Run), state],
        )
        .await?;
    if done.rows_affected == 1 && state == "pending" {
        work.execute(
            "UPDATE {p}sz_jobx SET deps_left = deps_left + 1 WHERE jobid = ?",
            params![child],
        )
        .await?;
    }
    Ok(())
}

/// After all rows of a list are there: parents inside the list, and whose turn it is. `rows` are number of function, extras and outcome.
pub(crate) async fn link(
    work: &mut Work<'_>,
    rows: &[(u32, Option<Extras>)],
    placed: &[Placed],
    effects: &mut Effects,
) -> Result<(), Error> {
    check_acyclic(rows)?;
    for ((_, extras), child) in rows.iter().zip(placed) {
        let (Some(extras), Placed::New(child)) = (extras, child) else {
            continue;
        };
        for (parent, on_death) in &extras.options.parents {
            let Parent::InList(index) = parent else {
                continue;
            };
            // The insert counted it already.
            work.execute(
                "UPDATE {p}sz_jobx SET deps_left = deps_left - 1 WHERE jobid = ?",
                params![*child],
            )
            .await?;
            match (rows.get(*index), placed.get(*index)) {
                (Some((funcid, _)), Some(Placed::New(parent))) => {
                    mark(work, *parent, *funcid).await?;
                    edge(work, *parent, *child, *on_death, "pending").await?;
                }
                // The job that counts instead of it.
                (Some(_), Some(Placed::Taken(Some(parent)))) => {
                    depend(work, *child, &Handle::new(&extras.hash, *parent), *on_death).await?;
                }
                _ => return Err(Error::Duplicate),
            }
        }
    }
    for ((_, extras), placed) in rows.iter().zip(placed) {
        if let (Some(extras), Placed::New(jobid)) = (extras, placed)
            && extras.options.is_gated()
        {
            admit::admit_job(work, *jobid, effects).await?;
        }
    }
    Ok(())
}

/// Jobs of a list that wait for each other in a circle would wait for ever.
fn check_acyclic(rows: &[(u32, Option<Extras>)]) -> Result<(), Error> {
    let mut left = vec![0_usize; rows.len()];
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); rows.len()];
    let mut edges = 0;
    for (child, (_, extras)) in rows.iter().enumerate() {
        for (parent, _) in extras.iter().flat_map(|extras| &extras.options.parents) {
            let Parent::InList(parent) = parent else {
                continue;
            };
            let (Some(list), Some(left)) = (children.get_mut(*parent), left.get_mut(child)) else {
                return Err(Error::Invalid(format!(
                    "job {child} depends on number {parent}, which the list does not have"
                )));
            };
            list.push(child);
            *left += 1;
            edges += 1;
        }
    }
    if edges == 0 {
        return Ok(());
    }
    let mut free: Vec<usize> = left
        .iter()
        .enumerate()
        .filter(|(_, left)| **left == 0)
        .map(|(index, _)| index)
        .collect();
    let mut seen = 0;
    while let Some(parent) = free.pop() {
        seen += 1;
        for child in children.get(parent).into_iter().flatten() {
            if let Some(left) = left.get_mut(*child) {
                *left -= 1;
                if *left == 0 {
                    free.push(*child);
                }
            }
        }
    }
    if seen == rows.len() {
        Ok(())
    } else {
        Err(Error::Invalid(
            "jobs of the list depend on each other in a circle".to_owned(),
        ))
    }
}

/// Folds an argument into the waiting job with the same coalescing value; `None` when there is none.
async fn fold(
    work: &mut Work<'_>,
    funcid: u32,
    when: When,
    merge: Merge,
    extras: &Extras,
) -> Result<Option<u64>, Error> {
    let coalesce = extras.coalesce.as_deref().unwrap_or_default();
    admit::hold(work, &format!("m:{funcid}:{coalesce}")).await?;
    let lock = work.engine().pick("", " FOR UPDATE");
    let found = work
        .query_one(
            &format!(
                "SELECT jobid, arg FROM {{p}}job WHERE funcid = ? AND coalesce = ? AND grabbed_until <= :now ORDER BY jobid LIMIT 1{lock}"
            ),
            params![funcid, coalesce],
        )
        .await?;
    let Some(row) = found else { return Ok(None) };
    let (jobid, old): (u64, Option<Bytes>) = (row.get(0)?, row.get(1)?);
    let arg = match merge {
        Merge::Append => {
            let old = extras.open(old.unwrap_or_default());
            match old.and_then(|old| joined(&old, &extras.arg)) {
                Some(arg) => arg,
                None => return Ok(None),
            }
        }
        Merge::Last | Merge::MaxDelay => extras.arg.clone(),
    };
    let arg = extras.seal(&arg)?;
    let mut params = params![arg];
    let mut sets = "arg = ?".to_owned();
    if merge == Merge::MaxDelay {
        let (due, time) = match when {
            When::Now => (":now + ?", 0),
            When::In(seconds) => (":now + ?", seconds),
            When::At(epoch) => ("?", epoch),
        };
        // A parked job keeps the mark of it: 4294967295 is later than any time.
        sets.push_str(&format!(
            ", run_after = CASE WHEN run_after < {due} THEN {due} ELSE run_after END"
        ));
        params.extend(params![time, time]);
    }
    params.push(jobid.into());
    work.execute(
        &format!("UPDATE {{p}}job SET {sets} WHERE jobid = ?"),
        params,
    )
    .await?;
    Ok(Some(jobid))
}

/// Two arguments as one; `None` when one is frozen by Perl or the sum is too large.
fn joined(old: &Bytes, new: &Bytes) -> Option<Bytes> {
    use serde_json::Value::Array;
    if crate::storable::is_frozen(old) || crate::storable::is_frozen(new) {
        return None;
    }
    let sum: Bytes = match (serde_json::from_slice(old), serde_json::from_slice(new)) {
        (Ok(Array(mut list)), Ok(Array(more))) => {
            list.extend(more);
            Array(list).to_string().into()
        }
        _ => [old.as_ref(), b"\n", new].concat().into(),
    };
    (sum.len() <= limits::ARG_BYTES_MAX).then_some(sum)
}

/// A job that was brought back by hand waits for its turn again, if it had limits. Answers whether its row has to say so.
pub(crate) async fn revived(
    work: &mut Work<'_>,
    jobid: u64,
    effects: &mut Effects,
) -> Result<(), Error> {
    let wide = super::read(work, jobid).await?;
    let Some(Wide {
        funcid,
        ckey,
        rkey,
        tenant,
        ..
    }) = wide
    else {
        return Ok(());
    };
    if let Some(tenant) = &tenant {
        tenant::note(work, funcid, jobid, tenant).await?;
    }
    if ckey.is_none() && rkey.is_none() {
        work.execute(
            "UPDATE {p}sz_jobx SET parked = 0, deps_left = 0, expires_at = NULL WHERE jobid = ?",
            params![jobid],
        )
        .await?;
        return Ok(());
    }
    work.execute(
        "UPDATE {p}job SET run_after = ? WHERE jobid = ?",
        params![PARKED, jobid],
    )
    .await?;
    work.execute(
        "UPDATE {p}sz_jobx SET parked = 1, due = :now, deps_left = 0, expires_at = NULL WHERE jobid = ?",
        params![jobid],
    )
    .await?;
    admit::admit_job(work, jobid, effects).await
}
