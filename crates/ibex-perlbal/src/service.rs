//! One running service: the live side of a service of the model.
//!
//! Owns what must survive a change of settings: the backend connections, the counters, the number of clients. Settings are
//! swapped as a whole; a request keeps those it started with. It listens on nothing itself.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::model::Settings;
use crate::nodes::NodeBook;
use crate::reproxy::Cache;
use crate::upstream::Upstream;

/// Requests the Stats plugin remembers.
const RECENT_KEPT: usize = 100;

/// Counters of the Stats plugin and of `show service`.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) files_reproxied: AtomicU64,
    pub(crate) files_sent: AtomicU64,
    pub(crate) proxy_requests: AtomicU64,
    pub(crate) proxy_requests_highpri: AtomicU64,
    pub(crate) web_requests: AtomicU64,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// See the module.
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) settings: ArcSwap<Settings>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) counters: Counters,
    pub(crate) reproxy_cache: Cache,
    clients: Mutex<HashMap<IpAddr, u64>>,
    client_count: AtomicU64,
    pub(crate) freed: Notify,
    recent: Mutex<VecDeque<String>>,
}

/// Whether a new client may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Admitted,
    /// The service has all the clients it may have: stop accepting.
    Full,
    /// This address has all it may have: 429.
    AddressFull,
}

impl Service {
    pub(crate) fn new(name: &str, settings: Settings, book: Arc<NodeBook>) -> Arc<Self> {
        let seed =
            u64::from(std::process::id()) ^ (name.len() as u64) << 32 ^ crate::clock::unix_secs();
        let upstream = Upstream::new(book, seed);
        Arc::new(Self {
            name: name.to_owned(),
            settings: ArcSwap::from_pointee(settings),
            upstream,
            counters: Counters::default(),
            reproxy_cache: Cache::default(),
            clients: Mutex::default(),
            client_count: AtomicU64::new(0),
            freed: Notify::new(),
            recent: Mutex::default(),
        })
    }

    /// True when the service may not accept another client now.
    pub(crate) fn is_full(&self) -> bool {
        let limit = self.settings.load().connections_max;
        limit > 0 && self.client_count.load(Ordering::Relaxed) >= limit
    }

    /// Counts a new client in; [`Self::client_left`] counts it out again if it was admitted.
    pub(crate) fn admit(&self, ip: IpAddr) -> Admission {
        let limit = self.settings.load().connections_per_ip_max;
        if self.is_full() {
            return Admission::Full;
        }
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let of_address = clients.entry(ip).or_insert(0);
        if limit > 0 && *of_address >= limit {
            return Admission::AddressFull;
        }
        *of_address += 1;
        self.client_count.fetch_add(1, Ordering::Relaxed);
        Admission::Admitted
    }

    pub(crate) fn client_left(&self, ip: IpAddr) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = clients.get_mut(&ip) {
            *n -= 1;
            if *n == 0 {
                clients.remove(&ip);
            }
            self.client_count.fetch_sub(1, Ordering::Relaxed);
        }
        drop(clients);
        self.freed.notify_one();
    }

    pub(crate) fn client_count(&self) -> u64 {
        self.client_count.load(Ordering::Relaxed)
    }

    /// Remembers a request for `recent`.
    pub(crate) fn remember(&self, line: String) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT_KEPT {
            recent.pop_front();
        }
        recent.push_back(line);
    }

    pub(crate) fn recent(&self) -> Vec<String> {
        self.recent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }
}
