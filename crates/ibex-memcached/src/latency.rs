//! How long requests take, from their last byte being there to their reply being queued: a histogram per kind of request.
//!
//! One request in [`EVERY`] is timed, which costs the others a counter. Each worker writes its own numbers; `stats latency` adds them up.

use crate::counters::Counter;
use ibex_memcached_proto::binary::Verb;
use ibex_memcached_proto::request::Request;
use std::time::{Duration, Instant};

/// One request in so many is timed and its key looked at.
pub(crate) const EVERY: u64 = 64;
/// Steps within each power of two, so that a bucket is at most an eighth wide.
const STEPS: usize = 8;
/// Buckets: nanoseconds up to 2^36, a minute.
const BUCKETS: usize = 34 * STEPS;

/// Kinds of requests that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Get,
    Store,
    Delete,
    Arithmetic,
    Touch,
    Other,
}

impl Kind {
    /// All, with their names in the statistics.
    pub(crate) const ALL: [(Self, &'static str); 6] = [
        (Self::Get, "get"),
        (Self::Store, "store"),
        (Self::Delete, "delete"),
        (Self::Arithmetic, "arithmetic"),
        (Self::Touch, "touch"),
        (Self::Other, "other"),
    ];

    /// Kind and first key of a text request.
    pub(crate) fn of_request<'a>(request: &Request<'a>) -> (Self, Option<&'a [u8]>) {
        match request {
            Request::Get { keys, .. } => (Self::Get, keys.clone().next()),
            Request::GetAndTouch { keys, .. } => (Self::Touch, keys.clone().next()),
            Request::MetaGet(get) => (Self::Get, Some(get.key.wire)),
            Request::Store(line) => (Self::Store, Some(line.key)),
            Request::MetaStore(store) => (Self::Store, Some(store.key.wire)),
            Request::Delete { key, .. } => (Self::Delete, Some(key)),
            Request::MetaDelete(delete) => (Self::Delete, Some(delete.key.wire)),
            Request::Arithmetic { key, .. } => (Self::Arithmetic, Some(key)),
            Request::MetaArithmetic(arithmetic) => (Self::Arithmetic, Some(arithmetic.key.wire)),
            Request::Touch { key, .. } => (Self::Touch, Some(key)),
            Request::FlushAll { .. }
            | Request::Version
            | Request::Verbosity { .. }
            | Request::Quit
            | Request::Shutdown(_)
            | Request::CacheMemlimit { .. }
            | Request::MetaNoop
            | Request::MetaDebug(_)
            | Request::Admin { .. } => (Self::Other, None),
        }
    }

    /// Kind of a packet.
    pub(crate) fn of_packet(verb: Verb) -> Self {
        match verb {
            Verb::Get | Verb::GetKey => Self::Get,
            Verb::Set | Verb::Add | Verb::Replace | Verb::Append | Verb::Prepend => Self::Store,
            Verb::Delete => Self::Delete,
            Verb::Increment | Verb::Decrement => Self::Arithmetic,
            Verb::Touch | Verb::GetAndTouch | Verb::GetAndTouchKey => Self::Touch,
            Verb::Quit
            | Verb::Flush
            | Verb::Noop
            | Verb::Version
            | Verb::Stat
            | Verb::SaslMechanisms
            | Verb::SaslAuth
            | Verb::SaslStep => Self::Other,
        }
    }
}

/// Counts of durations.
#[derive(Debug)]
struct Histogram {
    buckets: [Counter; BUCKETS],
    max_nanos: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Counter::default()),
            max_nanos: Counter::default(),
        }
    }
}

/// The bucket of a duration: its power of two, and an eighth of that.
fn bucket(nanos: u64) -> usize {
    let nanos = nanos.max(STEPS as u64);
    let power = nanos.ilog2();
    let step = (nanos >> (power - 3)) & 7;
    ((power as usize - 3) * STEPS + step as usize).min(BUCKETS - 1)
}

/// The longest duration of a bucket, in nanoseconds.
fn upper(bucket: usize) -> u64 {
    let (power, step) = (bucket / STEPS, bucket % STEPS);
    (STEPS as u64 + step as u64 + 1) << power
}

/// One worker's histograms.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    tick: Counter,
    kinds: [Histogram; Kind::ALL.len()],
}

impl Latencies {
    /// When a request begins: the time, if it is one that is timed.
    #[inline]
    pub(crate) fn begin(&self) -> Option<Instant> {
        self.tick.add(1);
        self.tick.value().is_multiple_of(EVERY).then(Instant::now)
    }

    /// When it has been answered.
    pub(crate) fn end(&self, kind: Kind, elapsed: Duration) {
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        let histogram = &self.kinds[kind as usize];
        histogram.buckets[bucket(nanos)].add(1);
        histogram.max_nanos.raise(nanos);
    }
}

/// What a histogram of all workers comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Requests that were timed.
    pub(crate) count: u64,
    /// Nanoseconds that half, nine tenths, 99 and 99.9 percent of them took at most, to an eighth.
    pub(crate) quantiles: [u64; 4],
    /// Nanoseconds of the longest.
    pub(crate) max: u64,
}

/// The requests of one kind, of all workers since the start.
pub(crate) fn summary<'a>(
    workers: impl Iterator<Item = &'a Latencies> + Clone,
    kind: Kind,
) -> Summary {
    let histograms = workers.map(|worker| &worker.kinds[kind as usize]);
    let mut buckets = [0_u64; BUCKETS];
    for histogram in histograms.clone() {
        for (sum, counter) in buckets.iter_mut().zip(&histogram.buckets) {
            *sum += counter.value();
        }
    }
    let count: u64 = buckets.iter().sum();
    let max = histograms
        .map(|histogram| histogram.max_nanos.value())
        .max()
        .unwrap_or(0);
    let quantiles = [500, 900, 990, 999].map(|permille| {
        let wanted = (count * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        let found = buckets.iter().position(|bucket| {
            seen += bucket;
            seen >= wanted
        });
        found.map_or(0, |found| upper(found).min(max))
    });
    Summary {
        count,
        quantiles,
        max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_durations() {
        let mut last = 0;
        for nanos in (8..100_000).chain([1 << 30, 1 << 36, u64::MAX]) {
            let found = bucket(nanos);
            assert!(found >= last && found < BUCKETS, "{nanos}");
            last = found;
            if nanos < 1 << 36 {
                assert!(
                    nanos < upper(found) && nanos * 9 >= upper(found) * 8 - 72,
                    "{nanos}"
                );
            }
        }
    }

    #[test]
    fn quantiles_of_several_workers() {
        let workers = [Latencies::default(), Latencies::default()];
        for (at, n) in (1..=1000).enumerate() {
            let worker = &workers[at % 2];
            worker.end(Kind::Get, Duration::from_micros(n));
        }
        let Summary {
            count,
            quantiles,
            max,
        } = summary(workers.iter(), Kind::Get);
        assert_eq!((count, max), (1000, 1_000_000));
        for (found, exact) in quantiles
            .into_iter()
            .zip([500_000, 900_000, 990_000, 999_000])
        {
            assert!(found >= exact && found * 8 <= exact * 9, "{found} {exact}");
        }
        let none = summary(workers.iter(), Kind::Touch);
        assert_eq!((none.count, none.quantiles, none.max), (0, [0; 4], 0));
    }

    #[test]
    fn one_in_64_is_timed() {
        let worker = Latencies::default();
        let timed = (0..640).filter(|_| worker.begin().is_some()).count();
        assert_eq!(timed, 10);
    }
}
