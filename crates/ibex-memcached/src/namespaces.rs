//! Namespaces: all items under a prefix become misses at once, whatever their number.
//!
//! `ns_invalidate <prefix>` notes the cas counter of that moment. An item of the prefix with a number up to it was stored before and is dropped by whoever
//! looks it up. Nothing is scanned; memory is a table entry per prefix. Of a process that never invalidated anything each lookup asks for one relaxed load.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock};

/// Prefixes that can be invalidated, each for the life of the process. Policy: further ones are refused.
const PREFIXES_MAX: usize = 65_536;

/// The invalidated prefixes.
#[derive(Debug)]
pub(crate) struct Namespaces {
    /// What ends a prefix; `None` if there are no namespaces.
    delimiter: Option<u8>,
    count: AtomicUsize,
    /// By prefix, without delimiter: the last cas number before it was invalidated.
    marks: RwLock<HashMap<Vec<u8>, u64>>,
}

/// Why a prefix was not invalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The daemon has no namespaces.
    Off,
    /// There are too many.
    Full,
}

impl Namespaces {
    pub(crate) fn new(delimiter: Option<u8>) -> Self {
        Self {
            delimiter,
            count: AtomicUsize::new(0),
            marks: RwLock::default(),
        }
    }

    /// Prefixes that were invalidated.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Makes everything under `prefix` with a cas number up to `last_cas` a miss.
    pub(crate) fn invalidate(&self, prefix: &[u8], last_cas: u64) -> Result<(), Refused> {
        if self.delimiter.is_none() {
            return Err(Refused::Off);
        }
        let mut marks = self.marks.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(mark) = marks.get_mut(prefix) {
            *mark = last_cas.max(*mark);
            return Ok(());
        }
        if marks.len() >= PREFIXES_MAX {
            return Err(Refused::Full);
        }
        marks.insert(prefix.to_vec(), last_cas);
        self.count.store(marks.len(), Ordering::Release);
        Ok(())
    }

    /// Whether an item was stored before one of its prefixes was invalidated.
    #[inline]
    pub(crate) fn is_gone(&self, key: &[u8], cas: u64) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.looks_gone(key, cas)
    }

    #[cold]
    fn looks_gone(&self, key: &[u8], cas: u64) -> bool {
        let marks = self.marks.read().unwrap_or_else(PoisonError::into_inner);
        let ends = (0..key.len()).filter(|at| Some(key[*at]) == self.delimiter);
        ends.filter_map(|at| marks.get(&key[..at]))
            .any(|mark| cas <= *mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_before_is_gone() {
        let namespaces = Namespaces::new(Some(b':'));
        assert!(!namespaces.is_gone(b"a:1", 5));
        namespaces.invalidate(b"a", 10).unwrap();
        for (key, cas, is_gone) in [
            (&b"a:1"[..], 10, true),
            (b"a:1", 11, false),
            (b"a:", 3, true),
            (b"a:b:c", 3, true),
            (b"a", 3, false),
            (b"ab:1", 3, false),
            (b":a:1", 3, false),
        ] {
            assert_eq!(namespaces.is_gone(key, cas), is_gone, "{key:?} {cas}");
        }
        namespaces.invalidate(b"a:b", 20).unwrap();
        assert!(namespaces.is_gone(b"a:b:c", 15) && !namespaces.is_gone(b"a:c:c", 15));
        // An older mark never replaces a newer one.
        namespaces.invalidate(b"a:b", 12).unwrap();
        assert!(namespaces.is_gone(b"a:b:c", 15));
    }

    #[test]
    fn off_and_full() {
        let off = Namespaces::new(None);
        assert_eq!(off.invalidate(b"a", 1), Err(Refused::Off));
        let namespaces = Namespaces::new(Some(b':'));
        for n in 0..PREFIXES_MAX {
            namespaces.invalidate(&n.to_le_bytes(), 1).unwrap();
        }
        assert_eq!(namespaces.invalidate(b"one more", 1), Err(Refused::Full));
        assert_eq!(namespaces.invalidate(&3_usize.to_le_bytes(), 2), Ok(()));
    }
}
