//! Who trusts and watches whom, and what that makes a reader to a journal.
//!
//! Apart because two one-way relations serve two questions: whose entries are on my friends page (watch, outgoing), and whose
//! protected entries may I read (trust, incoming). The second is loaded once per request and decides every visibility.

use crate::app::{App, Effects};
use crate::error::{Error, Result};
use crate::user::User;
use crate::visibility::{Kind, Relation, Security, may_see};
use crate::{clock, keys};
use ibex_cluster::{BoxFuture, UserId};
use ibex_sql::{Row, Tx, params};
use std::collections::{BTreeMap, BTreeSet};

/// Friends one may have. A friends page asks each once; beyond it adding is refused.
const FRIENDS_MAX: usize = 2000;

/// One edge of the graph, seen from the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Edge {
    /// The other account.
    pub other: UserId,
    /// Trust mask; 0 for none.
    pub mask: u64,
    /// Watched.
    pub is_watched: bool,
}

/// Edges from a user: whom he trusts (the members, of a community) and whom he watches.
///
/// # Errors
/// The global database's.
pub async fn outgoing(app: &App, user: UserId) -> Result<Vec<Edge>> {
    let load = || async {
        let sql = "SELECT to_id, trust, watch, mask FROM edge WHERE from_id = ? ORDER BY to_id";
        Ok::<_, Error>(Some(edges(
            &app.cluster.global().query(sql, params![user]).await?,
        )?))
    };
    Ok(app
        .cache
        .one(keys::EDGE_OUT, keys::edge_out(user), load)
        .await?
        .unwrap_or_default())
}

/// What comes in: who trusts or watches a user, and the communities he administers.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Incoming {
    /// Edges to him.
    pub edges: Vec<Edge>,
    /// Communities he administers.
    pub administers: Vec<UserId>,
}

/// See [`Incoming`].
///
/// # Errors
/// The global database's.
pub async fn incoming(app: &App, user: UserId) -> Result<Incoming> {
    let load = || async {
        let sql = "SELECT from_id, trust, watch, mask FROM edge WHERE to_id = ? ORDER BY from_id";
        let edges = edges(&app.cluster.global().query(sql, params![user]).await?)?;
        let rows = app
            .cluster
            .global()
            .query(
                "SELECT userid FROM rel WHERE target = ? AND kind = 'A'",
                params![user],
            )
            .await?;
        let administers = rows
            .iter()
            .map(|row| row.get(0).map(UserId))
            .collect::<Result<_, ibex_sql::Error>>()?;
        Ok::<_, Error>(Some(Incoming { edges, administers }))
    };
    Ok(app
        .cache
        .one(keys::EDGE_IN, keys::edge_in(user), load)
        .await?
        .unwrap_or_default())
}

fn edges(rows: &[Row]) -> Result<Vec<Edge>, ibex_sql::Error> {
    let edge = |row: &Row| {
        let mask = if row.get::<i64>(1)? == 0 {
            0
        } else {
            row.get::<i64>(3)?.cast_unsigned() | 1
        };
        Ok(Edge {
            other: UserId(row.get(0)?),
            mask,
            is_watched: row.get::<i64>(2)? != 0,
        })
    };
    rows.iter().map(edge).collect()
}

/// Somebody who reads: what every journal's owner lets him see.
#[derive(Debug, Clone)]
pub struct Viewer {
    /// His account.
    pub user: User,
    masks: BTreeMap<UserId, u64>,
    administers: BTreeSet<UserId>,
}

impl Viewer {
    /// Loads what decides his view.
    ///
    /// # Errors
    /// The global database's.
    pub async fn load(app: &App, user: User) -> Result<Self> {
        let incoming = incoming(app, user.id).await?;
        let masks = incoming
            .edges
            .iter()
            .filter(|edge| edge.mask != 0)
            .map(|edge| (edge.other, edge.mask))
            .collect();
        Ok(Self {
            user,
            masks,
            administers: incoming.administers.into_iter().collect(),
        })
    }

    /// What he is to a journal.
    #[must_use]
    pub fn relation(&self, journal: UserId) -> Relation {
        Relation {
            is_owner: journal == self.user.id,
            is_administrator: self.administers.contains(&journal),
            mask: self.masks.get(&journal).copied().unwrap_or(0),
        }
    }

    /// Communities he is a member of or administers.
    pub fn communities(&self) -> impl Iterator<Item = UserId> {
        self.administers
            .iter()
            .copied()
            .chain(self.masks.keys().copied())
    }
}

/// What a reader, or nobody, is to a journal.
#[must_use]
pub fn relation(viewer: Option<&Viewer>, journal: UserId) -> Relation {
    viewer.map_or_else(Relation::default, |viewer| viewer.relation(journal))
}

/// [`may_see`] for a reader, or nobody.
#[must_use]
pub fn sees(viewer: Option<&Viewer>, journal: &User, security: Security) -> bool {
    journal.is_visible() && may_see(journal.kind, security, relation(viewer, journal.id))
}

/// Whether the reader looks after the journal: his own, or a community he administers.
#[must_use]
pub fn manages(viewer: Option<&Viewer>, journal: UserId) -> bool {
    let relation = relation(viewer, journal);
    relation.is_owner || relation.is_administrator
}

/// Adds a friend: trust and watch. For a community: watch it, and join it (membership is open).
///
/// # Errors
/// [`Error::Invalid`] with a text for the visitor.
pub async fn add(app: &App, user: &User, friend: &User) -> Result<()> {
    if user.id == friend.id {
        return Err(Error::invalid("You are your own friend already."));
    }
    if outgoing(app, user.id).await?.len() >= FRIENDS_MAX {
        return Err(Error::invalid(
            "You have as many friends as this site can hold for one person.",
        ));
    }
    let is_person = matches!(friend.kind, Kind::Person | Kind::Identity);
    set(app, user.id, friend.id, Some((is_person, true))).await?;
    if friend.kind == Kind::Community {
        set(app, friend.id, user.id, Some((true, false))).await?;
    }
    Ok(())
}

/// Removes a friend, or leaves a community.
///
/// # Errors
/// The global database's.
pub async fn remove(app: &App, user: &User, friend: &User) -> Result<()> {
    set(app, user.id, friend.id, None).await?;
    if friend.kind == Kind::Community {
        set(app, friend.id, user.id, None).await?;
    }
    Ok(())
}

async fn set(app: &App, from: UserId, to: UserId, edge: Option<(bool, bool)>) -> Result<()> {
    let write = app.cluster.global().write(move |tx: &mut Tx| -> BoxFuture<'_, Result<()>> {
            Box::pin(async move {
                match edge {
                    Some((trust, watch)) => {
                        // A mask of groups that is there already stays.
                        let old = tx.query_one("SELECT mask FROM edge WHERE from_id = ? AND to_id = ?", params![from, to]).await?;
                        let mask: i64 = old.map(|row| row.get(0)).transpose()?.unwrap_or(0);
                        let mask = if trust { mask | 1 } else { 0 };
                        let sql = "REPLACE INTO edge (from_id, to_id, trust, watch, mask, created) VALUES (?, ?, ?, ?, ?, ?)";
                        tx.execute(sql, params![from, to, i64::from(trust), i64::from(watch), mask, clock::now()]).await?;
                    }
                    None => {
                        tx.execute("DELETE FROM edge WHERE from_id = ? AND to_id = ?", params![from, to]).await?;
                    }
                }
                Ok(())
            })
        });
    let effects = Effects::keys([keys::edge_out(from), keys::edge_in(to)]);
    app.write_global(from, effects, write).await
}

/// Makes a user administrator of a community.
///
/// # Errors
/// The global database's.
pub async fn make_administrator(app: &App, community: UserId, user: UserId) -> Result<()> {
    let sql = "REPLACE INTO rel (userid, target, kind) VALUES (?, ?, 'A')";
    app.write_global(user, Effects::keys([keys::edge_in(user)]), async {
        let global = app.cluster.global();
        global.execute(sql, params![community, user]).await?;
        Ok(())
    })
    .await
}
