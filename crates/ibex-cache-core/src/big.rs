//! The table of big values: which cells hold them.
//!
//! A big value's item (its stub) lies in an ordinary segment and names an entry here. Does not allocate cells.

use crate::memory::Cell;

/// One big value.
#[derive(Debug)]
pub(crate) struct Big {
    pub(crate) cells: Vec<Cell>,
    /// Where its stub is.
    pub(crate) stub: u32,
    /// Its number in the order of eviction.
    pub(crate) order: u64,
    /// How many read or write it in pieces.
    pins: u32,
    /// No item has it: it goes with its last pin.
    is_detached: bool,
    /// Bytes it is reckoned with among those that no item has.
    held_bytes: usize,
}

impl Big {
    /// A value that has neither bytes nor an item yet, and will have `bytes`.
    pub(crate) fn unborn(bytes: usize) -> Self {
        Self {
            cells: Vec::new(),
            stub: u32::MAX,
            order: 0,
            pins: 0,
            is_detached: true,
            held_bytes: bytes,
        }
    }
}

/// Big values by number.
#[derive(Debug, Default)]
pub(crate) struct BigTable {
    entries: Vec<Option<Big>>,
    free: Vec<u32>,
    cells: usize,
    /// Values with pins.
    pinned: usize,
    /// Bytes of values that no item has: they cannot be evicted.
    held_bytes: usize,
}

impl BigTable {
    pub(crate) fn insert(&mut self, big: Big) -> u32 {
        self.cells += big.cells.len();
        self.held_bytes += big.held_bytes;
        if let Some(id) = self.free.pop() {
            self.entries[id as usize] = Some(big);
            return id;
        }
        self.entries.push(Some(big));
        u32::try_from(self.entries.len() - 1)
            .expect("fewer big values than cells, which are numbered in 32 bits")
    }

    fn remove(&mut self, id: u32) -> Option<Big> {
        let big = self.entries.get_mut(id as usize)?.take()?;
        self.cells -= big.cells.len();
        self.held_bytes -= big.held_bytes;
        self.free.push(id);
        Some(big)
    }

    /// Keeps a value until it is unpinned.
    pub(crate) fn pin(&mut self, id: u32) {
        if let Some(big) = self.by_id_mut(id) {
            big.pins += 1;
            self.pinned += usize::from(self.by_id(id).is_some_and(|big| big.pins == 1));
        }
    }

    /// Takes a pin off; the value, if nobody has it any more.
    pub(crate) fn unpin(&mut self, id: u32) -> Option<Big> {
        let big = self.by_id_mut(id)?;
        big.pins -= 1;
        let (is_free, is_detached) = (big.pins == 0, big.is_detached);
        self.pinned -= usize::from(is_free);
        if is_free && is_detached {
            self.remove(id)
        } else {
            None
        }
    }

    /// Its item is gone; the value, unless it is pinned.
    pub(crate) fn detach(&mut self, id: u32, cell_bytes: usize) -> Option<Big> {
        let big = self.by_id_mut(id)?;
        big.is_detached = true;
        if big.pins == 0 {
            return self.remove(id);
        }
        let (before, now) = (
            big.held_bytes,
            big.held_bytes.max(big.cells.len() * cell_bytes),
        );
        big.held_bytes = now;
        self.held_bytes += now - before;
        None
    }

    /// A value gets an item.
    pub(crate) fn adopt(&mut self, id: u32) {
        if let Some(big) = self.by_id_mut(id) {
            big.is_detached = false;
            let held = std::mem::take(&mut big.held_bytes);
            self.held_bytes -= held;
        }
    }

    /// Bytes of values that no item has.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Whether any value is pinned.
    pub(crate) fn has_pinned(&self) -> bool {
        self.pinned > 0
    }

    /// All numbers in use.
    pub(crate) fn ids(&self) -> Vec<u32> {
        let numbered = (0_u32..).zip(&self.entries);
        let used = numbered.filter(|(_, entry)| entry.is_some());
        used.map(|(id, _)| id).collect()
    }

    /// Adds a cell to a value under construction.
    pub(crate) fn push_cell(&mut self, id: u32, cell: Cell) {
        if let Some(big) = self.by_id_mut(id) {
            big.cells.push(cell);
            self.cells += 1;
        }
    }

    pub(crate) fn by_id(&self, id: u32) -> Option<&Big> {
        self.entries.get(id as usize)?.as_ref()
    }

    pub(crate) fn by_id_mut(&mut self, id: u32) -> Option<&mut Big> {
        self.entries.get_mut(id as usize)?.as_mut()
    }

    /// Bytes the table takes.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Option<Big>>()
            + self.cells * size_of::<Cell>()
            + self.free.capacity() * size_of::<u32>()
    }
}
