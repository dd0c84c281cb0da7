//! Operations that read items: one, many, and with a new expiry.

use crate::conn::{Flow, Refusal};
use crate::key::{Item, Key, Place};
use crate::near::{Found, Heat};
use crate::route::Route;
use crate::server::{Dialect, Effect};
use crate::{Client, Error, Expiry, current, item_of_value, refused};
use bytes::{Bytes, BytesMut};
use ibex_memcached_proto::encode::{self, Meta};
use ibex_memcached_proto::reply::{Code, Reply, ReplyFlags};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Keys of one `gets` line to a server without meta commands: well under the line length that any of them takes.
const KEYS_PER_LINE: usize = 64;

/// What a server said to a read of one key.
#[derive(Debug, Default)]
struct Answer {
    item: Option<Item>,
    /// The cas number that was asked for is still the item's, and no value came.
    is_confirmed: bool,
    heat: Heat,
}

impl Answer {
    /// The value of a meta hit.
    fn hit(flags: &ReplyFlags<'_>, data: &[u8], place: Place) -> Self {
        Self {
            item: current(flags, data, place),
            is_confirmed: false,
            heat: heat(flags),
        }
    }

    /// A meta hit without its value: not changed, but perhaps outdated since.
    fn unchanged(flags: &ReplyFlags<'_>) -> Self {
        Self {
            item: None,
            is_confirmed: !flags.has(b'X'),
            heat: heat(flags),
        }
    }
}

fn heat(flags: &ReplyFlags<'_>) -> Heat {
    Heat {
        was_read: flags.number(b'h') == Some(1),
        idle_seconds: flags.number(b'l'),
        left_seconds: flags.number(b't'),
    }
}

impl Client {
    /// The item under `key`. A value that was invalidated, or is being computed under a lease, is a miss here, and the caller is taken for the one who
    /// computes: where leases are used, read with [`Client::get_or_compute`].
    ///
    /// # Errors
    /// See [`Error`]; a miss is none.
    pub async fn get<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<Item>, Error> {
        let key = key.into();
        let wire = self.wire_key(key)?;
        let result = match &self.pool.near {
            None => self.read_one(key, &wire, None).await.map(|read| read.item),
            Some(_) => self.get_near(key, &wire).await,
        };
        self.decoded(self.unless_away(result, None)?)
    }

    /// [`Client::get`] on the server of `hash_key`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_by(
        &self,
        hash_key: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<Item>, Error> {
        self.get(Key::by(hash_key.as_ref(), key.as_ref())).await
    }

    /// A read that may be answered by the near cache.
    async fn get_near(&self, key: Key<'_>, wire: &[u8]) -> Result<Option<Item>, Error> {
        let Some(near) = &self.pool.near else {
            return Ok(None);
        };
        let (found, since) = near.look(wire);
        let old = match found {
            Found::Fresh(item) => return Ok(Some(item)),
            Found::Old(item) => Some(item),
            Found::Nothing => None,
        };
        let mut answer = self.read_one(key, wire, old.as_ref()).await?;
        // Kept as it is used: decompressed once, not at every hit.
        answer.item = if answer.is_confirmed {
            old
        } else {
            self.decoded(answer.item)?
        };
        near.keep(
            wire,
            since,
            answer.item.as_ref(),
            answer.heat,
            answer.is_confirmed,
        );
        Ok(answer.item)
    }

    /// Asks the server. With an `old` copy of that server its value is left out if it is still the same.
    async fn read_one(
        &self,
        key: Key<'_>,
        wire: &[u8],
        old: Option<&Item>,
    ) -> Result<Answer, Error> {
        let Route { server, place, .. } = self.route(key).await?;
        let wants_heat = self.pool.near.is_some();
        let known = old
            .and_then(|item| item.cas)
            .filter(|cas| cas.place() == Some(place));
        let request = |dialect, out: &mut BytesMut| {
            match dialect {
                Dialect::Classic => encode::words(out, b"gets", [wire]),
                Dialect::Meta => {
                    let mut meta = Meta::new(out, b"mg", wire).flags(b"vfc");
                    if wants_heat {
                        meta = meta.flags(b"hlt");
                    }
                    if let Some(cas) = known {
                        meta = meta.number(b'C', cas.number());
                    }
                    meta.end();
                }
            }
            Ok(())
        };
        let mut answer = Answer::default();
        let read = |reply: Reply<'_>| match reply {
            Reply::Meta {
                code: Code::Va,
                flags,
                data,
            } => {
                answer = Answer::hit(&flags, data, place);
                Ok(Flow::Done)
            }
            Reply::Meta {
                code: Code::Hd,
                flags,
                ..
            } => {
                answer = Answer::unchanged(&flags);
                Ok(Flow::Done)
            }
            Reply::Value(value) => {
                answer.item = Some(item_of_value(&value, place));
                Ok(Flow::More)
            }
            Reply::Meta { code: Code::En, .. } | Reply::End => Ok(Flow::Done),
            other => refused(&other),
        };
        server.exchange("get", Effect::Reads, request, read).await?;
        Ok(answer)
    }

    /// The items that exist under `keys`: one pipelined request to each server concerned, all servers at the same time.
    ///
    /// # Errors
    /// The first server's error. Under [`WhenDead::Miss`](crate::WhenDead::Miss) the keys of servers that are away are missing from the answer instead.
    pub async fn get_multi<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
    ) -> Result<HashMap<Bytes, Item>, Error> {
        self.multi(keys.iter().map(|key| Key::from(key.as_ref())))
            .await
    }

    /// [`Client::get_multi`] for pairs of hash key and key.
    ///
    /// # Errors
    /// As [`Client::get_multi`].
    pub async fn get_multi_by<H: AsRef<[u8]>, K: AsRef<[u8]>>(
        &self,
        keys: &[(H, K)],
    ) -> Result<HashMap<Bytes, Item>, Error> {
        self.multi(
            keys.iter()
                .map(|(hash_key, key)| Key::by(hash_key.as_ref(), key.as_ref())),
        )
        .await
    }

    async fn multi<'k>(
        &self,
        keys: impl Iterator<Item = Key<'k>>,
    ) -> Result<HashMap<Bytes, Item>, Error> {
        let mut items = HashMap::new();
        let mut by_server: BTreeMap<usize, Vec<(Key<'k>, Vec<u8>)>> = BTreeMap::new();
        for key in keys {
            let wire = self.wire_key(key)?;
            let near = self.pool.near.as_ref().map(|near| near.look(&wire).0);
            if let Some(Found::Fresh(item)) = near {
                items.insert(Bytes::copy_from_slice(key.key), item);
                continue;
            }
            let place = match self.route(key).await {
                Ok(route) => route.place.0,
                Err(error) => {
                    self.unless_away(Err(error), ())?;
                    continue;
                }
            };
            by_server.entry(place).or_default().push((key, wire));
        }
        let reads = by_server
            .iter()
            .map(|(place, keys)| self.multi_from(Place(*place), keys));
        for answers in futures_util::future::join_all(reads).await {
            items.extend(self.unless_away(answers, Vec::new())?);
        }
        let decoded = items
            .into_iter()
            .map(|(key, item)| Ok((key, self.decoded_item(item)?)));
        decoded.collect()
    }

    /// One server's share of a multi-get. Meta: opaques are indices into `keys`, and `mn` marks the end. Classic: lines of some keys, an `END` for each.
    async fn multi_from(
        &self,
        place: Place,
        keys: &[(Key<'_>, Vec<u8>)],
    ) -> Result<Vec<(Bytes, Item)>, Error> {
        let server = self.route_at(place)?.server;
        // A classic line is over with an END or an error; the meta lines end together, with MN.
        let lines_left = AtomicUsize::new(usize::MAX);
        let line_over = || {
            if lines_left.fetch_sub(1, Ordering::Relaxed) <= 1 {
                Flow::Done
            } else {
                Flow::More
            }
        };
        let request = |dialect, out: &mut BytesMut| {
            match dialect {
                Dialect::Meta => pipeline(out, keys),
                Dialect::Classic => {
                    lines_left.store(keys.len().div_ceil(KEYS_PER_LINE), Ordering::Relaxed);
                    for line in keys.chunks(KEYS_PER_LINE) {
                        encode::words(out, b"gets", line.iter().map(|(_, wire)| wire.as_slice()));
                    }
                }
            }
            Ok(())
        };
        let mut found = Vec::new();
        let namespace_bytes = self.pool.config.namespace.len();
        let read = |reply: Reply<'_>| match reply {
            Reply::Meta {
                code: Code::Va,
                flags,
                data,
            } => {
                let key = flags
                    .number(b'O')
                    .and_then(|opaque| keys.get(usize::try_from(opaque).ok()?));
                let item = current(&flags, data, place);
                found.extend(
                    key.zip(item)
                        .map(|((key, _), item)| (Bytes::copy_from_slice(key.key), item)),
                );
                Ok(Flow::More)
            }
            Reply::Value(value) => {
                let key = value.key.get(namespace_bytes..).unwrap_or_default();
                found.push((Bytes::copy_from_slice(key), item_of_value(&value, place)));
                Ok(Flow::More)
            }
            Reply::Meta { code: Code::Mn, .. } => Ok(Flow::Done),
            Reply::End => Ok(line_over()),
            other => refused(&other).map_err(|refusal| Refusal {
                flow: line_over(),
                ..refusal
            }),
        };
        server.exchange("get", Effect::Reads, request, read).await?;
        Ok(found)
    }

    /// The item under `key`, which gets a new expiry at the same time.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_and_touch<'k>(
        &self,
        key: impl Into<Key<'k>>,
        expiry: Expiry,
    ) -> Result<Option<Item>, Error> {
        let key = key.into();
        let wire = self.wire_key(key)?;
        let result = self.read_and_touch(key, &wire, expiry).await;
        self.decoded(self.unless_away(result, None)?)
    }

    async fn read_and_touch(
        &self,
        key: Key<'_>,
        wire: &[u8],
        expiry: Expiry,
    ) -> Result<Option<Item>, Error> {
        let route = self.route(key).await?;
        let (server, place) = (route.server, route.place);
        let is_classic = AtomicBool::new(false);
        let request = |dialect, out: &mut BytesMut| {
            let expiry = route.expiry(expiry);
            is_classic.store(dialect == Dialect::Classic, Ordering::Relaxed);
            match dialect {
                Dialect::Meta => Meta::new(out, b"mg", wire)
                    .flags(b"vfc")
                    .signed(b'T', expiry)
                    .end(),
                // The command gats came with 1.5.3; these two are older.
                Dialect::Classic => {
                    encode::key_and_number(out, b"touch", wire, i128::from(expiry));
                    encode::words(out, b"gets", [wire]);
                }
            }
            Ok(())
        };
        let (mut found, mut is_touched) = (None, false);
        let read = |reply: Reply<'_>| match reply {
            Reply::Meta {
                code: Code::Va,
                flags,
                data,
            } => {
                found = current(&flags, data, place);
                Ok(Flow::Done)
            }
            Reply::Value(value) => {
                found = Some(item_of_value(&value, place));
                Ok(Flow::More)
            }
            Reply::Touched | Reply::NotFound => {
                is_touched = true;
                Ok(Flow::More)
            }
            Reply::Meta { code: Code::En, .. } | Reply::End => Ok(Flow::Done),
            // The first of two classic commands was refused: the answer to the second is still to come.
            other if is_classic.load(Ordering::Relaxed) && !is_touched => {
                is_touched = true;
                refused(&other).map_err(|refusal| Refusal {
                    flow: Flow::More,
                    ..refusal
                })
            }
            other => refused(&other),
        };
        server
            .exchange("gat", Effect::Writes, request, read)
            .await?;
        Ok(found)
    }
}

/// `mg` for each key, quiet about misses, and `mn` at the end.
fn pipeline(out: &mut BytesMut, keys: &[(Key<'_>, Vec<u8>)]) {
    out.reserve(keys.len() * 48);
    for (opaque, (_, wire)) in keys.iter().enumerate() {
        Meta::new(out, b"mg", wire)
            .flags(b"vfcq")
            .number(b'O', opaque as u64)
            .end();
    }
    out.extend_from_slice(b"mn\r\n");
}
