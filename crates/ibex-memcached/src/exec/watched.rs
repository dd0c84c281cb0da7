//! Lookups and stores: what `watch` shows of them, and lookups in namespaces. While nobody watches and nothing was invalidated each costs two relaxed loads.

use super::Cx;
use crate::watch::Kinds;
use crate::watch::lines::{self, Shown};
use ibex_cache_core::{Absent, Found, Shard, classic_size};
use ibex_memcached_proto::texts;

/// A store as it was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) key: &'a [u8],
    pub(super) command: &'static [u8],
    pub(super) flags: u32,
    pub(super) expiry: u32,
    pub(super) value_bytes: usize,
}

impl Cx<'_> {
    /// Looks an item up, seen by those who watch.
    #[inline]
    pub(super) fn find(&self, shard: &mut Shard, hash: u64, key: &[u8]) -> Result<Found, Absent> {
        let mut found = shard.find(self.now, hash, key);
        if let (1.., Ok(item)) = (self.shared.namespaces.count(), found) {
            found = self.in_namespace(shard, key, item);
        }
        if self.shared.watch.wants(Kinds::FETCHERS) {
            self.show_lookup(shard, key, found);
        }
        found
    }

    /// The item, unless its namespace was invalidated after it was stored; then it is dropped here.
    #[cold]
    fn in_namespace(&self, shard: &mut Shard, key: &[u8], found: Found) -> Result<Found, Absent> {
        if self.shared.namespaces.is_gone(key, shard.view(found).cas()) {
            shard.remove(found);
            return Err(Absent::Unknown);
        }
        Ok(found)
    }

    /// A lookup that is not needed here but that the original makes, and shows.
    #[inline]
    pub(super) fn look(&self, shard: &mut Shard, hash: u64, key: &[u8]) {
        if self.shared.watch.wants(Kinds::FETCHERS) {
            let found = shard.find(self.now, hash, key);
            self.show_lookup(shard, key, found);
        }
    }

    fn class(&self, classic_bytes: usize) -> usize {
        self.shared.store.bands.of(classic_bytes) + 1
    }

    fn show_lookup(&self, shard: &Shard, key: &[u8], found: Result<Found, Absent>) {
        let (status, class, value_bytes): (&[u8], _, _) = match found {
            Ok(found) => {
                let item = shard.view(found);
                (b"found", self.class(item.classic_size()), item.value_len())
            }
            Err(Absent::Unknown) => (b"not_found", 0, 0),
            Err(Absent::Expired) => (b"expired", 0, 0),
            Err(Absent::Flushed) => (b"flushed", 0, 0),
        };
        let item = Shown {
            key,
            class,
            value_bytes,
            fd: self.fd,
        };
        let watch = &self.shared.watch;
        watch.emit(self.ring, Kinds::FETCHERS, |out| {
            lines::item_get(out, &item, status)
        });
    }

    /// Shows a store by its reply.
    #[inline]
    pub(super) fn show_store<'a>(&self, asked: impl FnOnce() -> Asked<'a>, reply: &[u8]) {
        if self.shared.watch.wants(Kinds::MUTATIONS) {
            self.show_store_now(&asked(), store_status(reply));
        }
    }

    fn show_store_now(&self, asked: &Asked<'_>, status: &[u8]) {
        let item = Shown {
            key: asked.key,
            class: self.class(classic_size(
                asked.key.len(),
                asked.value_bytes,
                asked.flags,
            )),
            value_bytes: asked.value_bytes,
            fd: self.fd,
        };
        let ttl = asked.expiry.saturating_sub(self.now);
        self.shared.watch.emit(self.ring, Kinds::MUTATIONS, |out| {
            lines::item_store(out, &item, status, asked.command, ttl);
        });
    }

    /// Shows an item that is about to be deleted.
    #[inline]
    pub(super) fn show_delete(&self, shard: &Shard, key: &[u8], found: Found, command: &[u8]) {
        if !self.shared.watch.wants(Kinds::DELETIONS) {
            return;
        }
        let view = shard.view(found);
        let item = Shown {
            key,
            class: self.class(view.classic_size()),
            value_bytes: view.value_len(),
            fd: self.fd,
        };
        let watch = &self.shared.watch;
        watch.emit(self.ring, Kinds::DELETIONS, |out| {
            lines::deleted(out, &item, command)
        });
    }
}

/// The word for a reply to a storage command, classic, meta or a packet's status text.
fn store_status(reply: &[u8]) -> &'static [u8] {
    match reply {
        reply if reply == texts::STORED || reply == texts::META_HD => b"stored",
        reply if reply == texts::EXISTS || reply == texts::META_EX => b"exists",
        reply if reply == texts::NOT_FOUND || reply == texts::META_NF => b"not_found",
        reply if reply == texts::TOO_LARGE => b"too_large",
        reply if reply == texts::NO_MEMORY => b"no_memory",
        _ => b"not_stored",
    }
}
