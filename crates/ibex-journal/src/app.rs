//! [`App`]: the handle every request, job and command works with, and the way data is written.
//!
//! Apart because of [`App::write`]: a write returns, beside its value, what must happen after the commit ([`Effects`]: keys to
//! invalidate, events to queue). These go into the cluster's outbox in the same transaction, are acted on at once, and are removed
//! when done; what a crash or an absent daemon left is repeated by the sweeper (spec/journal.md 6.3).

use crate::cache::Cache;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::files::Files;
use crate::jobs::Jobs;
use crate::keys::Key;
use crate::queue::Queue;
use crate::{clock, schema, usage};
use ibex_cluster::{BoxFuture, Cluster, ClusterId, UserId, UserTx};
use ibex_sql::{Tx, params};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Rows the sweeper takes from one cluster at once.
const SWEEP: u32 = 200;
/// Age at which an outbox row counts as left behind, in seconds: far longer than acting on it takes.
const LEFT_BEHIND: i64 = 3;

/// Everything a part of the site needs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct App {
    inner: Arc<Inner>,
}

impl std::ops::Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.inner
    }
}

/// What [`App`] points to.
#[derive(Debug)]
pub struct Inner {
    /// The configuration.
    pub config: Config,
    /// All databases.
    pub cluster: Cluster,
    /// The cache.
    pub cache: Cache,
    /// The file store.
    pub files: Files,
    /// Work that is waited for.
    pub jobs: Jobs,
    /// Work that must happen.
    pub queue: Queue,
    /// Key of form tokens.
    pub secret: Vec<u8>,
    /// Updates of `userusage` not written yet.
    pub usage: usage::Pending,
    /// Outbox rows acted on and not deleted yet, per cluster.
    done: Mutex<BTreeMap<ClusterId, Vec<i64>>>,
    swept: AtomicU64,
}

/// What a job of the queue is about.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Event {
    /// The queue's function.
    pub function: String,
    /// Its argument, JSON.
    pub argument: String,
    /// The queue holds one job of this name at a time.
    pub unique: String,
}

/// What must happen after a commit.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Effects {
    /// Cache keys that hold something old.
    pub invalidate: Vec<Key>,
    /// Jobs for the queue.
    pub events: Vec<Event>,
}

impl Effects {
    /// Nothing but keys.
    #[must_use]
    pub fn keys(keys: impl IntoIterator<Item = Key>) -> Self {
        Self {
            invalidate: keys.into_iter().collect(),
            events: Vec::new(),
        }
    }
}

impl App {
    /// Opens the databases and makes every client; the daemons behind the clients need not be up.
    ///
    /// # Errors
    /// The global database, or an address that makes no sense.
    pub async fn open(config: Config) -> Result<Self> {
        if config.uses_state_dir() {
            ibex_kit::make_state_dir(&config.state_path())
                .map_err(|failure| Error::Invalid(failure.to_string()))?;
        }
        let cluster_config = config.cluster_config().map_err(Error::Invalid)?;
        let cluster = Cluster::open(cluster_config, schema::LAYOUT).await?;
        let cache = Cache::connect(&config.cache.servers, &config.cache.namespace)
            .await
            .map_err(|error| Error::Invalid(error.to_string()))?;
        let files = Files::open(&config.files, config.files_dir())?;
        let jobs = Jobs::connect(&config.gearman).await?;
        let queue = Queue::open(&config, cluster.global()).await?;
        let secret = secret(&config, &cluster).await?;
        let inner = Inner {
            config,
            cluster,
            cache,
            files,
            jobs,
            queue,
            secret,
            usage: usage::Pending::default(),
            done: Mutex::new(BTreeMap::new()),
            swept: AtomicU64::new(0),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Writes a user's data and acts on the effects. The value is returned when the commit is safe, also if acting failed: the
    /// sweeper repeats it.
    ///
    /// # Errors
    /// Those of `work`; the fence's.
    pub async fn write<T, F>(&self, user: UserId, work: F) -> Result<T>
    where
        F: for<'u, 't> Fn(&'u mut UserTx<'t>) -> BoxFuture<'u, Result<(T, Effects)>>
            + Send
            + Sync
            + 'static,
        T: Send + 'static,
    {
        let work = Arc::new(work);
        let ((value, effects), cluster, rows) = self
            .cluster
            .write_noting(
                user,
                move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<(T, Effects)>> {
                    write_and_note(Arc::clone(&work), tx)
                },
            )
            .await?;
        if !rows.is_empty() && self.act(&effects).await {
            self.done
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(cluster)
                .or_default()
                .extend(rows);
        }
        Ok(value)
    }

    /// Writes the global database, which has no outbox: the effects are noted in the outbox of `user`'s cluster first, so that a
    /// crash right after the commit loses none of them. A cluster that is away costs the note, not the write.
    ///
    /// # Errors
    /// Those of `work`.
    pub async fn write_global<T>(
        &self,
        user: UserId,
        effects: Effects,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let payload =
            serde_json::to_string(&effects).map_err(|error| Error::Bug(error.to_string()))?;
        let noted = self
            .cluster
            .write_noting(
                user,
                move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<()>> {
                    let payload = payload.clone();
                    Box::pin(async move { Ok(tx.outbox("effects", &payload).await?) })
                },
            )
            .await;
        let value = work.await?;
        let acted = self.act(&effects).await;
        match noted {
            Ok(((), cluster, rows)) if acted => {
                let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
                done.entry(cluster).or_default().extend(rows);
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "effects of a global write not noted"),
        }
        Ok(value)
    }

    /// Invalidates and enqueues; whether all of it worked.
    pub async fn act(&self, effects: &Effects) -> bool {
        let invalidated = self.cache.invalidate(&effects.invalidate).await;
        let mut queued = true;
        for event in &effects.events {
            if let Err(error) = self.queue.insert(event).await {
                tracing::warn!(%error, func = %event.function, "job not queued, will retry");
                queued = false;
            }
        }
        if queued && !effects.events.is_empty() {
            self.jobs.wake().await;
        }
        invalidated && queued
    }

    /// Deletes the outbox rows that were acted on, and acts on those left behind. Returns how many of the latter there were.
    ///
    /// # Errors
    /// The first cluster's that failed; the others were swept.
    pub async fn sweep(&self) -> Result<usize> {
        let done = std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner));
        let mut failed = None;
        let mut left = 0;
        for (cluster, rows) in done {
            for chunk in rows.chunks(400) {
                if let Err(error) = self.cluster.outbox_done(cluster, chunk).await {
                    failed = Some(error);
                }
            }
        }
        for cluster in self.cluster.ids() {
            match self.sweep_one(cluster).await {
                Ok(count) => left += count,
                Err(Error::Cluster(error)) => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        self.swept.fetch_add(left as u64, Ordering::Relaxed);
        failed.map_or(Ok(left), |error| Err(error.into()))
    }

    async fn sweep_one(&self, cluster: ClusterId) -> Result<usize> {
        let rows = self
            .cluster
            .outbox_pending(cluster, clock::now() - LEFT_BEHIND, SWEEP)
            .await?;
        let mut done = Vec::new();
        for row in &rows {
            let effects: Effects = serde_json::from_str(&row.payload).unwrap_or_default();
            if self.act(&effects).await {
                done.push(row.id);
            }
        }
        self.cluster.outbox_done(cluster, &done).await?;
        Ok(done.len())
    }

    /// Outbox rows that were left behind and acted on later, since the start.
    #[must_use]
    pub fn swept(&self) -> u64 {
        self.swept.load(Ordering::Relaxed)
    }

    /// What is away right now, in words for a page's quiet line.
    #[must_use]
    pub fn degraded(&self) -> Vec<&'static str> {
        let mut lines = Vec::new();
        if self.cache.is_degraded() {
            lines.push("The cache is away; pages may take a little longer.");
        }
        if self.files.is_degraded() {
            lines.push("The picture store is away; some pictures are missing for now.");
        }
        lines
    }
}

fn write_and_note<'u, T, F>(
    work: Arc<F>,
    tx: &'u mut UserTx<'_>,
) -> BoxFuture<'u, Result<(T, Effects)>>
where
    F: for<'a, 't> Fn(&'a mut UserTx<'t>) -> BoxFuture<'a, Result<(T, Effects)>>
        + Send
        + Sync
        + 'static,
    T: Send + 'static,
{
    Box::pin(async move {
        let (value, effects) = work(tx).await?;
        if effects != Effects::default() {
            let payload =
                serde_json::to_string(&effects).map_err(|error| Error::Bug(error.to_string()))?;
            tx.outbox("effects", &payload).await?;
        }
        Ok((value, effects))
    })
}

/// The configured secret, or the one in the global database, made by whoever came first.
async fn secret(config: &Config, cluster: &Cluster) -> Result<Vec<u8>> {
    if !config.site.secret.is_empty() {
        return Ok(config.site.secret.reveal().as_bytes().to_vec());
    }
    let fresh = crate::token::random(43);
    let value: String = cluster
        .global()
        .write(
            move |tx: &mut Tx| -> BoxFuture<'_, Result<String, ibex_sql::Error>> {
                let fresh = fresh.clone();
                Box::pin(async move {
                    if let Some(row) = tx
                        .query_one("SELECT value FROM setting WHERE name = 'secret'", params![])
                        .await?
                    {
                        return row.get(0);
                    }
                    tx.execute(
                        "INSERT INTO setting (name, value) VALUES ('secret', ?)",
                        params![fresh.clone()],
                    )
                    .await?;
                    Ok(fresh)
                })
            },
        )
        .await?;
    Ok(value.into_bytes())
}
