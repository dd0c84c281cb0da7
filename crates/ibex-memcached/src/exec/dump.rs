//! Dumps of all keys (`lru_crawler metadump`, `mgdump`): a few index buckets per step, under one shard's lock at a time.

use super::{Cx, write};
use bytes::BytesMut;
use ibex_cache_core::{Bits, ItemView};
use ibex_memcached_proto::meta;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// Index buckets of one step: some hundred items, well under a millisecond.
const BUCKETS_PER_STEP: u32 = 64;

/// Holds of a lock per step, after which other connections have their turn.
const HOLDS_PER_STEP: usize = 4;

/// How a dump shows items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DumpStyle {
    Metadump,
    Mgdump,
}

/// A dump under way. The place for one is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct Dump {
    style: DumpStyle,
    /// Class ids that are shown; `None` is all.
    classes: Option<BTreeSet<usize>>,
    shard: usize,
    cursor: u32,
    _place: Place,
}

/// The only place for a dump.
#[derive(Debug)]
struct Place(std::sync::Arc<std::sync::atomic::AtomicBool>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Dump {
    /// Begins a dump, unless one is under way.
    pub(super) fn begin(
        cx: &Cx<'_>,
        style: DumpStyle,
        classes: Option<BTreeSet<usize>>,
    ) -> Option<Self> {
        let busy = &cx.shared.live.dump_busy;
        busy.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed)
            .ok()?;
        Some(Self {
            style,
            classes,
            shard: 0,
            cursor: 0,
            _place: Place(busy.clone()),
        })
    }

    /// Writes some items, unless the output is full; `true` when all were written.
    pub(super) fn step(&mut self, cx: &Cx<'_>, out: &mut Vec<u8>, out_max: usize) -> bool {
        for _ in 0..HOLDS_PER_STEP {
            if out.len() > out_max {
                return false;
            }
            let Some(shard) = cx.shared.store.by_number(self.shard) else {
                out.extend_from_slice(match self.style {
                    DumpStyle::Metadump => b"END\r\n",
                    DumpStyle::Mgdump => b"EN\r\n",
                });
                return true;
            };
            let next = shard.scan(self.cursor, BUCKETS_PER_STEP, |item| {
                self.show(cx, &item, out)
            });
            self.cursor = next.unwrap_or(0);
            if next.is_none() {
                self.shard += 1;
            }
        }
        false
    }

    fn show(&self, cx: &Cx<'_>, item: &ItemView<'_>, out: &mut Vec<u8>) {
        let class = cx.shared.store.bands.of(item.classic_size()) + 1;
        let is_over = item.expiry() != 0 && item.expiry() <= cx.now;
        if is_over
            || cx.shared.namespaces.is_gone(item.key(), item.cas())
            || self
                .classes
                .as_ref()
                .is_some_and(|classes| !classes.contains(&class))
        {
            return;
        }
        match self.style {
            DumpStyle::Metadump => metadump(cx, item, class, out),
            DumpStyle::Mgdump => mgdump(item, out),
        }
    }
}

fn metadump(cx: &Cx<'_>, item: &ItemView<'_>, class: usize, out: &mut Vec<u8>) {
    let clock = &cx.shared.clock;
    out.extend_from_slice(b"key=");
    write::url(out, item.key());
    out.extend_from_slice(b" exp=");
    write::signed(
        out,
        if item.expiry() == 0 {
            -1
        } else {
            clock.unix(item.expiry())
        },
    );
    out.extend_from_slice(b" la=");
    write::signed(out, clock.unix(item.last_access()));
    out.extend_from_slice(b" cas=");
    write::number(out, item.cas());
    out.extend_from_slice(if item.has(Bits::FETCHED) {
        b" fetch=yes cls="
    } else {
        b" fetch=no cls="
    });
    write::number(out, class as u64);
    out.extend_from_slice(b" size=");
    write::number(out, item.classic_size() as u64);
    out.extend_from_slice(b" flags=");
    write::number(out, u64::from(item.flags()));
    out.extend_from_slice(b" \n");
}

fn mgdump(item: &ItemView<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"mg ");
    if item.has(Bits::BINARY_KEY) {
        let mut text = BytesMut::new();
        meta::write_base64(&mut text, item.key());
        out.extend_from_slice(&text);
        out.extend_from_slice(b" b\r\n");
    } else {
        out.extend_from_slice(item.key());
        out.extend_from_slice(b"\r\n");
    }
}
