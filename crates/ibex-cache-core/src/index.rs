//! From hash to location: linear hashing over 64-byte buckets.
//!
//! The table grows by one bucket at a time (Litwin, "Linear hashing", 1980), so its memory follows the number of items closely and no insert ever waits for a
//! rehash. A bucket holds ten slots and a link to an overflow bucket; slots of a chain are filled without gaps.
//! A slot is a 16-bit word (taken bit, 13 bits of hash, 2 bits of frequency) and a location. Does not know keys: callers compare them.

/// Slots of a bucket: what fits a cache line.
const SLOTS: usize = 10;
/// Buckets are allocated in blocks of this many, 16 KiB.
const BLOCK: usize = 256;
/// Items per bucket before the table grows. At eight of ten about a fifth of the chains have an overflow bucket, which takes
/// the least memory per item (9.5 bytes) without long chains.
const FILL: usize = 8;
/// No bucket, no location.
const NONE: u32 = u32::MAX;
/// Marks the number of an overflow bucket.
const OVERFLOW: u32 = 1 << 31;
/// A slot in use.
const TAKEN: u16 = 1 << 15;
/// The frequency's bits.
const FREQUENCY: u16 = 3;
/// Largest frequency.
pub(crate) const FREQUENCY_MAX: u8 = 3;

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u16; SLOTS],
    next: u32,
    locations: [u32; SLOTS],
}

const EMPTY: Bucket = Bucket {
    tags: [0; SLOTS],
    next: NONE,
    locations: [NONE; SLOTS],
};

/// Where a slot is; valid until the next change of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    bucket: u32,
    slot: u8,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Index {
    blocks: Vec<Box<[Bucket]>>,
    overflow: Vec<Box<[Bucket]>>,
    overflow_free: u32,
    /// Buckets below `split` are addressed with one bit more than `level`.
    level: u32,
    split: u32,
    count: usize,
}

fn tag_of(hash: u64) -> u16 {
    let high = (hash >> 48) as u16;
    TAKEN | (high & !FREQUENCY & !TAKEN)
}

fn block() -> Box<[Bucket]> {
    vec![EMPTY; BLOCK].into_boxed_slice()
}

impl Index {
    pub(crate) fn new() -> Self {
        Self {
            blocks: vec![block()],
            overflow: Vec::new(),
            overflow_free: NONE,
            level: BLOCK.trailing_zeros(),
            split: 0,
            count: 0,
        }
    }

    /// Gives an empty table the size it has with `count` items, so that it does not grow on the way there.
    pub(crate) fn reserve(&mut self, count: usize) {
        let buckets = count.div_ceil(FILL).clamp(BLOCK, 1 << 30);
        if self.count > 0 || buckets <= self.bucket_count() as usize {
            return;
        }
        self.level = buckets.ilog2();
        self.split = u32::try_from(buckets - (1 << self.level)).expect("at most 2^30");
        self.blocks.resize_with(buckets.div_ceil(BLOCK), block);
    }

    /// Reads the first bucket of a hash, for nothing but to have it in the cache.
    pub(crate) fn touch(&self, hash: u64) -> u16 {
        self.bucket(self.home(hash)).tags[0]
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Bytes the table takes.
    pub(crate) fn bytes(&self) -> usize {
        (self.blocks.len() + self.overflow.len()) * BLOCK * size_of::<Bucket>()
    }

    /// Buckets that hang off others.
    pub(crate) fn bucket_count(&self) -> u32 {
        (1 << self.level) + self.split
    }

    fn bucket(&self, number: u32) -> &Bucket {
        let (list, number) = if number & OVERFLOW == 0 {
            (&self.blocks, number)
        } else {
            (&self.overflow, number & !OVERFLOW)
        };
        let number = number as usize;
        &list[number / BLOCK][number % BLOCK]
    }

    fn bucket_mut(&mut self, number: u32) -> &mut Bucket {
        let (list, number) = if number & OVERFLOW == 0 {
            (&mut self.blocks, number)
        } else {
            (&mut self.overflow, number & !OVERFLOW)
        };
        let number = number as usize;
        &mut list[number / BLOCK][number % BLOCK]
    }

    fn home(&self, hash: u64) -> u32 {
        let low = (hash & 0xffff_ffff) as u32;
        let number = low & ((1 << self.level) - 1);
        if number < self.split {
            low & ((1 << (self.level + 1)) - 1)
        } else {
            number
        }
    }

    /// The slot of `hash` whose location `is_it` accepts.
    #[inline]
    pub(crate) fn find(
        &self,
        hash: u64,
        mut is_it: impl FnMut(u32) -> bool,
    ) -> Option<(Position, u32)> {
        let tag = tag_of(hash);
        let mut number = self.home(hash);
        loop {
            let bucket = self.bucket(number);
            let mut matches = 0_u32;
            for (slot, stored) in bucket.tags.iter().enumerate() {
                matches |= u32::from(stored & !FREQUENCY == tag) << slot;
            }
            while matches != 0 {
                let slot = matches.trailing_zeros() as usize;
                matches &= matches - 1;
                let location = bucket.locations[slot];
                if is_it(location) {
                    return Some((
                        Position {
                            bucket: number,
                            slot: u8::try_from(slot).unwrap_or(u8::MAX),
                        },
                        location,
                    ));
                }
            }
            if bucket.next == NONE {
                return None;
            }
            number = bucket.next;
        }
    }

    /// How often the item was used lately, 0 to 3.
    pub(crate) fn frequency(&self, at: Position) -> u8 {
        (self.bucket(at.bucket).tags[usize::from(at.slot)] & FREQUENCY) as u8
    }

    pub(crate) fn set_frequency(&mut self, at: Position, frequency: u8) {
        let tag = &mut self.bucket_mut(at.bucket).tags[usize::from(at.slot)];
        *tag = (*tag & !FREQUENCY) | u16::from(frequency.min(FREQUENCY_MAX));
    }

    pub(crate) fn set_location(&mut self, at: Position, location: u32) {
        self.bucket_mut(at.bucket).locations[usize::from(at.slot)] = location;
    }

    /// Adds a location, used `frequency` times lately; `hash_of` tells the hash of those that move because the table grows.
    pub(crate) fn insert(
        &mut self,
        hash: u64,
        location: u32,
        frequency: u8,
        hash_of: impl Fn(u32) -> u64,
    ) {
        let home = self.home(hash);
        let tag = tag_of(hash) | u16::from(frequency.min(FREQUENCY_MAX));
        self.push(home, tag, location);
        self.count += 1;
        if self.count > FILL * self.bucket_count() as usize {
            self.grow(hash_of);
        }
    }

    fn push(&mut self, home: u32, tag: u16, location: u32) {
        let mut number = home;
        loop {
            let bucket = self.bucket_mut(number);
            if let Some(slot) = bucket.tags.iter().position(|tag| *tag == 0) {
                bucket.tags[slot] = tag;
                bucket.locations[slot] = location;
                return;
            }
            if bucket.next == NONE {
                let fresh = self.take_overflow();
                self.bucket_mut(number).next = fresh;
                number = fresh;
            } else {
                number = bucket.next;
            }
        }
    }

    fn take_overflow(&mut self) -> u32 {
        if self.overflow_free == NONE {
            let first = self.overflow.len() * BLOCK;
            self.overflow.push(block());
            for number in (first..first + BLOCK).rev() {
                let number = u32::try_from(number).expect("fewer buckets than locations");
                self.give_overflow(number | OVERFLOW);
            }
        }
        let number = self.overflow_free;
        let bucket = self.bucket_mut(number);
        let next = std::mem::replace(&mut bucket.next, NONE);
        self.overflow_free = next;
        number
    }

    fn give_overflow(&mut self, number: u32) {
        let next = self.overflow_free;
        *self.bucket_mut(number) = Bucket { next, ..EMPTY };
        self.overflow_free = number;
    }

    /// Removes the slot at `at`, which is in the chain of `hash`: the chain's last slot takes its place.
    pub(crate) fn remove(&mut self, hash: u64, at: Position) {
        let (mut before, mut last) = (NONE, self.home(hash));
        while self.bucket(last).next != NONE {
            before = last;
            last = self.bucket(last).next;
        }
        let bucket = self.bucket_mut(last);
        let filled = bucket
            .tags
            .iter()
            .position(|tag| *tag == 0)
            .unwrap_or(SLOTS);
        assert!(
            filled > 0,
            "a chain's last bucket is never empty, unless it is its only one"
        );
        let (tag, location) = (bucket.tags[filled - 1], bucket.locations[filled - 1]);
        bucket.tags[filled - 1] = 0;
        bucket.locations[filled - 1] = NONE;
        if (last, filled - 1) != (at.bucket, usize::from(at.slot)) {
            let hole = self.bucket_mut(at.bucket);
            hole.tags[usize::from(at.slot)] = tag;
            hole.locations[usize::from(at.slot)] = location;
        }
        if filled == 1 && before != NONE {
            self.bucket_mut(before).next = NONE;
            self.give_overflow(last);
        }
        self.count -= 1;
    }

    /// Splits one bucket.
    fn grow(&mut self, hash_of: impl Fn(u32) -> u64) {
        if self.level >= 30 {
            return;
        }
        if self.bucket_count() as usize == self.blocks.len() * BLOCK {
            self.blocks.push(block());
        }
        let from = self.split;
        let mut moved: Vec<(u16, u32)> = Vec::with_capacity(2 * SLOTS);
        let mut number = from;
        while number != NONE {
            let bucket = *self.bucket(number);
            moved.extend(
                bucket
                    .tags
                    .iter()
                    .copied()
                    .zip(bucket.locations)
                    .filter(|(tag, _)| *tag != 0),
            );
            if number == from {
                *self.bucket_mut(number) = EMPTY;
            } else {
                self.give_overflow(number);
            }
            number = bucket.next;
        }
        self.split += 1;
        if self.split == 1 << self.level {
            self.split = 0;
            self.level += 1;
        }
        for (tag, location) in moved {
            let home = self.home(hash_of(location));
            self.push(home, tag, location);
        }
    }

    /// The locations in the chain of bucket `number`.
    pub(crate) fn chain(&self, number: u32) -> impl Iterator<Item = u32> {
        let mut next = number;
        std::iter::from_fn(move || {
            let bucket = (next != NONE).then(|| self.bucket(next))?;
            next = bucket.next;
            Some(bucket)
        })
        .flat_map(|bucket| {
            bucket
                .tags
                .iter()
                .zip(bucket.locations)
                .filter(|(tag, _)| **tag != 0)
                .map(|(_, location)| location)
        })
    }
}
