//! Scatter/gather: many users' data with one request per cluster, all clusters at once, until a deadline.
//!
//! Apart because it is the application's only way to ask about several users. A cluster that is late or down makes the answer
//! partial and nothing else; the caller says so on the page and caches nothing of it.

use crate::cluster::count;
use crate::fence::{self, State};
use crate::{BoxFuture, Cluster, ClusterId, Error, UserId};
use ibex_sql::Tx;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Rounds of asking: the second is for users that moved between the look at their home and the request.
const ROUNDS: usize = 3;

/// What came back.
#[derive(Debug, Clone)]
pub struct Gathered<T> {
    /// Everything found.
    pub found: Vec<T>,
    /// Clusters that failed or were late; empty means the answer is complete.
    pub lost: Vec<ClusterId>,
}

impl<T> Gathered<T> {
    /// Whether something is missing.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.lost.is_empty()
    }
}

/// One cluster's part: what it found, and who does not live there (any more).
type Part<T> = (Vec<T>, Vec<UserId>);

impl Cluster {
    /// Asks each cluster once, for those of `users` that live there. `work` gets the users that really do and returns any rows.
    ///
    /// # Errors
    /// The global database's classes, when homes had to be read; a cluster's failure is not one.
    pub async fn gather<T, F>(&self, users: &[UserId], work: F) -> Result<Gathered<T>, Error>
    where
        F: for<'u> Fn(&'u mut Tx, Arc<[UserId]>) -> BoxFuture<'u, Result<Vec<T>, ibex_sql::Error>>
            + Send
            + Sync
            + 'static,
        T: Send + 'static,
    {
        let work = Arc::new(work);
        let mut out = Gathered {
            found: Vec::new(),
            lost: Vec::new(),
        };
        let mut open: Vec<UserId> = users.to_vec();
        open.sort_unstable();
        open.dedup();
        for _ in 0..ROUNDS {
            if open.is_empty() {
                break;
            }
            let mut groups: BTreeMap<ClusterId, Vec<UserId>> = BTreeMap::new();
            for (user, home) in self.homes(&open).await? {
                groups.entry(home.cluster).or_default().push(user);
            }
            open = self.round(groups, &work, &mut out).await;
            for user in &open {
                self.forget_home(*user);
            }
        }
        Ok(out)
    }

    /// One round; returns the users that were not where they were sought.
    async fn round<T, F>(
        &self,
        groups: BTreeMap<ClusterId, Vec<UserId>>,
        work: &Arc<F>,
        out: &mut Gathered<T>,
    ) -> Vec<UserId>
    where
        F: for<'u> Fn(&'u mut Tx, Arc<[UserId]>) -> BoxFuture<'u, Result<Vec<T>, ibex_sql::Error>>
            + Send
            + Sync
            + 'static,
        T: Send + 'static,
    {
        let deadline = tokio::time::Instant::now() + self.inner.config.gather_deadline;
        let mut parts: JoinSet<(ClusterId, Option<Part<T>>)> = JoinSet::new();
        for (cluster, mut users) in groups {
            count(&self.inner.counts.gathers);
            users.sort_unstable();
            let (this, work) = (self.clone(), Arc::clone(work));
            parts.spawn(async move {
                let asked = this.ask(cluster, users.into(), work);
                match tokio::time::timeout_at(deadline, asked).await {
                    Ok(Ok(part)) => (cluster, Some(part)),
                    Ok(Err(error)) => {
                        tracing::debug!(%cluster, %error, "cluster left out of a gathered answer");
                        (cluster, None)
                    }
                    Err(_) => {
                        tracing::debug!(%cluster, "cluster was too late for a gathered answer");
                        (cluster, None)
                    }
                }
            });
        }
        let mut elsewhere = Vec::new();
        while let Some(joined) = parts.join_next().await {
            match joined {
                Ok((_, Some((found, moved)))) => {
                    out.found.extend(found);
                    elsewhere.extend(moved);
                }
                Ok((cluster, None)) => {
                    count(&self.inner.counts.gathers_lost);
                    out.lost.push(cluster);
                }
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        out.lost.sort_unstable();
        elsewhere
    }

    async fn ask<T, F>(
        &self,
        cluster: ClusterId,
        users: Arc<[UserId]>,
        work: Arc<F>,
    ) -> Result<Part<T>, Error>
    where
        F: for<'u> Fn(&'u mut Tx, Arc<[UserId]>) -> BoxFuture<'u, Result<Vec<T>, ibex_sql::Error>>
            + Send
            + Sync
            + 'static,
        T: Send + 'static,
    {
        let node = self.node(cluster)?;
        let outcome = node
            .db()
            .await?
            .read(
                move |tx: &mut Tx| -> BoxFuture<'_, Result<Part<T>, ibex_sql::Error>> {
                    let (users, work) = (Arc::clone(&users), Arc::clone(&work));
                    Box::pin(async move {
                        let states = fence::states(tx, &users).await?;
                        let here = |user: &UserId| {
                            matches!(states.get(user), Some(State::Live | State::Locked))
                        };
                        let present: Vec<UserId> = users.iter().copied().filter(here).collect();
                        let moved = users.iter().copied().filter(|user| !here(user)).collect();
                        let found = if present.is_empty() {
                            Vec::new()
                        } else {
                            work(tx, present.into()).await?
                        };
                        Ok((found, moved))
                    })
                },
            )
            .await;
        outcome.map_err(|error| node.failed(error))
    }
}
