//! Where new users go: the cluster with the fewest users for its weight.
//!
//! Apart because it is the one decision that looks at all clusters. It reads the global database only.

use crate::{Cluster, ClusterId, Error};
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// How old the counts may be. Between two readings this process counts its own placements itself.
const LOADS_AGE: Duration = Duration::from_secs(10);

/// A cluster as placement sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Which.
    pub cluster: ClusterId,
    /// Users that live there.
    pub users: u64,
    /// Its weight.
    pub weight: u32,
    /// It takes no writes.
    pub readonly: bool,
    /// It failed last and is left alone.
    pub down: bool,
}

impl Cluster {
    /// Users and weights per cluster.
    ///
    /// # Errors
    /// The global database's classes.
    pub async fn loads(&self) -> Result<Vec<Load>, Error> {
        let fresh = {
            let loads = self
                .inner
                .loads
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            loads
                .as_ref()
                .filter(|(at, _)| at.elapsed() < LOADS_AGE)
                .map(|(_, users)| users.clone())
        };
        let users = match fresh {
            Some(users) => users,
            None => self.count_users().await?,
        };
        Ok(self
            .inner
            .nodes
            .values()
            .map(|node| Load {
                cluster: node.id(),
                users: users.get(&node.id()).copied().unwrap_or(0),
                weight: node.config.weight,
                readonly: node.config.readonly,
                down: node.is_down(),
            })
            .collect())
    }

    async fn count_users(&self) -> Result<BTreeMap<ClusterId, u64>, Error> {
        let sql = format!(
            "SELECT clusterid, COUNT(*) FROM {} GROUP BY clusterid",
            self.inner.layout.user_table
        );
        let mut users = BTreeMap::new();
        for row in self.global().query(sql, Vec::new()).await? {
            users.insert(ClusterId(row.get(0)?), row.get::<u64>(1)?);
        }
        *self
            .inner
            .loads
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), users.clone()));
        Ok(users)
    }

    /// The cluster for a new user; it is counted as placed there.
    ///
    /// # Errors
    /// [`Error::NoPlace`] when no cluster takes new users now; the global database's classes.
    pub async fn place(&self) -> Result<ClusterId, Error> {
        let chosen = choose(&self.loads().await?).ok_or(Error::NoPlace)?;
        let mut loads = self
            .inner
            .loads
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some((_, users)) = &mut *loads {
            *users.entry(chosen).or_default() += 1;
        }
        Ok(chosen)
    }
}

/// Fewest users per weight; the smaller number at a tie, which the next placement then no longer is.
fn choose(loads: &[Load]) -> Option<ClusterId> {
    loads
        .iter()
        .filter(|load| load.weight > 0 && !load.readonly && !load.down)
        .min_by_key(|load| {
            (
                load.users.saturating_mul(1_000_000) / u64::from(load.weight),
                load.cluster,
            )
        })
        .map(|load| load.cluster)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(cluster: u32, users: u64, weight: u32) -> Load {
        Load {
            cluster: ClusterId(cluster),
            users,
            weight,
            readonly: false,
            down: false,
        }
    }

    #[test]
    fn the_emptiest_for_its_weight_is_chosen() {
        assert_eq!(
            choose(&[load(1, 10, 100), load(2, 9, 100)]),
            Some(ClusterId(2))
        );
        assert_eq!(
            choose(&[load(1, 10, 200), load(2, 9, 100)]),
            Some(ClusterId(1))
        );
        assert_eq!(
            choose(&[load(1, 0, 100), load(2, 0, 100)]),
            Some(ClusterId(1))
        );
    }

    #[test]
    fn weight_zero_readonly_and_down_take_nobody() {
        let mut readonly = load(2, 0, 100);
        readonly.readonly = true;
        let mut down = load(3, 0, 100);
        down.down = true;
        assert_eq!(choose(&[load(1, 0, 0), readonly, down]), None);
    }
}
