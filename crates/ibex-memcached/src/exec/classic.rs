//! The classic text commands.

use super::watched::Asked;
use super::{Cx, ReadMode, write};
use crate::store::Staged;
use ibex_cache_core::{Absent, Bits, Found, NewItem, Shard};
use ibex_memcached_proto::line::Words;
use ibex_memcached_proto::request::{Answer, Direction, StoreLine, StoreVerb, WithCas};
use ibex_memcached_proto::texts;

pub(super) fn get_mode(with_cas: WithCas) -> ReadMode {
    match with_cas {
        WithCas::Omitted => ReadMode::Get,
        WithCas::Shown => ReadMode::Gets,
    }
}

pub(super) fn touch_mode(with_cas: WithCas, expiry: u32) -> ReadMode {
    match with_cas {
        WithCas::Omitted => ReadMode::Touch(expiry),
        WithCas::Shown => ReadMode::TouchWithCas(expiry),
    }
}

/// Answers the keys in the text `keys` until the output is full; returns how many bytes of `keys` are left, 0 when `END` was written.
pub(super) fn read(
    cx: &Cx<'_>,
    mode: ReadMode,
    keys: &[u8],
    out: &mut Vec<u8>,
    out_max: usize,
) -> usize {
    let mut words = Words::new(keys);
    while let Some(key) = words.next() {
        read_one(cx, mode, key, out);
        if out.len() > out_max && !words.rest().is_empty() {
            return words.rest().len();
        }
    }
    out.extend_from_slice(texts::END);
    0
}

fn read_one(cx: &Cx<'_>, mode: ReadMode, key: &[u8], out: &mut Vec<u8>) {
    let store = &cx.shared.store;
    let hash = store.hash(key);
    let mut shard = store.shard(hash);
    let found = cx.find(&mut shard, hash, key);
    count_read(cx, mode, found);
    cx.detail(key, |counts| {
        counts.gets += 1;
        counts.hits += u64::from(found.is_ok());
    });
    let Ok(found) = found else { return };
    shard.accessed(cx.now, found);
    if let ReadMode::Touch(expiry) | ReadMode::TouchWithCas(expiry) = mode {
        shard.set_expiry(found, expiry);
    }
    let item = shard.view(found);
    out.extend_from_slice(b"VALUE ");
    out.extend_from_slice(key);
    out.push(b' ');
    write::number(out, u64::from(item.flags()));
    out.push(b' ');
    write::number(out, item.value_len() as u64);
    if matches!(mode, ReadMode::Gets | ReadMode::TouchWithCas(_)) {
        out.push(b' ');
        write::number(out, item.cas());
    }
    out.extend_from_slice(b"\r\n");
    store.copy_out(shard, hash, found, out);
    out.extend_from_slice(b"\r\n");
}

fn count_read(cx: &Cx<'_>, mode: ReadMode, found: Result<Found, Absent>) {
    let counters = cx.counters;
    match mode {
        ReadMode::Get | ReadMode::Gets => {
            counters.cmd_get.add(1);
            match found {
                Ok(_) => counters.get_hits.add(1),
                Err(absent) => {
                    counters.get_misses.add(1);
                    counters
                        .get_expired
                        .add(u64::from(absent == Absent::Expired));
                    counters
                        .get_flushed
                        .add(u64::from(absent == Absent::Flushed));
                }
            }
        }
        ReadMode::Touch(_) | ReadMode::TouchWithCas(_) => {
            counters.cmd_touch.add(1);
            match found {
                Ok(_) => counters.touch_hits.add(1),
                Err(_) => counters.touch_misses.add(1),
            }
        }
    }
}

/// A storage command; its reply.
pub(super) fn store(cx: &Cx<'_>, line: &StoreLine<'_>, value: &[u8]) -> &'static [u8] {
    let reply = store_unseen(cx, line, value);
    cx.show_store(|| asked(cx, line), reply);
    reply
}

/// A storage command as `watch` shows it.
pub(super) fn asked<'a>(cx: &Cx<'_>, line: &StoreLine<'a>) -> Asked<'a> {
    let command: &[u8] = match line.verb {
        StoreVerb::Set => b"set",
        StoreVerb::Add => b"add",
        StoreVerb::Replace => b"replace",
        StoreVerb::Append => b"append",
        StoreVerb::Prepend => b"prepend",
        StoreVerb::Cas(_) => b"cas",
    };
    Asked {
        key: line.key,
        command,
        flags: line.flags,
        expiry: cx.expiry(line.exptime),
        value_bytes: line.value_bytes,
    }
}

fn store_unseen(cx: &Cx<'_>, line: &StoreLine<'_>, value: &[u8]) -> &'static [u8] {
    cx.counters.cmd_set.add(1);
    cx.detail(line.key, |counts| counts.sets += 1);
    let store = &cx.shared.store;
    let hash = store.hash(line.key);
    let is_join = matches!(line.verb, StoreVerb::Append | StoreVerb::Prepend);
    let mut staged = if is_join {
        Staged::No
    } else {
        store.stage(cx.now, hash, value)
    };
    let mut shard = store.shard(hash);
    let new = NewItem {
        key: line.key,
        value: &[value],
        flags: line.flags,
        expiry: cx.expiry(line.exptime),
        cas: 0,
        bits: Bits::default(),
    };
    let reply = store_in(cx, &mut shard, hash, line, &new, &mut staged);
    staged.drop_in(&mut shard);
    reply
}

fn store_in(
    cx: &Cx<'_>,
    shard: &mut Shard,
    hash: u64,
    line: &StoreLine<'_>,
    new: &NewItem<'_>,
    staged: &mut Staged,
) -> &'static [u8] {
    match line.verb {
        StoreVerb::Set => {
            cx.look(shard, hash, line.key);
            put(cx, shard, hash, new, staged)
        }
        StoreVerb::Add => match cx.find(shard, hash, line.key) {
            Ok(found) => {
                shard.bumped(found);
                texts::NOT_STORED
            }
            Err(_) => put(cx, shard, hash, new, staged),
        },
        StoreVerb::Replace => match cx.find(shard, hash, line.key) {
            Ok(_) => put(cx, shard, hash, new, staged),
            Err(_) => texts::NOT_STORED,
        },
        StoreVerb::Append | StoreVerb::Prepend => match cx.find(shard, hash, line.key) {
            Ok(found) => join(cx, shard, found, new, line.verb == StoreVerb::Append),
            Err(_) => texts::NOT_STORED,
        },
        StoreVerb::Cas(cas) => match cx.find(shard, hash, line.key) {
            Err(_) => {
                cx.counters.cas_misses.add(1);
                texts::NOT_FOUND
            }
            Ok(found) if cas == 0 || shard.view(found).cas() != cas => {
                cx.counters.cas_badval.add(1);
                texts::EXISTS
            }
            Ok(_) => {
                cx.counters.cas_hits.add(1);
                put(cx, shard, hash, new, staged)
            }
        },
    }
}

/// Stores with a new cas number. Without room the old value goes too: a stale one must not survive.
fn put(
    cx: &Cx<'_>,
    shard: &mut Shard,
    hash: u64,
    new: &NewItem<'_>,
    staged: &mut Staged,
) -> &'static [u8] {
    let new = NewItem {
        cas: cx.next_cas(),
        ..*new
    };
    if staged.insert(shard, cx.now, hash, &new).is_ok() {
        return texts::STORED;
    }
    cx.counters.store_no_memory.add(1);
    if let Ok(found) = shard.find(cx.now, hash, new.key) {
        shard.remove(found);
    }
    texts::NO_MEMORY
}

/// append and prepend: flags and expiry stay those of the stored item.
fn join(
    cx: &Cx<'_>,
    shard: &mut Shard,
    found: Found,
    new: &NewItem<'_>,
    is_append: bool,
) -> &'static [u8] {
    let item = shard.view(found);
    let (flags, expiry, bits) = (item.flags(), item.expiry(), item.bits());
    let old = item.value().collect::<Vec<_>>().concat();
    let added = new.value.first().copied().unwrap_or_default();
    if cx.is_too_large(new.key.len(), old.len() + added.len(), flags) {
        cx.counters.store_too_large.add(1);
        return texts::TOO_LARGE;
    }
    let parts: [&[u8]; 2] = if is_append {
        [&old, added]
    } else {
        [added, &old]
    };
    let joined = NewItem {
        key: new.key,
        value: &parts,
        flags,
        expiry,
        cas: cx.next_cas(),
        bits,
    };
    match shard.insert(cx.now, cx.shared.store.hash(new.key), &joined) {
        Ok(()) => texts::STORED,
        Err(_) => {
            cx.counters.store_no_memory.add(1);
            texts::NO_MEMORY
        }
    }
}

/// Removes the item without counting.
pub(super) fn remove(cx: &Cx<'_>, key: &[u8]) {
    let store = &cx.shared.store;
    let hash = store.hash(key);
    let mut shard = store.shard(hash);
    if let Ok(found) = shard.find(cx.now, hash, key) {
        shard.remove(found);
    }
}

pub(super) fn delete(cx: &Cx<'_>, key: &[u8]) -> &'static [u8] {
    cx.detail(key, |counts| counts.deletes += 1);
    let store = &cx.shared.store;
    let hash = store.hash(key);
    let mut shard = store.shard(hash);
    match cx.find(&mut shard, hash, key) {
        Ok(found) => {
            cx.show_delete(&shard, key, found, b"delete");
            shard.remove(found);
            cx.counters.delete_hits.add(1);
            texts::DELETED
        }
        Err(_) => {
            cx.counters.delete_misses.add(1);
            texts::NOT_FOUND
        }
    }
}

pub(super) fn touch(cx: &Cx<'_>, key: &[u8], exptime: i64) -> &'static [u8] {
    cx.counters.cmd_touch.add(1);
    let store = &cx.shared.store;
    let hash = store.hash(key);
    let mut shard = store.shard(hash);
    match cx.find(&mut shard, hash, key) {
        Ok(found) => {
            shard.accessed(cx.now, found);
            shard.set_expiry(found, cx.expiry(exptime));
            cx.counters.touch_hits.add(1);
            texts::TOUCHED
        }
        Err(_) => {
            cx.counters.touch_misses.add(1);
            texts::NOT_FOUND
        }
    }
}

/// The number a value stands for: white space, zeros or a `+` may stand before it.
pub(super) fn numeric(value: &[u8]) -> Option<u64> {
    let text = value.trim_ascii_start();
    let text = text.strip_prefix(b"+").unwrap_or(text);
    let (number, len) = ibex_base::ascii::parse_u64_prefix(text)?;
    // COMPAT(memcached): only the byte behind the digits is looked at, so `1 abc` is 1 (util.c, safe_strtoull).
    let ends = text.get(len).is_none_or(u8::is_ascii_whitespace);
    ends.then_some(number)
}

/// The new number: up wraps at 2^64, down stops at 0.
pub(super) fn moved(direction: Direction, number: u64, delta: u64) -> u64 {
    match direction {
        Direction::Incr => number.wrapping_add(delta),
        Direction::Decr => number.saturating_sub(delta),
    }
}

pub(super) fn count_arithmetic(cx: &Cx<'_>, direction: Direction, is_hit: bool) {
    let counters = cx.counters;
    let counter = match (direction, is_hit) {
        (Direction::Incr, true) => &counters.incr_hits,
        (Direction::Incr, false) => &counters.incr_misses,
        (Direction::Decr, true) => &counters.decr_hits,
        (Direction::Decr, false) => &counters.decr_misses,
    };
    counter.add(1);
}

pub(super) fn arithmetic(
    cx: &Cx<'_>,
    direction: Direction,
    key: &[u8],
    delta: u64,
    answer: Answer,
    out: &mut Vec<u8>,
) {
    let store = &cx.shared.store;
    let hash = store.hash(key);
    let mut shard = store.shard(hash);
    let Ok(found) = cx.find(&mut shard, hash, key) else {
        count_arithmetic(cx, direction, false);
        return super::answer(answer, out, texts::NOT_FOUND);
    };
    let item = shard.view(found);
    let Some(number) = item.contiguous().and_then(numeric) else {
        return super::answer(answer, out, texts::NON_NUMERIC);
    };
    count_arithmetic(cx, direction, true);
    let mut digits = [0; ibex_base::ascii::U64_DIGITS_MAX];
    let text = ibex_base::ascii::format_u64(moved(direction, number, delta), &mut digits);
    let new = NewItem {
        key,
        value: &[text],
        flags: item.flags(),
        expiry: item.expiry(),
        cas: cx.next_cas(),
        bits: item.bits(),
    };
    if shard.insert(cx.now, hash, &new).is_err() {
        return super::answer(answer, out, texts::NO_MEMORY);
    }
    if answer == Answer::Wanted {
        out.extend_from_slice(text);
        out.extend_from_slice(b"\r\n");
    }
}
