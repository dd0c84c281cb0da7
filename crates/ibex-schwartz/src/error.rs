//! What a call of this library can answer instead of its result.
//!
//! Apart because callers branch on it. It keeps the cause per database when none was available.

use std::fmt;

/// Why each database could not serve, by its masked address.
#[derive(Debug)]
pub struct Causes(pub Vec<(String, ibex_sql::Error)>);

impl fmt::Display for Causes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none is configured for this");
        }
        for (index, (address, error)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{address}: {error}")?;
        }
        Ok(())
    }
}

/// A failed call.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No database took the call; the cause of each is inside. Try again later.
    #[error("no database available: {0}")]
    NoDatabase(Causes),
    /// The job, handle or argument is outside the limits of the tables; nothing was written.
    #[error("{0}")]
    Invalid(String),
    /// The argument or a whole statement is larger than the database takes; the database is well.
    #[error("argument of {bytes} bytes is too large, {max} at most")]
    TooLarge {
        /// What was given.
        bytes: usize,
        /// What fits.
        max: usize,
    },
    /// One job of an all-or-nothing insert has a key that is pending already; nothing was written.
    #[error("a job of the list has a key that is pending already")]
    Duplicate,
    /// The job is not under the caller's lease any more: another worker has it, or it is done. Nothing was changed.
    #[error("the lease on job {0} is lost")]
    LeaseLost(u64),
    /// No such job in this database.
    #[error("no job {0}")]
    NotFound(u64),
    /// The handle names a database that is not configured here.
    #[error("handle {0} belongs to no configured database")]
    ForeignHandle(String),
    /// The job is running under a lease and cannot be changed now.
    #[error("job {0} is being worked on")]
    Grabbed(u64),
    /// The job object was finished before.
    #[error("job was finished before")]
    Finished,
    /// The address of a database makes no sense.
    #[error("{0}")]
    Config(String),
    /// The daemon refused, or did not answer: then the code is `unanswered`, and what was asked may have been done.
    #[error("daemon: {message}")]
    Daemon {
        /// As it says it, see `docs/schwartz/protocol.md`.
        code: String,
        /// For people.
        message: String,
    },
    /// The database refused.
    #[error(transparent)]
    Sql(#[from] ibex_sql::Error),
}

impl Error {
    /// The daemon did not answer.
    pub(crate) fn unanswered(cause: impl fmt::Display) -> Self {
        Self::Daemon {
            code: "unanswered".to_owned(),
            message: cause.to_string(),
        }
    }

    /// Whether this failure speaks of the database as a whole, so that another one should be tried and this one rested.
    #[must_use]
    pub fn is_database_down(&self) -> bool {
        match self {
            Self::Sql(error) => is_down(error.kind()),
            Self::NoDatabase(_)
            | Self::Daemon { .. }
            | Self::Invalid(_)
            | Self::TooLarge { .. }
            | Self::Duplicate
            | Self::LeaseLost(_)
            | Self::NotFound(_)
            | Self::ForeignHandle(_)
            | Self::Grabbed(_)
            | Self::Finished
            | Self::Config(_) => false,
        }
    }

    /// Whether the same call may work later without anyone's help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoDatabase(_) => true,
            Self::Daemon { code, .. } => {
                matches!(
                    code.as_str(),
                    "unanswered" | "no_database" | "shutting_down" | "rate_limited"
                )
            }
            Self::Sql(error) => error.is_retryable(),
            Self::Invalid(_)
            | Self::TooLarge { .. }
            | Self::Duplicate
            | Self::LeaseLost(_)
            | Self::NotFound(_)
            | Self::ForeignHandle(_)
            | Self::Grabbed(_)
            | Self::Finished
            | Self::Config(_) => false,
        }
    }
}

/// Classes that speak of the database as a whole.
pub(crate) fn is_down(kind: ibex_sql::ErrorKind) -> bool {
    use ibex_sql::ErrorKind;
    matches!(
        kind,
        ErrorKind::ConnectionLost
            | ErrorKind::Busy
            | ErrorKind::Closed
            | ErrorKind::DiskFull
            | ErrorKind::ReadOnly
            | ErrorKind::Corrupt
            | ErrorKind::Config
            | ErrorKind::Timeout
    )
}
