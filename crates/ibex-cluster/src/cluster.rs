//! [`Cluster`]: the handle. Finds where a user lives and runs transactions there, behind the fence.
//!
//! Apart from the mover and from scatter/gather, which use it. Homes are remembered without an expiry: the fence makes a wrong
//! one harmless, and a refusal replaces it.

use crate::config::Config;
use crate::fence::{self, Abort, Refusal, State};
use crate::layout::Layout;
use crate::node::Node;
use crate::usertx::{OutboxRow, UserTx};
use crate::{BoxFuture, ClusterId, Error, UserId, schema, unix_now};
use ibex_sql::{Db, Row, Tx, Value, params};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Homes remembered by one process. 16 bytes each; beyond it all are forgotten, which costs one read each.
const HOMES_MAX: usize = 500_000;
/// How often a write that waits for a move looks again.
const HOLD_POLL: Duration = Duration::from_millis(20);

/// Where a user lives, and how often he has moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// His cluster.
    pub cluster: ClusterId,
    /// One more with each move.
    pub epoch: i64,
}

/// What a fenced transaction brings out.
type Fenced<T, E> = Result<T, Abort<E>>;

/// Counts since the process started, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Homes read from the global database because they were not remembered or wrong.
    pub home_reads: u64,
    /// Transactions that read one user's data.
    pub reads: u64,
    /// Transactions that wrote one user's data.
    pub writes: u64,
    /// Requests of scatter/gather, one per cluster.
    pub gathers: u64,
    /// Those that failed or came too late.
    pub gathers_lost: u64,
    /// Transactions the fence turned away.
    pub refusals: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) home_reads: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) gathers: AtomicU64,
    pub(crate) gathers_lost: AtomicU64,
    pub(crate) refusals: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// All databases of an application. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) layout: Layout,
    pub(crate) global: Db,
    pub(crate) nodes: BTreeMap<ClusterId, Node>,
    pub(crate) loads: Mutex<Option<(Instant, BTreeMap<ClusterId, u64>)>>,
    pub(crate) counts: Counts,
    /// Locked for a look-up only, never across an await.
    homes: Mutex<HashMap<UserId, Home>>,
}

impl Cluster {
    /// Opens the global database, and migrates it if the configuration says so. Clusters are opened when first needed.
    ///
    /// # Errors
    /// [`Error::Config`]; the global database's classes.
    pub async fn open(config: Config, layout: Layout) -> Result<Self, Error> {
        config.validate()?;
        let mut dsn =
            ibex_sql::Config::new(&config.global.master)?.with_timeout(config.call_timeout);
        if let Some(password) = &config.global.password {
            dsn = dsn.with_password(password.clone());
        }
        let global = Db::open(&dsn).await?;
        if config.migrate {
            global.migrate("cluster_global", schema::GLOBAL).await?;
            global
                .migrate(&format!("{}_global", layout.component), layout.global_steps)
                .await?;
        }
        let nodes = config
            .clusters
            .iter()
            .map(|one| (one.id, Node::new(one.clone(), layout, &config)))
            .collect();
        let inner = Inner {
            config,
            layout,
            global,
            nodes,
            loads: Mutex::new(None),
            counts: Counts::default(),
            homes: Mutex::new(HashMap::new()),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Opens every cluster now (and so migrates it); says which could not be.
    pub async fn open_all(&self) -> Vec<(ClusterId, Error)> {
        let mut failed = Vec::new();
        for node in self.inner.nodes.values() {
            if let Err(error) = node.db().await {
                failed.push((node.id(), error));
            }
        }
        failed
    }

    /// The global database.
    #[must_use]
    pub fn global(&self) -> &Db {
        &self.inner.global
    }

    /// The configured clusters, in order.
    #[must_use]
    pub fn ids(&self) -> Vec<ClusterId> {
        self.inner.nodes.keys().copied().collect()
    }

    /// The clusters that failed last and are left alone.
    #[must_use]
    pub fn down(&self) -> Vec<ClusterId> {
        self.inner
            .nodes
            .values()
            .filter(|node| node.is_down())
            .map(Node::id)
            .collect()
    }

    /// The database of one cluster, for work that concerns no single user (outbox, statistics).
    ///
    /// # Errors
    /// [`Error::NoSuchCluster`], [`Error::Unavailable`].
    pub async fn db(&self, cluster: ClusterId) -> Result<Db, Error> {
        Ok(self.node(cluster)?.db().await?.clone())
    }

    pub(crate) fn node(&self, cluster: ClusterId) -> Result<&Node, Error> {
        self.inner
            .nodes
            .get(&cluster)
            .ok_or(Error::NoSuchCluster(cluster))
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counts = &self.inner.counts;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            home_reads: read(&counts.home_reads),
            reads: read(&counts.reads),
            writes: read(&counts.writes),
            gathers: read(&counts.gathers),
            gathers_lost: read(&counts.gathers_lost),
            refusals: read(&counts.refusals),
        }
    }

    /// Where a user lives.
    ///
    /// # Errors
    /// [`Error::NoSuchUser`]; the global database's classes.
    pub async fn home(&self, user: UserId) -> Result<Home, Error> {
        let homes = self.homes(&[user]).await?;
        homes.get(&user).copied().ok_or(Error::NoSuchUser(user))
    }

    /// Where many users live; those on no cluster are missing from the answer.
    ///
    /// # Errors
    /// The global database's classes.
    pub async fn homes(&self, users: &[UserId]) -> Result<HashMap<UserId, Home>, Error> {
        let mut found = HashMap::with_capacity(users.len());
        let mut unknown = Vec::new();
        {
            let homes = self
                .inner
                .homes
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for user in users {
                match homes.get(user) {
                    Some(home) => drop(found.insert(*user, *home)),
                    None => unknown.push(*user),
                }
            }
        }
        for chunk in unknown.chunks(500) {
            count(&self.inner.counts.home_reads);
            let marks = vec!["?"; chunk.len()].join(",");
            let sql = format!(
                "SELECT userid, clusterid, epoch FROM {} WHERE userid IN ({marks})",
                self.inner.layout.user_table
            );
            let rows = self
                .inner
                .global
                .query(sql, chunk.iter().map(|user| Value::from(*user)).collect())
                .await?;
            let mut homes = self
                .inner
                .homes
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if homes.len() + rows.len() > HOMES_MAX {
                homes.clear();
            }
            for row in &rows {
                let (user, home) = home_of(row)?;
                if home.cluster.0 != 0 {
                    homes.insert(user, home);
                    found.insert(user, home);
                }
            }
        }
        Ok(found)
    }

    /// Forgets where a user lives; the next call reads it from the global database.
    pub fn forget_home(&self, user: UserId) {
        self.inner
            .homes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&user);
    }

    /// Makes the owner row of a new user, before his row of the global database exists. A row without a user is harmless.
    ///
    /// # Errors
    /// The classes of the cluster's database; unique violation if it exists.
    pub async fn adopt(&self, user: UserId, cluster: ClusterId) -> Result<(), Error> {
        let node = self.node(cluster)?;
        if node.config.readonly {
            return Err(Error::ReadOnly(cluster));
        }
        let sql = "INSERT INTO owner (userid, state, epoch, seq, fwd, since, moveid, capture) VALUES (?, 'L', 1, 0, 0, ?, 0, 0)";
        node.db()
            .await?
            .execute(sql, params![user, unix_now()])
            .await
            .map_err(|error| node.failed(error))?;
        Ok(())
    }

    /// Runs `work` in a writing transaction on the user's data, wherever he lives. Waits for the last moment of a move. `work` may
    /// be called again from its start, so it must have no other effects.
    ///
    /// # Errors
    /// Whatever `work` returns; [`Error::Moving`] when the hold passed; [`Error::Unavailable`], [`Error::ReadOnly`].
    pub async fn write<T, E, F>(&self, user: UserId, work: F) -> Result<T, E>
    where
        F: for<'u, 't> Fn(&'u mut UserTx<'t>) -> BoxFuture<'u, Result<T, E>>
            + Send
            + Sync
            + 'static,
        T: Send + 'static,
        E: From<ibex_sql::Error> + From<Error> + Send + 'static,
    {
        self.write_noting(user, work)
            .await
            .map(|(value, _, _)| value)
    }

    /// As [`Cluster::write`], and says on which cluster and under which numbers the outbox rows of the transaction are.
    ///
    /// # Errors
    /// As [`Cluster::write`].
    pub async fn write_noting<T, E, F>(
        &self,
        user: UserId,
        work: F,
    ) -> Result<(T, ClusterId, Vec<i64>), E>
    where
        F: for<'u, 't> Fn(&'u mut UserTx<'t>) -> BoxFuture<'u, Result<T, E>>
            + Send
            + Sync
            + 'static,
        T: Send + 'static,
        E: From<ibex_sql::Error> + From<Error> + Send + 'static,
    {
        let give_up = Instant::now() + self.inner.config.write_hold;
        let work = Arc::new(work);
        loop {
            let home = self.home(user).await?;
            let node = self.node(home.cluster)?;
            if node.config.readonly {
                return Err(Error::ReadOnly(home.cluster).into());
            }
            let layout = self.inner.layout;
            let run = Arc::clone(&work);
            let outcome = node
                .db()
                .await?
                .write(
                    move |tx: &mut Tx| -> BoxFuture<'_, Fenced<(T, Vec<i64>), E>> {
                        let run = Arc::clone(&run);
                        Box::pin(async move {
                            let mut user_tx =
                                match UserTx::begin(tx, layout, user, home.epoch).await? {
                                    Ok(user_tx) => user_tx,
                                    Err(refusal) => return Err(Abort::Fence(refusal)),
                                };
                            let value = run(&mut user_tx).await.map_err(Abort::Own)?;
                            Ok((value, user_tx.finish().await?))
                        })
                    },
                )
                .await;
            match outcome {
                Ok((value, outbox)) => {
                    count(&self.inner.counts.writes);
                    return Ok((value, home.cluster, outbox));
                }
                Err(Abort::Own(error)) => return Err(error),
                Err(Abort::Fence(refusal)) => self.refused(user, home, refusal, give_up).await?,
            }
        }
    }

    /// After a refusal: learns the home anew, waits a little if it is the same, gives up at the end of the hold.
    async fn refused(
        &self,
        user: UserId,
        home: Home,
        refusal: Refusal,
        give_up: Instant,
    ) -> Result<(), Error> {
        count(&self.inner.counts.refusals);
        self.forget_home(user);
        if refusal == Refusal::Elsewhere && self.home(user).await? != home {
            return Ok(());
        }
        if Instant::now() >= give_up {
            return Err(Error::Moving(user));
        }
        tokio::time::sleep(HOLD_POLL).await;
        self.forget_home(user);
        Ok(())
    }

    /// Runs `work` in a read transaction on the user's data, wherever he lives.
    ///
    /// # Errors
    /// Whatever `work` returns; [`Error::Unavailable`], [`Error::NoSuchUser`].
    pub async fn read<T, E, F>(&self, user: UserId, work: F) -> Result<T, E>
    where
        F: for<'u> Fn(&'u mut Tx) -> BoxFuture<'u, Result<T, E>> + Send + Sync + 'static,
        T: Send + 'static,
        E: From<ibex_sql::Error> + From<Error> + Send + 'static,
    {
        let give_up = Instant::now() + self.inner.config.write_hold;
        let work = Arc::new(work);
        loop {
            let home = self.home(user).await?;
            let node = self.node(home.cluster)?;
            let run = Arc::clone(&work);
            let outcome = node
                .db()
                .await?
                .read(move |tx: &mut Tx| -> BoxFuture<'_, Fenced<(T, bool), E>> {
                    let run = Arc::clone(&run);
                    Box::pin(async move {
                        let locked = match fence::owner(tx, user, false).await? {
                            Some(owner)
                                if owner.epoch == home.epoch && owner.state == State::Live =>
                            {
                                false
                            }
                            Some(owner)
                                if owner.epoch == home.epoch && owner.state == State::Locked =>
                            {
                                true
                            }
                            Some(_) | None => return Err(Abort::Fence(Refusal::Elsewhere)),
                        };
                        Ok((run(tx).await.map_err(Abort::Own)?, locked))
                    })
                })
                .await;
            match outcome {
                Ok((value, locked)) => {
                    count(&self.inner.counts.reads);
                    // A locked source may be past its pivot: what was read is then old, and the new home has the answer.
                    if locked {
                        self.forget_home(user);
                        if self.home(user).await? != home {
                            continue;
                        }
                    }
                    return Ok(value);
                }
                Err(Abort::Own(error)) => return Err(error),
                Err(Abort::Fence(refusal)) => self.refused(user, home, refusal, give_up).await?,
            }
        }
    }

    /// The oldest rows of a cluster's outbox that were written before `before` (Unix seconds): what their writer did not act on.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; the classes of the cluster's database.
    pub async fn outbox_pending(
        &self,
        cluster: ClusterId,
        before: i64,
        limit: u32,
    ) -> Result<Vec<OutboxRow>, Error> {
        let node = self.node(cluster)?;
        let sql =
            "SELECT id, userid, kind, payload FROM outbox WHERE created < ? ORDER BY id LIMIT ?";
        let rows = node
            .db()
            .await?
            .query(sql, params![before, i64::from(limit)])
            .await
            .map_err(|error| node.failed(error))?;
        let row = |row: &Row| {
            Ok(OutboxRow {
                id: row.get(0)?,
                user: UserId(row.get(1)?),
                kind: row.get(2)?,
                payload: row.get(3)?,
            })
        };
        rows.iter()
            .map(row)
            .collect::<Result<_, ibex_sql::Error>>()
            .map_err(Error::Sql)
    }

    /// Removes outbox rows that were acted on.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; the classes of the cluster's database.
    pub async fn outbox_done(&self, cluster: ClusterId, ids: &[i64]) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let node = self.node(cluster)?;
        let marks = vec!["?"; ids.len()].join(",");
        let values = ids.iter().map(|id| Value::Int(*id)).collect();
        node.db()
            .await?
            .execute(format!("DELETE FROM outbox WHERE id IN ({marks})"), values)
            .await
            .map_err(|error| node.failed(error))?;
        Ok(())
    }
}

fn home_of(row: &Row) -> Result<(UserId, Home), ibex_sql::Error> {
    Ok((
        UserId(row.get(0)?),
        Home {
            cluster: ClusterId(row.get(1)?),
            epoch: row.get(2)?,
        },
    ))
}
