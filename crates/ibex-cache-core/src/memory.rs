//! Segments: equal blocks of memory that hold items or cells, and the list of free ones.
//!
//! Knows how much memory segments take and which are free; what lies in them and who goes when is the business of [`crate::evict`].

/// Cells of a segment; their use is a `u64`.
pub(crate) const CELLS: u32 = 64;

/// What a segment is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Nothing; its memory may or may not be there.
    Free,
    /// Items are being written to it.
    Open,
    /// Items, in the order of eviction under this number.
    Sealed(u64),
    /// Items are being moved out; it is freed right after.
    Evacuating,
    /// Cells of big values.
    Cells,
}

/// One block of memory.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) buf: Box<[u8]>,
    pub(crate) usage: Use,
    /// Bytes written, dead ones included.
    pub(crate) used: u32,
    pub(crate) live_bytes: u32,
    pub(crate) live_items: u32,
    /// No item of it ends before this second; `u32::MAX` if none ends.
    pub(crate) next_expiry: u32,
    /// Age for the order of eviction, taken when it was opened.
    pub(crate) born: u64,
    /// Bit set: that cell is free.
    pub(crate) cells_free: u64,
    /// The bytes are still those of items that were flushed.
    pub(crate) is_flushed: bool,
    /// Owners of the cells in use: big value and position in it.
    pub(crate) owners: Vec<(u32, u32)>,
}

impl Segment {
    fn new(bytes: usize) -> Self {
        Self {
            buf: vec![0; bytes].into_boxed_slice(),
            usage: Use::Free,
            used: 0,
            live_bytes: 0,
            live_items: 0,
            next_expiry: u32::MAX,
            born: 0,
            cells_free: 0,
            is_flushed: false,
            owners: Vec::new(),
        }
    }

    pub(crate) fn cells_used(&self) -> u32 {
        CELLS - self.cells_free.count_ones()
    }
}

/// A cell: one 64th of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell(pub(crate) u32);

impl Cell {
    pub(crate) fn new(segment: u32, slot: u32) -> Self {
        Self(segment * CELLS + slot)
    }

    pub(crate) fn segment(self) -> u32 {
        self.0 / CELLS
    }

    pub(crate) fn slot(self) -> u32 {
        self.0 % CELLS
    }

    fn range(self, segment_bytes: usize) -> std::ops::Range<usize> {
        let bytes = segment_bytes / CELLS as usize;
        let start = self.slot() as usize * bytes;
        start..start + bytes
    }

    pub(crate) fn bytes(self, segments: &[Segment]) -> &[u8] {
        let buf = &segments[self.segment() as usize].buf;
        &buf[self.range(buf.len())]
    }

    pub(crate) fn bytes_mut(self, segments: &mut [Segment]) -> &mut [u8] {
        let buf = &mut segments[self.segment() as usize].buf;
        let range = self.range(buf.len());
        &mut buf[range]
    }
}

/// All segments of a shard.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) segments: Vec<Segment>,
    /// Free segments with memory.
    pub(crate) free: Vec<u32>,
    /// Numbers whose memory was given back.
    vacant: Vec<u32>,
    pub(crate) segment_bytes: usize,
    /// Bits of a location that count within a segment.
    offset_bits: u32,
}

impl Memory {
    /// `segment_bytes` is a power of two.
    pub(crate) fn new(segment_bytes: usize) -> Self {
        assert!(
            segment_bytes.is_power_of_two() && segment_bytes >= 4096,
            "segments are powers of two"
        );
        let offset_bits = (segment_bytes / crate::item::ALIGN_BYTES).trailing_zeros();
        Self {
            segments: Vec::new(),
            free: Vec::new(),
            vacant: Vec::new(),
            segment_bytes,
            offset_bits,
        }
    }

    /// Bytes of all segments that have memory.
    pub(crate) fn bytes(&self) -> usize {
        (self.segments.len() - self.vacant.len()) * self.segment_bytes
    }

    pub(crate) fn location(&self, segment: u32, offset: usize) -> u32 {
        let units =
            u32::try_from(offset / crate::item::ALIGN_BYTES).expect("offsets lie within a segment");
        segment << self.offset_bits | units
    }

    pub(crate) fn place(&self, location: u32) -> (u32, usize) {
        let mask = (1_u32 << self.offset_bits) - 1;
        (
            location >> self.offset_bits,
            (location & mask) as usize * crate::item::ALIGN_BYTES,
        )
    }

    /// The bytes from `location` to the end of its segment.
    pub(crate) fn tail(&self, location: u32) -> &[u8] {
        let (segment, offset) = self.place(location);
        &self.segments[segment as usize].buf[offset..]
    }

    pub(crate) fn tail_mut(&mut self, location: u32) -> &mut [u8] {
        let (segment, offset) = self.place(location);
        &mut self.segments[segment as usize].buf[offset..]
    }

    pub(crate) fn segment(&self, number: u32) -> &Segment {
        &self.segments[number as usize]
    }

    pub(crate) fn segment_mut(&mut self, number: u32) -> &mut Segment {
        &mut self.segments[number as usize]
    }

    /// Adds a free segment with memory; the caller has checked the limit. Fails when locations are used up.
    pub(crate) fn grow(&mut self) -> bool {
        let number = match self.vacant.pop() {
            Some(number) => number,
            None => {
                let Ok(number) = u32::try_from(self.segments.len()) else {
                    return false;
                };
                // The last segment's number is left out: its last location would equal the index's mark for none.
                if number >= (u32::MAX >> self.offset_bits) {
                    return false;
                }
                self.segments.push(Segment::new(0));
                number
            }
        };
        self.segments[number as usize] = Segment::new(self.segment_bytes);
        self.free.push(number);
        true
    }

    /// Takes a segment off the free list.
    pub(crate) fn take_free(&mut self) -> Option<u32> {
        let number = self.free.pop()?;
        self.segments[number as usize].is_flushed = false;
        Some(number)
    }

    /// Puts a segment on the free list whose items were flushed.
    pub(crate) fn release_flushed(&mut self, number: u32) {
        let held_items = matches!(self.segment(number).usage, Use::Open | Use::Sealed(_));
        self.release(number);
        self.segments[number as usize].is_flushed = held_items;
    }

    /// Whether a flushed item's bytes still stand at `location`.
    pub(crate) fn is_flushed(&self, location: u32) -> bool {
        let (segment, _) = self.place(location);
        self.segments[segment as usize].is_flushed
    }

    /// Puts a segment on the free list.
    pub(crate) fn release(&mut self, number: u32) {
        let segment = &mut self.segments[number as usize];
        segment.usage = Use::Free;
        segment.used = 0;
        segment.live_bytes = 0;
        segment.live_items = 0;
        segment.next_expiry = u32::MAX;
        segment.cells_free = 0;
        segment.owners = Vec::new();
        self.free.push(number);
    }

    /// Gives the memory of one free segment back to the system.
    pub(crate) fn shrink(&mut self) -> bool {
        let Some(number) = self.take_free() else {
            return false;
        };
        self.segments[number as usize].buf = Box::default();
        self.vacant.push(number);
        true
    }
}
