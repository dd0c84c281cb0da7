//! Reads through memcached with leases; without it, straight from the loader.
//!
//! Apart because the rule is the same for every class of keys (spec/journal.md 6.2): a reader that misses takes a lease, loads, and
//! stores only if nobody invalidated the key meanwhile; a writer deletes the key after its commit. So a stale value can never be
//! stored after an invalidation. No class serves stale values, because almost all of them decide who may see what.
//!
//! A cache that is away is a miss, never an error; the pages say so in a quiet line.

use crate::keys::{Class, Key};
use ibex_memcached_client::{Client, Expiry, Leased, Ticket};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// First byte of each value; a change of any cached struct raises it, so that two versions of the program do not read each other's.
const VERSION: u8 = 1;
/// How long the reader that missed has to fill a key.
const LEASE: Duration = Duration::from_secs(30);
/// How often a reader of one key looks again while another one fills it, and how long it waits in between.
const WAITS: u32 = 5;
const WAIT: Duration = Duration::from_millis(20);
/// How long after a failure the pages say that the cache is away, in seconds.
const DEGRADED: i64 = 5;

/// The cache of the site. Cheap to share behind the application's `Arc`.
#[derive(Debug)]
pub struct Cache {
    client: Option<Client>,
    hits: AtomicU64,
    misses: AtomicU64,
    fills: AtomicU64,
    lost: AtomicU64,
    errors: AtomicU64,
    failed_at: AtomicI64,
}

/// Counts since the start: hits, misses, fills, fills that came too late, errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Values found.
    pub hits: u64,
    /// Values not found.
    pub misses: u64,
    /// Values stored after a miss.
    pub fills: u64,
    /// Values not stored, because the key was invalidated while they were loaded.
    pub lost: u64,
    /// Calls that failed.
    pub errors: u64,
}

impl Cache {
    /// A cache on these servers; none of them need be up.
    ///
    /// # Errors
    /// An address that makes no sense.
    pub async fn connect(
        servers: &[String],
        namespace: &str,
    ) -> Result<Self, ibex_memcached_client::Error> {
        let client = if servers.is_empty() {
            None
        } else {
            let config = ibex_memcached_client::Config::new(servers.iter().cloned())
                .with_connect_timeout(Duration::from_millis(250))
                .with_operation_timeout(Duration::from_millis(500))
                .with_namespace(namespace.as_bytes().to_vec());
            Some(Client::connect(config).await?)
        };
        Ok(Self {
            client,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            fills: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            failed_at: AtomicI64::new(0),
        })
    }

    /// Whether there are servers at all.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.client.is_some()
    }

    /// Whether a call failed a moment ago.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        crate::clock::now() - self.failed_at.load(Ordering::Relaxed) < DEGRADED
    }

    /// Counts since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            hits: read(&self.hits),
            misses: read(&self.misses),
            fills: read(&self.fills),
            lost: read(&self.lost),
            errors: read(&self.errors),
        }
    }

    /// The values of `ids`: those in the cache from there, all others from one call of `load`, which are then cached. What `load`
    /// does not find is missing from the answer and not cached.
    ///
    /// # Errors
    /// Those of `load`.
    pub async fn many<I, V, E, Fut>(
        &self,
        class: Class,
        ids: &[I],
        key: impl Fn(&I) -> Key,
        load: impl FnOnce(Vec<I>) -> Fut,
    ) -> Result<HashMap<I, V>, E>
    where
        I: Clone + Eq + Hash,
        V: Serialize + DeserializeOwned,
        Fut: Future<Output = Result<HashMap<I, V>, E>>,
    {
        let Some(client) = &self.client else {
            return load(ids.to_vec()).await;
        };
        let keyed: Vec<(I, Key)> = ids.iter().map(|id| (id.clone(), key(id))).collect();
        let mut found = HashMap::with_capacity(ids.len());
        let pairs: Vec<(String, &str)> = keyed
            .iter()
            .map(|(_, key)| (key.by.to_string(), key.text.as_str()))
            .collect();
        let items = match client.get_multi_by(&pairs).await {
            Ok(items) => items,
            Err(error) => {
                self.failed(&error);
                return load(ids.to_vec()).await;
            }
        };
        let mut open = Vec::new();
        for (id, key) in keyed {
            match items
                .get(key.text.as_bytes())
                .and_then(|item| decode(&item.value))
            {
                Some(value) => drop(found.insert(id, value)),
                None => open.push((id, key)),
            }
        }
        self.hits.fetch_add(found.len() as u64, Ordering::Relaxed);
        if open.is_empty() {
            return Ok(found);
        }
        self.misses.fetch_add(open.len() as u64, Ordering::Relaxed);
        let leases =
            futures_util::future::join_all(open.iter().map(|(_, key)| self.lease(client, key)))
                .await;
        let mut wanted = Vec::new();
        let mut tickets = Vec::new();
        for ((id, key), lease) in open.into_iter().zip(leases) {
            match lease {
                Leased::Hit(item) if let Some(value) = decode(&item.value) => {
                    drop(found.insert(id, value))
                }
                Leased::Fill { ticket, .. } => {
                    tickets.push((id.clone(), key, ticket));
                    wanted.push(id);
                }
                Leased::Hit(_) | Leased::Busy { .. } => wanted.push(id),
            }
        }
        if wanted.is_empty() {
            return Ok(found);
        }
        let loaded = load(wanted).await?;
        let fills = tickets.iter().filter_map(|(id, key, ticket)| {
            Some(self.fill(client, class, key, *ticket, loaded.get(id)?))
        });
        futures_util::future::join_all(fills).await;
        found.extend(loaded);
        Ok(found)
    }

    /// One value; while another reader fills it, waits a little before loading it too.
    ///
    /// # Errors
    /// Those of `load`.
    pub async fn one<V, E, Fut>(
        &self,
        class: Class,
        key: Key,
        load: impl FnOnce() -> Fut,
    ) -> Result<Option<V>, E>
    where
        V: Serialize + DeserializeOwned,
        Fut: Future<Output = Result<Option<V>, E>>,
    {
        let Some(client) = &self.client else {
            return load().await;
        };
        let mut ticket = None;
        for turn in 0..=WAITS {
            match self.lease(client, &key).await {
                Leased::Hit(item) => {
                    if let Some(value) = decode(&item.value) {
                        self.hits.fetch_add(1, Ordering::Relaxed);
                        return Ok(Some(value));
                    }
                    break;
                }
                Leased::Fill { ticket: given, .. } => {
                    ticket = Some(given);
                    break;
                }
                Leased::Busy { .. } if self.is_degraded() || turn == WAITS => break,
                Leased::Busy { .. } => tokio::time::sleep(WAIT).await,
            }
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        let loaded = load().await?;
        if let (Some(ticket), Some(value)) = (ticket, &loaded) {
            self.fill(client, class, &key, ticket, value).await;
        }
        Ok(loaded)
    }

    async fn lease(&self, client: &Client, key: &Key) -> Leased {
        let by = key.by.to_string();
        match client
            .lease((by.as_str(), key.text.as_str()), LEASE, None)
            .await
        {
            Ok(leased) => leased,
            Err(error) => {
                self.failed(&error);
                Leased::Busy { old: None }
            }
        }
    }

    async fn fill<V: Serialize>(
        &self,
        client: &Client,
        class: Class,
        key: &Key,
        ticket: Ticket,
        value: &V,
    ) {
        let by = key.by.to_string();
        let Some(bytes) = encode(value) else { return };
        match client
            .fill(
                (by.as_str(), key.text.as_str()),
                ticket,
                bytes,
                0,
                Expiry::After(class.life),
            )
            .await
        {
            Ok(true) => drop(self.fills.fetch_add(1, Ordering::Relaxed)),
            Ok(false) => drop(self.lost.fetch_add(1, Ordering::Relaxed)),
            Err(error) => self.failed(&error),
        }
    }

    /// Deletes keys after a commit; whether all servers took it. A fill that was begun before fails.
    pub async fn invalidate(&self, keys: &[Key]) -> bool {
        let Some(client) = &self.client else {
            return true;
        };
        let calls = keys.iter().map(|key| async {
            let by = key.by.to_string();
            client.delete((by.as_str(), key.text.as_str())).await
        });
        let mut all = true;
        for outcome in futures_util::future::join_all(calls).await {
            if let Err(error) = outcome {
                self.failed(&error);
                all = false;
            }
        }
        all
    }

    /// Adds one to a counter that lives for `life` from its first use; `None` when there is no cache to count in.
    pub async fn count(&self, key: &Key, life: Duration) -> Option<u64> {
        let client = self.client.as_ref()?;
        let by = key.by.to_string();
        let pair = (by.as_str(), key.text.as_str());
        let counted = async {
            if let Some(value) = client.incr(pair, 1).await? {
                return Ok(value);
            }
            if client.add(pair, "1", Expiry::After(life)).await? {
                Ok(1)
            } else {
                Ok(client.incr(pair, 1).await?.unwrap_or(1))
            }
        };
        let outcome: Result<u64, ibex_memcached_client::Error> = counted.await;
        outcome.map_err(|error| self.failed(&error)).ok()
    }

    fn failed(&self, error: &ibex_memcached_client::Error) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let now = crate::clock::now();
        // One line in five seconds, however many calls fail.
        if now - self.failed_at.swap(now, Ordering::Relaxed) >= DEGRADED {
            tracing::warn!(%error, "cache does not answer, reading from the databases");
        }
    }
}

fn encode<V: Serialize>(value: &V) -> Option<Vec<u8>> {
    let mut bytes = vec![VERSION];
    serde_json::to_writer(&mut bytes, value).ok()?;
    Some(bytes)
}

/// A value of this version; anything else is a miss.
fn decode<V: DeserializeOwned>(bytes: &[u8]) -> Option<V> {
    let (&version, rest) = bytes.split_first()?;
    if version == VERSION {
        serde_json::from_slice(rest).ok()
    } else {
        None
    }
}
