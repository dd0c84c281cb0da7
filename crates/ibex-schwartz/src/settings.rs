//! What a function's jobs have in common: how many at once, how fast, how often, and what becomes of them in the end.
//!
//! Apart because it is kept in the database, the same for every program of ours on it. Limits of a function are counted in the grab's
//! transaction; a Perl worker knows nothing of them (limits that Perl must keep are those of a job's key). Programs read the settings again once
//! a second, so a database without any pays one small query a second.

use crate::database::{Database, Work};
use crate::error::Error;
use crate::job::check_funcname;
use crate::policy::Backoff;
use crate::side::Column;
use crate::wide::Limit;
use ibex_sql::params;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Settings of the whole database; a function's own go before them.
pub const EVERY_FUNCTION: &str = "*";
/// The number such settings are kept under.
const EVERY: u32 = 0;
/// How long settings of other programs may go unnoticed.
const STALE: Duration = Duration::from_secs(1);
/// Longest times: ten years.
const SECONDS_MAX: u64 = 3660 * 86_400;
/// Largest numbers of jobs, runs, and shares.
const COUNT_MAX: u32 = 1_000_000;

pub(crate) const SQLITE: &str = "CREATE TABLE IF NOT EXISTS {p}sz_funcset (funcid INTEGER PRIMARY KEY NOT NULL, max_running INTEGER, jobs INTEGER, per INTEGER, \
     tat INTEGER NOT NULL, weight INTEGER, max_attempts INTEGER, dead_func TEXT, retain_failed INTEGER, retain_completed INTEGER, retain_cancelled INTEGER, \
     backoff TEXT, timeout_s INTEGER, keep_exit INTEGER) STRICT";
pub(crate) const MYSQL: &str = "CREATE TABLE IF NOT EXISTS {p}sz_funcset (funcid INT UNSIGNED NOT NULL PRIMARY KEY, max_running INT UNSIGNED, jobs INT UNSIGNED, \
     per BIGINT UNSIGNED, tat BIGINT UNSIGNED NOT NULL, weight INT UNSIGNED, max_attempts INT UNSIGNED, dead_func VARCHAR(255) CHARACTER SET utf8mb4, \
     retain_failed BIGINT UNSIGNED, retain_completed BIGINT UNSIGNED, retain_cancelled BIGINT UNSIGNED, backoff VARCHAR(255) CHARACTER SET ascii, \
     timeout_s BIGINT UNSIGNED, keep_exit BIGINT UNSIGNED) ENGINE=InnoDB";

/// Columns that tables made by earlier versions do not have.
pub(crate) const COLUMNS_NEW: [Column; 3] = [
    ("backoff", "TEXT", "VARCHAR(255) CHARACTER SET ascii"),
    ("timeout_s", "INTEGER", "BIGINT UNSIGNED"),
    ("keep_exit", "INTEGER", "BIGINT UNSIGNED"),
];

/// Settings of one function, or of all (see [`EVERY_FUNCTION`]). What is `None` is as it would be without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FuncSettings {
    /// Jobs of the function that may be out at once; not for all functions together.
    pub max_running: Option<u32>,
    /// At most so many jobs handed out in so many seconds, in bursts of at most as many.
    pub rate: Option<(u32, u64)>,
    /// Share of the function when several have ready jobs: so many jobs each turn; 1 unless given.
    pub weight: Option<u32>,
    /// Runs of a job that does not say it itself.
    pub max_attempts: Option<u32>,
    /// Function that gets a job `{"original":{…},"error"}` for each that failed for good.
    pub dead_func: Option<String>,
    /// Seconds a job that failed for good is kept for a retry; 30 days unless given.
    pub retain_failed: Option<u64>,
    /// Seconds a job that completed is kept; 0 unless given.
    pub retain_completed: Option<u64>,
    /// Seconds a job that was cancelled or expired is kept; a day unless given.
    pub retain_cancelled: Option<u64>,
    /// Delays between the runs of a job that does not say it itself.
    pub backoff: Option<Backoff>,
    /// Seconds of a run of a job that does not say it itself, heartbeats or not.
    pub timeout_s: Option<u64>,
    /// Seconds the exit status is kept of a job that does not say it itself.
    pub keep_exit_status_for: Option<u64>,
}

impl FuncSettings {
    fn check(&self, is_every: bool) -> Result<(), Error> {
        let refuse = |what: &str| Err(Error::Invalid(what.to_owned()));
        let count = |count: Option<u32>| count.is_none_or(|count| (1..=COUNT_MAX).contains(&count));
        let seconds = |seconds: Option<u64>| seconds.is_none_or(|seconds| seconds <= SECONDS_MAX);
        if !(count(self.max_running) && count(self.weight) && count(self.max_attempts)) {
            return refuse("max_running, weight and max_attempts are 1 to 1000000");
        }
        if let Some((jobs, per)) = self.rate
            && !(count(Some(jobs)) && (1..=SECONDS_MAX).contains(&per))
        {
            return refuse("a rate is 1 to 1000000 jobs in at least a second");
        }
        if !(seconds(self.retain_failed)
            && seconds(self.retain_completed)
            && seconds(self.retain_cancelled))
        {
            return refuse("jobs are kept ten years at most");
        }
        if !(seconds(self.timeout_s) && seconds(self.keep_exit_status_for))
            || self.timeout_s == Some(0)
        {
            return refuse("a run has at least a second, and times are ten years at most");
        }
        if let Some(backoff) = &self.backoff {
            backoff.check()?;
        }
        if let Some(func) = &self.dead_func {
            check_funcname(func)?;
        }
        if is_every && (self.max_running.is_some() || self.weight.is_some()) {
            return refuse("max_running and weight are a function's own");
        }
        Ok(())
    }
}

/// All settings of a database.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known {
    by_func: BTreeMap<u32, FuncSettings>,
    /// Functions some of whose jobs name tenants.
    tenanted: BTreeSet<u32>,
}

impl Known {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_func.is_empty()
    }

    fn all(&self, funcid: u32) -> impl Iterator<Item = &FuncSettings> {
        [funcid, EVERY]
            .into_iter()
            .filter_map(|funcid| self.by_func.get(&funcid))
    }

    pub(crate) fn max_attempts(&self, funcid: u32) -> Option<u32> {
        self.all(funcid).find_map(|settings| settings.max_attempts)
    }

    pub(crate) fn backoff(&self, funcid: u32) -> Option<Backoff> {
        self.all(funcid)
            .find_map(|settings| settings.backoff.clone())
    }

    /// Seconds a run may take.
    pub(crate) fn timeout(&self, funcid: u32) -> Option<u64> {
        self.all(funcid).find_map(|settings| settings.timeout_s)
    }

    /// Seconds exit statuses are kept.
    pub(crate) fn keep(&self, funcid: u32) -> Option<u64> {
        self.all(funcid)
            .find_map(|settings| settings.keep_exit_status_for)
    }

    /// Whether any function says how long exit statuses are kept.
    pub(crate) fn has_keep(&self) -> bool {
        self.by_func
            .values()
            .any(|settings| settings.keep_exit_status_for.is_some())
    }

    /// A function that gets the dead; not its own, which would go round for ever.
    pub(crate) fn dead_func(&self, funcid: u32, funcname: &str) -> Option<String> {
        self.all(funcid)
            .find_map(|settings| settings.dead_func.clone())
            .filter(|func| func != funcname)
    }

    pub(crate) fn retain(&self, funcid: u32) -> Retain {
        let of = |pick: fn(&FuncSettings) -> Option<u64>| self.all(funcid).find_map(pick);
        let usual = Retain::default();
        Retain {
            failed: of(|settings| settings.retain_failed).unwrap_or(usual.failed),
            completed: of(|settings| settings.retain_completed).unwrap_or(usual.completed),
            cancelled: of(|settings| settings.retain_cancelled).unwrap_or(usual.cancelled),
        }
    }

    /// Whether any job that completed is kept.
    pub(crate) fn keeps_completed(&self) -> bool {
        self.by_func
            .values()
            .any(|settings| settings.retain_completed.unwrap_or(0) > 0)
    }

    /// Shares of these functions; `None` for a single one, which has all.
    pub(crate) fn weights(&self, funcids: &[u32]) -> Option<BTreeMap<u32, u32>> {
        let weight = |funcid| {
            self.by_func
                .get(funcid)
                .and_then(|settings| settings.weight)
        };
        (funcids.len() > 1).then(|| {
            funcids
                .iter()
                .map(|funcid| (*funcid, weight(funcid).unwrap_or(1)))
                .collect()
        })
    }

    /// Those of these functions some of whose jobs name tenants.
    pub(crate) fn tenanted(&self, funcids: &[u32]) -> Vec<u32> {
        let is_one = |funcid: &u32| self.tenanted.contains(funcid);
        funcids.iter().copied().filter(is_one).collect()
    }

    /// Those of these functions, and of all, that have limits, in order.
    pub(crate) fn limited(&self, funcids: &[u32]) -> Vec<u32> {
        self.by_func
            .iter()
            .filter(|(funcid, settings)| {
                (**funcid == EVERY || funcids.contains(*funcid))
                    && (settings.max_running.is_some() || settings.rate.is_some())
            })
            .map(|(funcid, _)| *funcid)
            .collect()
    }
}

/// How long jobs are kept that are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retain {
    pub(crate) failed: u64,
    pub(crate) completed: u64,
    pub(crate) cancelled: u64,
}

impl Default for Retain {
    fn default() -> Self {
        Self {
            failed: 30 * 86_400,
            completed: 0,
            cancelled: 86_400,
        }
    }
}

/// The settings as they were read last.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    read: Option<Instant>,
    known: Arc<Known>,
}

impl Cache {
    /// What is known, if it is fresh.
    pub(crate) fn fresh(&self) -> Option<Arc<Known>> {
        self.read
            .filter(|read| read.elapsed() < STALE)
            .map(|_| Arc::clone(&self.known))
    }

    pub(crate) fn put(&mut self, known: Arc<Known>) {
        (self.read, self.known) = (Some(Instant::now()), known);
    }

    /// What was read last, however old.
    pub(crate) fn latest(&self) -> Arc<Known> {
        Arc::clone(&self.known)
    }

    fn forget(&mut self) {
        self.read = None;
    }
}

const COLUMNS: &str = "funcid, max_running, jobs, per, weight, max_attempts, dead_func, retain_failed, retain_completed, retain_cancelled, backoff, timeout_s, keep_exit";

impl Database {
    /// Settings of all functions as they were at most a second ago.
    pub(crate) async fn settings(&self) -> Result<Arc<Known>, Error> {
        self.db().await?;
        if !self.has_side() {
            return Ok(Arc::default());
        }
        if let Some(known) = self.settings_cache().fresh() {
            return Ok(known);
        }
        let mut known = Known::default();
        for row in self
            .query(&format!("SELECT {COLUMNS} FROM {{p}}sz_funcset"), params![])
            .await?
        {
            let rate: (Option<u32>, Option<u64>) = (row.get(2)?, row.get(3)?);
            let settings = FuncSettings {
                max_running: row.get(1)?,
                rate: rate.0.zip(rate.1),
                weight: row.get(4)?,
                max_attempts: row.get(5)?,
                dead_func: row.get(6)?,
                retain_failed: row.get(7)?,
                retain_completed: row.get(8)?,
                retain_cancelled: row.get(9)?,
                backoff: row
                    .get::<Option<String>>(10)?
                    .and_then(|text| Backoff::parse(&text)),
                timeout_s: row.get(11)?,
                keep_exit_status_for: row.get(12)?,
            };
            known.by_func.insert(row.get(0)?, settings);
        }
        known.tenanted = self.tenanted().await?;
        let known = Arc::new(known);
        self.settings_cache().put(Arc::clone(&known));
        Ok(known)
    }

    /// Replaces the settings of a function, or of all functions ([`EVERY_FUNCTION`]); other programs follow within a second.
    ///
    /// # Errors
    /// [`Error::Invalid`] for values beyond their limits, [`Error::Config`] where our own tables are not allowed, and what the database answers.
    pub async fn set_func(&self, func: &str, settings: &FuncSettings) -> Result<(), Error> {
        settings.check(func == EVERY_FUNCTION)?;
        self.need_side().await?;
        let funcid = if func == EVERY_FUNCTION {
            EVERY
        } else {
            check_funcname(func)?;
            self.funcid(func).await?
        };
        self.execute(
            &format!("REPLACE INTO {{p}}sz_funcset ({COLUMNS}, tat) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)"),
            params![
                funcid,
                settings.max_running,
                settings.rate.map(|(jobs, _)| jobs),
                settings.rate.map(|(_, per)| per),
                settings.weight,
                settings.max_attempts,
                settings.dead_func.as_deref(),
                settings.retain_failed,
                settings.retain_completed,
                settings.retain_cancelled,
                settings.backoff.as_ref().map(Backoff::text),
                settings.timeout_s,
                settings.keep_exit_status_for
            ],
        )
        .await?;
        self.settings_cache().forget();
        Ok(())
    }

    /// The settings of a function, or of all functions; all `None` when it has none.
    ///
    /// # Errors
    /// What the database answers.
    pub async fn func_settings(&self, func: &str) -> Result<FuncSettings, Error> {
        let known = self.settings().await?;
        let funcid = if func == EVERY_FUNCTION {
            Some(EVERY)
        } else {
            self.funcids(&[func.to_owned()]).await?.first().copied()
        };
        Ok(funcid
            .and_then(|funcid| known.by_func.get(&funcid).cloned())
            .unwrap_or_default())
    }
}

/// How many jobs of limited functions a grab may take, held by its transaction.
#[derive(Debug, Default)]
pub(crate) struct Room {
    limits: BTreeMap<u32, (u64, Option<Limit>)>,
}

impl Room {
    /// Locks the limits of these functions, in order, and counts.
    pub(crate) async fn lock(work: &mut Work<'_>, limited: &[u32]) -> Result<Self, Error> {
        let mut room = Self::default();
        let lock = work.engine().pick("", " FOR UPDATE");
        for funcid in limited {
            let row = work
                .query_one(
                    &format!("SELECT max_running, jobs, per, tat, :now FROM {{p}}sz_funcset WHERE funcid = ?{lock}"),
                    params![*funcid],
                )
                .await?;
            let Some(row) = row else { continue };
            let mut free = u64::MAX;
            if let Some(max) = row.get::<Option<u64>>(0)? {
                // Live leases, whoever has them.
                let running = work
                    .query_one(
                        "SELECT COUNT(*) FROM {p}job WHERE funcid = ? AND grabbed_until > :now",
                        params![*funcid],
                    )
                    .await?;
                let running: u64 = running.map_or(Ok(0), |row| row.get(0))?;
                free = max.saturating_sub(running);
            }
            let rate: (Option<u64>, Option<u64>) = (row.get(1)?, row.get(2)?);
            let limit = match rate.0.zip(rate.1) {
                Some((jobs, per)) => Some(Limit::new(jobs, per, row.get(3)?, row.get(4)?)),
                None => None,
            };
            if let Some(limit) = &limit {
                free = free.min(limit.available());
            }
            room.limits.insert(*funcid, (free, limit));
        }
        Ok(room)
    }

    /// Whether one more job of the function fits.
    pub(crate) fn has(&self, funcid: u32) -> bool {
        [funcid, EVERY]
            .iter()
            .all(|funcid| self.limits.get(funcid).is_none_or(|(free, _)| *free > 0))
    }

    /// As [`Room::has`]; then it counts.
    pub(crate) fn admits(&mut self, funcid: u32) -> bool {
        let fits = self.has(funcid);
        if fits {
            for funcid in [funcid, EVERY] {
                if let Some((free, _)) = self.limits.get_mut(&funcid) {
                    *free = free.saturating_sub(1);
                }
            }
        }
        fits
    }

    /// Takes tokens for what was handed out, by function.
    pub(crate) async fn taken(
        &mut self,
        work: &mut Work<'_>,
        taken: &BTreeMap<u32, u64>,
    ) -> Result<(), Error> {
        for (funcid, (_, limit)) in &mut self.limits {
            let jobs = if *funcid == EVERY {
                taken.values().sum()
            } else {
                taken.get(funcid).copied().unwrap_or(0)
            };
            if let Some(limit) = limit
                && jobs > 0
            {
                limit.take(jobs);
                work.execute(
                    "UPDATE {p}sz_funcset SET tat = ? WHERE funcid = ?",
                    params![limit.tat(), *funcid],
                )
                .await?;
            }
        }
        Ok(())
    }
}

/// Orders candidates so that each function has its share, whatever the ages of their jobs (smooth weighted round robin); at most `most` of them.
/// `credits` outlive the call: a grab that takes one job at a time is fair over many.
pub(crate) fn share<T>(
    candidates: Vec<T>,
    func: impl Fn(&T) -> u32,
    weights: &BTreeMap<u32, u32>,
    credits: &mut BTreeMap<u32, i64>,
    most: usize,
) -> Vec<T> {
    let mut lists: BTreeMap<u32, std::collections::VecDeque<T>> = BTreeMap::new();
    let count = candidates.len().min(most);
    for candidate in candidates {
        lists
            .entry(func(&candidate))
            .or_default()
            .push_back(candidate);
    }
    credits.retain(|funcid, _| lists.contains_key(funcid));
    let mut shared = Vec::with_capacity(count);
    let mut running = credits.clone();
    while !lists.is_empty() && shared.len() < count {
        let mut sum = 0;
        for funcid in lists.keys() {
            let weight = i64::from(weights.get(funcid).copied().unwrap_or(1));
            *running.entry(*funcid).or_default() += weight;
            sum += weight;
        }
        let next = lists
            .keys()
            .max_by_key(|funcid| running.get(*funcid).copied().unwrap_or(0))
            .copied();
        let Some(funcid) = next else { break };
        *running.entry(funcid).or_default() -= sum;
        if let Some(list) = lists.get_mut(&funcid) {
            shared.extend(list.pop_front());
            if list.is_empty() {
                lists.remove(&funcid);
            }
        }
        // What was dealt first is most likely taken; the rest is dealt again next time.
        if shared.len() == 1 {
            credits.clone_from(&running);
        }
    }
    shared
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_have_their_shares_one_job_at_a_time() {
        let weights = BTreeMap::from([(1, 3), (2, 1)]);
        let mut credits = BTreeMap::new();
        let mut counts = BTreeMap::new();
        for _ in 0..400 {
            let candidates: Vec<u32> = [vec![1; 50], vec![2; 50]].concat();
            let first = share(candidates, |one| *one, &weights, &mut credits, 50)[0];
            *counts.entry(first).or_insert(0) += 1;
        }
        assert_eq!(counts, BTreeMap::from([(1, 300), (2, 100)]));
        let few = vec![1, 1, 1, 2, 3];
        let all = share(few.clone(), |one| *one, &weights, &mut credits, 50);
        assert_eq!(all.len(), 5, "none is lost");
        let some = share(few, |one| *one, &weights, &mut credits, 2);
        assert_eq!(some.len(), 2, "and no more than wanted");
    }

    #[test]
    fn settings_beyond_their_limits_are_refused() {
        let usual = FuncSettings::default;
        let refused = |settings: FuncSettings| settings.check(false).is_err();
        assert!(!refused(usual()));
        assert!(refused(FuncSettings {
            max_running: Some(0),
            ..usual()
        }));
        assert!(refused(FuncSettings {
            rate: Some((1, 0)),
            ..usual()
        }));
        assert!(refused(FuncSettings {
            rate: Some((0, 1)),
            ..usual()
        }));
        assert!(refused(FuncSettings {
            dead_func: Some(String::new()),
            ..usual()
        }));
        assert!(refused(FuncSettings {
            retain_failed: Some(u64::MAX),
            ..usual()
        }));
        let own = FuncSettings {
            weight: Some(1),
            ..usual()
        };
        assert!(own.check(true).is_err() && own.check(false).is_ok());
    }
}
