//! Turns of tenants: of a function whose jobs name tenants, each has its turn, however many jobs another has waiting.
//!
//! Apart from `grab.rs` because it only says which candidates come first; who has a job is decided there. Deficit round robin: a turn is worth
//! as much as the cheapest waiting job costs, and what a tenant cannot use for its next job is kept for its next turn. Jobs without a tenant, Perl's
//! among them, are one more tenant.

use crate::database::{Database, Work};
use crate::error::Error;
use crate::grab::{Candidate, Grab, candidate};
use crate::tables::id_list;
use ibex_sql::{Value, params};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

/// Tenants looked at by one grab; the next one goes on behind them.
const TENANTS_MAX: usize = 32;
/// Candidates of all tenants together, about.
const CANDIDATES_MAX: usize = 2000;

pub(crate) const SQLITE: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS {p}sz_tenant (funcid INTEGER NOT NULL, tenant TEXT NOT NULL, jobid INTEGER NOT NULL, cost INTEGER NOT NULL, \
     PRIMARY KEY (funcid, tenant, jobid)) STRICT, WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS {p}sz_tenant_job ON {p}sz_tenant (jobid)",
];
pub(crate) const MYSQL: [&str; 1] = [
    "CREATE TABLE IF NOT EXISTS {p}sz_tenant (funcid INT UNSIGNED NOT NULL, tenant VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL, \
     jobid BIGINT UNSIGNED NOT NULL, cost INT UNSIGNED NOT NULL, PRIMARY KEY (funcid, tenant, jobid), INDEX (jobid)) ENGINE=InnoDB",
];

/// Whose job it is, for turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tenant {
    pub(crate) key: String,
    pub(crate) cost: u32,
}

/// Where the turns of one function stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Who had the last one.
    last: String,
    /// What is left of turns.
    owed: BTreeMap<String, u32>,
}

/// A candidate with its tenant; none is the empty one.
#[derive(Debug)]
struct Waiting<T> {
    tenant: String,
    cost: u32,
    job: T,
}

/// Orders by turns, at most `most` jobs; the turn then stands where it does after `taken` of them.
fn deal<T>(waiting: Vec<Waiting<T>>, turn: &mut Turn, most: usize, taken: usize) -> Vec<T> {
    let mut lists: BTreeMap<String, VecDeque<(u32, T)>> = BTreeMap::new();
    for one in waiting {
        lists
            .entry(one.tenant)
            .or_default()
            .push_back((one.cost.max(1), one.job));
    }
    turn.owed.retain(|tenant, _| lists.contains_key(tenant));
    let (mut now, mut order) = (turn.clone(), Vec::new());
    let mut worth = 0;
    while order.len() < most {
        let behind = (Bound::Excluded(now.last.clone()), Bound::Unbounded);
        let next = lists.range(behind).next().map(|(tenant, _)| tenant.clone());
        let is_round = next.is_none() || worth == 0;
        let Some(tenant) = next.or_else(|| lists.keys().next().cloned()) else {
            break;
        };
        if is_round {
            let heads = lists.values().filter_map(|list| list.front());
            worth = heads.map(|(cost, _)| *cost).min().unwrap_or(1);
        }
        now.last.clone_from(&tenant);
        let mut owed = now.owed.remove(&tenant).unwrap_or(0);
        owed = owed.saturating_add(worth);
        let Some(list) = lists.get_mut(&tenant) else {
            break;
        };
        while order.len() < most
            && let Some((cost, job)) = list.pop_front_if(|(cost, _)| *cost <= owed)
        {
            owed -= cost;
            order.push(job);
            if order.len() == taken {
                turn.clone_from(&now);
                if owed > 0 && !list.is_empty() {
                    turn.owed.insert(tenant.clone(), owed);
                }
            }
        }
        if list.is_empty() {
            // Who has nothing waiting saves nothing up.
            lists.remove(&tenant);
        } else if owed > 0 {
            now.owed.insert(tenant, owed);
        }
    }
    if order.len() < taken {
        *turn = now;
    }
    order
}

/// Notes whose job it is.
pub(crate) async fn note(
    work: &mut Work<'_>,
    funcid: u32,
    jobid: u64,
    tenant: &Tenant,
) -> Result<(), Error> {
    work.execute(
        "REPLACE INTO {p}sz_tenant (funcid, tenant, jobid, cost) VALUES (?, ?, ?, ?)",
        params![funcid, tenant.key.as_str(), jobid, tenant.cost],
    )
    .await?;
    Ok(())
}

/// The job waits no more.
pub(crate) async fn forget(work: &mut Work<'_>, jobid: u64) -> Result<(), Error> {
    work.execute("DELETE FROM {p}sz_tenant WHERE jobid = ?", params![jobid])
        .await?;
    Ok(())
}

impl Database {
    /// Functions some of whose jobs name tenants.
    pub(crate) async fn tenanted(&self) -> Result<BTreeSet<u32>, Error> {
        let mut funcs = BTreeSet::new();
        let mut last = 0;
        // One step into the index for each, however many jobs they have.
        loop {
            let rows = self
                .query(
                    "SELECT MIN(funcid) FROM {p}sz_tenant WHERE funcid > ?",
                    params![last],
                )
                .await?;
            let next: Option<u32> = rows.first().map_or(Ok(None), |row| row.get(0))?;
            let Some(funcid) = next else {
                return Ok(funcs);
            };
            funcs.insert(funcid);
            last = funcid;
        }
    }

    /// Candidates of a function in the order of its tenants' turns; those of other functions stay as they are.
    pub(crate) async fn take_turns(
        &self,
        want: &Grab,
        funcid: u32,
        candidates: Vec<Candidate>,
        taken: usize,
    ) -> Result<Vec<Candidate>, Error> {
        let most = want.batch_size.max(want.max);
        let last = self.turns().get(&funcid).cloned().unwrap_or_default().last;
        let mut names = self.tenants_behind(funcid, &last).await?;
        if names.len() < TENANTS_MAX {
            let round = self.tenants_behind(funcid, "").await?;
            names.extend(round.into_iter().filter(|name| *name <= last));
            names.truncate(TENANTS_MAX);
        }
        let mut waiting = self.waiting_of(want, funcid, &names, most).await?;
        let (oldest, mut others): (Vec<Candidate>, Vec<Candidate>) =
            candidates.into_iter().partition(|one| one.funcid == funcid);
        let seen: BTreeSet<u64> = waiting.iter().map(|one| one.job.jobid).collect();
        let fresh: Vec<Candidate> = oldest
            .into_iter()
            .filter(|one| !seen.contains(&one.jobid))
            .collect();
        waiting.extend(self.labelled(fresh).await?);
        let mut turns = self.turns();
        others.extend(deal(waiting, turns.entry(funcid).or_default(), most, taken));
        Ok(others)
    }

    /// Names of tenants with jobs behind one, in order: a step into the index for each.
    async fn tenants_behind(&self, funcid: u32, last: &str) -> Result<Vec<String>, Error> {
        let mut names: Vec<String> = Vec::new();
        while names.len() < TENANTS_MAX {
            let behind = names.last().map_or(last, String::as_str).to_owned();
            let rows = self
                .query(
                    "SELECT MIN(tenant) FROM {p}sz_tenant WHERE funcid = ? AND tenant > ?",
                    params![funcid, behind],
                )
                .await?;
            match rows.first().map_or(Ok(None), |row| row.get(0))? {
                Some(name) => names.push(name),
                None => break,
            }
        }
        Ok(names)
    }

    /// Ready jobs of these tenants.
    async fn waiting_of(
        &self,
        want: &Grab,
        funcid: u32,
        names: &[String],
        most: usize,
    ) -> Result<Vec<Waiting<Candidate>>, Error> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let each = most.min((CANDIDATES_MAX / names.len()).max(1));
        let (mut parts, mut params) = (Vec::new(), Vec::new());
        let floor = if want.floor.is_some() {
            " AND j.priority >= ?"
        } else {
            ""
        };
        for (index, name) in names.iter().enumerate() {
            parts.push(format!(
                "SELECT * FROM (SELECT j.jobid, j.grabbed_until, j.priority, j.run_after, :now AS now, j.funcid, t.tenant, t.cost FROM {{p}}sz_tenant t \
                 JOIN {{p}}job j ON j.jobid = t.jobid WHERE t.funcid = ? AND t.tenant = ? AND j.run_after <= :now AND j.grabbed_until <= :now{floor} \
                 AND NOT EXISTS (SELECT 1 FROM {{p}}sz_func f WHERE f.funcid = t.funcid AND f.paused_until > :now) ORDER BY t.jobid LIMIT ?) t{index}"
            ));
            params.extend(params![funcid, name.as_str()]);
            params.extend(want.floor.map(Value::from));
            params.push(Value::from(each));
        }
        let mut waiting = Vec::new();
        for row in self.query(&parts.join(" UNION ALL "), params).await? {
            if let Ok(job) = candidate(&row) {
                waiting.push(Waiting {
                    tenant: row.get(6)?,
                    cost: row.get(7)?,
                    job,
                });
            }
        }
        Ok(waiting)
    }

    /// Candidates with their tenants, if they have one.
    async fn labelled(&self, jobs: Vec<Candidate>) -> Result<Vec<Waiting<Candidate>>, Error> {
        let ids: Vec<u64> = jobs.iter().map(|job| job.jobid).collect();
        let mut labels = BTreeMap::new();
        if !ids.is_empty() {
            let (marks, ids) = id_list(&ids);
            let template =
                format!("SELECT jobid, tenant, cost FROM {{p}}sz_tenant WHERE jobid IN ({marks})");
            for row in self.query(&template, ids).await? {
                let label: (String, u32) = (row.get(1)?, row.get(2)?);
                labels.insert(row.get::<u64>(0)?, label);
            }
        }
        let label = |job: Candidate| {
            let (tenant, cost) = labels.remove(&job.jobid).unwrap_or((String::new(), 1));
            Waiting { tenant, cost, job }
        };
        Ok(jobs.into_iter().map(label).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(tenant: &str, count: usize, cost: u32) -> Vec<Waiting<String>> {
        (0..count)
            .map(|n| Waiting {
                tenant: tenant.to_owned(),
                cost,
                job: format!("{tenant}{n}"),
            })
            .collect()
    }

    #[test]
    fn each_has_its_turn_and_none_is_lost() {
        let mut turn = Turn::default();
        let all = [jobs("a", 5, 1), jobs("b", 1, 1), jobs("", 2, 1)];
        let order = deal(all.into_iter().flatten().collect(), &mut turn, 99, 99);
        // The empty name had the turn before the first.
        assert_eq!(order, ["a0", "b0", "0", "a1", "1", "a2", "a3", "a4"]);
        assert!(turn.owed.is_empty());
        assert!(deal(jobs("a", 9, 1), &mut turn, 0, 0).is_empty());
    }

    #[test]
    fn one_job_at_a_time_is_as_fair_as_many() {
        let mut turn = Turn::default();
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..90 {
            let all = [jobs("a", 50, 1), jobs("b", 50, 1), jobs("c", 50, 1)];
            let order = deal(all.into_iter().flatten().collect(), &mut turn, 50, 1);
            *counts.entry(order[0][..1].to_owned()).or_default() += 1;
        }
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [30, 30, 30]);
    }

    #[test]
    fn dear_jobs_come_as_much_rarer_as_they_cost() {
        let mut turn = Turn::default();
        let all = [jobs("cheap", 99, 1), jobs("dear", 99, 3)];
        let order = deal(all.into_iter().flatten().collect(), &mut turn, 40, 40);
        let dear = order.iter().filter(|job| job.starts_with("dear")).count();
        assert_eq!((order.len(), dear), (40, 10));
        // Alone they come one after the other.
        assert_eq!(deal(jobs("dear", 5, 3), &mut turn, 99, 99).len(), 5);
        let huge = deal(jobs("dear", 5, u32::MAX), &mut Turn::default(), 3, 3);
        assert_eq!(huge.len(), 3);
    }
}
