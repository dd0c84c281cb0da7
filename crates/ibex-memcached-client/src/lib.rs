//! Pooled, pipelined asynchronous memcached client with consistent hashing over many servers.
//!
//! ```no_run
//! # async fn example() -> Result<(), ibex_memcached_client::Error> {
//! use ibex_memcached_client::{Client, Config, Expiry};
//! let cache = Client::connect(Config::new(["10.0.0.1", "10.0.0.2:11211"])).await?;
//! cache.set("greeting", "hello", Expiry::Never).await?;
//! assert_eq!(cache.get("greeting").await?.map(|item| item.value), Some("hello".into()));
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] is a cheap handle. Each call owns one pooled connection while it lasts, has a deadline, and may be dropped at any time: a connection
//! whose replies were not all read is closed, never reused. A server that fails several times in a row is left alone for a while.
//! Nothing is retried behind the caller's back; [`Error::is_retryable`] tells what may be. Stampedes on popular keys are prevented with the server's
//! leases: see [`Client::get_or_compute`].
//!
//! Needs memcached 1.6 or later (meta commands).
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a reply an operation does not expect is an error, whichever it is"
)]

mod config;
mod error;
mod expiry;
mod hash;
mod key;
mod lease;
mod selector;
mod server;

pub use config::{Config, WhenDead};
pub use error::Error;
pub use expiry::Expiry;
pub use hash::Hash;
pub use key::{Item, Key};
pub use lease::{ComputeError, LeaseOptions, Leased, Stale, Ticket};
pub use selector::{Candidate, Distribution, Selector};

use bytes::{Bytes, BytesMut};
use ibex_memcached_proto::encode::{self, Meta};
use ibex_memcached_proto::reply::{Code, Reply, ReplyFlags};
use key::Choice;
use server::{Effect, Flow, Refusal, Server};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// A pool of servers, shared by all clones.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    servers: Vec<Server>,
    candidates: Vec<Candidate>,
    /// The choice with all servers alive.
    selector: Selector,
    config: Config,
    flights: lease::Flights,
}

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

pub(crate) fn done<T>(slot: &mut Option<T>, value: T) -> Result<Flow, Refusal> {
    *slot = Some(value);
    Ok(Flow::Done)
}

pub(crate) fn refused(reply: &Reply<'_>) -> Result<Flow, Refusal> {
    let text = match reply {
        Reply::ClientError(text) | Reply::ServerError(text) => {
            String::from_utf8_lossy(text).into_owned()
        }
        other => format!("unexpected reply {other:?}"),
    };
    Err(Refusal {
        text,
        flow: Flow::Done,
    })
}

/// The item of a `mg` hit with flags `f` and `c`.
pub(crate) fn item(flags: &ReplyFlags<'_>, data: &[u8]) -> Item {
    Item {
        value: Bytes::copy_from_slice(data),
        flags: flags
            .number(b'f')
            .and_then(|flags| u32::try_from(flags).ok())
            .unwrap_or(0),
        cas: flags.number(b'c'),
    }
}

/// [`item`], unless it is what leases leave behind: an outdated value, or the empty placeholder of one that is being computed.
fn current(flags: &ReplyFlags<'_>, data: &[u8]) -> Option<Item> {
    let is_placeholder = data.is_empty() && flags.has(b'Z');
    (!flags.has(b'X') && !is_placeholder).then(|| item(flags, data))
}

impl Client {
    /// Makes a pool. Connections are opened when they are needed, so servers that are away now do no harm.
    ///
    /// # Errors
    /// [`Error::Config`] if the configuration makes no pool.
    #[expect(
        clippy::unused_async,
        reason = "the signature all clients of the family share; resolving names may move here"
    )]
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let parsed = config.parsed_servers()?;
        let candidates: Vec<_> = parsed.iter().map(config::ServerConfig::candidate).collect();
        let selector = Selector::new(config.distribution, config.hash(), &candidates, |_| true);
        let random = RandomState::new();
        let servers = parsed
            .into_iter()
            .enumerate()
            .map(|(index, server)| Server::new(server, &config, random.hash_one(index)))
            .collect();
        Ok(Self {
            pool: Arc::new(Pool {
                servers,
                candidates,
                selector,
                config,
                flights: lease::Flights::default(),
            }),
        })
    }

    fn wire_key(&self, key: Key<'_>) -> Result<Vec<u8>, Error> {
        let wire = [&self.pool.config.namespace, key.key].concat();
        if encode::check_key(&wire) {
            Ok(wire)
        } else {
            Err(Error::Key)
        }
    }

    fn server_index(&self, key: Key<'_>) -> Result<usize, Error> {
        let pool = &self.pool;
        let none = || Error::Config("no servers".to_owned());
        let number = |selector: &Selector| match key.choice {
            Choice::Bytes(bytes) => selector.number(bytes),
            Choice::Number(number) => number,
        };
        let chosen = number(&pool.selector);
        let first = pool.selector.server_of_number(chosen).ok_or_else(none)?;
        let is_alive = |index: usize| {
            pool.servers
                .get(index)
                .is_some_and(|server| !server.is_dead())
        };
        if pool.config.when_dead != WhenDead::Eject || is_alive(first) {
            return Ok(first);
        }
        let elsewhere = match pool.config.distribution {
            Distribution::Perl => {
                // Bytes that keep an owner's keys together keep them together here too.
                let again = match key.choice {
                    Choice::Bytes(bytes) => bytes,
                    Choice::Number(_) => key.key,
                };
                pool.selector.perl_server(chosen, again, is_alive)
            }
            Distribution::Modula
            | Distribution::Ketama
            | Distribution::KetamaWeighted
            | Distribution::Rendezvous
            | Distribution::Jump => Selector::new(
                pool.config.distribution,
                pool.config.hash(),
                &pool.candidates,
                is_alive,
            )
            .server_of_number(chosen),
        };
        Ok(elsewhere.unwrap_or(first))
    }

    pub(crate) fn server_of(&self, key: Key<'_>) -> Result<&Server, Error> {
        let index = self.server_index(key)?;
        self.pool
            .servers
            .get(index)
            .ok_or_else(|| Error::Config("no servers".to_owned()))
    }

    /// The name of the server that holds `key`.
    ///
    /// # Errors
    /// [`Error::Config`] if there are no servers.
    pub fn server_name<'k>(&self, key: impl Into<Key<'k>>) -> Result<&str, Error> {
        Ok(self.server_of(key.into())?.name())
    }

    /// A read or store at a dead server becomes `instead` under [`WhenDead::Miss`].
    pub(crate) fn unless_away<T>(&self, result: Result<T, Error>, instead: T) -> Result<T, Error> {
        match result {
            Err(error)
                if error.is_server_away() && self.pool.config.when_dead == WhenDead::Miss =>
            {
                tracing::debug!(%error, "cache server is away, treated as a miss");
                Ok(instead)
            }
            other => other,
        }
    }

    /// The item under `key`. A value that was invalidated, or is being computed under a lease, is a miss here, and the caller is taken for the one who
    /// computes: where leases are used, read with [`Client::get_or_compute`].
    ///
    /// # Errors
    /// See [`Error`]; a miss is none.
    pub async fn get<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<Item>, Error> {
        let key = key.into();
        let wire = self.wire_key(key)?;
        let mut request = BytesMut::with_capacity(wire.len() + 16);
        Meta::new(&mut request, b"mg", &wire).flags(b"vfc").end();
        let mut found = None;
        let read = |reply: Reply<'_>| match reply {
            Reply::Meta {
                code: Code::Va,
                flags,
                data,
            } => {
                found = current(&flags, data);
                Ok(Flow::Done)
            }
            Reply::Meta { code: Code::En, .. } => Ok(Flow::Done),
            other => refused(&other),
        };
        let result = self
            .server_of(key)?
            .exchange("get", Effect::Reads, &request, read)
            .await;
        self.unless_away(result.map(|()| found), None)
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

    /// The items that exist under `keys`: one pipelined request to each server concerned, all servers at the same time.
    ///
    /// # Errors
    /// The first server's error. Under [`WhenDead::Miss`] the keys of servers that are away are missing from the answer instead.
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
        let mut by_server: BTreeMap<usize, Vec<Key<'k>>> = BTreeMap::new();
        for key in keys {
            by_server
                .entry(self.server_index(key)?)
                .or_default()
                .push(key);
        }
        let reads = by_server
            .iter()
            .map(|(index, keys)| self.multi_from(*index, keys));
        let mut items = HashMap::new();
        for answers in futures_util::future::join_all(reads).await {
            items.extend(self.unless_away(answers, Vec::new())?);
        }
        Ok(items)
    }

    /// One server's share of a multi-get. Opaques are indices into `keys`; `mn` marks the end.
    async fn multi_from(
        &self,
        index: usize,
        keys: &[Key<'_>],
    ) -> Result<Vec<(Bytes, Item)>, Error> {
        let server = self
            .pool
            .servers
            .get(index)
            .ok_or_else(|| Error::Config("no servers".to_owned()))?;
        let mut request = BytesMut::with_capacity(keys.len() * 48);
        for (opaque, key) in keys.iter().enumerate() {
            Meta::new(&mut request, b"mg", &self.wire_key(*key)?)
                .flags(b"vfcq")
                .number(b'O', opaque as u64)
                .end();
        }
        request.extend_from_slice(b"mn\r\n");
        let mut found = Vec::new();
        let read = |reply: Reply<'_>| match reply {
            Reply::Meta {
                code: Code::Va,
                flags,
                data,
            } => {
                let key = flags
                    .number(b'O')
                    .and_then(|opaque| keys.get(usize::try_from(opaque).ok()?));
                found.extend(
                    key.zip(current(&flags, data))
                        .map(|(key, item)| (Bytes::copy_from_slice(key.key), item)),
                );
                Ok(Flow::More)
            }
            Reply::Meta { code: Code::Mn, .. } => Ok(Flow::Done),
            other => refused(&other).map_err(|refusal| Refusal {
                flow: Flow::More,
                ..refusal
            }),
        };
        server
            .exchange("get", Effect::Reads, &request, read)
            .await?;
        Ok(found)
    }

    /// Stores `value`. Returns whether it was stored, which for [`Verb::Set`] it always is.
    ///
    /// # Errors
    /// See [`Error`]. Under [`WhenDead::Miss`] a dead server drops the value and the answer is `false`.
    pub async fn store<'k>(
        &self,
        verb: Verb,
        key: impl Into<Key<'k>>,
        value: impl AsRef<[u8]>,
        flags: u32,
        expiry: Expiry,
    ) -> Result<bool, Error> {
        let key = key.into();
        let swap = self
            .store_request(verb.name(), key, value.as_ref(), flags, expiry, None)
            .await;
        self.unless_away(swap.map(|swap| swap == Swap::Stored), false)
    }

    async fn store_request(
        &self,
        verb: &'static str,
        key: Key<'_>,
        value: &[u8],
        flags: u32,
        expiry: Expiry,
        cas: Option<u64>,
    ) -> Result<Swap, Error> {
        let wire = self.wire_key(key)?;
        let mut request = BytesMut::new();
        encode::store(
            &mut request,
            verb.as_bytes(),
            &encode::Store {
                key: &wire,
                flags,
                exptime: expiry.on_wire(),
                cas,
                value,
            },
        );
        let mut outcome = None;
        let read = |reply: Reply<'_>| match reply {
            Reply::Stored => done(&mut outcome, Swap::Stored),
            Reply::NotStored | Reply::NotFound => done(&mut outcome, Swap::NotFound),
            Reply::Exists => done(&mut outcome, Swap::Exists),
            other => refused(&other),
        };
        let talked = self
            .server_of(key)?
            .exchange(verb, Effect::Writes, &request, read)
            .await;
        // Whoever asks from now on must not be given what a caller before this write is still waiting for.
        self.pool.flights.forget(&wire);
        talked?;
        Ok(outcome.unwrap_or(Swap::NotFound))
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

    /// Stores `value` if the item's cas number is still `cas`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cas<'k>(
        &self,
        key: impl Into<Key<'k>>,
        value: impl AsRef<[u8]>,
        expiry: Expiry,
        cas: u64,
    ) -> Result<Swap, Error> {
        self.store_request("cas", key.into(), value.as_ref(), 0, expiry, Some(cas))
            .await
    }

    /// Deletes the item; whether there was one. A dead server is an error under every policy: a lost delete leaves a stale value.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete<'k>(&self, key: impl Into<Key<'k>>) -> Result<bool, Error> {
        let key = key.into();
        let wire = self.wire_key(key)?;
        let mut request = BytesMut::new();
        encode::words(&mut request, b"delete", [wire.as_slice()]);
        let mut deleted = None;
        let read = |reply: Reply<'_>| match reply {
            Reply::Deleted => done(&mut deleted, true),
            Reply::NotFound => done(&mut deleted, false),
            other => refused(&other),
        };
        let talked = self
            .server_of(key)?
            .exchange("delete", Effect::Writes, &request, read)
            .await;
        self.pool.flights.forget(&wire);
        talked?;
        Ok(deleted.unwrap_or(false))
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

    async fn arithmetic(
        &self,
        verb: &'static str,
        key: Key<'_>,
        delta: u64,
    ) -> Result<Option<u64>, Error> {
        let wire = self.wire_key(key)?;
        let mut request = BytesMut::new();
        encode::key_and_number(&mut request, verb.as_bytes(), &wire, i128::from(delta));
        let mut number = None;
        let read = |reply: Reply<'_>| match reply {
            Reply::Number(new) => done(&mut number, new),
            Reply::NotFound => Ok(Flow::Done),
            other => refused(&other),
        };
        let talked = self
            .server_of(key)?
            .exchange(verb, Effect::Writes, &request, read)
            .await;
        self.pool.flights.forget(&wire);
        talked?;
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

    /// Subtracts `delta` from a stored decimal number, stopping at 0.
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
        let mut request = BytesMut::new();
        encode::key_and_number(&mut request, b"touch", &wire, i128::from(expiry.on_wire()));
        let mut touched = None;
        let read = |reply: Reply<'_>| match reply {
            Reply::Touched => done(&mut touched, true),
            Reply::NotFound => done(&mut touched, false),
            other => refused(&other),
        };
        let result = self
            .server_of(key)?
            .exchange("touch", Effect::Writes, &request, read)
            .await;
        self.unless_away(result.map(|()| touched.unwrap_or(false)), false)
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
        let mut request = BytesMut::new();
        Meta::new(&mut request, b"mg", &wire)
            .flags(b"vfc")
            .signed(b'T', expiry.on_wire())
            .end();
        let mut found = None;
        let read = |reply: Reply<'_>| match reply {
            Reply::Meta {
                code: Code::Va,
                flags,
                data,
            } => {
                found = current(&flags, data);
                Ok(Flow::Done)
            }
            Reply::Meta { code: Code::En, .. } => Ok(Flow::Done),
            other => refused(&other),
        };
        let result = self
            .server_of(key)?
            .exchange("gat", Effect::Writes, &request, read)
            .await;
        self.unless_away(result.map(|()| found), None)
    }

    /// Makes every item of every server invisible.
    ///
    /// # Errors
    /// The first server's error; the others were flushed all the same.
    pub async fn flush_all(&self) -> Result<(), Error> {
        let flushes = self.pool.servers.iter().map(|server| {
            server.exchange(
                "flush_all",
                Effect::Writes,
                b"flush_all\r\n",
                |reply| match reply {
                    Reply::Ok => Ok(Flow::Done),
                    other => refused(&other),
                },
            )
        });
        futures_util::future::join_all(flushes)
            .await
            .into_iter()
            .collect()
    }

    /// The version of each server, by its name.
    ///
    /// # Errors
    /// The first server's error.
    pub async fn version(&self) -> Result<BTreeMap<String, String>, Error> {
        let mut versions = BTreeMap::new();
        for server in &self.pool.servers {
            let mut version = None;
            let read = |reply: Reply<'_>| match reply {
                Reply::Version(text) => {
                    done(&mut version, String::from_utf8_lossy(text).into_owned())
                }
                other => refused(&other),
            };
            server
                .exchange("version", Effect::Reads, b"version\r\n", read)
                .await?;
            versions.insert(server.name().to_owned(), version.unwrap_or_default());
        }
        Ok(versions)
    }

    /// The statistics of each server, by its name; `section` as in `stats settings`, empty for the general ones.
    ///
    /// # Errors
    /// The first server's error.
    pub async fn stats(
        &self,
        section: &str,
    ) -> Result<BTreeMap<String, BTreeMap<String, String>>, Error> {
        let request = if section.is_empty() {
            "stats\r\n".to_owned()
        } else {
            format!("stats {section}\r\n")
        };
        let mut all = BTreeMap::new();
        for server in &self.pool.servers {
            let mut stats = BTreeMap::new();
            let read = |reply: Reply<'_>| match reply {
                Reply::Stat { name, value } => {
                    stats.insert(
                        String::from_utf8_lossy(name).into_owned(),
                        String::from_utf8_lossy(value).into_owned(),
                    );
                    Ok(Flow::More)
                }
                Reply::End | Reply::Ok => Ok(Flow::Done),
                other => refused(&other),
            };
            server
                .exchange("stats", Effect::Reads, request.as_bytes(), read)
                .await?;
            all.insert(server.name().to_owned(), stats);
        }
        Ok(all)
    }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
