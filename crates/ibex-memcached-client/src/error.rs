//! What can go wrong, by what the caller can do about it.

use std::io;

/// Why an operation has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration makes no pool.
    #[error("invalid configuration: {0}")]
    Config(String),
    /// The key (with namespace) is empty, over 250 bytes, or holds blanks or control bytes.
    #[error("invalid key")]
    Key,
    /// The server is dead and left alone for a while; nothing was sent.
    #[error("server {server} is dead")]
    Dead {
        /// Its name.
        server: String,
    },
    /// No connection within the deadline; nothing was sent.
    #[error("connect to {server}")]
    Connect {
        /// Its name.
        server: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection failed or the deadline passed before the answer to a read.
    #[error("{operation} from {server}")]
    Lost {
        /// Its name.
        server: String,
        /// The verb.
        operation: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection failed or the deadline passed after a write was sent: it may or may not have happened.
    #[error("outcome of {operation} at {server} is unknown")]
    OutcomeUnknown {
        /// Its name.
        server: String,
        /// The verb.
        operation: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The server answered with an error; the connection goes on.
    #[error("{server} refused {operation}: {text}")]
    Refused {
        /// Its name.
        server: String,
        /// The verb.
        operation: &'static str,
        /// The server's words.
        text: String,
    },
    /// The server is older than memcached 1.6 (or [`crate::Protocol::Classic`] was asked for) and has no such operation; nothing was sent.
    #[error("{server} is too old for {operation}")]
    Unsupported {
        /// Its name.
        server: String,
        /// The operation.
        operation: &'static str,
    },
    /// A stored value cannot be read, or one cannot be made: wrong compression, not the type that was asked for, or too large.
    #[error("value: {0}")]
    Codec(String),
    /// A raw request that no reply would end.
    #[error("invalid request: {0}")]
    Request(String),
}

impl Error {
    /// Whether the same call may be made again without doing something twice.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Dead { .. } | Self::Connect { .. } | Self::Lost { .. } => true,
            Self::Config(_)
            | Self::Key
            | Self::OutcomeUnknown { .. }
            | Self::Refused { .. }
            | Self::Unsupported { .. }
            | Self::Codec(_)
            | Self::Request(_) => false,
        }
    }

    /// Whether the server is at fault rather than the request.
    pub fn is_server_away(&self) -> bool {
        match self {
            Self::Dead { .. }
            | Self::Connect { .. }
            | Self::Lost { .. }
            | Self::OutcomeUnknown { .. } => true,
            Self::Config(_)
            | Self::Key
            | Self::Refused { .. }
            | Self::Unsupported { .. }
            | Self::Codec(_)
            | Self::Request(_) => false,
        }
    }
}
