//! What can go wrong, shaped by what a caller does about it: show the refusal, try later, or give up.

use crate::node::NodeError;
use ibex_mogilefs_proto::ErrorCode;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tracker refused the command.
    #[error("tracker refused: {code}: {text}")]
    Refused {
        /// Code on the wire.
        code: String,
        /// The tracker's explanation.
        text: String,
    },
    /// No tracker could be asked within the attempts allowed.
    #[error("no tracker answered: {0}")]
    NoTracker(String),
    /// A tracker answered something that is no reply, or lacks what the reply must have.
    #[error("tracker broke the protocol: {0}")]
    Protocol(&'static str),
    /// The tracker named no replica of a key it knows.
    #[error("file has no readable replica")]
    NoReplica,
    /// Every replica or destination failed; the last failure.
    #[error("storage nodes failed: {0}")]
    Storage(#[source] NodeError),
    /// Bytes that arrived are not the bytes that were stored.
    #[error("replica is damaged: {0}")]
    Damaged(String),
    /// The file exceeds what [`crate::Config::with_fetch_bytes_max`] allows in memory.
    #[error("file of {0} bytes is too large to hold in memory")]
    TooLarge(u64),
    /// The stream given to be stored failed or did not have the promised length.
    #[error("source of the upload failed: {0}")]
    Source(String),
}

impl Error {
    /// The tracker's refusal as a known code.
    #[must_use]
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => ErrorCode::parse(code.as_bytes()),
            Self::NoTracker(_)
            | Self::Protocol(_)
            | Self::NoReplica
            | Self::Storage(_)
            | Self::Damaged(_)
            | Self::TooLarge(_)
            | Self::Source(_) => None,
        }
    }

    /// Whether the key does not exist.
    #[must_use]
    pub fn is_unknown_key(&self) -> bool {
        self.code() == Some(ErrorCode::UnknownKey)
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoTracker(_) | Self::Storage(_) | Self::NoReplica => true,
            Self::Refused { .. } => matches!(
                self.code(),
                Some(
                    ErrorCode::Db
                        | ErrorCode::Failure
                        | ErrorCode::NoDevices
                        | ErrorCode::SizeVerifyError
                        | ErrorCode::NoTempFile
                )
            ),
            Self::Protocol(_) | Self::Damaged(_) | Self::TooLarge(_) | Self::Source(_) => false,
        }
    }
}
