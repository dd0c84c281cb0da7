//! Start and stop, from top to bottom.

use crate::acceptor::Acceptor;
use crate::auth::Users;
use crate::clock::Clock;
use crate::config::Config;
use crate::restart::{self, Left};
use crate::shared::Shared;
use crate::store::{Store, StoreOptions};
use crate::tls::Tls;
use crate::udp::{self, Udp};
use crate::watch::{EvictionsWatched, Kinds, Ring, lines};
use crate::ways::{WAYS, Way};
use crate::worker::Worker;
use crate::{metrics, ports, upkeep};
use ibex_cache_core::Bands;
use ibex_kit::{Bound, Failure, Kit};
use rustix::fs::Mode;
use rustix::mm::MlockAllFlags;
use rustix::process::{Resource, Rlimit};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

fn failed(what: &str) -> impl Fn(io::Error) -> Failure {
    move |error| Failure::io(format!("{what}: {error}"))
}

/// All listeners of the start, by the way they are for. Those of unix sockets are never open to more than `unix_mask` says.
fn bind(kit: &Kit, config: &Config) -> Result<Vec<(Way, Bound)>, Failure> {
    let closed = Mode::from_raw_mode(!config.unix_mask & 0o777);
    let usual = rustix::process::umask(closed);
    let bound = WAYS.map(|(way, name)| Ok((way, kit.bind(name, &way.addresses(config))?)));
    rustix::process::umask(usual);
    bound.into_iter().collect()
}

/// What the process asks of the system for itself.
fn ask_system(config: &Config) -> Result<(), Failure> {
    if config.core_files {
        let limit = rustix::process::getrlimit(Resource::Core);
        let raised = Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        };
        rustix::process::setrlimit(Resource::Core, raised)
            .map_err(|error| Failure::io(format!("core_files: {error}")))?;
    }
    if config.lock_memory {
        let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE;
        if let Err(error) = rustix::mm::mlockall(all) {
            tracing::warn!(%error, "memory is not locked (LimitMEMLOCK, CAP_IPC_LOCK)");
        }
    }
    Ok(())
}

pub(crate) fn make_store(config: &Config, left: Option<&Left>) -> Store {
    Store::new(StoreOptions {
        limit_bytes: config.memory.as_usize(),
        item_size_max: config.item_size_max.as_usize(),
        threads: config.threads as usize,
        evicts: !config.no_evictions,
        bands: Bands::new(config.growth_factor, config.chunk_size as usize),
        seed: left.and_then(Left::seed),
    })
}

fn thread(
    name: &str,
    body: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Result<JoinHandle<io::Result<()>>, Failure> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map_err(failed("start a thread"))
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// [`Failure`] if an address cannot be had, a thread cannot be started, or a thread failed.
pub async fn run(config: Config, kit: Kit) -> Result<(), Failure> {
    ask_system(&config)?;
    let bound = bind(&kit, &config)?;
    let datagrams = kit.listen_udp("memcached_udp", &config.udp)?;
    let addresses = datagrams.iter().map(udp::shown).collect();
    let users = match config.auth_file.as_str() {
        "" => None,
        path => Some(Users::open(path)?),
    };
    let left = Left::find(&config)?;
    let clock = left.as_ref().map_or_else(Clock::new, Left::clock);
    let tls = if config.tls {
        let opened = Tls::open(&config, clock.now());
        Some(opened.map_err(Failure::config)?)
    } else {
        None
    };
    let shared = Arc::new(Shared::new(
        config.clone(),
        make_store(&config, left.as_ref()),
        kit.clone(),
        addresses,
        users,
        clock,
        tls,
    ));
    if let Some(left) = left {
        restore(&shared, left).await?;
    }
    let for_usr1 = Arc::clone(&shared);
    kit.on_usr1(move || for_usr1.stop_gracefully("SIGUSR1"));
    metrics::register(&kit, &shared);
    status_page(&kit, &shared);
    on_reload(&kit, &shared);

    let mut threads = Vec::new();
    let (mut handles, mut wakers) = (Vec::new(), Vec::new());
    for number in 0..config.threads as usize {
        let (worker, handle) =
            Worker::new(Arc::clone(&shared), number).map_err(failed("make a worker"))?;
        threads.push(thread(&format!("worker-{number}"), move || worker.run())?);
        wakers.push(Arc::clone(&handle.waker));
        handles.push(handle);
    }
    let mut asleep = Vec::new();
    let mut acceptor =
        Acceptor::new(Arc::clone(&shared), handles).map_err(failed("make the acceptor"))?;
    for (way, bound) in bound {
        bound.follow(
            move |config: &Config| way.addresses(config),
            acceptor.gate(way),
        );
    }
    acceptor
        .change_doors()
        .map_err(failed("watch a listener"))?;
    let streams = shared.listeners();
    let streams = streams
        .iter()
        .filter(|(_, address)| !udp::is_datagram(address));
    let streams = streams.filter_map(|(_, address)| address.parse().ok());
    ports::publish(streams, &datagrams)?;
    if !datagrams.is_empty() {
        let udp =
            Udp::new(Arc::clone(&shared), datagrams).map_err(failed("make the udp thread"))?;
        asleep.push(udp.waker());
        threads.push(thread("udp", move || udp.run())?);
    }
    asleep.push(acceptor.waker());
    threads.push(thread("acceptor", move || acceptor.run())?);
    let for_upkeep = Arc::clone(&shared);
    let heartbeat = kit.heartbeat("upkeep");
    let upkeep = thread("upkeep", move || {
        upkeep::run(&for_upkeep, &heartbeat, &wakers);
        Ok(())
    })?;

    let watch = watch_thread(&kit, &shared)?;

    kit.ready().await?;
    kit.draining().cancelled().await;
    tracing::info!(connections = shared.connections(), "closing connections");
    shared.stopping.store(true, Ordering::Release);
    for waker in &asleep {
        waker.wake().map_err(failed("wake a thread"))?;
    }
    for parked in [upkeep, watch] {
        parked.thread().unpark();
        threads.push(parked);
    }
    join(threads).await?;
    if shared.keeps_items.load(Ordering::Acquire) && !shared.config.memory_file.is_empty() {
        blocking(move || restart::save(&shared)).await?;
    }
    Ok(())
}

/// Takes up what an earlier process left, before anybody is served.
async fn restore(shared: &Arc<Shared>, left: Left) -> Result<(), Failure> {
    let power = left.hash_power();
    shared
        .globals
        .hash_power
        .fetch_max(power, Ordering::Relaxed);
    let for_work = Arc::clone(shared);
    blocking(move || {
        let Shared {
            config,
            kit,
            store,
            clock,
            restored_items,
            ..
        } = &*for_work;
        let restored = left.take_up(config, kit, store, clock.now())?;
        restored_items.store(restored.items, Ordering::Relaxed);
        Ok(())
    })
    .await
}

/// Work that holds its thread.
async fn blocking(
    work: impl FnOnce() -> Result<(), Failure> + Send + 'static,
) -> Result<(), Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::bug(error.to_string()))?
}

/// The hub of `watch`. Evictions happen under a shard's lock, so they are collected here rather than shown by the worker they happen to.
fn watch_thread(kit: &Kit, shared: &Arc<Shared>) -> Result<JoinHandle<io::Result<()>>, Failure> {
    let (shared, heartbeat) = (Arc::clone(shared), kit.heartbeat("watch"));
    thread("watch", move || {
        let (evicted_ring, remembers) = (Ring::default(), EvictionsWatched::default());
        let rings = || {
            let workers = shared.workers.iter().map(|worker| &worker.ring);
            workers
                .chain([&shared.datagrams.ring, &evicted_ring])
                .collect()
        };
        let poll = || show_evictions(&shared, &evicted_ring, &remembers);
        let is_stopping = || shared.is_stopping();
        shared.watch.run(rings, poll, is_stopping, &heartbeat);
        Ok(())
    })
}

fn show_evictions(shared: &Shared, ring: &Ring, remembers: &EvictionsWatched) {
    let wanted = shared.watch.wants(Kinds::EVICTIONS);
    if remembers.changes_to(wanted) {
        shared.store.each(|shard| shard.remember_evicted(wanted));
    }
    if !wanted {
        return;
    }
    let now = shared.clock.now();
    for number in 0..shared.store.count() {
        let evicted = shared
            .store
            .by_number(number)
            .map(|mut shard| shard.take_evicted());
        for item in evicted.unwrap_or_default() {
            let class = shared.store.bands.of(item.classic_bytes) + 1;
            shared.watch.emit(ring, Kinds::EVICTIONS, |out| {
                lines::eviction(out, &item, class, now);
            });
        }
    }
}

async fn join(threads: Vec<JoinHandle<io::Result<()>>>) -> Result<(), Failure> {
    blocking(move || {
        for thread in threads {
            match thread.join() {
                Ok(result) => result.map_err(failed("poll"))?,
                Err(_) => return Err(Failure::bug("a thread panicked")),
            }
        }
        Ok(())
    })
    .await
}

fn on_reload(kit: &Kit, shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    kit.on_reload(move |new: &Config| {
        let memory = new.memory.as_usize();
        if memory != shared.store.limit_bytes() {
            tracing::info!(memory, "memory limit changed");
            shared.store.set_limit(shared.clock.now(), memory);
        }
        if let Some(Err(failure)) = shared.users.as_ref().map(Users::reload) {
            tracing::warn!(error = %failure, "users file not reloaded, the old users stay");
        }
        if let Some(Err(error)) = shared.refresh_certificates() {
            tracing::warn!(error, "certificates not reloaded, the old ones stay");
        }
    });
}

fn status_page(kit: &Kit, shared: &Arc<Shared>) {
    let for_json = Arc::clone(shared);
    kit.json("/-/cache", move || {
        let (items, totals) = (for_json.store.stats(), for_json.lifetime_totals());
        serde_json::json!({
            "items": items.curr_items,
            "bytes": items.bytes,
            "limit_bytes": for_json.store.limit_bytes(),
            "evictions": items.evictions,
            "hits": totals.get_hits,
            "misses": totals.get_misses,
            "connections": for_json.connections(),
            "restored_items": for_json.restored_items.load(Ordering::Relaxed),
        })
    });
    let for_line = Arc::clone(shared);
    kit.status_line(move || {
        let items = for_line.store.stats();
        format!(
            "{} items, {} MiB of {} MiB",
            items.curr_items,
            items.bytes >> 20,
            for_line.store.limit_bytes() >> 20
        )
    });
}
