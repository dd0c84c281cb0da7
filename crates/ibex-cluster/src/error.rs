//! The errors, shaped by what a caller does next.
//!
//! Apart because both the fence and the mover return them. Mapping to what a visitor reads is the application's.

use crate::{ClusterId, Step, UserId};

/// Why a call on the user clusters failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A database said no; its class decides.
    #[error(transparent)]
    Sql(#[from] ibex_sql::Error),
    /// No such user, or one that lives on no cluster.
    #[error("user {0} lives on no cluster")]
    NoSuchUser(UserId),
    /// The configuration has no such cluster.
    #[error("no cluster {0} is configured")]
    NoSuchCluster(ClusterId),
    /// The cluster cannot be reached now; others are unaffected. Answer 503 and try later.
    #[error("cluster {cluster} is not available: {reason}")]
    Unavailable {
        /// Which.
        cluster: ClusterId,
        /// What its database said last.
        reason: String,
    },
    /// The user is being moved and the write waited its full hold. Ask the visitor to try again.
    #[error("user {0} is being moved")]
    Moving(UserId),
    /// The cluster takes no writes.
    #[error("cluster {0} is read-only")]
    ReadOnly(ClusterId),
    /// No cluster takes new users.
    #[error("no cluster takes new users")]
    NoPlace,
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
}

impl Error {
    /// Whether the same call may succeed a little later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Sql(error) => error.is_retryable(),
            Self::Unavailable { .. } | Self::Moving(_) => true,
            Self::NoSuchUser(_)
            | Self::NoSuchCluster(_)
            | Self::ReadOnly(_)
            | Self::NoPlace
            | Self::Config(_) => false,
        }
    }
}

/// Why a move did not happen. The user is where he was, except for [`MoveError::Died`] and [`MoveError::LostLease`], where
/// [`crate::Cluster::recover`] finishes or undoes it.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// A database or the fence failed.
    #[error(transparent)]
    Cluster(#[from] Error),
    /// He lives there already.
    #[error("user {0} lives on cluster {1} already")]
    AlreadyThere(UserId, ClusterId),
    /// Another move of his is open.
    #[error("another move of user {0} is open")]
    Busy(UserId),
    /// The destination holds rows of his that no earlier move explains.
    #[error("table {table} of cluster {cluster} holds rows of user {user} already")]
    Occupied {
        /// Who.
        user: UserId,
        /// Where.
        cluster: ClusterId,
        /// The first such table.
        table: &'static str,
    },
    /// Source and destination have different tables.
    #[error("table {table} differs on cluster {cluster}: {reason}")]
    Schema {
        /// Which table.
        table: &'static str,
        /// Where it is not as the layout says.
        cluster: ClusterId,
        /// What the database said.
        reason: String,
    },
    /// The two copies were not equal; the move was undone.
    #[error(
        "verification failed: table {table} has {source_rows} rows at the source and {destination_rows} at the destination or different contents"
    )]
    Mismatch {
        /// Which table.
        table: &'static str,
        /// Rows counted at the source.
        source_rows: u64,
        /// Rows counted at the destination.
        destination_rows: u64,
    },
    /// Another mover took this move over.
    #[error("the lease of move {0} was lost")]
    LostLease(i64),
    /// Fault injection stopped here.
    #[error("stopped at step {0:?} as asked")]
    Died(Step),
}

impl From<ibex_sql::Error> for MoveError {
    fn from(error: ibex_sql::Error) -> Self {
        Self::Cluster(Error::Sql(error))
    }
}
