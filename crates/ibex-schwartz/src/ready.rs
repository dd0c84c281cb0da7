//! Which of many functions have a ready job at all or will have one, and rows that look wrong.
//!
//! Apart from `grab.rs` because nothing is taken here. A worker of a thousand functions, and a daemon with ten thousand waiting workers, ask this
//! once instead of looking for the jobs of each function: two steps into an index for each function, no row is read.

use crate::client::Client;
use crate::database::Database;
use crate::error::{Causes, Error};
use crate::handle::Handle;
use crate::pause::PARKED;
use crate::tables::id_list;
use ibex_sql::params;
use std::collections::BTreeMap;

/// Functions of one statement: below what an engine takes as parameters.
const FUNCS_MAX: usize = 1000;
/// Rows of one look for suspicious ones.
const SUSPECTS_MAX: u32 = 1000;

/// A pending job that no worker may ever finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suspect {
    /// Which job.
    pub handle: Handle,
    /// Its function; `None` when its number has no name, so that nobody can work it.
    pub funcname: Option<String>,
    /// When its lease ends, epoch seconds; 0 when nobody has it.
    pub grabbed_until: u64,
}

impl Database {
    /// Those of the functions that have a job which can be taken now.
    pub(crate) async fn ready_of(&self, funcids: &[u32]) -> Result<Vec<u32>, Error> {
        let mut ready = Vec::new();
        for chunk in funcids.chunks(FUNCS_MAX) {
            let ids: Vec<u64> = chunk.iter().copied().map(u64::from).collect();
            let (marks, params) = id_list(&ids);
            // The plus as in `Database::candidates`.
            let template = format!(
                "SELECT f.funcid FROM {{p}}funcmap f WHERE f.funcid IN ({marks}) AND (\
                 EXISTS (SELECT 1 FROM {{p}}job j WHERE j.funcid = f.funcid AND j.grabbed_until = 0 AND j.run_after <= :now) OR \
                 EXISTS (SELECT 1 FROM {{p}}job j WHERE j.funcid = f.funcid AND j.grabbed_until > 0 AND j.grabbed_until <= :now AND +j.run_after <= :now))"
            );
            for row in self.query(&template, params).await? {
                ready.push(row.get(0)?);
            }
        }
        Ok(ready)
    }

    /// Seconds until each of the functions may have a job that can be taken, for those that have any.
    async fn next_due(&self, funcs: &[String]) -> Result<Vec<(String, u64)>, Error> {
        let ids = self.funcids(funcs).await?;
        let mut due = Vec::new();
        for chunk in ids.chunks(FUNCS_MAX) {
            let ids: Vec<u64> = chunk.iter().copied().map(u64::from).collect();
            let (marks, params) = id_list(&ids);
            let template = format!(
                "SELECT f.funcid, (SELECT MIN(j.run_after) FROM {{p}}job j WHERE j.funcid = f.funcid AND j.grabbed_until = 0), \
                 (SELECT MIN(j.grabbed_until) FROM {{p}}job j WHERE j.funcid = f.funcid AND j.grabbed_until > 0), :now \
                 FROM {{p}}funcmap f WHERE f.funcid IN ({marks})"
            );
            for row in self.query(&template, params).await? {
                let (free, lease): (Option<u64>, Option<u64>) = (row.get(1)?, row.get(2)?);
                let first = free.unwrap_or(PARKED).min(lease.unwrap_or(PARKED));
                if first < PARKED
                    && let Some(name) = self.funcname(row.get(0)?).await?
                {
                    due.push((name, first.saturating_sub(row.get(3)?)));
                }
            }
        }
        Ok(due)
    }

    async fn suspects(&self, lease: u64) -> Result<Vec<Suspect>, Error> {
        let rows = self
            .query(
                "SELECT j.jobid, f.funcname, j.grabbed_until FROM {p}job j LEFT JOIN {p}funcmap f ON f.funcid = j.funcid \
                 WHERE f.funcid IS NULL OR j.grabbed_until > :now + ? ORDER BY j.jobid LIMIT ?",
                params![lease, SUSPECTS_MAX],
            )
            .await?;
        let mut suspects = Vec::with_capacity(rows.len());
        for row in &rows {
            suspects.push(Suspect {
                handle: Handle::new(self.hash(), row.get(0)?),
                funcname: row.get(1)?,
                grabbed_until: row.get(2)?,
            });
        }
        Ok(suspects)
    }
}

impl Client {
    /// Seconds until each of the functions may have a job that can be taken in one of the databases, 0 for now; functions without jobs are left out.
    /// Others may insert sooner ones at any time. Databases that fail are passed over while one answers.
    ///
    /// # Errors
    /// [`Error::NoDatabase`] when none answered.
    pub async fn next_due(&self, funcs: &[String]) -> Result<BTreeMap<String, u64>, Error> {
        let mut due = BTreeMap::new();
        let mut causes = Vec::new();
        for database in self.databases() {
            match database.judge(database.next_due(funcs).await) {
                Ok(found) => {
                    for (func, seconds) in found {
                        let first = due.entry(func).or_insert(seconds);
                        *first = seconds.min(*first);
                    }
                }
                Err(Error::Sql(error)) => causes.push((database.address(), error)),
                Err(error) => return Err(error),
            }
        }
        if causes.len() == self.databases().len() {
            return Err(Error::NoDatabase(Causes(causes)));
        }
        Ok(due)
    }

    /// Up to a thousand jobs of each database that look wrong: leases that end more than `lease` seconds from now, and functions without a name.
    /// Reads every row; for people who look for a fault.
    ///
    /// # Errors
    /// What a database answers.
    pub async fn suspects(&self, lease: u64) -> Result<Vec<Suspect>, Error> {
        let mut all = Vec::new();
        for database in self.databases() {
            all.extend(database.judge(database.suspects(lease).await)?);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Client, Grab, Job};

    #[tokio::test]
    async fn functions_with_jobs_are_told_from_the_others() {
        let client = Client::open(["sqlite::memory:"]).await.unwrap();
        client.hold_clock(1_700_000_000);
        let all: Vec<String> = (0..1200).map(|n| format!("F{n:04}")).collect();
        let later = all.iter().map(|name| Job::new(name, "x").delay(100));
        client.insert_each(later.collect()).await.unwrap();
        client.insert(Job::new("F0003", "x")).await.unwrap();
        client.insert(Job::new("F1199", "x")).await.unwrap();
        let due = client.next_due(&all).await.unwrap();
        assert_eq!(due.len(), 1200);
        let now = |due: &std::collections::BTreeMap<String, u64>| -> Vec<String> {
            let now = due.iter().filter(|(_, seconds)| **seconds == 0);
            now.map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(now(&due), ["F0003", "F1199"]);
        assert_eq!(due["F0000"], 100);
        let unknown = client.next_due(&["Unknown".to_owned()]).await.unwrap();
        assert!(unknown.is_empty());

        // As many functions as a fetch may name: more than an engine takes parts of a statement.
        let want = Grab {
            max: 10,
            grab_for: 50,
            ..Grab::new(all[..1000].to_vec())
        };
        let jobs = client.grab(&want).await.unwrap();
        assert_eq!(jobs.len(), 1);
        assert_eq!(jobs[0].job.funcname, "F0003");
        let due = client.next_due(&all).await.unwrap();
        assert_eq!((due["F0003"], due["F1199"]), (50, 0), "it is taken");
        client.advance_clock(std::time::Duration::from_secs(60));
        let due = client.next_due(&all).await.unwrap();
        assert_eq!(due["F0003"], 0, "its lease ran out");
        client.advance_clock(std::time::Duration::from_secs(60));
        let due = client.next_due(&all).await.unwrap();
        assert_eq!(now(&due).len(), 1200);
        let want = Grab { max: 1000, ..want };
        assert_eq!(client.grab(&want).await.unwrap().len(), 1000);
    }

    #[tokio::test]
    async fn long_leases_are_suspicious() {
        let client = Client::open(["sqlite::memory:"]).await.unwrap();
        for func in ["Short", "Long"] {
            client.insert(Job::new(func, "x")).await.unwrap();
        }
        for (func, grab_for) in [("Short", 3600), ("Long", 40 * 86_400)] {
            let want = Grab {
                grab_for,
                ..Grab::new(vec![func.to_owned()])
            };
            assert_eq!(client.grab(&want).await.unwrap().len(), 1);
        }
        let suspects = client.suspects(30 * 86_400).await.unwrap();
        assert_eq!(suspects.len(), 1);
        assert_eq!(suspects[0].funcname.as_deref(), Some("Long"));
    }
}
