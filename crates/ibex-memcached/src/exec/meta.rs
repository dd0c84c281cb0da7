//! The meta commands. Flags act and are answered in the order they were written; see `doc/protocol.txt` of the original.

use super::classic::{count_arithmetic, moved, numeric};
use super::watched::Asked;
use super::{Cx, write};
use crate::store::Staged;
use ibex_base::ascii::{U64_DIGITS_MAX, format_u64};
use ibex_cache_core::{Absent, Bits, Found, NewItem, Shard};
use ibex_memcached_proto::meta::{
    DECODED_KEY_BYTES_MAX, Flags, MetaArithmetic, MetaDebug, MetaDelete, MetaGet, MetaKey,
    MetaStore, StoreMode,
};
use ibex_memcached_proto::{meta, texts};

/// What the flags that describe an item show.
#[derive(Debug, Clone, Copy)]
struct Facts {
    cas: u64,
    flags: u32,
    size: usize,
    expiry: u32,
    /// Before this request.
    fetched: bool,
    last_access: u32,
    binary: bool,
}

fn facts(shard: &Shard, found: Found) -> Facts {
    let item = shard.view(found);
    Facts {
        cas: item.cas(),
        flags: item.flags(),
        size: item.value_len(),
        expiry: item.expiry(),
        fetched: item.has(Bits::FETCHED),
        last_access: item.last_access(),
        binary: item.has(Bits::BINARY_KEY),
    }
}

/// Appends ` k<key>` (and ` b`) or ` O<opaque>`; nothing for other letters.
fn echo(out: &mut Vec<u8>, letter: u8, key: &[u8], is_binary: bool, flags: &Flags<'_>) {
    match letter {
        b'k' => {
            out.extend_from_slice(b" k");
            if is_binary {
                let mut text = bytes::BytesMut::new();
                meta::write_base64(&mut text, key);
                out.extend_from_slice(&text);
                out.extend_from_slice(b" b");
            } else {
                out.extend_from_slice(key);
            }
        }
        b'O' => {
            out.extend_from_slice(b" O");
            out.extend_from_slice(flags.opaque.unwrap_or_default());
        }
        _ => {}
    }
}

fn remaining(out: &mut Vec<u8>, now: u32, expiry: u32) {
    out.extend_from_slice(b" t");
    if expiry == 0 {
        out.extend_from_slice(b"-1");
    } else {
        write::number(out, u64::from(expiry.saturating_sub(now)));
    }
}

/// A line with code and echoes only.
fn short(out: &mut Vec<u8>, code: &[u8], key: &[u8], wire: &MetaKey<'_>, flags: &Flags<'_>) {
    out.extend_from_slice(code.strip_suffix(b"\r\n").unwrap_or(code));
    for letter in flags.order() {
        echo(out, *letter, key, wire.binary, flags);
    }
    out.extend_from_slice(b"\r\n");
}

fn binary_bit(key: &MetaKey<'_>) -> Bits {
    if key.binary {
        Bits::new(Bits::BINARY_KEY)
    } else {
        Bits::default()
    }
}

fn count_get(cx: &Cx<'_>, flags: &Flags<'_>, found: Result<Found, Absent>) {
    let counters = cx.counters;
    if flags.ttl.is_some() {
        counters.cmd_touch.add(1);
        let counter = if found.is_ok() {
            &counters.touch_hits
        } else {
            &counters.touch_misses
        };
        counter.add(1);
        return;
    }
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

/// `mg`
pub(super) fn get(cx: &Cx<'_>, request: &MetaGet<'_>, out: &mut Vec<u8>) {
    let (flags, mut scratch) = (&request.flags, [0; DECODED_KEY_BYTES_MAX]);
    let Some(key) = request.key.bytes(&mut scratch) else {
        return out.extend_from_slice(texts::META_BAD_KEY);
    };
    let store = &cx.shared.store;
    let hash = store.hash(key);
    let mut shard = store.shard(hash);
    let looked_up = cx.find(&mut shard, hash, key);
    count_get(cx, flags, looked_up);
    cx.detail(key, |counts| {
        counts.gets += 1;
        counts.hits += u64::from(looked_up.is_ok());
    });
    let (found, is_new) = match (looked_up, flags.vivify) {
        (Ok(found), _) => (found, false),
        (Err(_), None) => {
            if !flags.is_quiet() {
                short(out, texts::META_EN, key, &request.key, flags);
            }
            return;
        }
        (Err(_), Some(ttl)) => {
            let cas = flags.cas_new.unwrap_or_else(|| cx.next_cas());
            let new = NewItem {
                key,
                value: &[],
                flags: 0,
                expiry: cx.expiry(ttl),
                cas,
                bits: binary_bit(&request.key),
            };
            let made = shard
                .insert(cx.now, hash, &new)
                .ok()
                .and_then(|()| shard.find(cx.now, hash, key).ok());
            match made {
                Some(found) => (found, true),
                None => {
                    cx.counters.store_no_memory.add(1);
                    return out.extend_from_slice(texts::NO_MEMORY);
                }
            }
        }
    };
    if get_hit(cx, &mut shard, found, is_new, flags, out) {
        store.copy_out(shard, hash, found, out);
        out.extend_from_slice(b"\r\n");
    }
}

/// The line for a hit or for an item just made, and what the flags do to it; whether the value follows.
fn get_hit(
    cx: &Cx<'_>,
    shard: &mut Shard,
    found: Found,
    is_new: bool,
    flags: &Flags<'_>,
    out: &mut Vec<u8>,
) -> bool {
    let mut facts = facts(shard, found);
    let item = shard.view(found);
    let (is_stale, was_token_sent) = (item.has(Bits::STALE), item.has(Bits::TOKEN_SENT));
    let shows_value = flags.has(b'v') && flags.compare.is_none_or(|cas| cas != facts.cas);
    if !is_new && !flags.has(b'u') {
        shard.accessed(cx.now, found);
    }
    if shows_value {
        out.extend_from_slice(b"VA ");
        write::number(out, facts.size as u64);
    } else {
        out.extend_from_slice(b"HD");
    }
    let is_running_out = |facts: &Facts| {
        let left = i64::from(facts.expiry.saturating_sub(cx.now));
        !is_new && facts.expiry != 0 && flags.recache.is_some_and(|limit| left < limit)
    };
    let mut wants_refresh = false;
    for letter in flags.order() {
        match letter {
            b'T' => {
                facts.expiry = cx.expiry(flags.ttl.unwrap_or(0));
                shard.set_expiry(found, facts.expiry);
            }
            b'R' => wants_refresh = is_running_out(&facts),
            letter => fact(out, *letter, cx.now, &facts),
        }
        echo(out, *letter, shard.view(found).key(), facts.binary, flags);
    }
    let has_won = is_new || (!was_token_sent && (is_stale || wants_refresh));
    if was_token_sent {
        out.extend_from_slice(b" Z");
    }
    if is_stale {
        out.extend_from_slice(b" X");
    }
    if has_won {
        out.extend_from_slice(b" W");
        shard.set_bits(found, Bits::new(Bits::TOKEN_SENT), Bits::default());
    }
    out.extend_from_slice(b"\r\n");
    shows_value
}

fn fact(out: &mut Vec<u8>, letter: u8, now: u32, facts: &Facts) {
    let mut numbered = |letter: &[u8], number: u64| {
        out.extend_from_slice(letter);
        write::number(out, number);
    };
    match letter {
        b'c' => numbered(b" c", facts.cas),
        b'f' => numbered(b" f", u64::from(facts.flags)),
        b'h' => numbered(b" h", u64::from(facts.fetched)),
        b'l' => numbered(b" l", u64::from(now.saturating_sub(facts.last_access))),
        b's' => numbered(b" s", facts.size as u64),
        b't' => remaining(out, now, facts.expiry),
        _ => {}
    }
}

/// How `ms` ended.
struct Stored {
    code: &'static [u8],
    cas: u64,
    size: usize,
}

/// `ms`
pub(super) fn store(cx: &Cx<'_>, request: &MetaStore<'_>, value: &[u8], out: &mut Vec<u8>) {
    cx.counters.cmd_set.add(1);
    let (flags, mut scratch) = (&request.flags, [0; DECODED_KEY_BYTES_MAX]);
    let Some(key) = request.key.bytes(&mut scratch) else {
        return out.extend_from_slice(texts::META_BAD_KEY);
    };
    let store = &cx.shared.store;
    let hash = store.hash(key);
    let mut staged = match request.mode {
        StoreMode::Set | StoreMode::Add | StoreMode::Replace => store.stage(cx.now, hash, value),
        StoreMode::Append | StoreMode::Prepend => Staged::No,
    };
    let mut shard = store.shard(hash);
    let found = cx.find(&mut shard, hash, key).ok();
    let at = Place { hash, key, found };
    let outcome = store_in(cx, &mut shard, &at, request, value, &mut staged);
    staged.drop_in(&mut shard);
    let reply = outcome
        .as_ref()
        .map_or_else(|text| *text, |stored| stored.code);
    cx.show_store(|| asked(cx, key, request), reply);
    let stored = match outcome {
        Ok(stored) => stored,
        Err(text) => return out.extend_from_slice(text),
    };
    if flags.is_quiet() && stored.code == texts::META_HD {
        return;
    }
    out.extend_from_slice(stored.code.strip_suffix(b"\r\n").unwrap_or(stored.code));
    for letter in flags.order() {
        match letter {
            b'c' => {
                out.extend_from_slice(b" c");
                write::number(out, stored.cas);
            }
            b's' => {
                out.extend_from_slice(b" s");
                write::number(out, stored.size as u64);
            }
            letter => echo(out, *letter, key, request.key.binary, flags),
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// An `ms` as `watch` shows it.
pub(super) fn asked<'a>(cx: &Cx<'_>, key: &'a [u8], request: &MetaStore<'_>) -> Asked<'a> {
    let command: &[u8] = match request.mode {
        StoreMode::Set if request.flags.compare.is_some() => b"cas",
        StoreMode::Set => b"set",
        StoreMode::Add => b"add",
        StoreMode::Replace => b"replace",
        StoreMode::Append => b"append",
        StoreMode::Prepend => b"prepend",
    };
    Asked {
        key,
        command,
        flags: request.flags.client_flags,
        expiry: cx.expiry(request.flags.ttl.unwrap_or(0)),
        value_bytes: request.value_bytes,
    }
}

/// What becomes of the comparison `C` of an `ms`.
enum Compared {
    Equal,
    /// The caller's number is older and it asked to store all the same, marked stale.
    Stale,
    Refused(&'static [u8]),
}

fn compare(cx: &Cx<'_>, shard: &Shard, found: Option<Found>, request: &MetaStore<'_>) -> Compared {
    let is_join = matches!(request.mode, StoreMode::Append | StoreMode::Prepend);
    let wanted = match request.flags.compare {
        None => return Compared::Equal,
        // COMPAT(memcached): cas number 0 means "none" where the original joins values, and matches nothing elsewhere.
        Some(0) if is_join => return Compared::Equal,
        Some(wanted) => wanted,
    };
    let Some(found) = found else {
        return match request.mode {
            StoreMode::Add | StoreMode::Append | StoreMode::Prepend => Compared::Equal,
            StoreMode::Set | StoreMode::Replace => {
                cx.counters.cas_misses.add(1);
                Compared::Refused(texts::META_NF)
            }
        };
    };
    let cas = shard.view(found).cas();
    if request.mode == StoreMode::Add {
        return Compared::Equal;
    }
    if wanted != 0 && wanted == cas {
        cx.counters.cas_hits.add(1);
        return Compared::Equal;
    }
    if request.flags.has(b'I') && wanted < cas {
        cx.counters.cas_hits.add(1);
        return Compared::Stale;
    }
    cx.counters.cas_badval.add(1);
    Compared::Refused(texts::META_EX)
}

/// Where an `ms` stores, and what is there.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    hash: u64,
    key: &'a [u8],
    found: Option<Found>,
}

fn store_in(
    cx: &Cx<'_>,
    shard: &mut Shard,
    at: &Place<'_>,
    request: &MetaStore<'_>,
    value: &[u8],
    staged: &mut Staged,
) -> Result<Stored, &'static [u8]> {
    let Place { hash, key, found } = *at;
    let flags = &request.flags;
    let not_stored = |code| {
        Ok(Stored {
            code,
            cas: 0,
            size: value.len(),
        })
    };
    let compared = compare(cx, shard, found, request);
    if let Compared::Refused(code) = compared {
        return not_stored(code);
    }
    let mut new = NewItem {
        key,
        value: &[value],
        flags: flags.client_flags,
        expiry: cx.expiry(flags.ttl.unwrap_or(0)),
        cas: 0,
        bits: binary_bit(&request.key),
    };
    let mut old = Vec::new();
    let joined;
    match (request.mode, found) {
        (StoreMode::Add, Some(found)) => {
            shard.bumped(found);
            return not_stored(texts::META_NS);
        }
        (StoreMode::Replace, None) => return not_stored(texts::META_NS),
        (StoreMode::Append | StoreMode::Prepend, None) => match flags.vivify {
            None => return not_stored(texts::META_NS),
            Some(ttl) => new.expiry = cx.expiry(ttl),
        },
        (StoreMode::Append | StoreMode::Prepend, Some(found)) => {
            let item = shard.view(found);
            old.extend(item.value().flatten());
            (new.flags, new.expiry, new.bits) = (item.flags(), item.expiry(), item.bits());
            joined = if request.mode == StoreMode::Append {
                [old.as_slice(), value]
            } else {
                [value, old.as_slice()]
            };
            new.value = &joined;
        }
        (StoreMode::Set, _) | (StoreMode::Add, None) | (StoreMode::Replace, Some(_)) => {}
    }
    if let (Compared::Stale, Some(found)) = (&compared, found) {
        let item = shard.view(found);
        new.expiry = item.expiry();
        new.bits = new.bits.with(Bits::STALE);
        if item.has(Bits::TOKEN_SENT) {
            new.bits = new.bits.with(Bits::TOKEN_SENT);
        }
    }
    let size = old.len() + value.len();
    if cx.is_too_large(key.len(), size, new.flags) {
        cx.counters.store_too_large.add(1);
        return Err(texts::TOO_LARGE);
    }
    new.cas = flags.cas_new.unwrap_or_else(|| cx.next_cas());
    if staged.insert(shard, cx.now, hash, &new).is_err() {
        cx.counters.store_no_memory.add(1);
        if let (StoreMode::Set, Ok(found)) = (request.mode, shard.find(cx.now, hash, key)) {
            shard.remove(found);
        }
        return Err(texts::NO_MEMORY);
    }
    Ok(Stored {
        code: texts::META_HD,
        cas: new.cas,
        size,
    })
}

/// Stores a copy of the item with another cas number, for those its header has no room for.
fn give_cas(
    cx: &Cx<'_>,
    shard: &mut Shard,
    hash: u64,
    key: &[u8],
    found: Found,
    cas: u64,
) -> Option<Found> {
    if shard.try_set_cas(found, cas) {
        return Some(found);
    }
    let item = shard.view(found);
    let value = item.value().collect::<Vec<_>>().concat();
    let new = NewItem {
        key,
        value: &[&value],
        flags: item.flags(),
        expiry: item.expiry(),
        cas,
        bits: item.bits(),
    };
    shard.insert(cx.now, hash, &new).ok()?;
    shard.find(cx.now, hash, key).ok()
}

/// `md`
pub(super) fn delete(cx: &Cx<'_>, request: &MetaDelete<'_>, out: &mut Vec<u8>) {
    let (flags, mut scratch) = (&request.flags, [0; DECODED_KEY_BYTES_MAX]);
    let Some(key) = request.key.bytes(&mut scratch) else {
        return out.extend_from_slice(texts::META_BAD_KEY);
    };
    let store = &cx.shared.store;
    let hash = store.hash(key);
    let mut shard = store.shard(hash);
    let code = match cx.find(&mut shard, hash, key) {
        Err(_) => {
            cx.counters.delete_misses.add(1);
            texts::META_NF
        }
        Ok(found)
            if flags
                .compare
                .is_some_and(|cas| cas != shard.view(found).cas()) =>
        {
            texts::META_EX
        }
        Ok(found) => {
            delete_hit(cx, &mut shard, hash, key, found, flags);
            texts::META_HD
        }
    };
    if !(flags.is_quiet() && code == texts::META_HD) {
        short(out, code, key, &request.key, flags);
    }
}

fn delete_hit(
    cx: &Cx<'_>,
    shard: &mut Shard,
    hash: u64,
    key: &[u8],
    found: Found,
    flags: &Flags<'_>,
) {
    let (invalidates, empties) = (flags.has(b'I'), flags.has(b'x'));
    if !invalidates && !empties {
        cx.show_delete(shard, key, found, b"md");
        shard.remove(found);
        cx.counters.delete_hits.add(1);
        return;
    }
    let mut found = Some(found);
    if empties {
        let item = found.map(|found| shard.view(found));
        let (cas, bits, old_expiry) = item.map_or((0, Bits::default(), 0), |item| {
            (item.cas(), item.bits(), item.expiry())
        });
        let expiry = match flags.ttl {
            Some(ttl) => cx.expiry(ttl),
            None if invalidates => old_expiry,
            None => 0,
        };
        let new = NewItem {
            key,
            value: &[],
            flags: 0,
            expiry,
            cas: flags.cas_new.unwrap_or(cas),
            bits,
        };
        found = shard
            .insert(cx.now, hash, &new)
            .ok()
            .and_then(|()| shard.find(cx.now, hash, key).ok());
    }
    let Some(found) = found else { return };
    if let Some(ttl) = flags.ttl {
        shard.set_expiry(found, cx.expiry(ttl));
    }
    if invalidates {
        shard.set_bits(found, Bits::new(Bits::STALE), Bits::new(Bits::TOKEN_SENT));
        let cas = flags.cas_new.unwrap_or_else(|| cx.next_cas());
        give_cas(cx, shard, hash, key, found, cas);
    }
}

/// `ma`
pub(super) fn arithmetic(cx: &Cx<'_>, request: &MetaArithmetic<'_>, out: &mut Vec<u8>) {
    let (flags, mut scratch) = (&request.flags, [0; DECODED_KEY_BYTES_MAX]);
    let Some(key) = request.key.bytes(&mut scratch) else {
        return out.extend_from_slice(texts::META_BAD_KEY);
    };
    let store = &cx.shared.store;
    let hash = store.hash(key);
    let mut shard = store.shard(hash);
    let mut digits = [0; U64_DIGITS_MAX];
    let (text, new) = match (cx.find(&mut shard, hash, key), flags.vivify) {
        (Err(_), None) => {
            count_arithmetic(cx, request.direction, false);
            return short(out, texts::META_NF, key, &request.key, flags);
        }
        (Err(_), Some(ttl)) => {
            count_arithmetic(cx, request.direction, false);
            let text = format_u64(flags.initial.unwrap_or(0), &mut digits);
            (
                text,
                NewItem {
                    key,
                    value: &[],
                    flags: 0,
                    expiry: cx.expiry(ttl),
                    cas: 0,
                    bits: binary_bit(&request.key),
                },
            )
        }
        (Ok(found), _) => {
            let item = shard.view(found);
            if flags.compare.is_some_and(|cas| cas != item.cas()) {
                return short(out, texts::META_EX, key, &request.key, flags);
            }
            let Some(number) = item.contiguous().and_then(numeric) else {
                return out.extend_from_slice(texts::NON_NUMERIC);
            };
            count_arithmetic(cx, request.direction, true);
            let text = format_u64(
                moved(request.direction, number, flags.delta.unwrap_or(1)),
                &mut digits,
            );
            let expiry = flags
                .ttl
                .map_or_else(|| item.expiry(), |ttl| cx.expiry(ttl));
            (
                text,
                NewItem {
                    key,
                    value: &[],
                    flags: item.flags(),
                    expiry,
                    cas: 0,
                    bits: item.bits(),
                },
            )
        }
    };
    let cas = flags.cas_new.unwrap_or_else(|| cx.next_cas());
    let new = NewItem {
        value: &[text],
        cas,
        ..new
    };
    if shard.insert(cx.now, hash, &new).is_err() {
        return out.extend_from_slice(texts::NO_MEMORY);
    }
    if !flags.is_quiet() {
        arithmetic_reply(cx, request, &new, text, out);
    }
}

fn arithmetic_reply(
    cx: &Cx<'_>,
    request: &MetaArithmetic<'_>,
    new: &NewItem<'_>,
    text: &[u8],
    out: &mut Vec<u8>,
) {
    let flags = &request.flags;
    if flags.has(b'v') {
        out.extend_from_slice(b"VA ");
        write::number(out, text.len() as u64);
    } else {
        out.extend_from_slice(b"HD");
    }
    for letter in flags.order() {
        match letter {
            b'c' => {
                out.extend_from_slice(b" c");
                write::number(out, new.cas);
            }
            b't' => remaining(out, cx.now, new.expiry),
            letter => echo(out, *letter, new.key, request.key.binary, flags),
        }
    }
    out.extend_from_slice(b"\r\n");
    if flags.has(b'v') {
        out.extend_from_slice(text);
        out.extend_from_slice(b"\r\n");
    }
}

/// `me`
pub(super) fn debug(cx: &Cx<'_>, request: &MetaDebug<'_>, out: &mut Vec<u8>) {
    cx.counters.cmd_meta.add(1);
    let mut scratch = [0; DECODED_KEY_BYTES_MAX];
    let Some(key) = request.key.bytes(&mut scratch) else {
        return out.extend_from_slice(texts::META_BAD_KEY);
    };
    let store = &cx.shared.store;
    let hash = store.hash(key);
    let mut shard = store.shard(hash);
    let Ok(found) = cx.find(&mut shard, hash, key) else {
        return out.extend_from_slice(texts::META_EN);
    };
    let item = shard.view(found);
    out.extend_from_slice(b"ME ");
    out.extend_from_slice(request.key.wire);
    out.extend_from_slice(b" exp=");
    match item.expiry() {
        0 => out.extend_from_slice(b"-1"),
        expiry => write::number(out, u64::from(expiry.saturating_sub(cx.now))),
    }
    out.extend_from_slice(b" la=");
    write::number(out, u64::from(cx.now.saturating_sub(item.last_access())));
    out.extend_from_slice(b" cas=");
    write::number(out, item.cas());
    out.extend_from_slice(if item.has(Bits::FETCHED) {
        b" fetch=yes cls="
    } else {
        b" fetch=no cls="
    });
    write::number(out, store.bands.of(item.classic_size()) as u64 + 1);
    out.extend_from_slice(b" size=");
    write::number(out, item.classic_size() as u64);
    out.extend_from_slice(b"\r\n");
}
