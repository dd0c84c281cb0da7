//! The registry of open client connections behind `/-/connections`.
//!
//! Owns the list a daemon may fill; entries vanish when their guard is dropped. It closes nothing itself: a wish to close
//! cancels the entry's token, and the daemon's connection loop obeys.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use crate::lock;

#[derive(Debug)]
struct Entry {
    listener: String,
    peer: String,
    opened: Instant,
    /// Milliseconds after `opened` of the last traffic.
    last: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    state: Mutex<String>,
    close: CancellationToken,
}

#[derive(Debug, Default)]
struct List {
    live: Mutex<BTreeMap<u64, Arc<Entry>>>,
    next: AtomicU64,
}

/// All open connections that the daemon told of.
#[derive(Debug, Default)]
pub struct Connections(Arc<List>);

/// One connection's entry; drop it when the connection ends.
#[derive(Debug)]
pub struct Connection {
    id: u64,
    entry: Arc<Entry>,
    list: Arc<List>,
}

/// A connection as the admin port shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct ConnectionView {
    pub(crate) id: u64,
    pub(crate) listener: String,
    pub(crate) peer: String,
    pub(crate) age_seconds: f64,
    pub(crate) idle_seconds: f64,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    pub(crate) state: String,
}

impl Connections {
    /// Lists a new connection.
    #[must_use]
    pub fn open(&self, listener: &str, peer: &impl ToString) -> Connection {
        let entry = Arc::new(Entry {
            listener: listener.to_owned(),
            peer: peer.to_string(),
            opened: Instant::now(),
            last: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            state: Mutex::new("open".to_owned()),
            close: CancellationToken::new(),
        });
        let id = self.0.next.fetch_add(1, Ordering::Relaxed) + 1;
        lock(&self.0.live).insert(id, Arc::clone(&entry));
        Connection {
            id,
            entry,
            list: Arc::clone(&self.0),
        }
    }

    /// How many are listed.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.0.live).len()
    }

    /// Asks the connection `id` to close; false if there is none.
    pub(crate) fn close(&self, id: u64) -> bool {
        lock(&self.0.live)
            .get(&id)
            .map(|entry| entry.close.cancel())
            .is_some()
    }

    pub(crate) fn view(&self) -> Vec<ConnectionView> {
        let view = |(id, entry): (&u64, &Arc<Entry>)| {
            let age = entry.opened.elapsed();
            let last = std::time::Duration::from_millis(entry.last.load(Ordering::Relaxed));
            ConnectionView {
                id: *id,
                listener: entry.listener.clone(),
                peer: entry.peer.clone(),
                age_seconds: age.as_secs_f64(),
                idle_seconds: age.saturating_sub(last).as_secs_f64(),
                received_bytes: entry.received.load(Ordering::Relaxed),
                sent_bytes: entry.sent.load(Ordering::Relaxed),
                state: lock(&entry.state).clone(),
            }
        };
        lock(&self.0.live).iter().map(view).collect()
    }
}

impl Connection {
    /// Its number, unique in the process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Bytes came in.
    pub fn received(&self, bytes: usize) {
        self.entry
            .received
            .fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.touch();
    }

    /// Bytes went out.
    pub fn sent(&self, bytes: usize) {
        self.entry
            .sent
            .fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.touch();
    }

    /// What it is at or waits for, for people.
    pub fn state(&self, state: impl Into<String>) {
        *lock(&self.entry.state) = state.into();
    }

    /// Cancelled when an operator wants this connection closed.
    #[must_use]
    pub fn close_wanted(&self) -> CancellationToken {
        self.entry.close.clone()
    }

    fn touch(&self) {
        let now = u64::try_from(self.entry.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.entry.last.store(now, Ordering::Relaxed);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.list.live).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_listed_while_its_guard_lives() {
        let connections = Connections::default();
        let one = connections.open("gearman", &"127.0.0.1:5");
        one.received(10);
        one.sent(7);
        one.state("waiting for a job");
        let view = connections.view().remove(0);
        assert_eq!(
            (
                view.id,
                view.received_bytes,
                view.sent_bytes,
                view.state.as_str()
            ),
            (one.id(), 10, 7, "waiting for a job")
        );
        assert!(connections.close(one.id()) && one.close_wanted().is_cancelled());
        drop(one);
        assert_eq!(connections.count(), 0);
        assert!(!connections.close(1));
    }
}
