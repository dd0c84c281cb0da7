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
//! whose replies were not all read is closed, never reused. A server that fails several times in a row is left alone for a while, and what calls for its
//! keys do meanwhile is the pool's policy ([`WhenDead`]). Nothing is retried behind the caller's back; [`Error::is_retryable`] tells what may be.
//!
//! - Which server has a key: [`Distribution`] and [`enum@Hash`], equal to those of libmemcached and Cache::Memcached; [`Key`] for several keys on one server.
//! - Stampedes on popular keys are prevented with the server's leases: [`Client::get_or_compute`], [`Client::invalidate`].
//! - The hottest keys can stay in the process: [`NearCache`].
//! - Compressed and JSON values that other languages' clients read: [`Codec`] (cargo features `zlib`, `zstd`, `serde`).
//! - Anything else of the protocol: [`Client::meta`]. Without an event loop: [`blocking`].
//! - What happens inside: [`Client::metrics`], and `tracing` events below INFO.
//!
//! Life of a call: key checked and prefixed → server chosen (`route.rs`), probed if it was dead → a place in its pool, in the order of asking → a connection,
//! idle or new; on the first one VERSION tells the commands to use → request and replies within one deadline → connection back, health noted.
//!
//! Works with memcached 1.6 and later; with older servers as far as they can ([`Protocol`]).
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a reply an operation does not expect is an error, whichever it is"
)]

pub mod blocking;
mod codec;
mod config;
mod conn;
mod error;
mod expiry;
mod fleet;
mod hash;
#[cfg(feature = "serde")]
mod json;
mod key;
mod lease;
mod metrics;
mod near;
mod raw;
mod read;
mod route;
mod selector;
mod server;
mod write;

pub use codec::{Codec, Compression, Convention};
pub use config::{Config, Protocol, WhenDead};
pub use error::Error;
pub use expiry::Expiry;
pub use hash::Hash;
pub use key::{Cas, Item, Key};
pub use lease::{ComputeError, LeaseOptions, Leased, Stale, Ticket, WhenGone};
pub use metrics::ServerMetrics;
pub use near::{NearCache, NearMetrics};
pub use raw::{MetaCode, MetaReply, MetaRequest};
pub use selector::{Candidate, Distribution, Selector};
pub use write::{Swap, Verb};

use bytes::Bytes;
use conn::{Flow, Refusal};
use ibex_memcached_proto::encode;
use ibex_memcached_proto::reply::{Reply, ReplyFlags, Value};
use key::Place;
use route::Ring;
use server::Server;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// A pool of servers, shared by all clones.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    /// Those of the pool, then those of its gutter.
    servers: Vec<Server>,
    main: Ring,
    gutter: Option<Ring>,
    config: Config,
    flights: lease::Flights,
    near: Option<near::Near>,
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
pub(crate) fn item(flags: &ReplyFlags<'_>, data: &[u8], place: Place) -> Item {
    Item {
        value: Bytes::copy_from_slice(data),
        flags: flags
            .number(b'f')
            .and_then(|flags| u32::try_from(flags).ok())
            .unwrap_or(0),
        cas: flags.number(b'c').map(|cas| Cas::at(cas, place)),
    }
}

/// The item of a `gets` hit.
pub(crate) fn item_of_value(value: &Value<'_>, place: Place) -> Item {
    Item {
        value: Bytes::copy_from_slice(value.data),
        flags: value.flags,
        cas: value.cas.map(|cas| Cas::at(cas, place)),
    }
}

/// [`item`], unless it is what leases leave behind: an outdated value, or the empty placeholder of one that is being computed.
pub(crate) fn current(flags: &ReplyFlags<'_>, data: &[u8], place: Place) -> Option<Item> {
    let is_placeholder = data.is_empty() && flags.has(b'Z');
    (!flags.has(b'X') && !is_placeholder).then(|| item(flags, data, place))
}

impl Client {
    /// Makes a pool. Connections are opened when they are needed, or in advance with [`Config::with_connections_min`]; servers that are away now do no harm.
    ///
    /// # Errors
    /// [`Error::Config`] if the configuration makes no pool.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let config = config.settled();
        let [main, gutter] = config.parsed_servers()?;
        let rings = (
            Ring::new(0, &main, &config),
            (!gutter.is_empty()).then(|| Ring::new(main.len(), &gutter, &config)),
        );
        let random = RandomState::new();
        let servers: Vec<_> = main
            .into_iter()
            .chain(gutter)
            .enumerate()
            .map(|(index, server)| Server::new(server, &config, random.hash_one(index)))
            .collect();
        futures_util::future::join_all(servers.iter().map(Server::warm_up)).await;
        let near = config.near;
        Ok(Self {
            pool: Arc::new(Pool {
                servers,
                main: rings.0,
                gutter: rings.1,
                config,
                flights: lease::Flights::default(),
                near: near.map(|near| near::Near::new(near, random.hash_one("near"))),
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

    /// A read or store at a dead server becomes `instead` under [`WhenDead::Miss`].
    fn unless_away<T>(&self, result: Result<T, Error>, instead: T) -> Result<T, Error> {
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

    /// An item as its writer meant it.
    fn decoded_item(&self, item: Item) -> Result<Item, Error> {
        match &self.pool.config.codec {
            Some(codec) => codec.decode(item),
            None => Ok(item),
        }
    }

    fn decoded(&self, item: Option<Item>) -> Result<Option<Item>, Error> {
        item.map(|item| self.decoded_item(item)).transpose()
    }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
