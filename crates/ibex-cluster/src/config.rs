//! Where the databases are, as plain data that an application reads from its own configuration.
//!
//! Apart because it is the only part an operator writes. It opens nothing.

use crate::{ClusterId, Error};
use std::time::Duration;

/// How long a write waits for the last moment of a move (spec/journal.md §4: `write_hold`).
pub(crate) const WRITE_HOLD: Duration = Duration::from_secs(2);
/// How long a cluster that failed is left alone before one call tries it again.
/// A restarted database is back in a second or two; a dead one costs each process one connect per this time.
pub(crate) const PROBE_AFTER: Duration = Duration::from_secs(2);
/// How long scatter/gather waits for the slowest cluster.
pub(crate) const GATHER_DEADLINE: Duration = Duration::from_millis(300);
/// Deadline of one call to a cluster with its retries: a page waits no longer for a database that hangs.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// The global database.
#[derive(Debug, Clone)]
pub struct GlobalConfig {
    /// DSN of the master, as `ibex-sql` reads it.
    pub master: String,
    /// Password, when the DSN holds none.
    pub password: Option<String>,
}

/// Which of a cluster's two databases is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side {
    /// The `a` side.
    #[default]
    A,
    /// The `b` side.
    B,
}

/// One user cluster.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Its number, 1 and up.
    pub id: ClusterId,
    /// DSN of side a.
    pub a: String,
    /// DSN of side b, if there is one.
    pub b: Option<String>,
    /// Password, when the DSN holds none.
    pub password: Option<String>,
    /// The side in use.
    pub active: Side,
    /// Share of new users; 0 takes none.
    pub weight: u32,
    /// Refuse every write.
    pub readonly: bool,
}

/// All databases and the waits.
#[derive(Debug, Clone)]
pub struct Config {
    /// The global database.
    pub global: GlobalConfig,
    /// The user clusters.
    pub clusters: Vec<ClusterConfig>,
    /// Whether opening a database brings its schema up to date; otherwise it must be already.
    pub migrate: bool,
    /// How long a write waits for a move's last moment.
    pub write_hold: Duration,
    /// How long a failed cluster is left alone.
    pub probe_after: Duration,
    /// How long scatter/gather waits.
    pub gather_deadline: Duration,
    /// Deadline of one call with its retries.
    pub call_timeout: Duration,
}

impl Config {
    /// A configuration with the default waits; clusters are added with [`Config::with_cluster`].
    #[must_use]
    pub fn new(global: impl Into<String>) -> Self {
        Self {
            global: GlobalConfig {
                master: global.into(),
                password: None,
            },
            clusters: Vec::new(),
            migrate: true,
            write_hold: WRITE_HOLD,
            probe_after: PROBE_AFTER,
            gather_deadline: GATHER_DEADLINE,
            call_timeout: CALL_TIMEOUT,
        }
    }

    /// Adds a cluster with weight 100.
    #[must_use]
    pub fn with_cluster(mut self, id: u32, dsn: impl Into<String>) -> Self {
        self.clusters.push(ClusterConfig {
            id: ClusterId(id),
            a: dsn.into(),
            b: None,
            password: None,
            active: Side::A,
            weight: 100,
            readonly: false,
        });
        self
    }

    /// Says what makes no sense, without opening anything.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first problem.
    pub fn validate(&self) -> Result<(), Error> {
        if self.clusters.is_empty() {
            return Err(Error::Config("at least one [[cluster]] is needed".into()));
        }
        let mut seen = std::collections::BTreeSet::new();
        for cluster in &self.clusters {
            if cluster.id.0 == 0 {
                return Err(Error::Config(
                    "cluster 0 is reserved for users on no cluster".into(),
                ));
            }
            if !seen.insert(cluster.id) {
                return Err(Error::Config(format!(
                    "cluster {} is there twice",
                    cluster.id
                )));
            }
            if cluster.active == Side::B && cluster.b.is_none() {
                return Err(Error::Config(format!(
                    "cluster {} has no side b to be active",
                    cluster.id
                )));
            }
            ibex_sql::Config::new(cluster.dsn())?;
        }
        ibex_sql::Config::new(&self.global.master)?;
        Ok(())
    }
}

impl ClusterConfig {
    /// DSN of the side in use.
    #[must_use]
    pub fn dsn(&self) -> &str {
        match (self.active, &self.b) {
            (Side::B, Some(b)) => b,
            (Side::A | Side::B, _) => &self.a,
        }
    }
}
