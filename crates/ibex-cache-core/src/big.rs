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
}

/// Big values by number.
#[derive(Debug, Default)]
pub(crate) struct BigTable {
    entries: Vec<Option<Big>>,
    free: Vec<u32>,
    cells: usize,
}

impl BigTable {
    pub(crate) fn insert(&mut self, big: Big) -> u32 {
        self.cells += big.cells.len();
        if let Some(id) = self.free.pop() {
            self.entries[id as usize] = Some(big);
            return id;
        }
        self.entries.push(Some(big));
        u32::try_from(self.entries.len() - 1)
            .expect("fewer big values than cells, which are numbered in 32 bits")
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<Big> {
        let big = self.entries.get_mut(id as usize)?.take()?;
        self.cells -= big.cells.len();
        self.free.push(id);
        Some(big)
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
