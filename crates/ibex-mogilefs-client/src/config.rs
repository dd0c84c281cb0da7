//! Where the trackers are and how long to wait for what. Plain values; nothing is read from files or the environment.

use std::time::Duration;

/// Settings of a [`crate::Client`].
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) trackers: Vec<String>,
    pub(crate) domain: Vec<u8>,
    pub(crate) connect_timeout: Duration,
    pub(crate) reply_timeout: Duration,
    pub(crate) skip_after_failure: Duration,
    pub(crate) attempts_max: u32,
    pub(crate) node_connect_timeout: Duration,
    pub(crate) node_timeout: Duration,
    pub(crate) store_attempts_max: u32,
    pub(crate) fetch_bytes_max: u64,
    pub(crate) verify_fetch: bool,
}

impl Config {
    /// Trackers as `host:port` (a name without a port gets 7001) and the domain all keys are in.
    #[must_use]
    pub fn new<I, S>(trackers: I, domain: impl AsRef<[u8]>) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self {
            trackers: trackers
                .into_iter()
                .map(|tracker| with_default_port(tracker.into()))
                .collect(),
            domain: domain.as_ref().to_vec(),
            // A tracker on the same network answers a SYN within a millisecond; a quarter of a second is a dead one.
            connect_timeout: Duration::from_millis(250),
            reply_timeout: Duration::from_secs(3),
            skip_after_failure: Duration::from_secs(5),
            // The original's limit; reached only when every tracker is down.
            attempts_max: 15,
            node_connect_timeout: Duration::from_secs(2),
            node_timeout: Duration::from_secs(10),
            store_attempts_max: 3,
            fetch_bytes_max: 256 << 20,
            verify_fetch: true,
        }
    }

    /// How long one tracker may take to accept a connection. Default 250 ms.
    #[must_use]
    pub fn with_connect_timeout(self, connect_timeout: Duration) -> Self {
        Self {
            connect_timeout,
            ..self
        }
    }

    /// How long one tracker may take to reply. Default 3 s. `create_close` waits three times as long, because the tracker asks the storage node first.
    #[must_use]
    pub fn with_reply_timeout(self, reply_timeout: Duration) -> Self {
        Self {
            reply_timeout,
            ..self
        }
    }

    /// For how long a tracker that could not be reached is passed over. Default 5 s.
    #[must_use]
    pub fn with_skip_after_failure(self, skip_after_failure: Duration) -> Self {
        Self {
            skip_after_failure,
            ..self
        }
    }

    /// Most connection attempts of one tracker call, at least 1. Default 15.
    #[must_use]
    pub fn with_attempts_max(self, attempts_max: u32) -> Self {
        Self {
            attempts_max: attempts_max.max(1),
            ..self
        }
    }

    /// How long a storage node may take to accept a connection (default 2 s) and to make progress in a transfer (default 10 s).
    #[must_use]
    pub fn with_node_timeouts(self, connect: Duration, progress: Duration) -> Self {
        Self {
            node_connect_timeout: connect,
            node_timeout: progress,
            ..self
        }
    }

    /// How often a store from memory starts over with a fresh file id, at least 1. Default 3.
    #[must_use]
    pub fn with_store_attempts_max(self, store_attempts_max: u32) -> Self {
        Self {
            store_attempts_max: store_attempts_max.max(1),
            ..self
        }
    }

    /// Largest file [`crate::Client::fetch`] holds in memory, in bytes. Default 256 MiB. Larger ones are read with [`crate::Client::open`].
    #[must_use]
    pub fn with_fetch_bytes_max(self, fetch_bytes_max: u64) -> Self {
        Self {
            fetch_bytes_max,
            ..self
        }
    }

    /// Fetches without asking the tracker for length and checksum first: one call less, and only the node's own word for the length.
    #[must_use]
    pub fn without_fetch_verification(self) -> Self {
        Self {
            verify_fetch: false,
            ..self
        }
    }
}

fn with_default_port(tracker: String) -> String {
    /// The original's tracker port.
    const DEFAULT_PORT: u16 = 7001;
    if tracker.contains(':') {
        tracker
    } else {
        format!("{tracker}:{DEFAULT_PORT}")
    }
}
