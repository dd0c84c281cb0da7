//! What a flush leaves behind: the old index, so that whoever asks for a flushed item learns that it was flushed.
//!
//! A flush frees all segments at once and looks at no item. As long as a segment has not been used again the flushed items' keys still stand in it, and the old
//! index finds them. It is given up when memory is needed, and after a minute of sweeps.

use crate::index::Index;
use crate::item::Raw;
use crate::memory::Memory;

/// Rounds of the sweep, one a second, after which the old index goes.
const ROUNDS_MAX: u32 = 60;

/// The index of flushed items.
#[derive(Debug)]
pub(crate) struct Ghost {
    index: Index,
    rounds: u32,
}

impl Ghost {
    /// `None` for an index of nothing.
    pub(crate) fn new(index: Index) -> Option<Self> {
        (index.count() > 0).then_some(Self { index, rounds: 0 })
    }

    /// Bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.index.bytes()
    }

    /// Whether an item of this key was flushed; it is told once.
    pub(crate) fn take(&mut self, memory: &Memory, hash: u64, key: &[u8]) -> bool {
        let found = self.index.find(hash, |location| {
            memory.is_flushed(location) && Raw(memory.tail(location)).key() == key
        });
        if let Some((position, _)) = found {
            self.index.remove(hash, position);
        }
        found.is_some()
    }

    /// Counts a round of the sweep; whether it has been here long enough.
    pub(crate) fn is_old(&mut self) -> bool {
        self.rounds += 1;
        self.rounds > ROUNDS_MAX
    }
}
