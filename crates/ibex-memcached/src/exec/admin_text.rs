//! Operators' text commands: slabs, lru, lru_crawler, debugtime.
//!
//! This store has no slabs and no LRU threads; commands that tune them are checked and answered as the original does and change nothing but what
//! `stats settings` shows.

use super::dump::{Dump, DumpStyle};
use super::{After, Cx, Job};
use crate::shown::{LRU_PERCENT_MAX, Shown};
use ibex_base::ascii::{parse_i64, parse_u64};
use ibex_cache_core::BAND_COUNT_MAX;
use ibex_memcached_proto::line::Words;
use ibex_memcached_proto::texts;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// Longest sleep of the crawler, in microseconds.
const CRAWLER_SLEEP_MAX: u64 = 1_000_000;
/// Range of the automove window.
const AUTOMOVE_WINDOW: std::ops::RangeInclusive<u64> = 3..=1800;

/// `slabs …`
pub(super) fn slabs(cx: &Cx<'_>, words: &[u8]) -> &'static [u8] {
    let mut words = Words::new(words);
    match (words.next(), words.next(), words.next()) {
        (Some(b"reassign"), Some(from), Some(to)) => {
            reassign(cx.shared.store.bands.count(), from, to)
        }
        (Some(b"automove"), Some(word), value) => automove(&cx.shared.live.shown, word, value),
        (Some(b"automove"), None, _) => texts::BAD_FORMAT,
        _ => texts::ERROR,
    }
}

/// `slabs automove …`
fn automove(shown: &Shown, word: &[u8], value: Option<&[u8]>) -> &'static [u8] {
    match (word, value) {
        (b"ratio" | b"freeratio", ratio) => match ratio.and_then(decimal) {
            Some(ratio) if word == b"ratio" => {
                shown.set("slab_automove_ratio", format!("{ratio:.2}"));
                texts::OK
            }
            Some(_) => texts::OK,
            None => texts::ERROR,
        },
        (b"window", window) => match window.and_then(parse_u64) {
            Some(window) if AUTOMOVE_WINDOW.contains(&window) => {
                shown.set("slab_automove_window", window.to_string());
                texts::OK
            }
            Some(_) => texts::AUTOMOVE_WINDOW,
            None => texts::BAD_FORMAT,
        },
        (level, _) => match parse_u64(level) {
            Some(level @ 0..=2) => {
                shown.set("slab_automove", level.to_string());
                texts::OK
            }
            Some(_) => texts::ERROR,
            None => texts::BAD_FORMAT,
        },
    }
}

fn decimal(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn reassign(classes: usize, from: &[u8], to: &[u8]) -> &'static [u8] {
    let (Some(from), Some(to)) = (parse_i64(from), parse_i64(to)) else {
        return texts::BAD_FORMAT;
    };
    let is_class =
        |class: i64| usize::try_from(class).is_ok_and(|class| (1..=classes).contains(&class));
    if from == to {
        return texts::SLABS_SAME;
    }
    // -1 lets the original choose the source, 0 gives the page to all classes.
    if !((to == 0 || is_class(to)) && (from == -1 || is_class(from))) {
        return texts::SLABS_BAD_CLASS;
    }
    texts::OK
}

/// `lru …`
pub(super) fn lru(cx: &Cx<'_>, words: &[u8]) -> &'static [u8] {
    let live = &cx.shared.live;
    // COMPAT(memcached): without its thread, mode and temp_ttl are unknown (proto_text.c, process_lru_command).
    let has_maintainer = cx.shared.config.lru_maintainer;
    let words: Vec<&[u8]> = Words::new(words).collect();
    match words.as_slice() {
        [b"tune", hot, warm, hot_factor, warm_factor, ..] => {
            let numbers = (
                parse_u64(hot),
                parse_u64(warm),
                decimal(hot_factor),
                decimal(warm_factor),
            );
            let (Some(hot), Some(warm), Some(hot_factor), Some(warm_factor)) = numbers else {
                return texts::ERROR;
            };
            if hot.saturating_add(warm) > LRU_PERCENT_MAX {
                return texts::LRU_PERCENT;
            }
            if hot_factor <= 0.0 || warm_factor <= 0.0 {
                return texts::LRU_FACTOR;
            }
            live.shown.set("hot_lru_pct", hot.to_string());
            live.shown.set("warm_lru_pct", warm.to_string());
            live.shown.set("hot_max_factor", format!("{hot_factor:.2}"));
            live.shown
                .set("warm_max_factor", format!("{warm_factor:.2}"));
            texts::OK
        }
        [b"mode", mode @ (b"flat" | b"segmented"), ..] if has_maintainer => {
            live.lru_segmented
                .store(*mode == b"segmented", Ordering::Relaxed);
            texts::OK
        }
        [b"temp_ttl", seconds, ..] if has_maintainer => match parse_i64(seconds) {
            Some(seconds) => {
                live.temp_lru.store(seconds >= 0, Ordering::Relaxed);
                if seconds >= 0 {
                    live.shown.set("temporary_ttl", seconds.to_string());
                }
                texts::OK
            }
            None => texts::ERROR,
        },
        _ => texts::ERROR,
    }
}

/// `lru_crawler …`
pub(super) fn lru_crawler(cx: &Cx<'_>, words: &[u8], out: &mut Vec<u8>) -> After {
    let mut words = Words::new(words);
    let live = &cx.shared.live;
    let text = match (words.next(), words.next()) {
        (Some(b"enable"), _) if live.crawler_enabled.swap(true, Ordering::Relaxed) => {
            texts::CRAWLER_RUNNING
        }
        (Some(b"enable"), _) => texts::OK,
        (Some(b"disable"), _) => {
            live.crawler_enabled.store(false, Ordering::Relaxed);
            texts::OK
        }
        (Some(b"sleep"), Some(micros)) => match parse_u64(micros) {
            None => texts::BAD_FORMAT,
            Some(micros) if micros > CRAWLER_SLEEP_MAX => texts::CRAWLER_SLEEP,
            Some(micros) => {
                live.shown.set("lru_crawler_sleep", micros.to_string());
                texts::OK
            }
        },
        (Some(b"tocrawl"), Some(count)) => match parse_u64(count).map(u32::try_from) {
            Some(Ok(count)) => {
                live.shown.set("lru_crawler_tocrawl", count.to_string());
                texts::OK
            }
            _ => texts::BAD_FORMAT,
        },
        (Some(b"crawl"), Some(ids)) => match classes(ids) {
            Ok(_) => {
                live.crawl.ask();
                texts::OK
            }
            Err(text) => text,
        },
        (Some(b"metadump"), Some(ids)) => return dump(cx, DumpStyle::Metadump, ids, out),
        (Some(b"mgdump"), Some(ids)) => return dump(cx, DumpStyle::Mgdump, ids, out),
        _ => texts::ERROR,
    };
    out.extend_from_slice(text);
    After::Continue
}

/// Class ids from a comma list; `None` for all.
fn classes(ids: &[u8]) -> Result<Option<BTreeSet<usize>>, &'static [u8]> {
    if matches!(ids, b"all" | b"hash") {
        return Ok(None);
    }
    let id = |text: &[u8]| {
        parse_u64(text)
            .and_then(|id| usize::try_from(id).ok())
            .filter(|id| (1..=BAND_COUNT_MAX).contains(id))
    };
    ids.split(|byte| *byte == b',')
        .map(|text| id(text).ok_or(texts::CRAWLER_BAD_CLASS))
        .collect::<Result<_, _>>()
        .map(Some)
}

fn dump(cx: &Cx<'_>, style: DumpStyle, ids: &[u8], out: &mut Vec<u8>) -> After {
    let refusal = if cx.shared.config.no_dumping {
        match style {
            DumpStyle::Metadump => texts::METADUMP_DISABLED,
            DumpStyle::Mgdump => texts::MGDUMP_DISABLED,
        }
    } else {
        match classes(ids) {
            Err(text) => text,
            Ok(_) if style == DumpStyle::Metadump && !out.is_empty() => texts::METADUMP_PIPELINED,
            Ok(classes) => match Dump::begin(cx, style, classes) {
                None => texts::CRAWLER_BUSY,
                Some(dump) => {
                    out.extend_from_slice(texts::OK);
                    return After::Start(Job::Dump(dump));
                }
            },
        }
    };
    out.extend_from_slice(refusal);
    After::Continue
}

/// `debugtime <seconds>`: moves the clock forward.
pub(super) fn debugtime(cx: &Cx<'_>, words: &[u8]) -> &'static [u8] {
    // Pausing (`p`, `r`) is not needed here: tests that pause want seconds not to pass meanwhile.
    if let Some(Ok(seconds)) = Words::new(words)
        .next()
        .and_then(parse_u64)
        .map(u32::try_from)
    {
        cx.shared.clock.advance(seconds);
    }
    texts::OK
}
