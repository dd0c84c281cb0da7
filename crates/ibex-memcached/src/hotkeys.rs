//! The keys that are asked for most: a sketch of bounded size fed with the keys of timed requests ("space saving", Metwally and others, 2005).
//!
//! A key that is not there takes the place of the one with the smallest count and its count, so counts are never too low and the hottest keys are never missed.
//! All counts are halved every minute: what was hot yesterday makes way.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keys that are counted; four times those that are shown, so that the order of these is sound.
const KEYS_MAX: usize = 256;
/// Keys that are shown.
pub(crate) const SHOWN_MAX: usize = 64;

/// The sketch, shared by all workers: it is asked once in dozens of requests.
#[derive(Debug, Default)]
pub(crate) struct HotKeys(Mutex<BTreeMap<Vec<u8>, u64>>);

impl HotKeys {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a key.
    pub(crate) fn note(&self, key: &[u8]) {
        let mut keys = self.lock();
        if let Some(count) = keys.get_mut(key) {
            *count += 1;
            return;
        }
        let mut before = 0;
        if keys.len() >= KEYS_MAX {
            let coldest = keys.iter().min_by_key(|(_, count)| **count);
            if let Some((coldest, count)) = coldest.map(|(key, count)| (key.clone(), *count)) {
                keys.remove(&coldest);
                before = count;
            }
        }
        keys.insert(key.to_vec(), before + 1);
    }

    /// Once a minute.
    pub(crate) fn halve(&self) {
        self.lock().retain(|_, count| {
            *count /= 2;
            *count > 0
        });
    }

    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// The hottest keys and their counts, the hottest first.
    pub(crate) fn hottest(&self) -> Vec<(Vec<u8>, u64)> {
        let mut all: Vec<_> = self
            .lock()
            .iter()
            .map(|(key, count)| (key.clone(), *count))
            .collect();
        all.sort_by(|(_, a), (_, b)| b.cmp(a));
        all.truncate(SHOWN_MAX);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hottest_are_found_among_many() {
        let hot = HotKeys::default();
        for n in 0..20_000_u32 {
            hot.note(format!("cold{n}").as_bytes());
            if n % 10 == 0 {
                hot.note(b"hottest");
            }
            if n % 20 == 0 {
                hot.note(b"hot");
            }
        }
        let shown = hot.hottest();
        assert_eq!(shown.len(), SHOWN_MAX);
        assert_eq!(
            (shown[0].0.as_slice(), shown[1].0.as_slice()),
            (&b"hottest"[..], &b"hot"[..])
        );
        assert!(shown[0].1 >= 2000 && shown[1].1 >= 1000, "never too low");
        assert_eq!(hot.lock().len(), KEYS_MAX);
    }

    #[test]
    fn what_is_not_asked_for_any_more_goes() {
        let hot = HotKeys::default();
        (0..4).for_each(|_| hot.note(b"k"));
        hot.halve();
        assert_eq!(hot.hottest(), [(b"k".to_vec(), 2)]);
        hot.halve();
        hot.halve();
        assert_eq!(hot.hottest(), []);
    }
}
