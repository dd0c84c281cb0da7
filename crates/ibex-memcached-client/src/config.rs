//! What a client is told before it connects: servers, hashing, deadlines, what to do when a server is away.

use crate::Error;
use crate::hash::Hash;
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
    /// Reads `host`, `host:port`, `host:port:weight`, `[v6]:port:weight` or `unix:/path`.
    fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || {
            Error::Config(format!(
                "server {text:?} is not host[:port[:weight]] or unix:/path"
            ))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self {
                address: Address::Unix(path.into()),
                name: text.to_owned(),
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
    /// Keys move to the remaining servers until it returns (Cache::Memcached's rehash for [`Distribution::Perl`], a smaller ring otherwise).
    /// Values that were stored before the death may be read again after the return: only for data that may be old.
    Eject,
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
    pub(crate) connections_max: usize,
    pub(crate) when_dead: WhenDead,
    pub(crate) namespace: Vec<u8>,
}

impl Config {
    /// A pool of these servers: `host[:port[:weight]]` or `unix:/path`, in the order all clients of the pool use.
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            distribution: Distribution::default(),
            hash: None,
            connect_timeout: CONNECT_TIMEOUT,
            operation_timeout: OPERATION_TIMEOUT,
            failures_max: FAILURES_MAX,
            dead_for: DEAD_FOR,
            connections_max: CONNECTIONS_MAX,
            when_dead: WhenDead::default(),
            namespace: Vec::new(),
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

    /// Connections per server, at least 1. Default 16.
    #[must_use]
    pub fn with_connections_max(self, connections_max: usize) -> Self {
        Self {
            connections_max: connections_max.max(1),
            ..self
        }
    }

    /// What calls do while a server is dead. Default: fail.
    #[must_use]
    pub fn with_when_dead(self, when_dead: WhenDead) -> Self {
        Self { when_dead, ..self }
    }

    /// A prefix put before every key on the wire. Servers are chosen without it, as libmemcached does.
    #[must_use]
    pub fn with_namespace(self, namespace: impl Into<Vec<u8>>) -> Self {
        Self {
            namespace: namespace.into(),
            ..self
        }
    }

    pub(crate) fn parsed_servers(&self) -> Result<Vec<ServerConfig>, Error> {
        if self.servers.is_empty() {
            return Err(Error::Config("no servers".to_owned()));
        }
        self.servers
            .iter()
            .map(|text| ServerConfig::parse(text))
            .collect()
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
        for wrong in ["", ":1", "a:x", "a:1:0", "a:1:x"] {
            assert!(ServerConfig::parse(wrong).is_err(), "{wrong}");
        }
    }
}
