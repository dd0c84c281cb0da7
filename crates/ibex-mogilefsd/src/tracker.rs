//! The state that commands and jobs share.
//!
//! Owns the current [`Snapshot`] (swapped whole, read by a pointer copy), the monitor's observations that are merged into it, the set of files some
//! job holds in this process,
//! and the wake-up bells of the jobs. Lock order: observations, then snapshot; neither is held across an await; `reloading` is, and is taken before both.

use crate::config::Config;
use crate::console::Console;
use crate::metrics::Metrics;
use crate::snapshot::{Class, Snapshot};
use crate::store::files::File;
use crate::store::queues::Queue;
use crate::store::{Result, Store};
use http::{HeaderMap, Method};
use ibex_base::rng::Rng;
use ibex_kit::{Kit, WorkerHandle};
use ibex_mogilefs_client::node::{self, NodeClient, NodeTimeouts};
use ibex_mogilefs_core::netmask;
use ibex_mogilefs_core::{Cluster, HostId, Observed, Zones};
use ibex_mogilefs_proto::console::JobKind;
use ibex_mogilefs_proto::path::FidPath;
use ibex_mogilefs_proto::{DevId, Fid};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// A miss in the snapshot re-reads the database at most this often, so that strangers asking for unknown domains cost nothing.
const REREAD_MIN: Duration = Duration::from_secs(1);

/// What the monitor knows of a device.
#[derive(Debug, Clone, Default)]
pub(crate) struct Observation {
    pub(crate) observed: Observed,
    pub(crate) utilization: Option<f64>,
    pub(crate) rejects_bad_md5: Option<bool>,
    pub(crate) usage_mb: Option<(u64, u64)>,
}

/// Everything shared.
#[derive(Debug)]
pub(crate) struct Tracker {
    pub(crate) store: Store,
    /// For short questions.
    pub(crate) nodes: NodeClient,
    /// For copies, which may take long but must make progress.
    pub(crate) copier: NodeClient,
    pub(crate) kit: Kit,
    pub(crate) metrics: Metrics,
    pub(crate) console: Console,
    pub(crate) highest_fid_at_start: u64,
    live: RwLock<Config>,
    snapshot: RwLock<Arc<Snapshot>>,
    /// Held from reading the tables until what was read is current: of two reloads, the one that reads later is the one that stays.
    reloading: tokio::sync::Mutex<()>,
    last_read: Mutex<Option<Instant>>,
    observations: Mutex<BTreeMap<DevId, Observation>>,
    rng: Mutex<Rng>,
    monitor_rounds: watch::Sender<u64>,
    held: Mutex<BTreeSet<Fid>>,
    claims: Mutex<BTreeSet<(QueueOrder, Fid)>>,
    wants: Mutex<BTreeMap<JobKind, usize>>,
    bells: Mutex<BTreeMap<JobKind, Vec<WorkerHandle>>>,
    self_making: Mutex<BTreeSet<HostId>>,
}

/// A queue as a key of an ordered set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum QueueOrder {
    Replicate,
    Delete,
    Fsck,
    Rebalance,
}

impl QueueOrder {
    fn of(queue: Queue) -> Self {
        use crate::store::queues::QueueType;
        match queue {
            Queue::Replicate => Self::Replicate,
            Queue::Delete => Self::Delete,
            Queue::Other(QueueType::Fsck) => Self::Fsck,
            Queue::Other(QueueType::Rebalance) => Self::Rebalance,
        }
    }

    fn queue(self) -> Queue {
        use crate::store::queues::QueueType;
        match self {
            Self::Replicate => Queue::Replicate,
            Self::Delete => Queue::Delete,
            Self::Fsck => Queue::Other(QueueType::Fsck),
            Self::Rebalance => Queue::Other(QueueType::Rebalance),
        }
    }
}

/// Writes what the monitor saw into a snapshot's devices.
fn merge(observations: &BTreeMap<DevId, Observation>, snapshot: &mut Snapshot) {
    for device in snapshot.cluster.devices.values_mut() {
        let Some(seen) = observations.get(&device.id) else {
            continue;
        };
        device.observed = if device.state.is_monitored() {
            seen.observed
        } else {
            Observed::Unknown
        };
        device.utilization = seen.utilization;
        device.rejects_bad_md5 = seen.rejects_bad_md5;
        if let Some((total, used)) = seen.usage_mb {
            device.mb_total = Some(total);
            device.mb_used = Some(used);
        }
    }
}

/// A file no other job of this process touches while this lives.
#[derive(Debug)]
pub(crate) struct HeldFid {
    tracker: Arc<Tracker>,
    fid: Fid,
}

impl Drop for HeldFid {
    fn drop(&mut self) {
        lock(&self.tracker.held).remove(&self.fid);
    }
}

impl Tracker {
    pub(crate) fn new(config: Config, kit: Kit, store: Store, highest_fid_at_start: u64) -> Self {
        let connect = config.conn_timeout.std();
        let timeouts = |progress| NodeTimeouts { connect, progress };
        let wants = BTreeMap::from([
            (JobKind::Replicate, count(config.replicate_jobs)),
            (JobKind::Delete, count(config.delete_jobs)),
            (JobKind::Fsck, count(config.fsck_jobs)),
            (JobKind::JobMaster, 1),
            (JobKind::Monitor, 1),
            (JobKind::QueryWorker, 20),
            (JobKind::Reaper, 1),
        ]);
        Self {
            nodes: NodeClient::new(timeouts(config.node_timeout.std())),
            copier: NodeClient::new(timeouts(config.copy_timeout.std())),
            metrics: Metrics::register(kit.metrics()),
            console: Console::default(),
            highest_fid_at_start,
            kit,
            store,
            live: RwLock::new(config),
            snapshot: RwLock::default(),
            reloading: tokio::sync::Mutex::default(),
            last_read: Mutex::default(),
            observations: Mutex::default(),
            rng: Mutex::new(Rng::new(RandomState::new().hash_one(0_u8))),
            monitor_rounds: watch::Sender::new(0),
            held: Mutex::default(),
            claims: Mutex::default(),
            wants: Mutex::new(wants),
            bells: Mutex::default(),
            self_making: Mutex::default(),
        }
    }

    pub(crate) fn config(&self) -> Config {
        self.live
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn replace_config(&self, config: Config) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A random number generator for one decision; its future is independent of the others'.
    pub(crate) fn rng(&self) -> Rng {
        Rng::new(lock(&self.rng).next_u64())
    }

    /// Reads the small tables anew and swaps them in. A reply to a change is sent only after this.
    pub(crate) async fn reload(&self) -> Result<()> {
        let _turn = self.reloading.lock().await;
        let config = self.config();
        let tables = self.store.small_tables(config.default_mindevcount).await?;
        let zones = zones_of(&tables.settings);
        let cluster = Cluster {
            hosts: tables.hosts,
            devices: tables.devices,
            zones,
            min_free_mb: u64::from(config.min_free_space_mb),
        };
        let snapshot = Snapshot {
            cluster,
            domains: tables.domains,
            settings: tables.settings,
        };
        *lock(&self.last_read) = Some(Instant::now());
        self.swap(snapshot);
        Ok(())
    }

    /// Reads anew unless that was just done: for a name this tracker has not heard of yet.
    pub(crate) async fn reload_after_miss(&self) -> Result<()> {
        let is_fresh = lock(&self.last_read).is_some_and(|at| at.elapsed() < REREAD_MIN);
        if is_fresh {
            Ok(())
        } else {
            self.reload().await
        }
    }

    fn swap(&self, mut snapshot: Snapshot) {
        let observations = lock(&self.observations);
        merge(&observations, &mut snapshot);
        *self
            .snapshot
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
    }

    pub(crate) fn observation(&self, device: DevId) -> Observation {
        lock(&self.observations)
            .get(&device)
            .cloned()
            .unwrap_or_default()
    }

    /// Notes what a monitor round saw and merges it into the snapshot.
    pub(crate) fn observe(&self, seen: Vec<(DevId, Observation)>) {
        let mut observations = lock(&self.observations);
        observations.extend(seen);
        let mut current = self
            .snapshot
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        merge(&observations, Arc::make_mut(&mut current));
    }

    pub(crate) fn monitor_round_done(&self) {
        self.monitor_rounds.send_modify(|rounds| *rounds += 1);
    }

    /// Whether a monitor round ended since the start.
    pub(crate) fn has_monitored(&self) -> bool {
        *self.monitor_rounds.borrow() > 0
    }

    /// Waits for a monitor round that ends after this call, or for the first one ever; whether it came in time.
    pub(crate) async fn wait_monitor(&self, fresh: bool, patience: Duration) -> bool {
        let mut rounds = self.monitor_rounds.subscribe();
        let target = if fresh { *rounds.borrow() + 1 } else { 1 };
        if *rounds.borrow() >= target {
            return true;
        }
        self.wake(JobKind::Monitor);
        tokio::time::timeout(patience, rounds.wait_for(|done| *done >= target))
            .await
            .is_ok_and(|seen| seen.is_ok())
    }

    /// The class a file belongs to.
    pub(crate) fn class_of(&self, file: &File) -> Class {
        self.snapshot()
            .class_of(file.domain, file.class, self.config().default_mindevcount)
    }

    /// URL of a replica for writing and checking.
    pub(crate) fn url(&self, device: DevId, fid: Fid) -> Option<String> {
        let snapshot = self.snapshot();
        let (_, host) = snapshot.cluster.device(device)?;
        Some(FidPath::new(device, fid).url(&host.ip, host.http_port))
    }

    /// URL of a replica for reading.
    pub(crate) fn read_url(&self, device: DevId, fid: Fid) -> Option<String> {
        let snapshot = self.snapshot();
        let (_, host) = snapshot.cluster.device(device)?;
        Some(FidPath::new(device, fid).url(&host.ip, host.get_port()))
    }

    /// Makes the directories above a replica, on nodes that do not do so themselves. A failure here shows at the PUT.
    pub(crate) async fn make_directories(&self, device: DevId, fid: Fid) {
        let snapshot = self.snapshot();
        let Some((_, host)) = snapshot.cluster.device(device) else {
            return;
        };
        if snapshot.is_set("skip_mkcol") || lock(&self.self_making).contains(&host.id) {
            return;
        }
        for directory in FidPath::new(device, fid).directories() {
            let url = format!("http://{}:{}{directory}", host.ip, host.http_port);
            let wait = self.config().node_timeout.std();
            let Ok(response) = self
                .nodes
                .send(
                    Method::from_bytes(b"MKCOL").unwrap_or(Method::OPTIONS),
                    &url,
                    HeaderMap::new(),
                    node::empty(),
                    wait,
                )
                .await
            else {
                return;
            };
            let status = response.status().as_u16();
            if let Err(error) = response.finish().await {
                tracing::debug!(%url, %error, "MKCOL reply broke off");
            }
            // COMPAT(mogilefsd): these two answers mean that directories make themselves.
            if matches!(status, 400 | 501) {
                lock(&self.self_making).insert(host.id);
                return;
            }
        }
    }

    /// Takes a file for one job of this process; `None` while another has it.
    pub(crate) fn hold(self: &Arc<Self>, fid: Fid) -> Option<HeldFid> {
        lock(&self.held).insert(fid).then(|| HeldFid {
            tracker: Arc::clone(self),
            fid,
        })
    }

    pub(crate) fn claimed(&self, queue: Queue, fid: Fid) {
        lock(&self.claims).insert((QueueOrder::of(queue), fid));
    }

    pub(crate) fn released(&self, queue: Queue, fid: Fid) {
        lock(&self.claims).remove(&(QueueOrder::of(queue), fid));
    }

    /// Gives back what this process has claimed and not finished, so that others need not wait for the lease.
    pub(crate) async fn give_back_claims(&self) -> Result<()> {
        let claims = std::mem::take(&mut *lock(&self.claims));
        for order in [
            QueueOrder::Replicate,
            QueueOrder::Delete,
            QueueOrder::Fsck,
            QueueOrder::Rebalance,
        ] {
            let fids: Vec<Fid> = claims
                .iter()
                .filter(|(queue, _)| *queue == order)
                .map(|(_, fid)| *fid)
                .collect();
            self.store.give_back(order.queue(), &fids).await?;
        }
        Ok(())
    }

    pub(crate) fn want(&self, job: JobKind) -> usize {
        lock(&self.wants).get(&job).copied().unwrap_or(0)
    }

    pub(crate) fn set_want(&self, job: JobKind, count: usize) {
        lock(&self.wants).insert(job, count);
        self.wake(job);
    }

    pub(crate) fn add_bell(&self, job: JobKind, bell: WorkerHandle) {
        lock(&self.bells).entry(job).or_default().push(bell);
    }

    /// Makes a job look for work now.
    pub(crate) fn wake(&self, job: JobKind) {
        for bell in lock(&self.bells).get(&job).into_iter().flatten() {
            bell.wake();
        }
    }
}

fn count(jobs: u32) -> usize {
    usize::try_from(jobs).unwrap_or(usize::MAX)
}

/// The zones named by the settings `network_zones` and `zone_NAME`.
fn zones_of(settings: &BTreeMap<String, String>) -> Zones {
    let mut zones = Zones::default();
    let names = settings.get("network_zones").map_or("", String::as_str);
    for name in names.split([',', ' ']).filter(|name| !name.is_empty()) {
        if let Some(networks) = settings
            .get(&format!("zone_{name}"))
            .and_then(|text| netmask::parse_list(text))
        {
            zones.add(name, networks);
        }
    }
    zones
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
