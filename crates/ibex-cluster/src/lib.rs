//! Roles and user clusters: which database holds which user, per-user number spaces, moving users.
//!
//! ```text
//!   global database          who exists, where he lives (user.clusterid, user.epoch), open moves
//!        │  home(user), kept in memory: a wrong one is harmless, see below
//!        ▼
//!   cluster 1 … cluster N    all rows of a user, in tables whose key begins with his number
//!                            owner(userid, state, epoch, seq): the fence
//! ```
//!
//! **The fence.** Every writing transaction reads the user's `owner` row first, in the same transaction, and goes on only if the
//! row says that he lives here, with the epoch it expects; it ends with `seq = seq + 1`. So a process with an old idea of where a
//! user lives cannot write to the wrong place, homes may be remembered without an expiry, and a move needs no settling time.
//!
//! **Numbers** are per user ([`UserTx::next`]): entry 1, 2, 3… of this journal. Nothing of a user's data refers to another
//! database, which is what lets [`Cluster::move_user`] carry him away alone.
//!
//! What this crate does not know: what the tables mean. The application hands it a [`Layout`]: its tables, their keys and columns,
//! its counters and migrations. It does not cache rows and speaks to no other daemon.

#![forbid(unsafe_code)]

mod cluster;
mod config;
mod error;
mod fence;
mod gather;
mod key;
mod layout;
mod mover;
mod node;
mod place;
mod schema;
mod usertx;

pub use cluster::{Cluster, Home, Stats};
pub use config::{ClusterConfig, Config, GlobalConfig, Side};
pub use error::{Error, MoveError};
pub use gather::Gathered;
pub use ibex_sql::BoxFuture;
pub use layout::{Column, Counter, Kind, Layout, Source, Table};
pub use mover::{MoveOptions, MoveReport, MoveRow, Recovered, Step};
pub use place::Load;
pub use usertx::{Area, OutboxRow, UserTx};

/// Number of a user; 1 and up, never reused.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct UserId(pub u32);

/// Number of a user cluster; 0 means "on no cluster" (expunged).
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct ClusterId(pub u32);

impl std::fmt::Display for UserId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl From<UserId> for ibex_sql::Value {
    fn from(user: UserId) -> Self {
        Self::Int(i64::from(user.0))
    }
}

impl From<ClusterId> for ibex_sql::Value {
    fn from(cluster: ClusterId) -> Self {
        Self::Int(i64::from(cluster.0))
    }
}

/// Seconds since 1970, by this machine's clock.
pub(crate) fn unix_now() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
