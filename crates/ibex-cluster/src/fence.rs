//! The owner row: read first by every transaction on a user's data, and what its states mean.
//!
//! Apart because readers, writers and the mover must agree on it to the letter. See the crate's header for the rule.
//!
//! DIFFERS(spec/journal.md 3.2): on MySQL the row is read `FOR UPDATE` and not with a shared lock, because the same transaction
//! ends by updating it, and two writers that both hold the shared lock would deadlock each other every time.

use crate::UserId;
use ibex_sql::{Engine, Tx, Value, params};
use std::collections::HashMap;

/// What an owner row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// `L`: lives here.
    Live,
    /// `R`: lives here, being carried away; reads only.
    Locked,
    /// `I`: a copy that is not complete.
    Incoming,
    /// `X`: gone; `fwd` says where.
    Gone,
}

impl State {
    pub(crate) fn letter(self) -> &'static str {
        match self {
            Self::Live => "L",
            Self::Locked => "R",
            Self::Incoming => "I",
            Self::Gone => "X",
        }
    }

    /// An unknown letter is one of a newer program; nothing is read or written under it.
    fn from_letter(letter: &str) -> Self {
        match letter {
            "L" => Self::Live,
            "R" => Self::Locked,
            "X" => Self::Gone,
            _ => Self::Incoming,
        }
    }
}

/// An owner row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) state: State,
    pub(crate) epoch: i64,
    pub(crate) seq: i64,
    pub(crate) moveid: i64,
    pub(crate) capture: bool,
}

const SELECT: &str = "SELECT state, epoch, seq, moveid, capture FROM owner WHERE userid = ?";
const SELECT_LOCKED: &str =
    "SELECT state, epoch, seq, moveid, capture FROM owner WHERE userid = ? FOR UPDATE";

/// Reads the row; with `lock`, so that nobody else writes this user's data until the transaction ends.
pub(crate) async fn owner(
    tx: &mut Tx,
    user: UserId,
    lock: bool,
) -> Result<Option<Owner>, ibex_sql::Error> {
    let sql = match (lock, tx.engine()) {
        (true, Engine::MySql) => SELECT_LOCKED,
        (true | false, Engine::Sqlite) | (false, Engine::MySql) => SELECT,
    };
    let Some(row) = tx.query_one(sql, params![user]).await? else {
        return Ok(None);
    };
    Ok(Some(Owner {
        state: State::from_letter(&row.get::<String>(0)?),
        epoch: row.get(1)?,
        seq: row.get(2)?,
        moveid: row.get(3)?,
        capture: row.get::<i64>(4)? != 0,
    }))
}

/// The states of many users, in one statement.
pub(crate) async fn states(
    tx: &mut Tx,
    users: &[UserId],
) -> Result<HashMap<UserId, State>, ibex_sql::Error> {
    let marks = vec!["?"; users.len()].join(",");
    let values: Vec<Value> = users.iter().map(|user| Value::from(*user)).collect();
    let rows = tx
        .query(
            format!("SELECT userid, state FROM owner WHERE userid IN ({marks})"),
            values,
        )
        .await?;
    rows.iter()
        .map(|row| {
            Ok((
                UserId(row.get(0)?),
                State::from_letter(&row.get::<String>(1)?),
            ))
        })
        .collect()
}

/// Why the fence turned a transaction away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// He does not live here (any more), or not with this epoch.
    Elsewhere,
    /// He lives here, and is being carried away this moment.
    Locked,
}

/// Error inside a fenced transaction: the fence, or the caller's own.
pub(crate) enum Abort<E> {
    Fence(Refusal),
    Own(E),
}

impl<E: From<ibex_sql::Error>> From<ibex_sql::Error> for Abort<E> {
    fn from(error: ibex_sql::Error) -> Self {
        Self::Own(E::from(error))
    }
}
