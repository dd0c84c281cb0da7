//! The binary protocol's commands.
//!
//! Same store operations as the text commands; the answers are packets. Quiet forms leave out the uninteresting answer: misses of reads, success of
//! everything else.

use super::classic::{count_arithmetic, moved, numeric};
use super::watched::Asked;
use super::{After, Cx};
use crate::PROTOCOL_VERSION;
use crate::stats;
use crate::store::Staged;
use ibex_base::ascii::{U64_DIGITS_MAX, format_u64};
use ibex_cache_core::{Absent, Bits, Found, NewItem, Shard};
use ibex_memcached_proto::binary::{Body, Header, Opcode, Response, Status, Verb};
use ibex_memcached_proto::request::Direction;
use ibex_memcached_proto::texts;

/// An expiry that means "do not create" in arithmetic.
const DO_NOT_CREATE: u32 = u32::MAX;

/// Answers with a status and its text.
pub(crate) fn status(header: &Header, status: Status, out: &mut Vec<u8>) {
    let text = status.message();
    let response = Response {
        opcode: header.opcode,
        status,
        opaque: header.opaque,
        cas: 0,
        extras: &[],
        key: &[],
        value_bytes: text.len(),
    };
    response.write(out);
    out.extend_from_slice(text);
}

fn ok(header: &Header, cas: u64, extras: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let response = Response {
        opcode: header.opcode,
        status: Status::Ok,
        opaque: header.opaque,
        cas,
        extras,
        key: &[],
        value_bytes: value.len(),
    };
    response.write(out);
    out.extend_from_slice(value);
}

/// Success without content, unless quiet.
fn done(header: &Header, opcode: Opcode, cas: u64, out: &mut Vec<u8>) {
    if !opcode.quiet {
        ok(header, cas, &[], &[], out);
    }
}

/// Expiries are unsigned here; the original reads them as signed.
fn exptime(number: u32) -> i64 {
    i64::from(number.cast_signed())
}

/// Whether the value is over the item size limit, before it is read. A value it would have replaced is removed.
pub(crate) fn refuse_too_large(cx: &Cx<'_>, header: &Header, opcode: Opcode, key: &[u8]) -> bool {
    let is_store = matches!(
        opcode.verb,
        Verb::Set | Verb::Add | Verb::Replace | Verb::Append | Verb::Prepend
    );
    let value_bytes = header.value_bytes().unwrap_or(0);
    if !is_store || !cx.is_too_large(usize::from(header.key_bytes), value_bytes, 0) {
        return false;
    }
    cx.counters.store_too_large.add(1);
    if opcode.verb == Verb::Set {
        super::classic::remove(cx, key);
    }
    true
}

/// Carries out a request whose lengths were checked.
pub(crate) fn execute(
    cx: &Cx<'_>,
    header: &Header,
    opcode: Opcode,
    body: &Body<'_>,
    out: &mut Vec<u8>,
) -> After {
    match opcode.verb {
        Verb::Get | Verb::GetKey | Verb::GetAndTouch | Verb::GetAndTouchKey | Verb::Touch => {
            read(cx, header, opcode, body, out)
        }
        Verb::Set | Verb::Add | Verb::Replace => store(cx, header, opcode, body, out),
        Verb::Append | Verb::Prepend => join(cx, header, opcode, body, out),
        Verb::Delete => delete(cx, header, opcode, body.key, out),
        Verb::Increment | Verb::Decrement => arithmetic(cx, header, opcode, body, out),
        Verb::Quit => {
            done(header, opcode, 0, out);
            return After::Close;
        }
        Verb::Flush => {
            if cx.shared.config.no_flush_all {
                status(header, Status::AuthFailure, out);
                return After::Continue;
            }
            cx.counters.cmd_flush.add(1);
            super::flush(cx, exptime(body.number(0)));
            done(header, opcode, 0, out);
        }
        Verb::Noop => ok(header, 0, &[], &[], out),
        Verb::Version => ok(header, 0, &[], PROTOCOL_VERSION.as_bytes(), out),
        Verb::Stat => stat(cx, header, body.key, out),
        // Logins are handled by the connection, which knows whether they are asked for.
        Verb::SaslMechanisms | Verb::SaslAuth | Verb::SaslStep => {
            status(header, Status::UnknownCommand, out)
        }
    }
    After::Continue
}

fn count_read(cx: &Cx<'_>, touches: bool, found: Result<Found, Absent>) {
    let counters = cx.counters;
    if touches {
        counters.cmd_touch.add(1);
        let counter = if found.is_ok() {
            &counters.touch_hits
        } else {
            &counters.touch_misses
        };
        return counter.add(1);
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

fn read(cx: &Cx<'_>, header: &Header, opcode: Opcode, body: &Body<'_>, out: &mut Vec<u8>) {
    let touches = matches!(
        opcode.verb,
        Verb::Touch | Verb::GetAndTouch | Verb::GetAndTouchKey
    );
    let shows_key = matches!(opcode.verb, Verb::GetKey | Verb::GetAndTouchKey);
    let store = &cx.shared.store;
    let hash = store.hash(body.key);
    let mut shard = store.shard(hash);
    let found = cx.find(&mut shard, hash, body.key);
    count_read(cx, touches, found);
    let mut response = Response {
        opcode: header.opcode,
        status: Status::Ok,
        opaque: header.opaque,
        cas: 0,
        extras: &[],
        key: &[],
        value_bytes: 0,
    };
    let Ok(found) = found else {
        if !opcode.quiet {
            // COMPAT(memcached): a miss that would show the key shows it instead of the text.
            if shows_key {
                Response {
                    status: Status::NotFound,
                    key: body.key,
                    ..response
                }
                .write(out);
            } else {
                status(header, Status::NotFound, out);
            }
        }
        return;
    };
    shard.accessed(cx.now, found);
    if touches {
        shard.set_expiry(found, cx.expiry(exptime(body.number(0))));
    }
    let item = shard.view(found);
    let flags = item.flags().to_be_bytes();
    response.cas = item.cas();
    response.extras = &flags;
    if shows_key {
        response.key = body.key;
    }
    if opcode.verb == Verb::Touch {
        return response.write(out);
    }
    response.value_bytes = item.value_len();
    response.write(out);
    store.copy_out(shard, hash, found, out);
}

fn insert(
    cx: &Cx<'_>,
    shard: &mut Shard,
    hash: u64,
    new: &NewItem<'_>,
    staged: &mut Staged,
) -> Result<u64, Status> {
    let cas = cx.next_cas();
    match staged.insert(shard, cx.now, hash, &NewItem { cas, ..*new }) {
        Ok(()) => Ok(cas),
        Err(_) => {
            cx.counters.store_no_memory.add(1);
            Err(Status::OutOfMemory)
        }
    }
}

/// The header's cas number against the item's.
fn compare(cx: &Cx<'_>, shard: &Shard, found: Option<Found>, cas: u64) -> Result<(), Status> {
    match found {
        _ if cas == 0 => Ok(()),
        None => {
            cx.counters.cas_misses.add(1);
            Err(Status::NotFound)
        }
        Some(found) if shard.view(found).cas() == cas => {
            cx.counters.cas_hits.add(1);
            Ok(())
        }
        Some(_) => {
            cx.counters.cas_badval.add(1);
            Err(Status::Exists)
        }
    }
}

fn store(cx: &Cx<'_>, header: &Header, opcode: Opcode, body: &Body<'_>, out: &mut Vec<u8>) {
    cx.counters.cmd_set.add(1);
    let store = &cx.shared.store;
    let hash = store.hash(body.key);
    let mut staged = store.stage(cx.now, hash, body.value);
    let mut shard = store.shard(hash);
    let found = cx.find(&mut shard, hash, body.key).ok();
    let new = NewItem {
        key: body.key,
        value: &[body.value],
        flags: body.number(0),
        expiry: cx.expiry(exptime(body.number(4))),
        cas: 0,
        bits: Bits::default(),
    };
    let allowed = match (opcode.verb, found) {
        (Verb::Add, Some(found)) => {
            shard.bumped(found);
            Err(Status::Exists)
        }
        (Verb::Replace, None) => Err(Status::NotFound),
        _ => compare(cx, &shard, found, header.cas),
    };
    let outcome = allowed.and_then(|()| insert(cx, &mut shard, hash, &new, &mut staged));
    staged.drop_in(&mut shard);
    show_store(cx, opcode, header, &new, outcome.as_ref().err().copied());
    match outcome {
        Ok(cas) => done(header, opcode, cas, out),
        Err(failure) => {
            if let (Verb::Set, Status::OutOfMemory, Ok(found)) =
                (opcode.verb, failure, shard.find(cx.now, hash, body.key))
            {
                shard.remove(found);
            }
            status(header, failure, out);
        }
    }
}

fn join(cx: &Cx<'_>, header: &Header, opcode: Opcode, body: &Body<'_>, out: &mut Vec<u8>) {
    cx.counters.cmd_set.add(1);
    let store = &cx.shared.store;
    let hash = store.hash(body.key);
    let mut shard = store.shard(hash);
    let Ok(found) = cx.find(&mut shard, hash, body.key) else {
        return status(header, Status::NotStored, out);
    };
    if let Err(failure) = compare(cx, &shard, Some(found), header.cas) {
        return status(header, failure, out);
    }
    let item = shard.view(found);
    let old = item.value().collect::<Vec<_>>().concat();
    let (flags, expiry, bits) = (item.flags(), item.expiry(), item.bits());
    if cx.is_too_large(body.key.len(), old.len() + body.value.len(), flags) {
        cx.counters.store_too_large.add(1);
        return status(header, Status::TooLarge, out);
    }
    let parts: [&[u8]; 2] = if opcode.verb == Verb::Append {
        [&old, body.value]
    } else {
        [body.value, &old]
    };
    let new = NewItem {
        key: body.key,
        value: &parts,
        flags,
        expiry,
        cas: 0,
        bits,
    };
    let outcome = insert(cx, &mut shard, hash, &new, &mut Staged::No);
    show_store(cx, opcode, header, &new, outcome.as_ref().err().copied());
    match outcome {
        Ok(cas) => done(header, opcode, cas, out),
        Err(failure) => status(header, failure, out),
    }
}

/// Shows a store to those who watch.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only storage opcodes come here"
)]
fn show_store(
    cx: &Cx<'_>,
    opcode: Opcode,
    header: &Header,
    new: &NewItem<'_>,
    failure: Option<Status>,
) {
    let command: &[u8] = match opcode.verb {
        Verb::Add => b"add",
        Verb::Replace => b"replace",
        Verb::Append => b"append",
        Verb::Prepend => b"prepend",
        _ if header.cas != 0 => b"cas",
        _ => b"set",
    };
    let reply = match failure {
        None => texts::STORED,
        Some(Status::Exists) => texts::EXISTS,
        Some(Status::NotFound) => texts::NOT_FOUND,
        Some(Status::OutOfMemory) => texts::NO_MEMORY,
        Some(_) => texts::NOT_STORED,
    };
    let asked = || Asked {
        key: new.key,
        command,
        flags: new.flags,
        expiry: new.expiry,
        value_bytes: new.value.iter().map(|part| part.len()).sum(),
    };
    cx.show_store(asked, reply);
}

fn delete(cx: &Cx<'_>, header: &Header, opcode: Opcode, key: &[u8], out: &mut Vec<u8>) {
    let store = &cx.shared.store;
    let hash = store.hash(key);
    let mut shard = store.shard(hash);
    match cx.find(&mut shard, hash, key) {
        Err(_) => {
            cx.counters.delete_misses.add(1);
            status(header, Status::NotFound, out);
        }
        Ok(found) if header.cas != 0 && shard.view(found).cas() != header.cas => {
            status(header, Status::Exists, out)
        }
        Ok(found) => {
            cx.counters.delete_hits.add(1);
            cx.show_delete(&shard, key, found, b"delete");
            shard.remove(found);
            done(header, opcode, 0, out);
        }
    }
}

fn arithmetic(cx: &Cx<'_>, header: &Header, opcode: Opcode, body: &Body<'_>, out: &mut Vec<u8>) {
    let direction = if opcode.verb == Verb::Increment {
        Direction::Incr
    } else {
        Direction::Decr
    };
    let store = &cx.shared.store;
    let hash = store.hash(body.key);
    let mut shard = store.shard(hash);
    let found = cx.find(&mut shard, hash, body.key).ok();
    count_arithmetic(cx, direction, found.is_some());
    let (number, flags, expiry, bits) = match found {
        None if body.number(16) == DO_NOT_CREATE => return status(header, Status::NotFound, out),
        None => (
            body.wide_number(8),
            0,
            cx.expiry(exptime(body.number(16))),
            Bits::default(),
        ),
        Some(found) => {
            let item = shard.view(found);
            if header.cas != 0 && item.cas() != header.cas {
                return status(header, Status::Exists, out);
            }
            let Some(number) = item.contiguous().and_then(numeric) else {
                return status(header, Status::NonNumeric, out);
            };
            (
                moved(direction, number, body.wide_number(0)),
                item.flags(),
                item.expiry(),
                item.bits(),
            )
        }
    };
    let mut digits = [0; U64_DIGITS_MAX];
    let text = format_u64(number, &mut digits);
    let new = NewItem {
        key: body.key,
        value: &[text],
        flags,
        expiry,
        cas: 0,
        bits,
    };
    match insert(cx, &mut shard, hash, &new, &mut Staged::No) {
        Ok(cas) if !opcode.quiet => ok(header, cas, &[], &number.to_be_bytes(), out),
        Ok(_) => {}
        Err(failure) => status(header, failure, out),
    }
}

/// One packet per statistic, then an empty one.
fn stat(cx: &Cx<'_>, header: &Header, words: &[u8], out: &mut Vec<u8>) {
    let mut text = Vec::new();
    stats::answer(cx, words, &mut text);
    if text.starts_with(b"ERROR") || text.starts_with(b"CLIENT_ERROR") {
        return status(header, Status::NotFound, out);
    }
    let packet = |key: &[u8], value: &[u8], out: &mut Vec<u8>| {
        let response = Response {
            opcode: header.opcode,
            status: Status::Ok,
            opaque: header.opaque,
            cas: 0,
            extras: &[],
            key,
            value_bytes: value.len(),
        };
        response.write(out);
        out.extend_from_slice(value);
    };
    if words == b"detail dump" {
        let dump = text.strip_suffix(texts::END).unwrap_or(&text);
        packet(b"detailed", dump, out);
    }
    for line in text.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(stat) = line.strip_prefix(b"STAT ") {
            let at = stat
                .iter()
                .position(|byte| *byte == b' ')
                .unwrap_or(stat.len());
            packet(&stat[..at], stat.get(at + 1..).unwrap_or_default(), out);
        }
    }
    packet(b"", b"", out);
}
