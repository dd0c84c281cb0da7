//! The one error of the site's modules, shaped by what the visitor is told.
//!
//! Apart because pages, machine interfaces and jobs map it differently. It never carries text for a visitor except in `Invalid`.

use ibex_cluster::MoveError;

/// Why a request cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing, or not for this reader; the two are told apart nowhere.
    #[error("not found")]
    NotFound,
    /// One must be logged in.
    #[error("log-in needed")]
    LoginNeeded,
    /// The reader may see it but not do that.
    #[error("not allowed: {0}")]
    Refused(&'static str),
    /// What was sent makes no sense; the text is for the sender.
    #[error("{0}")]
    Invalid(String),
    /// Too often.
    #[error("too many attempts")]
    TooMany,
    /// A database of the user clusters.
    #[error(transparent)]
    Cluster(#[from] ibex_cluster::Error),
    /// The file store.
    #[error("file store: {0}")]
    Files(String),
    /// The job queue.
    #[error("job queue: {0}")]
    Jobs(String),
    /// A bug of ours.
    #[error("{0}")]
    Bug(String),
}

impl From<ibex_sql::Error> for Error {
    fn from(error: ibex_sql::Error) -> Self {
        Self::Cluster(ibex_cluster::Error::Sql(error))
    }
}

impl From<MoveError> for Error {
    fn from(error: MoveError) -> Self {
        match error {
            MoveError::Cluster(error) => Self::Cluster(error),
            MoveError::AlreadyThere(..)
            | MoveError::Busy(_)
            | MoveError::Occupied { .. }
            | MoveError::Schema { .. }
            | MoveError::Mismatch { .. }
            | MoveError::LostLease(_)
            | MoveError::Died(_) => Self::Invalid(error.to_string()),
        }
    }
}

impl Error {
    /// An error about what was sent.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    /// Whether a unique key refused the row.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Cluster(ibex_cluster::Error::Sql(error)) if error.is_unique_violation())
    }
}

/// Result of the site's modules.
pub type Result<T, E = Error> = std::result::Result<T, E>;
