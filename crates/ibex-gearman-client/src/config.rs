//! Settings of clients and workers. Plain values with defaults; nothing here opens a connection.

use std::time::Duration;

use bytes::Bytes;
use ibex_gearman_proto::limits;

use crate::address::Address;
use crate::error::Error;

/// How a client chooses among servers for a unique key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum HashMode {
    /// Rendezvous hashing over (server, function, unique): when a server goes, only its keys move.
    #[default]
    Rendezvous,
    /// `(crc32(unique) >> 16) & 0x7fff` modulo the number of servers, as Danga's Perl client does; the order of servers must be the same everywhere.
    PerlCrc32,
}

/// When a call may be repeated on another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Retry {
    /// Never, not even when nothing was sent.
    Off,
    /// Only when the request cannot have reached a server.
    #[default]
    Unsent,
    /// Also when its fate is unknown or the connection broke: the work may run twice.
    Idempotent,
}

/// Settings of a [`Client`](crate::Client) or a [`Worker`](crate::Worker).
#[derive(Debug, Clone)]
#[must_use]
pub struct Config {
    pub(crate) servers: Vec<String>,
    pub(crate) reply_deadline: Duration,
    pub(crate) connect_deadline: Duration,
    pub(crate) idle_probe: Duration,
    pub(crate) backoff_min: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) packet_bytes_max: usize,
    pub(crate) exceptions: bool,
    pub(crate) fails_without_workers: bool,
    pub(crate) token: Option<String>,
    pub(crate) namespace: Bytes,
    pub(crate) retry: Retry,
    pub(crate) hash: HashMode,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::tls::Tls>,
}

/// A server that has not answered for this long is as good as dead.
const REPLY_DEADLINE: Duration = Duration::from_secs(5);
/// Connecting is a kernel's round trip; longer means the host is gone.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Silence after which a connection that owes something is asked for an echo. Half of what most NAT boxes forget after.
const IDLE_PROBE: Duration = Duration::from_secs(30);
/// First pause after a lost server.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// `auth=` and the token are the name of an option, of 63 bytes.
const TOKEN_BYTES_MAX: usize = limits::OPTION_BYTES_MAX - "auth=".len();
/// Longest pause: a returning server is found within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(5);

impl Config {
    /// Settings for these servers (`host`, `host:port`, `unix:/path`).
    pub fn new<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Self {
        Self {
            servers: servers.into_iter().map(Into::into).collect(),
            reply_deadline: REPLY_DEADLINE,
            connect_deadline: CONNECT_DEADLINE,
            idle_probe: IDLE_PROBE,
            backoff_min: BACKOFF_MIN,
            backoff_max: BACKOFF_MAX,
            packet_bytes_max: limits::PACKET_BYTES_MAX_DEFAULT,
            exceptions: true,
            fails_without_workers: false,
            token: None,
            namespace: Bytes::new(),
            retry: Retry::default(),
            hash: HashMode::default(),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Settings for the servers in a comma-separated list, the form of `GEARMAN_SERVERS`.
    pub fn from_list(list: &str) -> Self {
        Self::new(list.split(',').map(str::trim).filter(|s| !s.is_empty()))
    }

    /// How long a server may take to answer one request (not: to run a job). Default 5 s.
    pub fn with_reply_deadline(mut self, deadline: Duration) -> Self {
        self.reply_deadline = deadline;
        self
    }

    /// How long connecting may take. Default 2 s.
    pub fn with_connect_deadline(mut self, deadline: Duration) -> Self {
        self.connect_deadline = deadline;
        self
    }

    /// Silence after which a connection is probed with ECHO_REQ. Default 30 s.
    pub fn with_idle_probe(mut self, silence: Duration) -> Self {
        self.idle_probe = silence;
        self
    }

    /// Shortest and longest pause before a lost server is tried again. Default 100 ms and 5 s.
    pub fn with_backoff(mut self, min: Duration, max: Duration) -> Self {
        self.backoff_min = min;
        self.backoff_max = max.max(min);
        self
    }

    /// Largest packet accepted from a server, in bytes of payload. Default 128 MiB.
    pub fn with_packet_bytes_max(mut self, bytes: usize) -> Self {
        self.packet_bytes_max = bytes;
        self
    }

    /// Whether to ask servers for exceptions, so that failures carry their reason. Default true.
    pub fn with_exceptions(mut self, wanted: bool) -> Self {
        self.exceptions = wanted;
        self
    }

    /// Whether a foreground submission for a function that no worker has registered fails at once ([`Error::is_no_workers`]) instead of waiting for
    /// one. Default false. Servers without this extension (the original) let it wait.
    pub fn with_no_workers_error(mut self, wanted: bool) -> Self {
        self.fails_without_workers = wanted;
        self
    }

    /// Shown to every server, for its access rules (`token=` in ibex-gearmand's `acl_file`): at most 58 bytes.
    pub fn with_token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Joins `prefix` and every function name by a TAB, as Danga's Perl libraries do.
    pub fn with_prefix(mut self, prefix: &str) -> Self {
        self.namespace = format!("{prefix}\t").into();
        self
    }

    /// Puts `namespace` before every function name, as libgearman does.
    pub fn with_namespace(mut self, namespace: impl Into<Bytes>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// When calls may be repeated on another server. Default [`Retry::Unsent`].
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// How servers are chosen for unique keys. Default [`HashMode::Rendezvous`].
    pub fn with_hash_mode(mut self, hash: HashMode) -> Self {
        self.hash = hash;
        self
    }

    /// Connections over TCP are encrypted; Unix sockets stay plain. Default: none are. Needs the feature `tls`.
    #[cfg(feature = "tls")]
    pub fn with_tls(mut self, tls: crate::tls::Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Options of a client's connection whose answers nobody waits for.
    pub(crate) fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        options.extend(self.token.as_ref().map(|token| format!("auth={token}")));
        if self.exceptions {
            options.push("exceptions".to_owned());
        }
        if self.fails_without_workers {
            options.push("no-workers-fail".to_owned());
        }
        options
    }

    /// The servers, read.
    pub(crate) fn addresses(&self) -> Result<Vec<Address>, Error> {
        if let Some(token) = &self.token
            && !(1..=TOKEN_BYTES_MAX).contains(&token.len())
        {
            return Err(Error::Config(format!(
                "a token has 1 to {TOKEN_BYTES_MAX} bytes"
            )));
        }
        if self.servers.is_empty() {
            return Err(Error::Config("no job server given".into()));
        }
        self.servers.iter().map(|s| s.parse()).collect()
    }

    /// A function name with the namespace before it.
    pub(crate) fn full_name(&self, function: &[u8]) -> Result<Bytes, Error> {
        let mut name = self.namespace.to_vec();
        name.extend_from_slice(function);
        if name.len() > limits::FUNCTION_BYTES_MAX {
            return Err(Error::InvalidArgument(format!(
                "function name exceeds {} bytes",
                limits::FUNCTION_BYTES_MAX
            )));
        }
        if name.contains(&0) {
            return Err(Error::InvalidArgument("function name contains NUL".into()));
        }
        Ok(name.into())
    }
}

/// The pause after the `failures`-th failure in a row: doubling, with up to half of it random so that many clients do not return in step.
pub(crate) fn backoff(config: &Config, failures: u32, random: u64) -> Duration {
    let doubled = config.backoff_min.saturating_mul(
        1u32.checked_shl(failures.saturating_sub(1).min(16))
            .unwrap_or(1),
    );
    let whole = doubled.min(config.backoff_max);
    let half_nanos = u64::try_from(whole.as_nanos() / 2).unwrap_or(u64::MAX);
    whole - Duration::from_nanos(random.checked_rem(half_nanos.max(1)).unwrap_or(0))
}
