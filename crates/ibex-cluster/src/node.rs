//! One user cluster of this process: its database, opened when first needed, left alone for a while after it failed.
//!
//! Apart so that a dead cluster costs its own users an error and nobody else anything. It knows no users.

use crate::config::ClusterConfig;
use crate::layout::Layout;
use crate::{ClusterId, Error, schema};
use ibex_sql::Db;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::OnceCell;

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) config: ClusterConfig,
    layout: Layout,
    migrate: bool,
    probe_after: Duration,
    call_timeout: Duration,
    db: OnceCell<Db>,
    /// Until when calls are refused at once, and why. Locked for a few lines only.
    down: Mutex<Option<(Instant, String)>>,
}

impl Node {
    pub(crate) fn new(config: ClusterConfig, layout: Layout, all: &crate::Config) -> Self {
        Self {
            config,
            layout,
            migrate: all.migrate,
            probe_after: all.probe_after,
            call_timeout: all.call_timeout,
            db: OnceCell::new(),
            down: Mutex::new(None),
        }
    }

    pub(crate) fn id(&self) -> ClusterId {
        self.config.id
    }

    /// The database, opened now if it was not.
    pub(crate) async fn db(&self) -> Result<&Db, Error> {
        if let Some(reason) = self.refused() {
            return Err(Error::Unavailable {
                cluster: self.id(),
                reason,
            });
        }
        self.db
            .get_or_try_init(|| self.open())
            .await
            .map_err(|error| self.failed(error))
    }

    async fn open(&self) -> Result<Db, ibex_sql::Error> {
        let mut config = ibex_sql::Config::new(self.config.dsn())?.with_timeout(self.call_timeout);
        if let Some(password) = &self.config.password {
            config = config.with_password(password.clone());
        }
        let db = Db::open(&config).await?;
        if self.migrate {
            db.migrate("cluster", schema::CLUSTER).await?;
            db.migrate(self.layout.component, self.layout.cluster_steps)
                .await?;
        }
        Ok(db)
    }

    fn refused(&self) -> Option<String> {
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        match &*down {
            Some((until, reason)) if Instant::now() < *until => Some(reason.clone()),
            Some(_) => {
                // This caller is the probe; whoever comes while it runs tries too, which a pool bears.
                *down = None;
                None
            }
            None => None,
        }
    }

    /// Remembers a failure that says the database is not there; passes others on.
    pub(crate) fn failed(&self, error: ibex_sql::Error) -> Error {
        use ibex_sql::ErrorKind as K;
        match error.kind() {
            K::ConnectionLost | K::Timeout | K::Config | K::Closed | K::Corrupt => {
                let reason = error.to_string();
                tracing::warn!(cluster = %self.id(), error = %error, "cluster does not answer, left alone for a while");
                *self.down.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some((Instant::now() + self.probe_after, reason.clone()));
                Error::Unavailable {
                    cluster: self.id(),
                    reason,
                }
            }
            K::Busy
            | K::Deadlock
            | K::LockTimeout
            | K::Aborted
            | K::OutcomeUnknown
            | K::Unique
            | K::Constraint
            | K::DiskFull
            | K::ReadOnly
            | K::Syntax
            | K::TooLarge
            | K::Decode
            | K::Migration
            | K::Other => Error::Sql(error),
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }
}
