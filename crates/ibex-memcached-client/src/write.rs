//! Operations that change items. Each tells the caches of this process when it is over, however it ended, so that nobody is given what was there before.

use crate::conn::Flow;
use crate::key::{Cas, Key};
use crate::route::Route;
use crate::server::Effect;
use crate::{Client, Error, Expiry, Pool, done, refused};
use bytes::BytesMut;
use ibex_memcached_proto::encode;
use ibex_memcached_proto::reply::Reply;
use std::borrow::Cow;

/// What a storage call does with an item that is or is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Store in any case.
    Set,
    /// Store if there is no item.
    Add,
    /// Store if there is one.
    Replace,
    /// Put the value behind the stored one.
    Append,
    /// Put the value before the stored one.
    Prepend,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Add => "add",
            Self::Replace => "replace",
            Self::Append => "append",
            Self::Prepend => "prepend",
        }
    }
}

/// How a compare-and-swap ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// The value was stored.
    Stored,
    /// The item was changed by somebody else.
    Exists,
    /// The item is gone.
    NotFound,
}

/// A change under way. Whoever asks once it is over, or given up, must not be given what a caller before it is still waiting for, nor an old copy.
#[derive(Debug)]
pub(crate) struct Change<'c> {
    pool: &'c Pool,
    wire: &'c [u8],
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.pool.flights.forget(self.wire);
        if let Some(near) = &self.pool.near {
            near.forget(self.wire);
        }
    }
}

struct Request<'a> {
    verb: &'static str,
    value: &'a [u8],
    flags: u32,
    expiry: Expiry,
    cas: Option<u64>,
}

impl Client {
    pub(crate) fn change<'c>(&'c self, wire: &'c [u8]) -> Change<'c> {
        Change {
            pool: &self.pool,
            wire,
        }
    }

    /// Stores `value`. Returns whether it was stored, which for [`Verb::Set`] it always is. Flags are the caller's own number; with a
    /// [`Codec`](crate::Codec) some bits are taken.
    ///
    /// # Errors
    /// See [`Error`]. Under [`WhenDead::Miss`](crate::WhenDead::Miss) a dead server drops the value and the answer is `false`. [`Error::Codec`] for
    /// [`Verb::Append`] and [`Verb::Prepend`] where values may be compressed.
    pub async fn store<'k>(
        &self,
        verb: Verb,
        key: impl Into<Key<'k>>,
        value: impl AsRef<[u8]>,
        flags: u32,
        expiry: Expiry,
    ) -> Result<bool, Error> {
        let key = key.into();
        let (value, flags) = match verb {
            Verb::Set | Verb::Add | Verb::Replace => self.encoded(value.as_ref(), flags)?,
            Verb::Append | Verb::Prepend => {
                if self
                    .pool
                    .config
                    .codec
                    .is_some_and(|codec| codec.compresses())
                {
                    return Err(Error::Codec(format!(
                        "{} to a value that may be compressed",
                        verb.name()
                    )));
                }
                (Cow::Borrowed(value.as_ref()), flags)
            }
        };
        let request = Request {
            verb: verb.name(),
            value: &value,
            flags,
            expiry,
            cas: None,
        };
        let wire = self.wire_key(key)?;
        let _change = self.change(&wire);
        let swap = match self.route(key).await {
            Ok(route) => store_at(route, &wire, &request).await,
            Err(error) => Err(error),
        };
        self.unless_away(swap.map(|swap| swap == Swap::Stored), false)
    }

    pub(crate) fn encoded<'v>(
        &self,
        value: &'v [u8],
        flags: u32,
    ) -> Result<(Cow<'v, [u8]>, u32), Error> {
        match &self.pool.config.codec {
            Some(codec) => codec.encode(value, flags),
            None => Ok((Cow::Borrowed(value), flags)),
        }
    }

    /// Stores `value` in any case, with flags 0.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set<'k>(
        &self,
        key: impl Into<Key<'k>>,
        value: impl AsRef<[u8]>,
        expiry: Expiry,
    ) -> Result<(), Error> {
        self.store(Verb::Set, key, value, 0, expiry)
            .await
            .map(|_| ())
    }

    /// [`Client::set`] on the server of `hash_key`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn set_by(
        &self,
        hash_key: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        expiry: Expiry,
    ) -> Result<(), Error> {
        self.set(Key::by(hash_key.as_ref(), key.as_ref()), value, expiry)
            .await
    }

    /// Stores `value` if there is no item; whether it did.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn add<'k>(
        &self,
        key: impl Into<Key<'k>>,
        value: impl AsRef<[u8]>,
        expiry: Expiry,
    ) -> Result<bool, Error> {
        self.store(Verb::Add, key, value, 0, expiry).await
    }

    /// [`Client::add`] on the server of `hash_key`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn add_by(
        &self,
        hash_key: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        expiry: Expiry,
    ) -> Result<bool, Error> {
        self.add(Key::by(hash_key.as_ref(), key.as_ref()), value, expiry)
            .await
    }

    /// Stores `value` if there is an item; whether it did.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn replace<'k>(
        &self,
        key: impl Into<Key<'k>>,
        value: impl AsRef<[u8]>,
        expiry: Expiry,
    ) -> Result<bool, Error> {
        self.store(Verb::Replace, key, value, 0, expiry).await
    }

    /// Puts `value` behind the stored one, whose flags and expiry stay; whether there is one.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Codec`] where values may be compressed.
    pub async fn append<'k>(
        &self,
        key: impl Into<Key<'k>>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool, Error> {
        self.store(Verb::Append, key, value, 0, Expiry::Never).await
    }

    /// Puts `value` before the stored one, whose flags and expiry stay; whether there is one.
    ///
    /// # Errors
    /// As [`Client::append`].
    pub async fn prepend<'k>(
        &self,
        key: impl Into<Key<'k>>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool, Error> {
        self.store(Verb::Prepend, key, value, 0, Expiry::Never)
            .await
    }

    /// Stores `value` if the item's cas number is still `cas`, as [`crate::Item::cas`] gave it.
    ///
    /// # Errors
    /// See [`Error`]. [`Error::Dead`] if the server that gave the number is, whatever the policy: no other knows it.
    pub async fn cas<'k>(
        &self,
        key: impl Into<Key<'k>>,
        value: impl AsRef<[u8]>,
        expiry: Expiry,
        cas: impl Into<Cas>,
    ) -> Result<Swap, Error> {
        let (key, cas) = (key.into(), cas.into());
        let (value, flags) = self.encoded(value.as_ref(), 0)?;
        let wire = self.wire_key(key)?;
        let _change = self.change(&wire);
        let route = match cas.place() {
            Some(place) => self.route_back(place).await?,
            None => self.route(key).await?,
        };
        let request = Request {
            verb: "cas",
            value: &value,
            flags,
            expiry,
            cas: Some(cas.number()),
        };
        store_at(route, &wire, &request).await
    }

    /// Deletes the item; whether there was one. A dead server is an error, except where its keys move to others: a lost delete leaves a stale value.
    /// Under [`WhenDead::Gutter`](crate::WhenDead::Gutter) both pools are told.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete<'k>(&self, key: impl Into<Key<'k>>) -> Result<bool, Error> {
        let key = key.into();
        let wire = self.wire_key(key)?;
        let _change = self.change(&wire);
        self.everywhere(key, |route| delete_at(route, &wire)).await
    }

    /// [`Client::delete`] on the server of `hash_key`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_by(
        &self,
        hash_key: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> Result<bool, Error> {
        self.delete(Key::by(hash_key.as_ref(), key.as_ref())).await
    }

    /// Does `act` at the server of `key`; where there is a gutter, at the key's own server and in the gutter at the same time. The answer is that of the
    /// key's server: what the gutter does not hear is over within its short expiry.
    pub(crate) async fn everywhere<'c, T, F>(
        &'c self,
        key: Key<'_>,
        act: impl Fn(Route<'c>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let Some(gutter) = self.gutter_route(key) else {
            return act(self.route(key).await?).await;
        };
        let in_gutter = async {
            if gutter.server.is_usable().await
                && let Err(error) = act(gutter).await
            {
                tracing::debug!(%error, "the gutter was not told");
            }
        };
        let at_home = async {
            let home = self.route_back(crate::key::Place(self.home(key)?)).await?;
            act(home).await
        };
        let (told, ()) = tokio::join!(at_home, in_gutter);
        told
    }

    async fn arithmetic(
        &self,
        verb: &'static str,
        key: Key<'_>,
        delta: u64,
    ) -> Result<Option<u64>, Error> {
        let wire = self.wire_key(key)?;
        let _change = self.change(&wire);
        let request = |_, out: &mut BytesMut| {
            encode::key_and_number(out, verb.as_bytes(), &wire, i128::from(delta));
            Ok(())
        };
        let mut number = None;
        let read = |reply: Reply<'_>| match reply {
            Reply::Number(new) => done(&mut number, new),
            Reply::NotFound => Ok(Flow::Done),
            other => refused(&other),
        };
        self.route(key)
            .await?
            .server
            .exchange(verb, Effect::Writes, request, read)
            .await?;
        Ok(number)
    }

    /// Adds `delta` to a stored decimal number, wrapping at 2^64; the new number, or `None` if there is no item.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn incr<'k>(
        &self,
        key: impl Into<Key<'k>>,
        delta: u64,
    ) -> Result<Option<u64>, Error> {
        self.arithmetic("incr", key.into(), delta).await
    }

    /// [`Client::incr`] on the server of `hash_key`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn incr_by(
        &self,
        hash_key: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
        delta: u64,
    ) -> Result<Option<u64>, Error> {
        self.incr(Key::by(hash_key.as_ref(), key.as_ref()), delta)
            .await
    }

    /// Subtracts `delta` from a stored decimal number, stopping at 0; the new number, or `None` if there is no item.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn decr<'k>(
        &self,
        key: impl Into<Key<'k>>,
        delta: u64,
    ) -> Result<Option<u64>, Error> {
        self.arithmetic("decr", key.into(), delta).await
    }

    /// Gives the item a new expiry; whether there is one.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn touch<'k>(&self, key: impl Into<Key<'k>>, expiry: Expiry) -> Result<bool, Error> {
        let key = key.into();
        let wire = self.wire_key(key)?;
        let _change = self.change(&wire);
        let result = match self.route(key).await {
            Ok(route) => touch_at(route, &wire, expiry).await,
            Err(error) => Err(error),
        };
        self.unless_away(result, false)
    }
}

async fn store_at(route: Route<'_>, wire: &[u8], request: &Request<'_>) -> Result<Swap, Error> {
    let write = |_, out: &mut BytesMut| {
        encode::store(
            out,
            request.verb.as_bytes(),
            &encode::Store {
                key: wire,
                flags: request.flags,
                exptime: route.expiry(request.expiry),
                cas: request.cas,
                value: request.value,
            },
        );
        Ok(())
    };
    let mut outcome = None;
    let read = |reply: Reply<'_>| match reply {
        Reply::Stored => done(&mut outcome, Swap::Stored),
        Reply::NotStored | Reply::NotFound => done(&mut outcome, Swap::NotFound),
        Reply::Exists => done(&mut outcome, Swap::Exists),
        other => refused(&other),
    };
    route
        .server
        .exchange(request.verb, Effect::Writes, write, read)
        .await?;
    Ok(outcome.unwrap_or(Swap::NotFound))
}

async fn touch_at(route: Route<'_>, wire: &[u8], expiry: Expiry) -> Result<bool, Error> {
    let request = |_, out: &mut BytesMut| {
        let expiry = i128::from(route.expiry(expiry));
        encode::key_and_number(out, b"touch", wire, expiry);
        Ok(())
    };
    let mut touched = false;
    let read = |reply: Reply<'_>| match reply {
        Reply::Touched => {
            touched = true;
            Ok(Flow::Done)
        }
        Reply::NotFound => Ok(Flow::Done),
        other => refused(&other),
    };
    route
        .server
        .exchange("touch", Effect::Writes, request, read)
        .await?;
    Ok(touched)
}

pub(crate) async fn delete_at(route: Route<'_>, wire: &[u8]) -> Result<bool, Error> {
    let request = |_, out: &mut BytesMut| {
        encode::words(out, b"delete", [wire]);
        Ok(())
    };
    let mut deleted = false;
    let read = |reply: Reply<'_>| match reply {
        Reply::Deleted => {
            deleted = true;
            Ok(Flow::Done)
        }
        Reply::NotFound => Ok(Flow::Done),
        other => refused(&other),
    };
    route
        .server
        .exchange("delete", Effect::Writes, request, read)
        .await?;
    Ok(deleted)
}
