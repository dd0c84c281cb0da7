//! "Which key is due next?" for cores that keep many timers.
//!
//! A core cannot sleep; it answers `poll_timeout` with the earliest deadline and is called back with the time. [`DeadlineHeap`] keeps one deadline
//! per key, can move
//! or forget it, and hands out due keys in a fixed order: by deadline, then by key. Insert, remove and pop cost O(log n).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// At most one deadline for each key.
#[derive(Debug, Clone)]
pub struct DeadlineHeap<K> {
    by_time: BTreeSet<(Instant, K)>,
    by_key: BTreeMap<K, Instant>,
}

impl<K> Default for DeadlineHeap<K> {
    fn default() -> Self {
        Self {
            by_time: BTreeSet::new(),
            by_key: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Clone> DeadlineHeap<K> {
    /// No deadlines.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the deadline of `key`, replacing the one it had.
    pub fn insert(&mut self, key: K, at: Instant) {
        if let Some(before) = self.by_key.insert(key.clone(), at) {
            self.by_time.remove(&(before, key.clone()));
        }
        self.by_time.insert((at, key));
        debug_assert_eq!(self.by_key.len(), self.by_time.len());
    }

    /// Forgets `key`; says which deadline it had.
    pub fn remove(&mut self, key: &K) -> Option<Instant> {
        let at = self.by_key.remove(key)?;
        self.by_time.remove(&(at, key.clone()));
        debug_assert_eq!(self.by_key.len(), self.by_time.len());
        Some(at)
    }

    /// The earliest deadline.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The deadline of `key`.
    #[must_use]
    pub fn deadline(&self, key: &K) -> Option<Instant> {
        self.by_key.get(key).copied()
    }

    /// Takes out the first key whose deadline is not after `now`. Call until `None`.
    pub fn pop_due(&mut self, now: Instant) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        let (_, key) = self.by_time.pop_first()?;
        self.by_key.remove(&key);
        Some(key)
    }

    /// How many keys have a deadline.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// True if no key has a deadline.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Any instant will do as the origin of a test's time line.
    fn origin() -> Instant {
        #[expect(
            clippy::disallowed_methods,
            reason = "an Instant cannot be made from nothing"
        )]
        Instant::now()
    }

    #[test]
    fn due_keys_come_by_time_then_key() {
        let start = origin();
        let mut heap = DeadlineHeap::new();
        heap.insert("b", start);
        heap.insert("a", start);
        heap.insert("late", start + Duration::from_secs(2));
        heap.insert("early", start - Duration::from_nanos(1));
        let due: Vec<_> = std::iter::from_fn(|| heap.pop_due(start)).collect();
        assert_eq!(due, ["early", "a", "b"]);
        assert_eq!(heap.next(), Some(start + Duration::from_secs(2)));
    }

    #[test]
    fn a_key_has_one_deadline() {
        let start = origin();
        let mut heap = DeadlineHeap::new();
        heap.insert(1, start);
        heap.insert(1, start + Duration::from_secs(5));
        assert_eq!(heap.pop_due(start + Duration::from_secs(4)), None);
        assert_eq!(heap.remove(&1), Some(start + Duration::from_secs(5)));
        assert_eq!(heap.remove(&1), None);
        assert!(heap.is_empty());
    }
}
