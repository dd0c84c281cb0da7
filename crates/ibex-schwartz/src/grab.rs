//! Finding ready jobs and taking them under a lease.
//!
//! Apart because exactly one statement decides who has a job: the conditional UPDATE of `grabbed_until`. The value written there is
//! the lease; every later statement about the job carries it. Perl workers do the same on the same rows.

use crate::database::{Database, Work};
use crate::error::Error;
use crate::handle::Handle;
use crate::job::StoredJob;
use crate::leader;
use crate::seen::{bound, expire, rows_of};
use crate::settings::{Room, share};
use crate::wide::Effects;
use bytes::Bytes;
use ibex_base::rng::Rng;
use ibex_sql::{Row, Value, params};
use std::sync::Arc;

/// A lease is a minute less than for ever: what fits the classic column.
const LEASE_MAX: u64 = 365 * 86_400;

/// Of so many functions those that have a ready job are found first: each adds two parts to the statement that reads candidates, and SQLite takes
/// at most 500.
const FUNCS_TOGETHER: usize = 50;

/// Which jobs of the functions are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Only {
    /// Any that is ready.
    #[default]
    Any,
    /// Those with this coalescing value.
    Coalesce(String),
    /// Those whose coalescing value starts so.
    CoalescePrefix(String),
    /// This one.
    Job(u64),
}

/// A request for jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grab {
    /// Functions the worker can do.
    pub funcs: Vec<String>,
    /// Jobs wanted, at most.
    pub max: usize,
    /// Seconds of the lease; at least 1.
    pub grab_for: u64,
    /// Candidates read per function; more than `max`, so that others who grab at the same time leave some.
    pub batch_size: usize,
    /// Order by priority, the biggest first.
    pub prioritize: bool,
    /// Only jobs of at least this priority.
    pub floor: Option<u16>,
    /// Which ones.
    pub only: Only,
    /// Note the leases in our own table, so that [`Database::lost_leases`] finds those that ran out, whoever gave them out.
    pub record: bool,
    /// Mix candidates, so that workers of several programs do not all try the same job first.
    pub shuffle: bool,
}

impl Grab {
    /// One job of these functions, with the classic lease of an hour.
    #[must_use]
    pub fn new(funcs: Vec<String>) -> Self {
        Self {
            funcs,
            max: 1,
            grab_for: 3600,
            batch_size: 50,
            prioritize: false,
            floor: None,
            only: Only::Any,
            record: false,
            shuffle: true,
        }
    }
}

/// A job under our lease.
#[derive(Debug, Clone)]
pub struct GrabbedJob {
    /// The row.
    pub job: StoredJob,
    /// Its name outside.
    pub handle: Handle,
    /// The value in `grabbed_until` that makes it ours, in epoch seconds.
    pub lease: u64,
    /// Which run this is, from 1.
    pub attempt: u32,
    /// Runs it may have, if it says so itself.
    pub max_attempts: Option<u32>,
    /// Seconds this run may take, if the job or its function says so; then it has failed with "timeout", however long the lease is.
    pub timeout_s: Option<u64>,
    /// What it carries for its worker beside the argument.
    pub meta: Option<Bytes>,
    /// The trace context it carries.
    pub trace: Option<String>,
    /// It has a row beside its classic one: limits, parents, a batch, a time to live.
    pub(crate) is_wide: bool,
    /// Where it lives.
    pub database: Database,
}

#[derive(Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) funcid: u32,
    pub(crate) jobid: u64,
    grabbed_until: u64,
    priority: Option<u16>,
}

impl Database {
    /// Takes up to `want.max` ready jobs.
    pub(crate) async fn grab(&self, want: &Grab) -> Result<Vec<GrabbedJob>, Error> {
        let mut funcids = self.funcids(&want.funcs).await?;
        if funcids.is_empty() || want.max == 0 {
            return Ok(Vec::new());
        }
        let settings = self.settings().await?;
        let limited = settings.limited(&funcids);
        if !limited.is_empty() {
            self.leave_out(&mut funcids, &limited).await?;
        }
        if funcids.is_empty() {
            return Ok(Vec::new());
        }
        if funcids.len() > FUNCS_TOGETHER {
            funcids = self.ready_of(&funcids).await?;
        }
        let weights = settings.weights(&funcids);
        let tenanted = if want.only == Only::Any && !want.prioritize {
            settings.tenanted(&funcids)
        } else {
            Vec::new()
        };
        // Others may be faster with every candidate; then there are newer ones.
        for _ in 0..4 {
            let (now, mut candidates) = self.candidates(want, &funcids, weights.is_some()).await?;
            if candidates.is_empty() {
                return Ok(Vec::new());
            }
            if tenanted.is_empty() && want.shuffle {
                mix(&mut candidates, want.prioritize);
            }
            for funcid in &tenanted {
                let taken = if funcids.len() == 1 { want.max } else { 1 };
                candidates = self.take_turns(want, *funcid, candidates, taken).await?;
            }
            if let Some(weights) = &weights
                && !want.prioritize
            {
                let (mut credits, most) = (self.credits(), want.batch_size.max(want.max));
                candidates = share(candidates, |one| one.funcid, weights, &mut credits, most);
            }
            let lease = now + want.grab_for.clamp(1, LEASE_MAX);
            let jobs = self.take(candidates, lease, want, &limited).await?;
            if !jobs.is_empty() {
                return Ok(jobs);
            }
        }
        Ok(Vec::new())
    }

    /// Leaves out functions whose limits leave no room now, so that their jobs do not stand in front of others.
    async fn leave_out(&self, funcids: &mut Vec<u32>, limited: &[u32]) -> Result<(), Error> {
        let (scope, limited) = (self.scope(), limited.to_vec());
        let room = self
            .db()
            .await?
            .write(move |tx| {
                let (scope, limited) = (scope.clone(), limited.clone());
                Box::pin(async move { Room::lock(&mut scope.on(tx), &limited).await })
            })
            .await?;
        funcids.retain(|funcid| room.has(*funcid));
        Ok(())
    }

    /// Ready rows and the database's now.
    async fn candidates(
        &self,
        want: &Grab,
        funcids: &[u32],
        is_shared: bool,
    ) -> Result<(u64, Vec<Candidate>), Error> {
        let limit = want.batch_size.max(want.max);
        let (filter, filter_params) = filters(want);
        self.db().await?;
        let pause = if self.has_side() {
            " AND NOT EXISTS (SELECT 1 FROM {p}sz_func f WHERE f.funcid = ? AND f.paused_until > :now)"
        } else {
            ""
        };
        // DIFFERS(theschwartz): within a function oldest due time first and not lowest jobid first, so that an index finds the next job whatever lies
        // before it; new rows and those whose lease ran out are two short ranges of that index.
        let (new_order, lost_order) = if want.prioritize {
            ("priority DESC, jobid", "priority DESC, jobid")
        } else {
            ("run_after, jobid", "grabbed_until")
        };
        let mut rows = Vec::new();
        for funcids in funcids.chunks(FUNCS_TOGETHER) {
            let mut parts = Vec::new();
            let mut params = Vec::new();
            for (index, funcid) in funcids.iter().enumerate() {
                // The plus keeps SQLite from walking all ready rows in order of time to find the few whose lease ran out.
                for (part, fence, order) in [
                    ("n", "grabbed_until = 0 AND run_after <= :now", new_order),
                    (
                        "e",
                        "grabbed_until > 0 AND grabbed_until <= :now AND +run_after <= :now",
                        lost_order,
                    ),
                ] {
                    parts.push(format!(
                    "SELECT * FROM (SELECT jobid, grabbed_until, priority, run_after, :now AS now, funcid FROM {{p}}job \
                     WHERE funcid = ? AND {fence}{filter}{pause} ORDER BY {order} LIMIT ?) {part}{index}"
                ));
                    params.push(Value::from(*funcid));
                    params.extend(filter_params.iter().cloned());
                    if !pause.is_empty() {
                        params.push(Value::from(*funcid));
                    }
                    params.push(Value::from(limit));
                }
            }
            rows.extend(self.query(&parts.join(" UNION ALL "), params).await?);
        }
        let mut now = 0;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            now = row.get(4)?;
            // A row with values that are no numbers is nobody's; it must not stop the others.
            if let Ok(candidate) = candidate(row) {
                found.push((row.get::<u64>(3).unwrap_or(0), candidate));
            }
        }
        if want.prioritize {
            found.sort_by_key(|(_, candidate)| {
                (std::cmp::Reverse(candidate.priority), candidate.jobid)
            });
        } else {
            found.sort_by_key(|(run_after, candidate)| (*run_after, candidate.jobid));
        }
        // Where functions have shares, the oldest are not the next.
        if !is_shared {
            found.truncate(limit);
        }
        Ok((
            now,
            found.into_iter().map(|(_, candidate)| candidate).collect(),
        ))
    }

    async fn take(
        &self,
        candidates: Vec<Candidate>,
        lease: u64,
        want: &Grab,
        limited: &[u32],
    ) -> Result<Vec<GrabbedJob>, Error> {
        let (max, record) = (want.max, want.record);
        let limited = limited.to_vec();
        let scope = self.scope();
        let settings = self.settings().await?;
        let has_side = self.has_side();
        let rows = self
            .db()
            .await?
            .write(move |tx| {
                let (scope, mut candidates) = (scope.clone(), candidates.clone());
                let (limited, settings) = (limited.clone(), Arc::clone(&settings));
                Box::pin(async move {
                    let mut work = scope.on(tx);
                    let mut room = Room::default();
                    if !limited.is_empty() {
                        room = Room::lock(&mut work, &limited).await?;
                        candidates.retain(|one| room.admits(one.funcid));
                    }
                    let mut ours = lease_all(&mut work, &candidates, lease, max).await?;
                    let mut effects = Effects::default();
                    if ours.is_empty() {
                        return Ok((Vec::new(), effects));
                    }
                    let mut rows =
                        rows_of(&mut work, &candidates, &mut ours, lease, has_side).await?;
                    if !limited.is_empty() {
                        room.taken(&mut work, &by_func(&candidates, &ours)).await?;
                    }
                    if record && has_side {
                        leader::record(&mut work, lease, &ours).await?;
                    }
                    expire(&mut work, lease, &mut rows, &mut effects).await?;
                    if has_side {
                        bound(&mut work, lease, &mut rows, &settings).await?;
                    }
                    Ok((rows, effects))
                })
            })
            .await;
        let (rows, effects) = match rows {
            Err(Error::Sql(error)) if error.is_outcome_unknown() => {
                // The leases may be ours or not; nobody works those jobs until they end, which is what a lease is for.
                return Err(Error::Sql(error));
            }
            other => other?,
        };
        self.tell(&effects).await;
        let mut jobs = Vec::with_capacity(rows.len());
        for (row, seen) in rows {
            match self.grabbed(&row, lease, seen).await {
                Ok(Some(job)) => jobs.push(job),
                Ok(None) => {
                    tracing::warn!(database = %self.address(), "job of an unknown function skipped")
                }
                Err(Error::Sql(error)) if error.kind() == ibex_sql::ErrorKind::Decode => {
                    tracing::warn!(database = %self.address(), error = %error, "job with odd values skipped");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(jobs)
    }
}

pub(crate) fn candidate(row: &Row) -> Result<Candidate, ibex_sql::Error> {
    Ok(Candidate {
        funcid: row.get(5)?,
        jobid: row.get(0)?,
        grabbed_until: row.get(1)?,
        priority: row.get(2)?,
    })
}

fn filters(want: &Grab) -> (String, Vec<Value>) {
    let mut filter = String::new();
    let mut params = Vec::new();
    if let Some(floor) = want.floor {
        filter.push_str(" AND priority >= ?");
        params.push(Value::from(floor));
    }
    match &want.only {
        Only::Any => {}
        Only::Coalesce(value) => {
            filter.push_str(" AND coalesce = ?");
            params.push(Value::from(value));
        }
        Only::CoalescePrefix(prefix) => {
            filter.push_str(" AND coalesce LIKE ? ESCAPE '|'");
            params.push(Value::from(like_prefix(prefix)));
        }
        Only::Job(jobid) => {
            filter.push_str(" AND jobid = ?");
            params.push(Value::from(*jobid));
        }
    }
    (filter, params)
}

/// `p%` with the wildcards inside `p` taken literally.
pub(crate) fn like_prefix(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for c in prefix.chars() {
        if matches!(c, '%' | '_' | '|') {
            pattern.push('|');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

/// How many of each function were taken.
fn by_func(candidates: &[Candidate], ours: &[u64]) -> std::collections::BTreeMap<u32, u64> {
    let mut counts = std::collections::BTreeMap::new();
    for candidate in candidates {
        if ours.contains(&candidate.jobid) {
            *counts.entry(candidate.funcid).or_default() += 1;
        }
    }
    counts
}

/// Shuffles; with priorities only among equals.
fn mix(candidates: &mut [Candidate], prioritize: bool) {
    let seed = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |since| u64::from(since.subsec_nanos()))
        ^ (u64::from(std::process::id()) << 32);
    let mut rng = Rng::new(seed);
    if !prioritize {
        return rng.shuffle(candidates);
    }
    for equals in candidates.chunk_by_mut(|a, b| a.priority == b.priority) {
        rng.shuffle(equals);
    }
}

/// Inside a transaction: conditional updates until `max` are ours.
async fn lease_all(
    work: &mut Work<'_>,
    candidates: &[Candidate],
    lease: u64,
    max: usize,
) -> Result<Vec<u64>, Error> {
    const UPDATE: &str = "UPDATE {p}job SET grabbed_until = ? WHERE jobid = ? AND grabbed_until = ? AND grabbed_until <= :now";
    let mut ours: Vec<u64> = Vec::new();
    let mut rest = candidates;
    while ours.len() < max && !rest.is_empty() {
        let (now, later) = rest.split_at((max - ours.len()).min(rest.len()));
        rest = later;
        // Ascending ids: two programs that grab the same rows cannot deadlock.
        let mut now = now.to_vec();
        now.sort_by_key(|candidate| candidate.jobid);
        let sets = now
            .iter()
            .map(|candidate| params![lease, candidate.jobid, candidate.grabbed_until])
            .collect();
        for (done, candidate) in work.execute_each(UPDATE, sets).await?.iter().zip(&now) {
            if done.rows_affected == 1 {
                ours.push(candidate.jobid);
            }
        }
    }
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_in_a_prefix_are_literal() {
        assert_eq!(like_prefix("a_b%c|"), "a|_b|%c||%");
    }

    #[test]
    fn mixing_keeps_priorities_in_order() {
        let mut candidates: Vec<Candidate> = (0..50)
            .map(|n| Candidate {
                funcid: 1,
                jobid: n,
                grabbed_until: 0,
                priority: Some(if n < 25 { 9 } else { 1 }),
            })
            .collect();
        mix(&mut candidates, true);
        assert!(
            candidates
                .iter()
                .take(25)
                .all(|candidate| candidate.priority == Some(9))
        );
    }
}
