//! What a pool did, server by server: counters that calls add to and a program may read, beside the `tracing` events of every call.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Where a server stands, and what was done there since the client was made. From [`crate::Client::metrics`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerMetrics {
    /// Its name, `host:port` or `unix:/path`.
    pub server: String,
    /// Whether it belongs to the gutter pool.
    pub is_gutter: bool,
    /// Whether it is left alone at the moment.
    pub is_dead: bool,
    /// Open connections nobody uses.
    pub connections_idle: usize,
    /// Connections in use by a call.
    pub connections_busy: usize,
    /// Calls that wait for a connection.
    pub callers_waiting: usize,
    /// Exchanges begun, whatever their end.
    pub operations: u64,
    /// Exchanges that ended in a lost connection, a passed deadline or bytes that were no reply, failed connects included.
    pub failures: u64,
    /// Those of them that ran out of time.
    pub timeouts: u64,
    /// Error replies.
    pub refusals: u64,
    /// Connections opened.
    pub connects: u64,
    /// How often it was given up as dead.
    pub deaths: u64,
    /// Bytes of requests.
    pub sent_bytes: u64,
    /// Bytes of replies.
    pub received_bytes: u64,
    /// Time calls waited for a connection, all together.
    pub waited: Duration,
    /// Time of exchanges from their begin to their end, waiting included, all together.
    pub elapsed: Duration,
}

/// The counters behind [`ServerMetrics`]. Relaxed: each is a number of its own.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) waiting: AtomicUsize,
    pub(crate) operations: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) timeouts: AtomicU64,
    pub(crate) refusals: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) deaths: AtomicU64,
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) waited_us: AtomicU64,
    pub(crate) elapsed_us: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

pub(crate) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// One more caller waits, until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'c>(&'c AtomicUsize);

impl Counters {
    pub(crate) fn wait(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
