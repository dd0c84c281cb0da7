//! What the lines of `watch` say: the original's words in the original's order (logger.c).

use crate::exec::write;
use ibex_cache_core::Evicted;
use std::time::Duration;

fn word(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(b' ');
    out.extend_from_slice(name);
    out.push(b'=');
    out.extend_from_slice(value);
}

fn number(out: &mut Vec<u8>, name: &[u8], value: i64) {
    word(out, name, b"");
    write::signed(out, value);
}

fn key(out: &mut Vec<u8>, key: &[u8]) {
    word(out, b"key", b"");
    write::url(out, key);
}

/// A size on the wire of this daemon is below 2^32.
fn size(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// `ts=<seconds>.<microseconds> gid=<number>`
pub(super) fn head(out: &mut Vec<u8>, since: Duration, gid: u64) {
    out.extend_from_slice(b"ts=");
    write::number(out, since.as_secs());
    out.push(b'.');
    write::number(out, u64::from(since.subsec_micros()));
    out.extend_from_slice(b" gid=");
    write::number(out, gid);
    out.push(b' ');
}

/// An item as lines show it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shown<'a> {
    pub(crate) key: &'a [u8],
    /// Class id, 0 without item.
    pub(crate) class: usize,
    pub(crate) value_bytes: usize,
    /// Descriptor of the client.
    pub(crate) fd: i32,
}

/// A lookup: `status` is not_found, found, flushed or expired.
pub(crate) fn item_get(out: &mut Vec<u8>, item: &Shown<'_>, status: &[u8]) {
    out.extend_from_slice(b"type=item_get");
    key(out, item.key);
    word(out, b"status", status);
    number(out, b"clsid", size(item.class));
    number(out, b"cfd", i64::from(item.fd));
    number(out, b"size", size(item.value_bytes));
}

/// A storage command and how it ended; `ttl` in seconds, 0 for never.
pub(crate) fn item_store(
    out: &mut Vec<u8>,
    item: &Shown<'_>,
    status: &[u8],
    command: &[u8],
    ttl: u32,
) {
    out.extend_from_slice(b"type=item_store");
    key(out, item.key);
    word(out, b"status", status);
    word(out, b"cmd", command);
    number(out, b"ttl", i64::from(ttl));
    number(out, b"clsid", size(item.class));
    number(out, b"cfd", i64::from(item.fd));
    number(out, b"size", size(item.value_bytes));
}

/// A live item that was dropped for room.
pub(crate) fn eviction(out: &mut Vec<u8>, item: &Evicted, class: usize, now: u32) {
    out.extend_from_slice(b"type=eviction");
    key(out, &item.key);
    word(out, b"fetch", if item.is_fetched { b"yes" } else { b"no" });
    let ttl = match item.expiry {
        0 => -1,
        expiry => i64::from(expiry) - i64::from(now),
    };
    number(out, b"ttl", ttl);
    number(out, b"la", i64::from(now.saturating_sub(item.last_access)));
    number(out, b"clsid", size(class));
    number(out, b"size", size(item.value_bytes));
}

/// A delete that found its item; `command` is delete or md.
pub(crate) fn deleted(out: &mut Vec<u8>, item: &Shown<'_>, command: &[u8]) {
    out.extend_from_slice(b"type=deleted");
    key(out, item.key);
    word(out, b"cmd", command);
    number(out, b"clsid", size(item.class));
    number(out, b"size", size(item.value_bytes));
}

/// Why a connection was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Reason {
    #[default]
    Normal,
    Error,
    IdleTimeout,
    Shutdown,
}

impl Reason {
    fn text(self) -> &'static [u8] {
        match self {
            Self::Normal => b"normal",
            Self::Error => b"error",
            Self::IdleTimeout => b"idle_timeout",
            Self::Shutdown => b"shutdown",
        }
    }
}

fn peer_words(out: &mut Vec<u8>, peer: &str) {
    let (host, port, transport) = match peer.strip_prefix("tcp:").and_then(|at| at.rsplit_once(':'))
    {
        Some((host, port)) => (host.trim_matches(['[', ']']), port, "tcp"),
        None => ("unix", "0", "local"),
    };
    word(out, b"rip", host.as_bytes());
    word(out, b"rport", port.as_bytes());
    word(out, b"transport", transport.as_bytes());
}

/// A connection that came.
pub(crate) fn conn_new(out: &mut Vec<u8>, peer: &str, fd: i32) {
    out.extend_from_slice(b"type=conn_new");
    peer_words(out, peer);
    number(out, b"cfd", i64::from(fd));
}

/// A connection that went.
pub(crate) fn conn_close(out: &mut Vec<u8>, peer: &str, reason: Reason, fd: i32) {
    out.extend_from_slice(b"type=conn_close");
    peer_words(out, peer);
    word(out, b"reason", reason.text());
    number(out, b"cfd", i64::from(fd));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn lines_are_the_originals() {
        let item = Shown {
            key: b"a b",
            class: 3,
            value_bytes: 7,
            fd: 12,
        };
        assert_eq!(
            text(|out| item_get(out, &item, b"found")),
            "type=item_get key=a%20b status=found clsid=3 cfd=12 size=7"
        );
        assert_eq!(
            text(|out| item_store(out, &item, b"stored", b"set", 60)),
            "type=item_store key=a%20b status=stored cmd=set ttl=60 clsid=3 cfd=12 size=7"
        );
        assert_eq!(
            text(|out| deleted(out, &item, b"md")),
            "type=deleted key=a%20b cmd=md clsid=3 size=7"
        );
        let evicted = Evicted {
            key: b"k".to_vec(),
            expiry: 0,
            last_access: 5,
            is_fetched: false,
            classic_bytes: 70,
            value_bytes: 10,
        };
        assert_eq!(
            text(|out| eviction(out, &evicted, 1, 9)),
            "type=eviction key=k fetch=no ttl=-1 la=4 clsid=1 size=10"
        );
        assert_eq!(
            text(|out| conn_new(out, "tcp:[::1]:80", 9)),
            "type=conn_new rip=::1 rport=80 transport=tcp cfd=9"
        );
        assert_eq!(
            text(|out| conn_close(out, "unix:/run/x", Reason::IdleTimeout, 9)),
            "type=conn_close rip=unix rport=0 transport=local reason=idle_timeout cfd=9"
        );
        assert_eq!(
            text(|out| head(out, Duration::from_micros(1_000_005), 3)),
            "ts=1.5 gid=3 "
        );
    }
}
