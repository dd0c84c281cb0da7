//! The list of open connections behind `stats conns`, and the per-prefix counters behind `stats detail`.
//!
//! Connections enter and leave it once; in between they change their own entry with plain atomic stores.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Prefixes that are counted apart; policy: keys with further ones are not counted.
const PREFIXES_MAX: usize = 65_536;

/// What a connection is doing, in the original's words.
const STATES: [&str; 8] = [
    "conn_new_cmd",
    "conn_parse_cmd",
    "conn_read",
    "conn_nread",
    "conn_swallow",
    "conn_mwrite",
    "conn_closing",
    "conn_watch",
];

/// Index into the names of states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnState {
    Parsing = 1,
    Reading = 2,
    Receiving = 3,
    Swallowing = 4,
    Writing = 5,
    Closing = 6,
    Watching = 7,
}

/// One connection's entry.
#[derive(Debug)]
pub(crate) struct ConnEntry {
    pub(crate) fd: i32,
    pub(crate) peer: String,
    pub(crate) listener: Arc<str>,
    state: AtomicU8,
    last_command: AtomicU32,
}

impl ConnEntry {
    /// An entry that is in no list, for requests without a connection.
    pub(crate) fn unlisted() -> Arc<Self> {
        Arc::new(Self {
            fd: -1,
            peer: "udp".to_owned(),
            listener: "udp".into(),
            state: AtomicU8::new(0),
            last_command: AtomicU32::new(0),
        })
    }

    pub(crate) fn set_state(&self, state: ConnState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    pub(crate) fn set_last_command(&self, now: u32) {
        self.last_command.store(now, Ordering::Relaxed);
    }

    pub(crate) fn last_command(&self) -> u32 {
        self.last_command.load(Ordering::Relaxed)
    }

    pub(crate) fn state_name(&self) -> &'static str {
        STATES
            .get(usize::from(self.state.load(Ordering::Relaxed)))
            .copied()
            .unwrap_or(STATES[0])
    }
}

/// All open connections by descriptor.
#[derive(Debug, Default)]
pub(crate) struct Register(Mutex<BTreeMap<i32, Arc<ConnEntry>>>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Register {
    pub(crate) fn enter(
        &self,
        fd: i32,
        peer: String,
        listener: Arc<str>,
        now: u32,
    ) -> Arc<ConnEntry> {
        let entry = Arc::new(ConnEntry {
            fd,
            peer,
            listener,
            state: AtomicU8::new(0),
            last_command: AtomicU32::new(now),
        });
        lock(&self.0).insert(fd, Arc::clone(&entry));
        entry
    }

    /// Takes an entry out, unless its descriptor belongs to another connection already.
    pub(crate) fn leave(&self, entry: &Arc<ConnEntry>) {
        let mut entries = lock(&self.0);
        if entries
            .get(&entry.fd)
            .is_some_and(|known| Arc::ptr_eq(known, entry))
        {
            entries.remove(&entry.fd);
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<ConnEntry>> {
        lock(&self.0).values().cloned().collect()
    }
}

/// What is counted per prefix.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PrefixCounts {
    pub(crate) gets: u64,
    pub(crate) hits: u64,
    pub(crate) sets: u64,
    pub(crate) deletes: u64,
}

/// Counters per prefix of keys; costs one relaxed load per key while off.
#[derive(Debug, Default)]
pub(crate) struct Details {
    enabled: AtomicBool,
    prefixes: Mutex<BTreeMap<Vec<u8>, PrefixCounts>>,
}

impl Details {
    pub(crate) fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    pub(crate) fn set_enabled(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Relaxed);
    }

    /// Counts something for the prefix of `key`, if it has one.
    #[inline]
    pub(crate) fn count(&self, key: &[u8], delimiter: u8, change: impl FnOnce(&mut PrefixCounts)) {
        if self.is_enabled() {
            self.count_now(key, delimiter, change);
        }
    }

    fn count_now(&self, key: &[u8], delimiter: u8, change: impl FnOnce(&mut PrefixCounts)) {
        let Some(at) = key.iter().position(|byte| *byte == delimiter) else {
            return;
        };
        let mut prefixes = lock(&self.prefixes);
        if let Some(counts) = prefixes.get_mut(&key[..at]) {
            change(counts);
        } else if prefixes.len() < PREFIXES_MAX {
            change(prefixes.entry(key[..at].to_vec()).or_default());
        }
    }

    pub(crate) fn clear(&self) {
        lock(&self.prefixes).clear();
    }

    pub(crate) fn all(&self) -> Vec<(Vec<u8>, PrefixCounts)> {
        lock(&self.prefixes)
            .iter()
            .map(|(prefix, counts)| (prefix.clone(), *counts))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_bounded() {
        let details = Details::default();
        details.count(b"a:1", b':', |counts| counts.gets += 1);
        assert!(details.all().is_empty());
        details.set_enabled(true);
        details.count(b"a:1", b':', |counts| counts.gets += 1);
        details.count(b"none", b':', |counts| counts.gets += 1);
        assert_eq!(
            details.all(),
            [(
                b"a".to_vec(),
                PrefixCounts {
                    gets: 1,
                    ..PrefixCounts::default()
                }
            )]
        );
        for n in 0..PREFIXES_MAX + 1 {
            details.count(format!("{n}:x").as_bytes(), b':', |counts| counts.sets += 1);
        }
        assert_eq!(details.all().len(), PREFIXES_MAX);
    }
}
