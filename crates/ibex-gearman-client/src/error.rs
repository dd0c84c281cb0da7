//! What can go wrong with a call, by what the caller can do about it.

use std::time::Duration;

use bytes::Bytes;
use ibex_base::escape::Escaped;
use ibex_gearman_proto::ErrorCode;

use crate::address::Address;
use crate::job::Handle;

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration names no server, or one that cannot be read.
    #[error("configuration: {0}")]
    Config(String),
    /// An argument the protocol cannot carry; nothing was sent.
    #[error("invalid argument: {0}")]
    InvalidArgument(String),
    /// No server could be reached; nothing was sent. Trying later may help.
    #[error("no job server reachable, last: {server}: {reason}")]
    Unreachable {
        /// The server tried last.
        server: Address,
        /// What happened there.
        reason: String,
    },
    /// The request left, its answer did not come: the server may have accepted the job. Repeat only what may run twice.
    #[error("{server}: outcome of {operation} unknown: {reason}")]
    OutcomeUnknown {
        /// The server.
        server: Address,
        /// What was asked.
        operation: &'static str,
        /// What happened.
        reason: String,
    },
    /// The connection broke while the job was out. Its result is lost; the server drops a foreground job whose client is gone.
    #[error("{server}: connection lost while waiting for {handle}")]
    ConnectionLost {
        /// The server.
        server: Address,
        /// The job.
        handle: Handle,
    },
    /// The caller's deadline for a result passed. The job may still be running.
    #[error("no result of {handle} within {deadline:?}")]
    Deadline {
        /// The job.
        handle: Handle,
        /// How long was waited.
        deadline: Duration,
    },
    /// The server refused.
    #[error("{server}: {code}: {text}")]
    Refused {
        /// The server.
        server: Address,
        /// Code of the ERROR packet.
        code: String,
        /// Its text.
        text: String,
    },
    /// The server does not know an extension that the call cannot do without; nothing was sent.
    #[error("{server} does not know {option}")]
    Unsupported {
        /// The server.
        server: Address,
        /// The extension, by the name of its option.
        option: &'static str,
    },
    /// The result is not what the caller reads it as (feature `json`).
    #[error("result of {function}: {reason}")]
    Undecodable {
        /// The function.
        function: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The worker reported failure.
    #[error("job {handle} failed")]
    JobFailed {
        /// The job.
        handle: Handle,
    },
    /// The worker reported failure with a reason.
    #[error("job {handle} failed: {}", Escaped(.data).cut(200))]
    JobException {
        /// The job.
        handle: Handle,
        /// The reason as sent.
        data: Bytes,
    },
    /// The job's packets came faster than they were read, beyond the events a job may have waiting.
    #[error("job {handle} sent more than was read")]
    Overflow {
        /// The job.
        handle: Handle,
    },
    /// The server sent something that makes no sense here; the connection was given up.
    #[error("{server}: protocol violated: {reason}")]
    Protocol {
        /// The server.
        server: Address,
        /// What it was.
        reason: String,
    },
}

impl Error {
    /// Nothing ran and nothing was accepted: the same call may be made again without doubling work.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// The work may have been accepted or done although this call failed.
    #[must_use]
    pub const fn is_outcome_unknown(&self) -> bool {
        matches!(
            self,
            Self::OutcomeUnknown { .. }
                | Self::ConnectionLost { .. }
                | Self::Deadline { .. }
                | Self::Overflow { .. }
        )
    }

    /// No worker can do the function, and the client asked to be told ([`Config::with_no_workers_error`](crate::Config::with_no_workers_error)). Nothing runs.
    #[must_use]
    pub fn is_no_workers(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == ErrorCode::NoWorkers.as_str())
    }

    /// The server does not know the job: it never did, or the job has ended and its result is not kept.
    #[must_use]
    pub fn is_unknown_job(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == ErrorCode::JobNotFound.as_str())
    }

    /// The job ran and its worker said no.
    #[must_use]
    pub const fn is_job_failure(&self) -> bool {
        matches!(self, Self::JobFailed { .. } | Self::JobException { .. })
    }
}
