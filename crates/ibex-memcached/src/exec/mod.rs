//! Requests carried out: one function per verb, each locks one shard at a time and appends its reply.
//!
//! Knows the store and the wire texts; sockets, buffers and data blocks are [`crate::conn`]'s. Commands that touch many items
//! ([`Job`]) run in steps so that neither the output of one client nor the lock of one shard grows large.

mod admin_text;
pub(crate) mod binary;
mod classic;
mod dump;
mod meta;
mod sizes;
mod watched;
pub(crate) mod write;

use crate::PROTOCOL_VERSION;
use crate::counters::Counters;
use crate::namespaces::Refused;
use crate::register::PrefixCounts;
use crate::shared::Shared;
use crate::stats;
use crate::watch::{Kinds, Ring};
use ibex_memcached_proto::line::Words;
use ibex_memcached_proto::meta::StoreMode;
use ibex_memcached_proto::request::{AdminVerb, Answer, Request, ShutdownMode, StoreVerb};
use ibex_memcached_proto::texts;
use std::sync::atomic::Ordering;

pub(crate) use dump::Dump;
pub(crate) use sizes::Sizes;

/// Megabytes a limit may be set to at run time.
const MEMLIMIT_MEGABYTES: std::ops::RangeInclusive<u64> = 8..=1_000_000_000;
/// Highest verbosity that is kept.
const VERBOSITY_MAX: u64 = 2;

/// What a request needs to be carried out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cx<'w> {
    pub(crate) shared: &'w Shared,
    pub(crate) counters: &'w Counters,
    /// Where lines for those who watch go.
    pub(crate) ring: &'w Ring,
    /// Descriptor of the client, for those lines.
    pub(crate) fd: i32,
    pub(crate) now: u32,
}

impl Cx<'_> {
    /// The cas number for an item about to be stored.
    fn next_cas(&self) -> u64 {
        if self.shared.config.no_cas {
            0
        } else {
            self.shared.store.next_cas()
        }
    }

    /// Counts for `stats detail`.
    #[inline]
    fn detail(&self, key: &[u8], change: impl FnOnce(&mut PrefixCounts)) {
        let delimiter = self
            .shared
            .config
            .prefix_delimiter
            .as_bytes()
            .first()
            .copied()
            .unwrap_or(b':');
        self.shared.details.count(key, delimiter, change);
    }

    fn expiry(&self, exptime: i64) -> u32 {
        self.shared.clock.expiry(self.now, exptime)
    }

    /// Whether an item of this size is over the limit.
    pub(crate) fn is_too_large(&self, key_bytes: usize, value_bytes: usize, flags: u32) -> bool {
        ibex_cache_core::classic_size(key_bytes, value_bytes, flags) as u64
            > self.shared.config.item_size_max.bytes()
    }
}

/// How a read shows and treats its items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadMode {
    Get,
    Gets,
    Touch(u32),
    TouchWithCas(u32),
}

/// Work that goes on over several turns.
#[derive(Debug)]
pub(crate) enum Job {
    /// The keys of a multi-get that are left.
    Read {
        mode: ReadMode,
        keys: Vec<u8>,
        at: usize,
    },
    /// A dump of all keys.
    Dump(Dump),
    /// `stats sizes`.
    Sizes(Sizes),
}

/// What the connection does after a request.
#[derive(Debug)]
pub(crate) enum After {
    Continue,
    Close,
    Start(Job),
    /// The connection becomes a log stream.
    Watch(Kinds),
}

impl Job {
    /// Does a step; `true` when all is done.
    pub(crate) fn step(&mut self, cx: &Cx<'_>, out: &mut Vec<u8>, out_max: usize) -> bool {
        match self {
            Self::Read { mode, keys, at } => {
                let rest = keys.get(*at..).unwrap_or_default();
                let left = classic::read(cx, *mode, rest, out, out_max);
                *at = keys.len() - left;
                left == 0
            }
            Self::Dump(dump) => dump.step(cx, out, out_max),
            Self::Sizes(sizes) => sizes.step(cx, out),
        }
    }
}

/// Length of the data block a request has, without CRLF.
pub(crate) fn block_bytes(request: &Request<'_>) -> Option<usize> {
    match request {
        Request::Store(line) => Some(line.value_bytes),
        Request::MetaStore(store) => Some(store.value_bytes),
        Request::Get { .. }
        | Request::GetAndTouch { .. }
        | Request::Delete { .. }
        | Request::Arithmetic { .. }
        | Request::Touch { .. }
        | Request::FlushAll { .. }
        | Request::Version
        | Request::Verbosity { .. }
        | Request::Quit
        | Request::Shutdown(_)
        | Request::CacheMemlimit { .. }
        | Request::MetaGet(_)
        | Request::MetaDelete(_)
        | Request::MetaArithmetic(_)
        | Request::MetaNoop
        | Request::MetaDebug(_)
        | Request::Admin { .. } => None,
    }
}

/// What is not to be had in a datagram, whose sender can be forged: streams, and stopping the daemon.
pub(crate) fn needs_connection(request: &Request<'_>) -> bool {
    matches!(
        request,
        Request::Shutdown(_)
            | Request::Admin {
                verb: AdminVerb::Watch,
                ..
            }
    )
}

/// Whether the item is over the size limit, before its data block is read. A value it would have replaced is removed: a stale one must not survive.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only requests with a data block have a size"
)]
pub(crate) fn refuse_too_large(cx: &Cx<'_>, request: &Request<'_>) -> Option<Answer> {
    let mut scratch = [0; ibex_memcached_proto::meta::DECODED_KEY_BYTES_MAX];
    let (asked, replaces, answer) = match request {
        Request::Store(line) => (
            classic::asked(cx, line),
            line.verb == StoreVerb::Set,
            line.answer,
        ),
        Request::MetaStore(store) => {
            let key = store.key.bytes(&mut scratch)?;
            let asked = meta::asked(cx, key, store);
            (asked, store.mode == StoreMode::Set, Answer::Wanted)
        }
        _ => return None,
    };
    if !cx.is_too_large(asked.key.len(), asked.value_bytes, asked.flags) {
        return None;
    }
    cx.counters.store_too_large.add(1);
    cx.show_store(|| asked, texts::TOO_LARGE);
    if replaces {
        classic::remove(cx, asked.key);
    }
    Some(answer)
}

/// Carries out a request. `block` is its data block, empty for those without.
pub(crate) fn execute(
    cx: &Cx<'_>,
    request: &Request<'_>,
    block: &[u8],
    out: &mut Vec<u8>,
    out_max: usize,
) -> After {
    match request {
        Request::Get { with_cas, keys } => {
            let mode = classic::get_mode(*with_cas);
            return read_or_start(cx, mode, keys.rest(), out, out_max);
        }
        Request::GetAndTouch {
            with_cas,
            exptime,
            keys,
        } => {
            let mode = classic::touch_mode(*with_cas, cx.expiry(*exptime));
            return read_or_start(cx, mode, keys.rest(), out, out_max);
        }
        Request::MetaGet(get) => meta::get(cx, get, out),
        Request::Store(line) => answer(line.answer, out, classic::store(cx, line, block)),
        Request::MetaStore(store) => meta::store(cx, store, block, out),
        Request::Delete {
            key,
            answer: wanted,
        } => answer(*wanted, out, classic::delete(cx, key)),
        Request::Arithmetic {
            direction,
            key,
            delta,
            answer: wanted,
        } => classic::arithmetic(cx, *direction, key, *delta, *wanted, out),
        Request::Touch {
            key,
            exptime,
            answer: wanted,
        } => answer(*wanted, out, classic::touch(cx, key, *exptime)),
        Request::MetaDelete(delete) => meta::delete(cx, delete, out),
        Request::MetaArithmetic(arithmetic) => meta::arithmetic(cx, arithmetic, out),
        Request::MetaNoop => out.extend_from_slice(texts::META_MN),
        Request::MetaDebug(debug) => meta::debug(cx, debug, out),
        Request::FlushAll {
            delay,
            answer: wanted,
        } => answer(*wanted, out, flush_all(cx, *delay)),
        Request::Version => {
            out.extend_from_slice(b"VERSION ");
            out.extend_from_slice(PROTOCOL_VERSION.as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        Request::Verbosity {
            level,
            answer: wanted,
        } => {
            let level = u32::try_from((*level).min(VERBOSITY_MAX)).unwrap_or(u32::MAX);
            cx.shared.live.verbosity.store(level, Ordering::Relaxed);
            answer(*wanted, out, texts::OK);
        }
        Request::Quit => return After::Close,
        Request::Shutdown(mode) => return shutdown(cx, *mode, out),
        Request::CacheMemlimit {
            megabytes,
            answer: wanted,
        } => answer(*wanted, out, cache_memlimit(cx, *megabytes)),
        Request::Admin { verb, words } => return admin(cx, *verb, words.rest(), out),
    }
    After::Continue
}

fn answer(wanted: Answer, out: &mut Vec<u8>, text: &[u8]) {
    if wanted == Answer::Wanted {
        out.extend_from_slice(text);
    }
}

fn read_or_start(
    cx: &Cx<'_>,
    mode: ReadMode,
    keys: &[u8],
    out: &mut Vec<u8>,
    out_max: usize,
) -> After {
    let left = classic::read(cx, mode, keys, out, out_max);
    if left == 0 {
        return After::Continue;
    }
    let rest = keys.get(keys.len() - left..).unwrap_or_default().to_vec();
    After::Start(Job::Read {
        mode,
        keys: rest,
        at: 0,
    })
}

fn flush_all(cx: &Cx<'_>, delay: Option<i64>) -> &'static [u8] {
    if cx.shared.config.no_flush_all {
        return texts::FLUSH_DISABLED;
    }
    cx.counters.cmd_flush.add(1);
    flush(cx, delay.unwrap_or(0));
    texts::OK
}

/// Flushes now, or makes an appointment.
pub(crate) fn flush(cx: &Cx<'_>, delay: i64) {
    let at = (delay > 0).then(|| cx.expiry(delay));
    cx.shared.store.each(|shard| match at {
        Some(at) => shard.flush_later(Some(at)),
        None => shard.flush(),
    });
}

fn shutdown(cx: &Cx<'_>, mode: ShutdownMode, out: &mut Vec<u8>) -> After {
    if !cx.shared.config.shutdown_command {
        out.extend_from_slice(texts::SHUTDOWN_DISABLED);
        return After::Continue;
    }
    match mode {
        ShutdownMode::Graceful => {
            cx.shared.stop_gracefully("shutdown graceful command");
            After::Close
        }
        ShutdownMode::Now => {
            cx.shared.kit.stop("shutdown command");
            After::Close
        }
        ShutdownMode::Unknown => {
            out.extend_from_slice(texts::SHUTDOWN_MODE);
            After::Continue
        }
    }
}

fn cache_memlimit(cx: &Cx<'_>, megabytes: u64) -> &'static [u8] {
    if megabytes < *MEMLIMIT_MEGABYTES.start() {
        return texts::MEMLIMIT_TOO_SMALL;
    }
    if megabytes > *MEMLIMIT_MEGABYTES.end() {
        return texts::MEMLIMIT_TOO_LARGE;
    }
    match usize::try_from(megabytes << 20) {
        Ok(bytes) => {
            cx.shared.store.set_limit(cx.now, bytes);
            texts::OK
        }
        Err(_) => texts::MEMLIMIT_FAILED,
    }
}

/// `ns_invalidate <prefix>`
fn ns_invalidate(cx: &Cx<'_>, words: &[u8]) -> &'static [u8] {
    let mut words = Words::new(words);
    let (Some(prefix), None) = (words.next(), words.next()) else {
        return texts::BAD_FORMAT;
    };
    let last_cas = cx.shared.store.cas();
    match cx.shared.namespaces.invalidate(prefix, last_cas) {
        Ok(()) => texts::OK,
        Err(Refused::Off) => texts::ERROR,
        Err(Refused::Full) => texts::NS_TOO_MANY,
    }
}

/// `watch …`
fn watch(cx: &Cx<'_>, words: &[u8], out: &mut Vec<u8>) -> After {
    let refusal = if cx.shared.config.no_watch {
        texts::WATCH_DISABLED
    } else if !out.is_empty() {
        texts::WATCH_PIPELINED
    } else {
        match Kinds::parse(Words::new(words)) {
            Some(events) => return After::Watch(events),
            None => texts::ERROR,
        }
    };
    out.extend_from_slice(refusal);
    After::Continue
}

fn admin(cx: &Cx<'_>, verb: AdminVerb, words: &[u8], out: &mut Vec<u8>) -> After {
    match verb {
        AdminVerb::Stats if cx.shared.config.track_sizes && words.trim_ascii() == b"sizes" => {
            return After::Start(Job::Sizes(Sizes::default()));
        }
        AdminVerb::Stats => stats::answer(cx, words, out),
        AdminVerb::Slabs => out.extend_from_slice(admin_text::slabs(cx, words)),
        AdminVerb::Lru => out.extend_from_slice(admin_text::lru(cx, words)),
        AdminVerb::LruCrawler => return admin_text::lru_crawler(cx, words, out),
        AdminVerb::Watch => return watch(cx, words, out),
        AdminVerb::RefreshCerts => match cx.shared.refresh_certificates() {
            None => out.extend_from_slice(texts::TLS_DISABLED),
            Some(Ok(())) => out.extend_from_slice(texts::OK),
            Some(Err(error)) => {
                out.extend_from_slice(b"Error loading certificates: ");
                out.extend_from_slice(error.as_bytes());
                out.extend_from_slice(b"\r\n");
            }
        },
        AdminVerb::DebugTime if cx.shared.config.test_hooks => {
            out.extend_from_slice(admin_text::debugtime(cx, words))
        }
        AdminVerb::DebugTime => out.extend_from_slice(texts::ERROR),
        AdminVerb::NamespaceInvalidate => out.extend_from_slice(ns_invalidate(cx, words)),
    }
    After::Continue
}
