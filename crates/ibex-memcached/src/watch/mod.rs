//! Log streams for `watch`: what workers do, line by line, to connections that asked for it.
//!
//! ```text
//! worker ─line─▶ Ring (its own, bounded) ─┐ every few ms          ┌▶ Watcher (bounded) ─wake─▶ its worker ─▶ socket
//! worker ─line─▶ Ring                    ─┴▶ hub thread, by gid ──┴▶ Watcher
//! ```
//! Nobody waits for a watcher: a full ring drops the line (`log_worker_dropped`), a full watcher's buffer too (`log_watcher_skipped`), and the next line
//! it gets is preceded by `skipped=<n>`. Without watchers a worker pays one relaxed load per lookup. What the lines say is in [`lines`].

pub(crate) mod lines;

use ibex_kit::Heartbeat;
use mio::Waker;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Watchers at one time, the original's.
const WATCHERS_MAX: usize = 20;
/// Bytes reckoned for a line beside its text.
const LINE_OVERHEAD_BYTES: usize = 48;
/// The hub's pause while somebody watches: short enough for rings of 64 KiB to take tens of thousands of lines a second.
const TICK: Duration = Duration::from_millis(2);
/// The hub's pause while nobody watches.
const IDLE: Duration = Duration::from_millis(500);

/// Kinds of lines, a set of bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Kinds(u16);

impl Kinds {
    pub(crate) const FETCHERS: Self = Self(1);
    pub(crate) const MUTATIONS: Self = Self(2);
    pub(crate) const EVICTIONS: Self = Self(4);
    pub(crate) const CONNEVENTS: Self = Self(8);
    pub(crate) const DELETIONS: Self = Self(16);
    /// Kinds that are taken and of which this daemon has none.
    const NONE_HERE: Self = Self(32);

    /// The kinds named by the words of `watch`; `None` if one is unknown. No word means fetchers.
    pub(crate) fn parse<'a>(words: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let mut kinds = Self(0);
        for word in words {
            kinds.0 |= match word {
                b"fetchers" => Self::FETCHERS,
                b"mutations" => Self::MUTATIONS,
                b"evictions" => Self::EVICTIONS,
                b"connevents" => Self::CONNEVENTS,
                b"deletions" => Self::DELETIONS,
                b"sysevents" | b"rawcmds" | b"proxyreqs" | b"proxyevents" | b"proxyuser" => {
                    Self::NONE_HERE
                }
                _ => return None,
            }
            .0;
        }
        Some(if kinds.0 == 0 { Self::FETCHERS } else { kinds })
    }
}

#[derive(Debug)]
struct Line {
    gid: u64,
    kinds: Kinds,
    text: Vec<u8>,
}

/// Lines of one thread on their way to the hub. The hub holds the lock only to take them all.
#[derive(Debug, Default)]
pub(crate) struct Ring(Mutex<Lines>);

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<Line>,
    bytes: usize,
}

/// One watcher's buffer.
#[derive(Debug)]
pub(crate) struct Watcher {
    kinds: Kinds,
    buffer: Mutex<Buffer>,
    /// Wakes the worker that has the connection.
    waker: Arc<Waker>,
}

#[derive(Debug, Default)]
struct Buffer {
    text: Vec<u8>,
    skipped: u64,
}

/// A watcher's place; free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    hub: Arc<Hub>,
    watcher: Arc<Watcher>,
}

impl Seat {
    /// Moves the waiting lines to `out`.
    pub(crate) fn take(&self, out: &mut Vec<u8>) {
        out.append(&mut lock(&self.watcher.buffer).text);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut watchers = lock(&self.hub.watchers);
        watchers.retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
        self.hub.note_watchers(&watchers);
    }
}

/// What is counted for `stats`.
#[derive(Debug, Default)]
pub(crate) struct WatchNumbers {
    /// Lines lost because a ring was full.
    pub(crate) dropped: AtomicU64,
    /// Lines that came to a ring.
    pub(crate) written: AtomicU64,
    /// Lines lost because a watcher's buffer was full.
    pub(crate) skipped: AtomicU64,
    /// Lines that came to a watcher's buffer.
    pub(crate) sent: AtomicU64,
}

/// Where lines come together.
#[derive(Debug)]
pub(crate) struct Hub {
    /// All kinds somebody watches.
    mask: AtomicU16,
    count: AtomicUsize,
    gid: AtomicU64,
    watchers: Mutex<Vec<Arc<Watcher>>>,
    ring_max: usize,
    buffer_max: usize,
    thread: OnceLock<Thread>,
    pub(crate) numbers: WatchNumbers,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// `ring_max` and `buffer_max` bound the lines of a worker and of a watcher, in bytes.
    pub(crate) fn new(ring_max: usize, buffer_max: usize) -> Arc<Self> {
        Arc::new(Self {
            mask: AtomicU16::new(0),
            count: AtomicUsize::new(0),
            gid: AtomicU64::new(0),
            watchers: Mutex::default(),
            ring_max,
            buffer_max,
            thread: OnceLock::new(),
            numbers: WatchNumbers::default(),
        })
    }

    /// Whether somebody wants to see lines of this kind.
    #[inline]
    pub(crate) fn wants(&self, kinds: Kinds) -> bool {
        self.mask.load(Ordering::Relaxed) & kinds.0 != 0
    }

    /// Watchers now.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Bytes of a watcher's buffer at most.
    pub(crate) fn buffer_max(&self) -> usize {
        self.buffer_max
    }

    /// Bytes of a worker's lines at most.
    pub(crate) fn ring_max(&self) -> usize {
        self.ring_max
    }

    fn note_watchers(&self, watchers: &[Arc<Watcher>]) {
        let mask = watchers
            .iter()
            .fold(0, |mask, watcher| mask | watcher.kinds.0);
        self.mask.store(mask, Ordering::Relaxed);
        self.count.store(watchers.len(), Ordering::Relaxed);
    }

    /// A place for a watcher, unless all are taken.
    pub(crate) fn join(self: &Arc<Self>, kinds: Kinds, waker: &Arc<Waker>) -> Option<Seat> {
        let mut watchers = lock(&self.watchers);
        if watchers.len() >= WATCHERS_MAX {
            return None;
        }
        let watcher = Arc::new(Watcher {
            kinds,
            buffer: Mutex::default(),
            waker: Arc::clone(waker),
        });
        watchers.push(Arc::clone(&watcher));
        self.note_watchers(&watchers);
        drop(watchers);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
        Some(Seat {
            hub: Arc::clone(self),
            watcher,
        })
    }

    /// Puts a line into the ring, with time and number in front, if there is room.
    #[cold]
    pub(crate) fn emit(&self, ring: &Ring, kinds: Kinds, write: impl FnOnce(&mut Vec<u8>)) {
        let mut ring = lock(&ring.0);
        if ring.bytes >= self.ring_max {
            self.numbers.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let gid = self.gid.fetch_add(1, Ordering::Relaxed) + 1;
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut text = Vec::with_capacity(128);
        lines::head(&mut text, since, gid);
        write(&mut text);
        text.push(b'\n');
        ring.bytes += text.len() + LINE_OVERHEAD_BYTES;
        ring.lines.push(Line { gid, kinds, text });
        self.numbers.written.fetch_add(1, Ordering::Relaxed);
    }

    fn deliver(&self, lines: &[Line]) {
        for watcher in lock(&self.watchers).iter() {
            let mut buffer = lock(&watcher.buffer);
            let had = buffer.text.len();
            for line in lines
                .iter()
                .filter(|line| line.kinds.0 & watcher.kinds.0 != 0)
            {
                if buffer.text.len() + line.text.len() > self.buffer_max {
                    buffer.skipped += 1;
                    self.numbers.skipped.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let skipped = std::mem::take(&mut buffer.skipped);
                if skipped > 0 {
                    buffer
                        .text
                        .extend_from_slice(format!("skipped={skipped}\n").as_bytes());
                }
                buffer.text.extend_from_slice(&line.text);
                self.numbers.sent.fetch_add(1, Ordering::Relaxed);
            }
            let has_news = buffer.text.len() > had;
            drop(buffer);
            if has_news && let Err(error) = watcher.waker.wake() {
                tracing::warn!(%error, "watcher's worker was not woken");
            }
        }
    }

    /// The hub thread: collects lines and hands them out until `is_stopping`. `poll` is called in each turn, for lines that no worker makes.
    pub(crate) fn run<'r>(
        &self,
        rings: impl Fn() -> Vec<&'r Ring>,
        mut poll: impl FnMut(),
        is_stopping: impl Fn() -> bool,
        heartbeat: &Heartbeat,
    ) {
        // Set once, by the only thread there is.
        let _first = self.thread.set(std::thread::current()).is_ok();
        let rings = rings();
        while !is_stopping() {
            heartbeat.beat();
            poll();
            let mut lines: Vec<Line> = Vec::new();
            for ring in &rings {
                let mut taken = std::mem::take(&mut *lock(&ring.0));
                lines.append(&mut taken.lines);
            }
            lines.sort_unstable_by_key(|line| line.gid);
            if !lines.is_empty() {
                self.deliver(&lines);
            }
            std::thread::park_timeout(if self.count() > 0 { TICK } else { IDLE });
        }
    }
}

/// Whether the store was told to remember evicted items, so that it is told only when that changes.
#[derive(Debug, Default)]
pub(crate) struct EvictionsWatched(AtomicBool);

impl EvictionsWatched {
    /// Notes the wish; whether it is a new one.
    pub(crate) fn changes_to(&self, wanted: bool) -> bool {
        self.0.swap(wanted, Ordering::Relaxed) != wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(ring_max: usize, buffer_max: usize) -> (Arc<Hub>, Ring, Arc<Waker>, mio::Poll) {
        let poll = mio::Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), mio::Token(0)).unwrap());
        (Hub::new(ring_max, buffer_max), Ring::default(), waker, poll)
    }

    fn drain(hub: &Hub, ring: &Ring) {
        let taken = std::mem::take(&mut *lock(&ring.0));
        hub.deliver(&taken.lines);
    }

    #[test]
    fn words() {
        let parse =
            |text: &'static str| Kinds::parse(text.split_ascii_whitespace().map(str::as_bytes));
        assert_eq!(parse(""), Some(Kinds::FETCHERS));
        assert_eq!(parse("mutations evictions"), Some(Kinds(6)));
        assert_eq!(parse("proxyreqs sysevents rawcmds"), Some(Kinds::NONE_HERE));
        assert_eq!(parse("fetchers nonsense"), None);
    }

    #[test]
    fn each_watcher_gets_its_kinds() {
        let (hub, ring, waker, _poll) = hub(1 << 16, 1 << 16);
        assert!(!hub.wants(Kinds::FETCHERS));
        let fetchers = hub.join(Kinds::FETCHERS, &waker).unwrap();
        let both = hub.join(Kinds(3), &waker).unwrap();
        assert!(
            hub.wants(Kinds::FETCHERS)
                && hub.wants(Kinds::MUTATIONS)
                && !hub.wants(Kinds::EVICTIONS)
        );
        hub.emit(&ring, Kinds::FETCHERS, |out| out.extend_from_slice(b"one"));
        hub.emit(&ring, Kinds::MUTATIONS, |out| out.extend_from_slice(b"two"));
        drain(&hub, &ring);
        let text = |seat: &Seat| {
            let mut out = Vec::new();
            seat.take(&mut out);
            String::from_utf8(out).unwrap()
        };
        let (one, two) = (text(&fetchers), text(&both));
        assert!(
            one.starts_with("ts=") && one.ends_with(" gid=1 one\n"),
            "{one}"
        );
        assert_eq!(two.lines().count(), 2);
        assert!(two.ends_with(" gid=2 two\n"));
        drop((fetchers, both));
        assert!(!hub.wants(Kinds::FETCHERS));
        assert_eq!(hub.count(), 0);
    }

    #[test]
    fn full_rings_and_buffers_drop_and_say_so() {
        let (hub, ring, waker, _poll) = hub(1000, 100);
        let seat = hub.join(Kinds::FETCHERS, &waker).unwrap();
        for _ in 0..100 {
            hub.emit(&ring, Kinds::FETCHERS, |out| out.extend_from_slice(b"line"));
        }
        let written = hub.numbers.written.load(Ordering::Relaxed);
        assert_eq!(written + hub.numbers.dropped.load(Ordering::Relaxed), 100);
        assert!((5..20).contains(&written), "{written}");
        drain(&hub, &ring);
        let (sent, skipped) = (&hub.numbers.sent, &hub.numbers.skipped);
        let skipped = skipped.load(Ordering::Relaxed);
        assert_eq!(sent.load(Ordering::Relaxed) + skipped, written);
        let mut out = Vec::new();
        seat.take(&mut out);
        assert!(out.len() <= 100);
        hub.emit(&ring, Kinds::FETCHERS, |out| out.extend_from_slice(b"next"));
        drain(&hub, &ring);
        let mut out = Vec::new();
        seat.take(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with(&format!("skipped={skipped}\nts=")),
            "{text}"
        );
    }

    #[test]
    fn places_are_bounded() {
        let (hub, _ring, waker, _poll) = hub(1000, 1000);
        let mut seats: Vec<_> = (0..WATCHERS_MAX)
            .map(|_| hub.join(Kinds::FETCHERS, &waker).unwrap())
            .collect();
        assert!(hub.join(Kinds::FETCHERS, &waker).is_none());
        seats.pop();
        assert!(hub.join(Kinds::FETCHERS, &waker).is_some());
    }
}
