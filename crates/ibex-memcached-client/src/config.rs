//! What a client is told before it connects: servers, hashing, deadlines, what to do when a server is away.

use crate::Error;
use crate::codec::Codec;
use crate::hash::Hash;
use crate::near::NearCache;
use crate::selector::{Candidate, Distribution};
use std::path::PathBuf;
use std::time::Duration;

/// Time to open a connection. Servers are in the same building: a longer silence is a dead host.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
/// Time of one whole operation, connecting included.
const OPERATION_TIMEOUT: Duration = Duration::from_millis(500);
/// Failures in a row after which a server counts as dead.
const FAILURES_MAX: u32 = 3;
/// How long a dead server is left alone; up to a quarter more is added at random so that clients do not return at once.
const DEAD_FOR: Duration = Duration::from_secs(30);
/// Connections per server. Policy: callers beyond it wait in order, within their deadline.
const CONNECTIONS_MAX: usize = 16;
/// How long a connection beyond the ones always kept may stand idle.
const IDLE_FOR: Duration = Duration::from_secs(60);
/// Longest life of an item in the gutter: how outdated a value can be that was read there.
const GUTTER_EXPIRY_MAX: Duration = Duration::from_secs(10);
/// memcached's port.
const DEFAULT_PORT: u16 = 11211;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// One server of the pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerConfig {
    pub(crate) address: Address,
    pub(crate) name: String,
    pub(crate) weight: u32,
}

impl ServerConfig {
    /// Reads `host`, `host:port`, `host:port:weight`, `[v6]:port:weight`, `unix:/path` or `/path`.
    fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::Config(format!(
                "server {text:?} is not host[:port[:weight]] or unix:/path"
            ))
        };
        let path = text
            .strip_prefix("unix:")
            .or_else(|| text.starts_with('/').then_some(text));
        if let Some(path) = path {
            return Ok(Self {
                address: Address::Unix(path.into()),
                name: format!("unix:{path}"),
                weight: 1,
            });
        }
        let (host, rest) = match text.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
            Some((host, rest)) => (host, rest.strip_prefix(':').unwrap_or(rest)),
            None => text.split_once(':').unwrap_or((text, "")),
        };
        let (port, weight) = rest.split_once(':').unwrap_or((rest, ""));
        let port = if port.is_empty() {
            DEFAULT_PORT
        } else {
            port.parse().map_err(|_| wrong())?
        };
        let weight: u32 = if weight.is_empty() {
            1
        } else {
            weight.parse().map_err(|_| wrong())?
        };
        if host.is_empty() || weight == 0 {
            return Err(wrong());
        }
        Ok(Self {
            address: Address::Tcp {
                host: host.to_owned(),
                port,
            },
            name: format!("{host}:{port}"),
            weight,
        })
    }

    pub(crate) fn candidate(&self) -> Candidate {
        match &self.address {
            Address::Tcp { host, port } => Candidate {
                host: host.clone(),
                port: *port,
                weight: self.weight,
            },
            Address::Unix(path) => Candidate {
                host: path.display().to_string(),
                port: 0,
                weight: self.weight,
            },
        }
    }
}

/// What calls do while the server of their key is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenDead {
    /// Answer [`Error::Dead`] at once.
    #[default]
    Fail,
    /// Reads miss and stores are dropped; deletes and invalidations still fail, because losing one leaves a stale value behind.
    Miss,
    /// Keys look further the way Cache::Memcached does: hashed together with the number of the try, up to 20 times, until that names a server that is alive
    /// ([`crate::Selector::rehashed`]). Works with every [`Distribution`]; with [`Distribution::Perl`] it is the same server that Perl programs find.
    /// Values that were stored before the death may be read again after the return: only for data that may be old.
    Rehash,
    /// Keys are spread over the servers that are left, as if the dead ones were not configured (libmemcached's automatic ejection), until they return.
    /// Values that were stored before the death may be read again after the return: only for data that may be old.
    Eject,
    /// Calls go to a second pool, the gutter, where nothing lives longer than some seconds; see [`Config::with_gutter`]. Deletes and invalidations go to
    /// both pools and fail if the server of the key cannot be told.
    Gutter,
}

/// Which commands are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// What the server's version allows: it is asked on the first connection, and again after a failure.
    #[default]
    Detect,
    /// Meta commands: memcached 1.6 and later, without asking.
    Meta,
    /// The commands every server knows. Raw meta requests are refused, leases save computations within this process only, and an invalidation deletes.
    Classic,
}

/// Configuration of a [`crate::Client`].
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) servers: Vec<String>,
    pub(crate) distribution: Distribution,
    hash: Option<Hash>,
    pub(crate) connect_timeout: Duration,
    pub(crate) operation_timeout: Duration,
    pub(crate) failures_max: u32,
    pub(crate) dead_for: Duration,
    pub(crate) connections_min: usize,
    pub(crate) connections_max: usize,
    pub(crate) idle_for: Duration,
    pub(crate) when_dead: WhenDead,
    pub(crate) namespace: Vec<u8>,
    is_namespace_hashed: bool,
    pub(crate) protocol: Protocol,
    pub(crate) gutter: Vec<String>,
    pub(crate) gutter_expiry_max: Duration,
    pub(crate) near: Option<NearCache>,
    pub(crate) codec: Option<Codec>,
}

impl Config {
    /// A pool of these servers: `host[:port[:weight]]`, `unix:/path` or `/path`, in the order all clients of the pool use.
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            distribution: Distribution::default(),
            hash: None,
            connect_timeout: CONNECT_TIMEOUT,
            operation_timeout: OPERATION_TIMEOUT,
            failures_max: FAILURES_MAX,
            dead_for: DEAD_FOR,
            connections_min: 0,
            connections_max: CONNECTIONS_MAX,
            idle_for: IDLE_FOR,
            when_dead: WhenDead::default(),
            namespace: Vec::new(),
            is_namespace_hashed: false,
            protocol: Protocol::default(),
            gutter: Vec::new(),
            gutter_expiry_max: GUTTER_EXPIRY_MAX,
            near: None,
            codec: None,
        }
    }

    /// How keys are spread over servers. Default: ketama.
    #[must_use]
    pub fn with_distribution(self, distribution: Distribution) -> Self {
        Self {
            distribution,
            ..self
        }
    }

    /// The hash of keys, where the distribution leaves a choice. Default: [`Distribution::default_hash`].
    #[must_use]
    pub fn with_hash(self, hash: Hash) -> Self {
        Self {
            hash: Some(hash),
            ..self
        }
    }

    pub(crate) fn hash(&self) -> Hash {
        self.hash
            .unwrap_or_else(|| self.distribution.default_hash())
    }

    /// Time to open a connection. Default 250 ms.
    #[must_use]
    pub fn with_connect_timeout(self, connect_timeout: Duration) -> Self {
        Self {
            connect_timeout,
            ..self
        }
    }

    /// Time of one whole operation. Default 500 ms.
    #[must_use]
    pub fn with_operation_timeout(self, operation_timeout: Duration) -> Self {
        Self {
            operation_timeout,
            ..self
        }
    }

    /// Failures in a row after which a server is dead (default 3), and for how long (default 30 s).
    #[must_use]
    pub fn with_backoff(self, failures_max: u32, dead_for: Duration) -> Self {
        Self {
            failures_max: failures_max.max(1),
            dead_for,
            ..self
        }
    }

    /// Connections per server, at least 1. Default 16. Callers beyond it wait in the order they came, within their deadline.
    #[must_use]
    pub fn with_connections_max(self, connections_max: usize) -> Self {
        Self {
            connections_max: connections_max.max(1),
            ..self
        }
    }

    /// Connections per server that [`crate::Client::connect`] opens in advance and that are kept when idle; at most the maximum counts. Default 0.
    #[must_use]
    pub fn with_connections_min(self, connections_min: usize) -> Self {
        Self {
            connections_min,
            ..self
        }
    }

    /// How long a connection beyond the minimum may stand idle; older ones are closed when another is put back. Default 60 s.
    #[must_use]
    pub fn with_idle_for(self, idle_for: Duration) -> Self {
        Self { idle_for, ..self }
    }

    /// What calls do while a server is dead. Default: fail.
    #[must_use]
    pub fn with_when_dead(self, when_dead: WhenDead) -> Self {
        Self { when_dead, ..self }
    }

    /// [`WhenDead::Gutter`] with these servers, written as in [`Config::new`]: while a server is dead its keys live there, for at most `expiry_max` (10 s is
    /// usual, less than a second counts as one). They are spread with the same distribution and hash. Idle otherwise but for deletes.
    #[must_use]
    pub fn with_gutter<S: Into<String>>(
        self,
        servers: impl IntoIterator<Item = S>,
        expiry_max: Duration,
    ) -> Self {
        Self {
            when_dead: WhenDead::Gutter,
            gutter: servers.into_iter().map(Into::into).collect(),
            gutter_expiry_max: expiry_max,
            ..self
        }
    }

    /// Chooses servers by key and namespace together, as libmemcached does when told `HASH_WITH_PREFIX_KEY`. Counts for nothing with [`Distribution::Perl`],
    /// whose original never does.
    #[must_use]
    pub fn with_hashed_namespace(self) -> Self {
        Self {
            is_namespace_hashed: true,
            ..self
        }
    }

    /// What is hashed before every key.
    pub(crate) fn hashed_prefix(&self) -> &[u8] {
        if self.is_namespace_hashed && self.distribution != Distribution::Perl {
            &self.namespace
        } else {
            b""
        }
    }

    /// Which commands are used. Default: those the server's version allows.
    #[must_use]
    pub fn with_protocol(self, protocol: Protocol) -> Self {
        Self { protocol, ..self }
    }

    /// Keeps the values of the hottest keys in this process. Default: none are.
    #[must_use]
    pub fn with_near_cache(self, near: NearCache) -> Self {
        Self {
            near: Some(near),
            ..self
        }
    }

    /// Compresses large values and reads those that other clients compressed. Default: bytes are stored as they are.
    #[must_use]
    pub fn with_codec(self, codec: Codec) -> Self {
        Self {
            codec: Some(codec),
            ..self
        }
    }

    /// A prefix put before every key on the wire. Servers are chosen without it, as libmemcached and Cache::Memcached do.
    #[must_use]
    pub fn with_namespace(self, namespace: impl Into<Vec<u8>>) -> Self {
        Self {
            namespace: namespace.into(),
            ..self
        }
    }

    /// The servers of the pool and those of its gutter.
    pub(crate) fn parsed_servers(&self) -> Result<[Vec<ServerConfig>; 2], Error> {
        if self.servers.is_empty() {
            return Err(Error::Config("no servers".to_owned()));
        }
        if self.when_dead == WhenDead::Gutter && self.gutter.is_empty() {
            return Err(Error::Config("no servers in the gutter".to_owned()));
        }
        let parse = |texts: &[String]| -> Result<Vec<ServerConfig>, Error> {
            texts.iter().map(|text| ServerConfig::parse(text)).collect()
        };
        let main = parse(&self.servers)?;
        let gutter = match self.when_dead {
            WhenDead::Gutter => parse(&self.gutter)?,
            WhenDead::Fail | WhenDead::Miss | WhenDead::Rehash | WhenDead::Eject => Vec::new(),
        };
        Ok([main, gutter])
    }

    /// The same with what does not make sense made sensible.
    pub(crate) fn settled(self) -> Self {
        Self {
            connections_min: self.connections_min.min(self.connections_max),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_texts() {
        let tcp = |host: &str, port, weight| ServerConfig {
            address: Address::Tcp {
                host: host.to_owned(),
                port,
            },
            name: format!("{host}:{port}"),
            weight,
        };
        assert_eq!(ServerConfig::parse("a").unwrap(), tcp("a", 11211, 1));
        assert_eq!(ServerConfig::parse("a:1").unwrap(), tcp("a", 1, 1));
        assert_eq!(ServerConfig::parse("a:1:3").unwrap(), tcp("a", 1, 3));
        assert_eq!(ServerConfig::parse("[::1]:1:3").unwrap(), tcp("::1", 1, 3));
        let socket = ServerConfig::parse("/run/c.sock").unwrap();
        assert_eq!(socket.name, "unix:/run/c.sock");
        assert_eq!(socket, ServerConfig::parse("unix:/run/c.sock").unwrap());
        for wrong in ["", ":1", "a:x", "a:1:0", "a:1:x"] {
            assert!(ServerConfig::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_gutter_policy_needs_a_gutter() {
        let config = Config::new(["a"]).with_when_dead(WhenDead::Gutter);
        assert!(matches!(config.parsed_servers(), Err(Error::Config(_))));
        let config = config.with_gutter(["b", "c"], GUTTER_EXPIRY_MAX);
        assert_eq!(
            config.parsed_servers().unwrap().map(|pool| pool.len()),
            [1, 2]
        );
    }
}
