//! What all threads of the daemon share: store, clock, settings that commands may change, everybody's counters.

use crate::auth::Users;
use crate::clock::Clock;
use crate::config::Config;
use crate::counters::{Counter, Counters, Gauges, Totals};
use crate::crawl::Crawl;
use crate::hotkeys::HotKeys;
use crate::latency::Latencies;
use crate::namespaces::Namespaces;
use crate::register::{Details, Register};
use crate::shown::Shown;
use crate::store::Store;
use crate::tls::Tls;
use crate::watch::{Hub, Ring};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers below this are part of the process's fixed cost and not charged, in bytes.
const BUFFERS_FREE: u64 = 4 << 20;

/// One worker's numbers.
#[derive(Debug, Default)]
pub(crate) struct WorkerNumbers {
    pub(crate) counters: Counters,
    pub(crate) gauges: Gauges,
    /// Lines for those who watch.
    pub(crate) ring: Ring,
    /// How long requests take.
    pub(crate) latencies: Latencies,
    /// The longest turn of its loop, in microseconds.
    pub(crate) loop_max_us: Counter,
    /// Its thread's number with the system; 0 before it runs.
    pub(crate) thread: AtomicU32,
    /// Connections given to the worker and not yet closed. Written by the acceptor and the worker.
    pub(crate) open: AtomicU64,
}

/// Settings that admin commands change.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) verbosity: AtomicU32,
    /// Settings that mean nothing here.
    pub(crate) shown: Shown,
    /// Two more of them, shown as yes and no.
    pub(crate) lru_segmented: AtomicBool,
    pub(crate) temp_lru: AtomicBool,
    pub(crate) crawler_enabled: AtomicBool,
    /// Sweeps that are asked for.
    pub(crate) crawl: Crawl,
    /// One dump of all keys at a time.
    pub(crate) dump_busy: Arc<AtomicBool>,
}

/// Numbers of the acceptor and the upkeep.
#[derive(Debug, Default)]
pub(crate) struct Globals {
    pub(crate) total_connections: AtomicU64,
    pub(crate) rejected_connections: AtomicU64,
    pub(crate) listen_disabled: AtomicU64,
    pub(crate) accepting: AtomicBool,
    /// Time in which no connection was accepted, for lack of places.
    pub(crate) disabled_us: AtomicU64,
    pub(crate) crawler_starts: AtomicU64,
    pub(crate) hash_power: AtomicU32,
}

/// Shared by all threads.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) config: Config,
    pub(crate) live: Live,
    pub(crate) globals: Globals,
    pub(crate) workers: Vec<Arc<WorkerNumbers>>,
    /// The numbers of requests in datagrams.
    pub(crate) datagrams: WorkerNumbers,
    /// Sums at the last `stats reset`.
    base: Mutex<Totals>,
    /// Set once: connections are closed, threads end.
    pub(crate) stopping: AtomicBool,
    /// Set before a graceful stop: items are to be kept for the next process.
    pub(crate) keeps_items: AtomicBool,
    /// Items taken up from an earlier process.
    pub(crate) restored_items: AtomicU64,
    /// Asks the daemon to stop.
    pub(crate) kit: ibex_kit::Kit,
    pub(crate) register: Register,
    pub(crate) details: Details,
    pub(crate) hotkeys: HotKeys,
    pub(crate) watch: Arc<Hub>,
    pub(crate) namespaces: Namespaces,
    /// Who may log in; `None` lets everybody in.
    pub(crate) users: Option<Users>,
    /// Certificates, with TLS.
    pub(crate) tls: Option<Tls>,
    /// Listening sockets as the statistics show them: descriptor and address.
    listeners: Mutex<Vec<(i32, String)>>,
}

impl Shared {
    pub(crate) fn new(
        config: Config,
        store: Store,
        kit: ibex_kit::Kit,
        listeners: Vec<(i32, String)>,
        users: Option<Users>,
        clock: Clock,
        tls: Option<Tls>,
    ) -> Self {
        let live = Live {
            verbosity: AtomicU32::new(config.verbosity),
            shown: Shown::new(&config.original_settings),
            lru_segmented: AtomicBool::new(config.lru_maintainer),
            temp_lru: AtomicBool::new(
                config
                    .original_settings
                    .iter()
                    .any(|setting| setting.starts_with("temporary_ttl=")),
            ),
            crawler_enabled: AtomicBool::new(config.lru_crawler),
            crawl: Crawl::new(),
            dump_busy: Arc::default(),
        };
        let workers = (0..config.threads).map(|_| Arc::default()).collect();
        let globals = Globals {
            accepting: AtomicBool::new(true),
            hash_power: AtomicU32::new(config.hash_power),
            ..Globals::default()
        };
        Self {
            store,
            clock,
            live,
            globals,
            workers,
            datagrams: WorkerNumbers::default(),
            base: Mutex::default(),
            stopping: AtomicBool::new(false),
            keeps_items: AtomicBool::new(false),
            restored_items: AtomicU64::new(0),
            kit,
            register: Register::default(),
            details: Details::default(),
            hotkeys: HotKeys::default(),
            namespaces: Namespaces::new(config.ns_delimiter.bytes().next()),
            watch: Hub::new(
                config.worker_logbuf_size.as_usize(),
                config.watcher_logbuf_size.as_usize(),
            ),
            users,
            tls,
            listeners: Mutex::new(listeners),
            config,
        }
    }

    /// Listening sockets: descriptor and address.
    pub(crate) fn listeners(&self) -> Vec<(i32, String)> {
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Notes that sockets were opened or closed.
    pub(crate) fn change_listeners(&self, change: impl FnOnce(&mut Vec<(i32, String)>)) {
        change(
            &mut self
                .listeners
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }

    fn raw_totals(&self) -> Totals {
        let mut totals = Totals::default();
        for worker in &self.workers {
            totals.add(&worker.counters);
        }
        totals.add(&self.datagrams.counters);
        totals
    }

    /// Everything counted since the start.
    pub(crate) fn lifetime_totals(&self) -> Totals {
        self.raw_totals()
    }

    /// Everything counted since the last reset.
    pub(crate) fn totals(&self) -> Totals {
        self.raw_totals()
            .since(&self.base.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// `stats reset`.
    pub(crate) fn reset_stats(&self) {
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) = self.raw_totals();
        self.store.each(ibex_cache_core::Shard::reset_stats);
        self.details.clear();
        self.hotkeys.clear();
        self.globals.total_connections.store(0, Ordering::Relaxed);
        self.globals
            .rejected_connections
            .store(0, Ordering::Relaxed);
    }

    pub(crate) fn connections(&self) -> u64 {
        self.workers
            .iter()
            .map(|worker| worker.open.load(Ordering::Relaxed))
            .sum()
    }

    /// Bytes of connection buffers above which those who hold some are closed: the limit that is configured, or a quarter of the memory. Two of the largest
    /// values being received must fit in any case.
    pub(crate) fn buffers_max(&self) -> u64 {
        match self.config.read_buf_mem_limit.bytes() {
            0 => {
                let quarter = self.store.limit_bytes() as u64 / 4;
                quarter.max(BUFFERS_FREE + 2 * self.config.item_size_max.bytes())
            }
            bytes => bytes,
        }
    }

    /// Takes the memory of connection buffers from the items.
    pub(crate) fn charge_buffers(&self, now: u32) {
        let charged = self.buffer_bytes().saturating_sub(BUFFERS_FREE);
        self.store
            .charge(now, usize::try_from(charged).unwrap_or(usize::MAX));
    }

    /// Bytes of all connections' buffers.
    pub(crate) fn buffer_bytes(&self) -> u64 {
        self.workers
            .iter()
            .map(|worker| worker.gauges.bytes())
            .sum()
    }

    /// Reads the certificates again; `None` without TLS.
    pub(crate) fn refresh_certificates(&self) -> Option<Result<(), String>> {
        let tls = self.tls.as_ref()?;
        Some(tls.refresh(&self.config, self.clock.now()))
    }

    /// Ends the daemon as SIGUSR1 does: the items are kept, if there is a file for them.
    pub(crate) fn stop_gracefully(&self, reason: &str) {
        self.keeps_items.store(true, Ordering::Release);
        self.kit.stop(reason);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}
