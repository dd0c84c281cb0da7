//! Namespaces: all items under a prefix become misses at once, whatever their number.
//!
//! `ns_invalidate <prefix>` notes the cas counter of that moment. An item of the prefix with a number up to it was stored before and is dropped by whoever
//! looks it up. Nothing is scanned; memory is a table entry per prefix. Of a process that never invalidated anything each lookup asks for one relaxed load.

use crate::sync::{AtomicUsize, Ordering, PoisonError, RwLock};
use std::collections::HashMap;

/// Prefixes that can be invalidated, each for the life of the process. Policy: further ones are refused.
pub(crate) const PREFIXES_MAX: usize = 65_536;

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
            marks: RwLock::new(HashMap::new()),
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
