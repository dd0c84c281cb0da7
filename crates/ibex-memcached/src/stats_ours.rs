//! Answers of `stats` that the original does not have: latency, hot keys, threads, segments. They stay out of plain `stats`, whose names programs count.

use crate::exec::{Cx, write};
use crate::hotkeys::HotKeys;
use crate::latency::{EVERY, Kind, Summary, summary};
use crate::stats::List;
use ibex_memcached_proto::texts;
use std::sync::atomic::Ordering;

/// Nanoseconds as microseconds with one digit behind the point.
fn micros(nanos: u64) -> String {
    format!("{}.{}", nanos / 1000, nanos % 1000 / 100)
}

/// `stats latency`: per kind of request, of those that were timed.
pub(crate) fn latency(cx: &Cx<'_>, out: &mut Vec<u8>) {
    let shared = cx.shared;
    let workers = shared.workers.iter().map(|worker| &worker.latencies);
    let mut list = List { out };
    list.add("sampled_one_in", EVERY);
    for (kind, name) in Kind::ALL {
        let Summary {
            count,
            quantiles: [p50, p90, p99, p999],
            max,
        } = summary(workers.clone(), kind);
        list.add(&format!("{name}:count"), count);
        for (quantile, nanos) in [
            ("p50", p50),
            ("p90", p90),
            ("p99", p99),
            ("p999", p999),
            ("max", max),
        ] {
            list.add(&format!("{name}:{quantile}_us"), micros(nanos));
        }
    }
    list.end();
}

/// `stats hotkeys`: the hottest keys first, with about how often each was asked for; the numbers are halved every minute.
pub(crate) fn hotkeys(cx: &Cx<'_>, out: &mut Vec<u8>) {
    if cx.shared.config.no_dumping {
        return out.extend_from_slice(texts::HOTKEYS_DISABLED);
    }
    let hot: &HotKeys = &cx.shared.hotkeys;
    let mut list = List { out };
    for (number, (key, count)) in (1..).zip(hot.hottest()) {
        let mut shown = Vec::new();
        write::url(&mut shown, &key);
        list.add(&format!("{number}:key"), String::from_utf8_lossy(&shown));
        list.add(&format!("{number}:requests"), count * EVERY);
    }
    list.end();
}

/// `stats threads`: what each worker has and does.
pub(crate) fn threads(cx: &Cx<'_>, out: &mut Vec<u8>) {
    let mut list = List { out };
    for (number, worker) in cx.shared.workers.iter().enumerate() {
        let mut add = |name: &str, value: u64| list.add(&format!("{number}:{name}"), value);
        add("connections", worker.open.load(Ordering::Relaxed));
        add("requests", worker.counters.requests.value());
        add("cpu_us", cpu_micros(worker.thread.load(Ordering::Relaxed)));
        add("loop_max_us", worker.loop_max_us.value());
    }
    list.end();
}

/// Processor time of a thread of ours in microseconds, 0 if it is not known.
fn cpu_micros(thread: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"));
    let nanos = text
        .unwrap_or_default()
        .split_ascii_whitespace()
        .next()
        .and_then(|nanos| nanos.parse::<u64>().ok());
    nanos.unwrap_or(0) / 1000
}

/// `stats segments`: how the memory is used.
pub(crate) fn segments(cx: &Cx<'_>, out: &mut Vec<u8>) {
    let items = cx.shared.store.stats();
    let mut list = List { out };
    for (name, value) in [
        ("shards", cx.shared.store.count() as u64),
        ("segments", items.segments),
        ("segments_free", items.segments_free),
        ("segment_bytes", items.segment_bytes),
        ("index_bytes", items.index_bytes),
        ("index_buckets", items.index_buckets),
        ("live_bytes", items.bytes),
        ("moved_survivors", items.moved_survivors),
        ("moved_compacted", items.moved_compacted),
        ("connection_buffer_bytes", cx.shared.buffer_bytes()),
    ] {
        list.add(name, value);
    }
    list.end();
}
