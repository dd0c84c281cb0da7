//! From a job's number to its slot, and hashing of numbers that this program itself gave out.
//!
//! Numbers are given out one after the other, so neighbours live and die together: slots of [`PAGE`] consecutive numbers lie in one page, pages in a
//! tree. About nine bytes a job while a queue is dense, no pause in which a table of millions grows, and a page is gone with its last job.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use crate::arena::NIL;

/// Numbers of one page. A lone survivor keeps 64 bytes, not more than it costs itself.
const PAGE: usize = 16;

/// Slots by job number.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    pages: BTreeMap<u64, [u32; PAGE]>,
    len: usize,
}

/// The page of a number and the place in it.
fn place(number: u64) -> (u64, usize) {
    let place = number % PAGE as u64;
    (number / PAGE as u64, usize::try_from(place).unwrap_or(0))
}

impl Numbers {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, number: u64, slot: u32) {
        let (page, at) = place(number);
        let page = self.pages.entry(page).or_insert([NIL; PAGE]);
        debug_assert_eq!(page[at], NIL, "job numbers are used once");
        page[at] = slot;
        self.len += 1;
    }

    pub(crate) fn get(&self, number: u64) -> Option<u32> {
        let (page, at) = place(number);
        let slot = self.pages.get(&page)?[at];
        (slot != NIL).then_some(slot)
    }

    /// Slots of `number` and those behind it, in the order of their numbers.
    pub(crate) fn from(&self, number: u64) -> impl Iterator<Item = u32> {
        let (first, at) = place(number);
        let pages = self.pages.range(first..);
        pages
            .flat_map(move |(page, slots)| {
                let before = if *page == first { at } else { 0 };
                slots.iter().skip(before)
            })
            .copied()
            .filter(|slot| *slot != NIL)
    }

    /// The slot of the largest number.
    pub(crate) fn last(&self) -> Option<u32> {
        let (_, slots) = self.pages.last_key_value()?;
        slots.iter().copied().rfind(|slot| *slot != NIL)
    }

    pub(crate) fn remove(&mut self, number: u64) {
        let (key, at) = place(number);
        let Some(page) = self.pages.get_mut(&key) else {
            return;
        };
        if page[at] != NIL {
            page[at] = NIL;
            self.len -= 1;
        }
        if *page == [NIL; PAGE] {
            self.pages.remove(&key);
        }
    }
}

/// A table by numbers of our own; its order means nothing and must not come out.
pub(crate) type NumberMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

/// Spreads numbers that no stranger chooses.
#[derive(Debug, Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_and_go_in_any_order() {
        let mut numbers = Numbers::default();
        let all: Vec<u64> = (0..1000)
            .chain([u64::MAX, u64::MAX - 17, 1 << 40])
            .collect();
        for (slot, number) in (0..).zip(&all) {
            numbers.insert(*number, slot);
        }
        assert_eq!(numbers.len(), all.len());
        for (slot, number) in (0..).zip(&all) {
            assert_eq!(numbers.get(*number), Some(slot));
        }
        assert_eq!(numbers.get(1000), None);
        let from = |number| numbers.from(number).collect::<Vec<u32>>();
        assert_eq!(from(0).len(), all.len());
        assert_eq!(from(997), [997, 998, 999, 1002, 1001, 1000]);
        assert_eq!(from(1000), [1002, 1001, 1000]);
        assert_eq!(from(u64::MAX), [1000]);
        assert_eq!(numbers.last(), Some(1000));
        for number in all.iter().step_by(2).chain(all.iter().skip(1).step_by(2)) {
            numbers.remove(*number);
            numbers.remove(*number);
            assert_eq!(numbers.get(*number), None);
        }
        assert_eq!((numbers.len(), numbers.pages.len()), (0, 0));
        assert_eq!(numbers.last(), None);
    }
}
