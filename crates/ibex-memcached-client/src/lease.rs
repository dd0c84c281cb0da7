//! Leases: one caller computes a missing value, the others wait or take the old one; and a value computed before an
//! invalidation is never stored after it.
//!
//! On the wire: `mg key v f c t N<lease>` makes an empty placeholder on a miss and tells exactly one caller that it won (`W`); the winner stores with
//! the cas number it was
//! given (`ms … C<cas>`), which fails if the item was invalidated (`md key I`) or deleted meanwhile. Inside one process callers of the same key are
//! gathered first, so that only one of them asks the server.

use crate::conn::Flow;
use crate::key::{Cas, Item, Key, Place};
use crate::route::Route;
use crate::server::{Dialect, Effect};
use crate::{Client, Error, Expiry, done, item, item_of_value, refused};
use bytes::{Bytes, BytesMut};
use ibex_memcached_proto::encode::{self, Meta};
use ibex_memcached_proto::reply::{Code, Reply, ReplyFlags};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{MutexGuard, watch};
use tokio::time::Instant;

/// How long a winner has before the lease is given to somebody else. A program that dies while it computes costs the readers of its key this much.
const LEASE: Duration = Duration::from_secs(10);
/// First pause of a caller who waits for the winner; it grows by half each time.
const WAIT: Duration = Duration::from_millis(20);
/// The longest pause: what a caller loses at most after the value is there.
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Whether an outdated value may be used while somebody else computes the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stale {
    /// Yes: nobody waits.
    #[default]
    Served,
    /// No: who may see what, sessions, balances.
    Refused,
}

/// What becomes of a value whose key is gone when it is computed: the lease ran out, the item was evicted, or somebody deleted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenGone {
    /// It is used and not stored: nobody knows whether it was deleted because it changed.
    #[default]
    Dropped,
    /// It is stored if there is nothing else by now. For values that are never deleted, only invalidated or left to expire: these may take longer than the
    /// lease and be cached all the same.
    Stored,
}

/// How [`Client::get_or_compute`] treats a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseOptions {
    /// Expiry of a computed value.
    pub expiry: Expiry,
    /// How long the computing caller has before another may try. Whole seconds, at least 1. Longer than the longest computation: what comes later is not
    /// stored, unless [`WhenGone::Stored`] says so.
    pub lease: Duration,
    /// Recompute in the background of one caller when less than this is left; `None` never.
    pub refresh_before: Option<Duration>,
    /// Use of outdated values.
    pub stale: Stale,
    /// First pause while somebody else computes; later ones are longer, up to 250 ms.
    pub wait: Duration,
    /// How long to wait for somebody else's value before computing without storing. With less than `lease` a slow origin is asked by more than one.
    pub wait_max: Duration,
    /// Values that come too late to be stored under their lease.
    pub when_gone: WhenGone,
}

impl LeaseOptions {
    /// Values that live for `expiry`; lease 10 s, which is also the longest wait; stale values served.
    pub fn new(expiry: impl Into<Expiry>) -> Self {
        Self {
            expiry: expiry.into(),
            lease: LEASE,
            refresh_before: None,
            stale: Stale::default(),
            wait: WAIT,
            wait_max: LEASE,
            when_gone: WhenGone::default(),
        }
    }

    /// Never uses an outdated value.
    #[must_use]
    pub fn without_stale(self) -> Self {
        Self {
            stale: Stale::Refused,
            ..self
        }
    }
}

/// The right to store a computed value, until the item changes. Good at the server that gave it and nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    cas: u64,
    place: Place,
    lease: On,
}

/// What a lease was taken on, which says how it is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    /// A placeholder made for it.
    Nothing,
    /// An outdated value.
    Outdated,
    /// A value that is still good and only to be refreshed.
    Current,
    /// A miss at a server that knows no leases: everybody computes, and the first value stays.
    Unknown,
}

/// How a store under a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filled {
    Stored,
    /// The item is another by now.
    Changed,
    /// There is none.
    Gone,
}

/// What a read with a lease found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leased {
    /// A current value.
    Hit(Item),
    /// The caller won: compute, then [`Client::fill`]. The old value if there is one.
    Fill {
        /// The right to store.
        ticket: Ticket,
        /// The outdated value, or the current one when it is only to be refreshed.
        old: Option<Item>,
    },
    /// Somebody else computes; the old value if there is one.
    Busy {
        /// The outdated value.
        old: Option<Item>,
    },
}

/// Why [`Client::get_or_compute`] has no value.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError<E> {
    /// The key is invalid.
    #[error("invalid key")]
    Key,
    /// The computation failed.
    #[error("compute")]
    Compute(#[source] E),
}

/// Computations under way in this process, by key on the wire.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    flights: Mutex<HashMap<Vec<u8>, Arc<Flight>>>,
}

/// The first caller holds `result` while it computes; those behind it find what it left, or take `old` at once when they may.
#[derive(Debug, Default)]
struct Flight {
    result: tokio::sync::Mutex<Option<Bytes>>,
    /// The outdated value that the server gave to the one who computes.
    old: watch::Sender<Option<Bytes>>,
}

impl Flight {
    /// The part of the first caller, or a value that saves it.
    async fn board(&self, stale: Stale) -> Result<MutexGuard<'_, Option<Bytes>>, Bytes> {
        match stale {
            Stale::Refused => Ok(self.result.lock().await),
            Stale::Served => {
                let mut watched = self.old.subscribe();
                let old = async {
                    let old = watched.wait_for(Option::is_some).await;
                    old.ok().and_then(|old| old.clone())
                };
                let result = tokio::select! {
                    biased;
                    result = self.result.lock() => result,
                    Some(old) = old => return Err(old),
                };
                result.clone().map_or(Ok(result), Err)
            }
        }
    }
}

impl Flights {
    fn join(&self, wire: &[u8]) -> Arc<Flight> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(flights.entry(wire.to_vec()).or_default())
    }

    /// Later callers start anew: what is under way began before now.
    pub(crate) fn forget(&self, wire: &[u8]) {
        self.flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(wire);
    }

    /// [`Flights::forget`] for every key.
    pub(crate) fn forget_all(&self) {
        self.flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Closes `flight` to later callers: its result is from before they came.
    fn close(&self, wire: &[u8], flight: &Arc<Flight>) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if flights
            .get(wire)
            .is_some_and(|known| Arc::ptr_eq(known, flight))
        {
            flights.remove(wire);
        }
    }

    /// Removes `flight` when nobody else is on it.
    fn leave(&self, wire: &[u8], flight: &Arc<Flight>) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // Two owners: the map and the one who leaves.
        if flights
            .get(wire)
            .is_some_and(|known| Arc::ptr_eq(known, flight))
            && Arc::strong_count(flight) <= 2
        {
            flights.remove(wire);
        }
    }
}

/// A caller's part in a flight; leaves it also when the caller is dropped.
struct Passenger<'c> {
    flights: &'c Flights,
    wire: &'c [u8],
    flight: Arc<Flight>,
}

impl Drop for Passenger<'_> {
    fn drop(&mut self) {
        self.flights.leave(self.wire, &self.flight);
    }
}

fn whole_seconds(span: Duration) -> u64 {
    (span.as_secs() + u64::from(span.subsec_nanos() > 0)).max(1)
}

/// What a meta hit says about the item's lease.
fn leased(flags: &ReplyFlags<'_>, data: &[u8], place: Place) -> Leased {
    let item = item(flags, data, place);
    let ticket = Ticket {
        cas: item.cas.map_or(0, Cas::number),
        place,
        lease: match (flags.has(b'X'), data.is_empty()) {
            (true, _) => On::Outdated,
            (false, true) => On::Nothing,
            (false, false) => On::Current,
        },
    };
    let (won, busy, stale) = (flags.has(b'W'), flags.has(b'Z'), flags.has(b'X'));
    // A placeholder is empty; so may be a value, but then neither W, Z nor X stands beside it, or it is as good as none.
    let old = (!data.is_empty()).then(|| item.clone());
    match (won, busy, stale) {
        (true, _, _) => Leased::Fill { ticket, old },
        (false, true, false) if old.is_some() => Leased::Hit(item),
        (false, true, _) | (false, false, true) => Leased::Busy { old },
        (false, false, false) => Leased::Hit(item),
    }
}

async fn invalidate_at(route: Route<'_>, wire: &[u8], stale_for: Duration) -> Result<(), Error> {
    let request = |dialect, out: &mut BytesMut| {
        match dialect {
            Dialect::Classic => encode::words(out, b"delete", [wire]),
            Dialect::Meta => Meta::new(out, b"md", wire)
                .flags(b"I")
                .number(b'T', whole_seconds(stale_for))
                .end(),
        }
        Ok(())
    };
    let read = |reply: Reply<'_>| match reply {
        Reply::Meta {
            code: Code::Hd | Code::Nf,
            ..
        }
        | Reply::Deleted
        | Reply::NotFound => Ok(Flow::Done),
        other => refused(&other),
    };
    route
        .server
        .exchange("invalidate", Effect::Writes, request, read)
        .await
}

impl Client {
    /// Reads `key` and, if it is missing or outdated, takes the lease on it for `lease` (whole seconds). A server before memcached 1.6 has no leases: everybody
    /// who misses is told to compute.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn lease<'k>(
        &self,
        key: impl Into<Key<'k>>,
        lease: Duration,
        refresh_before: Option<Duration>,
    ) -> Result<Leased, Error> {
        let key = key.into();
        let wire = self.wire_key(key)?;
        let Route { server, place, .. } = self.route(key).await?;
        let request = |dialect, out: &mut BytesMut| {
            match dialect {
                Dialect::Classic => encode::words(out, b"gets", [wire.as_slice()]),
                Dialect::Meta => {
                    let mut meta = Meta::new(out, b"mg", &wire)
                        .flags(b"vfc")
                        .number(b'N', whole_seconds(lease));
                    if let Some(left) = refresh_before {
                        meta = meta.number(b'R', whole_seconds(left));
                    }
                    meta.end();
                }
            }
            Ok(())
        };
        let mut found = None;
        let read = |reply: Reply<'_>| match reply {
            Reply::Meta {
                code: Code::Va,
                flags,
                data,
            } => done(&mut found, leased(&flags, data, place)),
            Reply::Value(value) => {
                found = Some(Leased::Hit(item_of_value(&value, place)));
                Ok(Flow::More)
            }
            Reply::End => {
                found.get_or_insert(Leased::Fill {
                    ticket: Ticket {
                        cas: 0,
                        place,
                        lease: On::Unknown,
                    },
                    old: None,
                });
                Ok(Flow::Done)
            }
            other => refused(&other),
        };
        server
            .exchange("get with lease", Effect::Writes, request, read)
            .await?;
        let readable = |old: Option<Item>| old.and_then(|old| self.decoded_item(old).ok());
        Ok(match found {
            Some(Leased::Hit(item)) => Leased::Hit(self.decoded_item(item)?),
            Some(Leased::Fill { ticket, old }) => Leased::Fill {
                ticket,
                old: readable(old),
            },
            Some(Leased::Busy { old }) => Leased::Busy { old: readable(old) },
            None => Leased::Busy { old: None },
        })
    }

    /// Stores a computed value, unless the item changed since the lease was taken; whether it did.
    ///
    /// # Errors
    /// See [`Error`]. [`Error::Dead`] if the server that gave the ticket is, whatever the policy.
    pub async fn fill<'k>(
        &self,
        key: impl Into<Key<'k>>,
        ticket: Ticket,
        value: impl AsRef<[u8]>,
        flags: u32,
        expiry: Expiry,
    ) -> Result<bool, Error> {
        self.fill_or_not(key.into(), ticket, value.as_ref(), flags, expiry)
            .await
            .map(|filled| filled == Filled::Stored)
    }

    async fn fill_or_not(
        &self,
        key: Key<'_>,
        ticket: Ticket,
        value: &[u8],
        flags: u32,
        expiry: Expiry,
    ) -> Result<Filled, Error> {
        let (value, flags) = self.encoded(value, flags)?;
        let wire = self.wire_key(key)?;
        let route = self.route_back(ticket.place).await?;
        let exptime = route.expiry(expiry);
        let request = |_, out: &mut BytesMut| {
            if ticket.lease == On::Unknown {
                let store = encode::Store {
                    key: &wire,
                    flags,
                    exptime,
                    cas: None,
                    value: &value,
                };
                encode::store(out, b"add", &store);
            } else {
                Meta::store(out, &wire, value.len())
                    .number(b'C', ticket.cas)
                    .number(b'F', u64::from(flags))
                    .signed(b'T', exptime)
                    .end_with(&value);
            }
            Ok(())
        };
        let mut filled = None;
        let read = |reply: Reply<'_>| match reply {
            Reply::Meta { code: Code::Hd, .. } | Reply::Stored => done(&mut filled, Filled::Stored),
            Reply::Meta { code: Code::Nf, .. } => done(&mut filled, Filled::Gone),
            Reply::Meta {
                code: Code::Ex | Code::Ns,
                ..
            }
            | Reply::NotStored => done(&mut filled, Filled::Changed),
            other => refused(&other),
        };
        let told = route
            .server
            .exchange("fill", Effect::Writes, request, read)
            .await;
        // Only the copies: who waits for this value in this process is to have it.
        if let Some(near) = &self.pool.near {
            near.forget(&wire);
        }
        told?;
        Ok(filled.unwrap_or(Filled::Changed))
    }

    /// Gives the lease back when there will be no value: the next reader is told to compute at once, not when the lease is over.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn give_back<'k>(
        &self,
        key: impl Into<Key<'k>>,
        ticket: Ticket,
    ) -> Result<(), Error> {
        let flags = match ticket.lease {
            On::Nothing => b"".as_slice(),
            On::Outdated => b"I",
            // The value is good until it expires; asking for another refresh of it would need a new expiry.
            On::Current | On::Unknown => return Ok(()),
        };
        let wire = self.wire_key(key.into())?;
        let request = |_, out: &mut BytesMut| {
            Meta::new(out, b"md", &wire)
                .flags(flags)
                .number(b'C', ticket.cas)
                .end();
            Ok(())
        };
        let read = |reply: Reply<'_>| match reply {
            Reply::Meta {
                code: Code::Hd | Code::Nf | Code::Ex,
                ..
            } => Ok(Flow::Done),
            other => refused(&other),
        };
        self.route_back(ticket.place)
            .await?
            .server
            .exchange("give lease back", Effect::Writes, request, read)
            .await
    }

    /// Makes the value outdated: readers that may use it still do, for at most `stale_for`; one reader is told to compute it anew; computations begun
    /// before this call cannot be stored. A dead server is an error, except where its keys move to others. A server before memcached 1.6 deletes the item
    /// instead, and cannot refuse a value that was computed before.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn invalidate<'k>(
        &self,
        key: impl Into<Key<'k>>,
        stale_for: Duration,
    ) -> Result<(), Error> {
        let key = key.into();
        let wire = self.wire_key(key)?;
        let _change = self.change(&wire);
        self.everywhere(key, |route| invalidate_at(route, &wire, stale_for))
            .await
    }

    /// [`Client::invalidate`] on the server of `hash_key`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn invalidate_by(
        &self,
        hash_key: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        stale_for: Duration,
    ) -> Result<(), Error> {
        self.invalidate(Key::by(hash_key.as_ref(), key.as_ref()), stale_for)
            .await
    }

    /// The cached value, or the one `compute` makes, which is then stored. Of all callers everywhere one computes; the others take the outdated value if
    /// they may, or wait for at most [`LeaseOptions::wait_max`] and then compute for themselves without storing. A cache that is away never fails the call.
    /// Callers of one process who ask at the same time ask the server once.
    ///
    /// # Errors
    /// [`ComputeError::Compute`] if the computation failed; the next caller is then told to compute. [`ComputeError::Key`] for an invalid key.
    pub async fn get_or_compute<'k, E, F>(
        &self,
        key: impl Into<Key<'k>>,
        options: LeaseOptions,
        compute: impl FnOnce() -> F,
    ) -> Result<Bytes, ComputeError<E>>
    where
        F: Future<Output = Result<Bytes, E>>,
    {
        let key = key.into();
        let wire = self.wire_key(key).map_err(|_| ComputeError::Key)?;
        let passenger = Passenger {
            flights: &self.pool.flights,
            wire: &wire,
            flight: self.pool.flights.join(&wire),
        };
        let mut result = match passenger.flight.board(options.stale).await {
            Ok(result) => result,
            Err(value) => return Ok(value),
        };
        let value = self.lead(key, options, &passenger.flight, compute).await?;
        self.pool.flights.close(&wire, &passenger.flight);
        *result = Some(value.clone());
        Ok(value)
    }

    /// [`Client::get_or_compute`] on the server of `hash_key`.
    ///
    /// # Errors
    /// As [`Client::get_or_compute`].
    pub async fn get_or_compute_by<E, F>(
        &self,
        hash_key: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        options: LeaseOptions,
        compute: impl FnOnce() -> F,
    ) -> Result<Bytes, ComputeError<E>>
    where
        F: Future<Output = Result<Bytes, E>>,
    {
        self.get_or_compute(Key::by(hash_key.as_ref(), key.as_ref()), options, compute)
            .await
    }

    /// The part of `get_or_compute` that talks to the server, run by one caller of this process at a time.
    async fn lead<E, F>(
        &self,
        key: Key<'_>,
        options: LeaseOptions,
        flight: &Flight,
        compute: impl FnOnce() -> F,
    ) -> Result<Bytes, ComputeError<E>>
    where
        F: Future<Output = Result<Bytes, E>>,
    {
        let deadline = Instant::now() + options.wait_max;
        let mut pause = options.wait;
        let ticket = loop {
            let old = match self.lease(key, options.lease, options.refresh_before).await {
                Ok(Leased::Hit(item)) => return Ok(item.value),
                Ok(Leased::Fill { ticket, old }) => {
                    flight.old.send_replace(old.map(|old| old.value));
                    break Some(ticket);
                }
                Ok(Leased::Busy { old }) => old,
                Err(error) => {
                    tracing::debug!(%error, "cache is away, computing");
                    break None;
                }
            };
            if let (Some(old), Stale::Served) = (old, options.stale) {
                return Ok(old.value);
            }
            let now = Instant::now();
            if now >= deadline {
                break None;
            }
            tokio::time::sleep(pause.min(deadline - now)).await;
            pause = (pause * 3 / 2).min(PAUSE_MAX);
        };
        let computed = compute().await.map_err(ComputeError::Compute);
        if let Some(ticket) = ticket {
            let told = match &computed {
                Ok(value) => self.hand_in(key, ticket, value, options).await,
                Err(_) => self.give_back(key, ticket).await,
            };
            if let Err(error) = told {
                tracing::debug!(%error, "the cache was not told of the computation's end");
            }
        }
        computed
    }

    /// Stores what the holder of a lease computed.
    async fn hand_in(
        &self,
        key: Key<'_>,
        ticket: Ticket,
        value: &[u8],
        options: LeaseOptions,
    ) -> Result<(), Error> {
        let expiry = options.expiry;
        let filled = self.fill_or_not(key, ticket, value, 0, expiry).await?;
        if filled == Filled::Gone && options.when_gone == WhenGone::Stored {
            let late = Ticket {
                lease: On::Unknown,
                ..ticket
            };
            self.fill_or_not(key, late, value, 0, expiry).await?;
        } else if filled != Filled::Stored {
            tracing::debug!(?filled, "a computed value came too late and was not stored");
        }
        Ok(())
    }
}
