//! Leases: one caller computes a missing value, the others wait or take the old one; and a value computed before an
//! invalidation is never stored after it.
//!
//! On the wire: `mg key v f c t N<lease>` makes an empty placeholder on a miss and tells exactly one caller that it won (`W`); the winner stores with
//! the cas number it was
//! given (`ms … C<cas>`), which fails if the item was invalidated (`md key I`) or deleted meanwhile. Inside one process callers of the same key are
//! gathered first, so that only one of them asks the server.

use crate::key::{Item, Key};
use crate::server::{Effect, Flow};
use crate::{Client, Error, Expiry, done, item, refused};
use bytes::{Bytes, BytesMut};
use ibex_memcached_proto::encode::Meta;
use ibex_memcached_proto::reply::{Code, Reply};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a winner has before the lease is given to somebody else.
const LEASE: Duration = Duration::from_secs(30);
/// First pause of a caller who waits for the winner; it grows by half each time.
const WAIT: Duration = Duration::from_millis(20);
/// Pauses before a waiting caller computes for itself: 20, 30, 45, 67, 101 ms, a quarter of a second in all.
const WAITS_MAX: u32 = 5;

/// Whether an outdated value may be used while somebody else computes the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stale {
    /// Yes: nobody waits.
    #[default]
    Served,
    /// No: who may see what, sessions, balances.
    Refused,
}

/// How [`Client::get_or_compute`] treats a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseOptions {
    /// Expiry of a computed value.
    pub expiry: Expiry,
    /// How long the computing caller has before another may try. Whole seconds, at least 1.
    pub lease: Duration,
    /// Recompute in the background of one caller when less than this is left; `None` never.
    pub refresh_before: Option<Duration>,
    /// Use of outdated values.
    pub stale: Stale,
    /// First pause while somebody else computes.
    pub wait: Duration,
    /// Pauses before computing without storing.
    pub waits_max: u32,
}

impl LeaseOptions {
    /// Values that live for `expiry`; lease 30 s, stale values served, up to 5 pauses from 20 ms.
    pub fn new(expiry: impl Into<Expiry>) -> Self {
        Self {
            expiry: expiry.into(),
            lease: LEASE,
            refresh_before: None,
            stale: Stale::default(),
            wait: WAIT,
            waits_max: WAITS_MAX,
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

/// The right to store a computed value, until the item changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    cas: u64,
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

/// The first caller holds `result` while it computes; those behind find what it left.
#[derive(Debug, Default)]
struct Flight {
    result: tokio::sync::Mutex<Option<Bytes>>,
}

impl Flights {
    fn join(&self, wire: &[u8]) -> Arc<Flight> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(flights.entry(wire.to_vec()).or_default())
    }

    /// Later callers start anew: what is being computed began before now.
    pub(crate) fn forget(&self, wire: &[u8]) {
        self.flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(wire);
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

impl Client {
    /// Reads `key` and, if it is missing or outdated, takes the lease on it for `lease` (whole seconds).
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
        let mut request = BytesMut::new();
        let mut meta = Meta::new(&mut request, b"mg", &wire)
            .flags(b"vfc")
            .number(b'N', whole_seconds(lease));
        if let Some(left) = refresh_before {
            meta = meta.number(b'R', whole_seconds(left));
        }
        meta.end();
        let mut found = None;
        let read = |reply: Reply<'_>| match reply {
            Reply::Meta {
                code: Code::Va,
                flags,
                data,
            } => {
                let item = item(&flags, data);
                let ticket = Ticket {
                    cas: item.cas.unwrap_or(0),
                };
                let (won, busy, stale) = (flags.has(b'W'), flags.has(b'Z'), flags.has(b'X'));
                // A placeholder is empty; so may be a value, but then neither W, Z nor X stands beside it, or it is as good as none.
                let old = (!data.is_empty()).then(|| item.clone());
                done(
                    &mut found,
                    match (won, busy, stale) {
                        (true, _, _) => Leased::Fill { ticket, old },
                        (false, true, false) if old.is_some() => Leased::Hit(item),
                        (false, true, _) | (false, false, true) => Leased::Busy { old },
                        (false, false, false) => Leased::Hit(item),
                    },
                )
            }
            other => refused(&other),
        };
        self.server_of(key)?
            .exchange("get with lease", Effect::Writes, &request, read)
            .await?;
        Ok(found.unwrap_or(Leased::Busy { old: None }))
    }

    /// Stores a computed value, unless the item changed since the lease was taken; whether it did.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn fill<'k>(
        &self,
        key: impl Into<Key<'k>>,
        ticket: Ticket,
        value: impl AsRef<[u8]>,
        flags: u32,
        expiry: Expiry,
    ) -> Result<bool, Error> {
        let key = key.into();
        let wire = self.wire_key(key)?;
        let value = value.as_ref();
        let mut request = BytesMut::new();
        let meta = Meta::store(&mut request, &wire, value.len())
            .number(b'C', ticket.cas)
            .number(b'F', u64::from(flags));
        meta.signed(b'T', expiry.on_wire()).end_with(value);
        let mut stored = None;
        let read = |reply: Reply<'_>| match reply {
            Reply::Meta { code: Code::Hd, .. } => done(&mut stored, true),
            Reply::Meta {
                code: Code::Ex | Code::Nf | Code::Ns,
                ..
            } => done(&mut stored, false),
            other => refused(&other),
        };
        self.server_of(key)?
            .exchange("fill", Effect::Writes, &request, read)
            .await?;
        Ok(stored.unwrap_or(false))
    }

    /// Makes the value outdated: readers that may use it still do, for at most `stale_for`; one reader is told to compute it anew; computations begun
    /// before this call cannot be stored. A dead server is an error under every policy.
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
        self.pool.flights.forget(&wire);
        let mut request = BytesMut::new();
        Meta::new(&mut request, b"md", &wire)
            .flags(b"I")
            .number(b'T', whole_seconds(stale_for))
            .end();
        let read = |reply: Reply<'_>| match reply {
            Reply::Meta {
                code: Code::Hd | Code::Nf,
                ..
            } => Ok(Flow::Done),
            other => refused(&other),
        };
        let result = self
            .server_of(key)?
            .exchange("invalidate", Effect::Writes, &request, read)
            .await;
        // Again, for a flight that began between the first call and the server's answer.
        self.pool.flights.forget(&wire);
        result
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
    /// they may, or wait a little and then compute for themselves without storing. A cache that is away never fails the call.
    ///
    /// # Errors
    /// [`ComputeError::Compute`] if the computation failed, [`ComputeError::Key`] for an invalid key.
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
        let mut result = passenger.flight.result.lock().await;
        if let (Some(value), Stale::Served) = (result.as_ref(), options.stale) {
            return Ok(value.clone());
        }
        let value = self.lead(key, options, compute).await?;
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
        compute: impl FnOnce() -> F,
    ) -> Result<Bytes, ComputeError<E>>
    where
        F: Future<Output = Result<Bytes, E>>,
    {
        let mut pause = options.wait;
        let mut waits = 0;
        let ticket = loop {
            let old = match self.lease(key, options.lease, options.refresh_before).await {
                Ok(Leased::Hit(item)) => return Ok(item.value),
                Ok(Leased::Fill { ticket, .. }) => break Some(ticket),
                Ok(Leased::Busy { old }) => old,
                Err(error) => {
                    tracing::debug!(%error, "cache is away, computing");
                    break None;
                }
            };
            if let (Some(old), Stale::Served) = (old, options.stale) {
                return Ok(old.value);
            }
            if waits == options.waits_max {
                break None;
            }
            waits += 1;
            tokio::time::sleep(pause).await;
            pause = pause * 3 / 2;
        };
        let value = compute().await.map_err(ComputeError::Compute)?;
        if let Some(ticket) = ticket
            && let Err(error) = self.fill(key, ticket, &value, 0, options.expiry).await
        {
            tracing::debug!(%error, "computed value was not cached");
        }
        Ok(value)
    }
}
