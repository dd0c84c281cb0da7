//! Notices on the site: one row for each event a user is told about.
//!
//! Apart because its unique key `(userid, eventkey)` is what makes a notification happen once: a second run of the same job finds
//! the row and does nothing more.

use crate::app::{App, Effects, Event};
use crate::error::{Error, Result};
use crate::{clock, keys};
use ibex_cluster::{BoxFuture, UserId, UserTx};
use ibex_sql::{Row, Tx, Value, params};

/// One notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// One line.
    pub title: String,
    /// Where it leads.
    pub url: String,
    /// When.
    pub created: i64,
    /// Not seen yet.
    pub is_unread: bool,
}

/// Notes an event for a user, with the mail it causes in the same transaction; whether it is new.
///
/// # Errors
/// The cluster's.
pub async fn add(
    app: &App,
    user: UserId,
    eventkey: &str,
    title: &str,
    url: &str,
    mail: Option<Event>,
) -> Result<bool> {
    let (eventkey, title, url) = (
        eventkey.to_owned(),
        title.chars().take(200).collect::<String>(),
        url.to_owned(),
    );
    app.write(user, move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<(bool, Effects)>> {
        let (eventkey, title, url, mail) = (eventkey.clone(), title.clone(), url.clone(), mail.clone());
        Box::pin(async move {
            let known = tx.query_one("SELECT 1 FROM inbox WHERE userid = ? AND eventkey = ?", params![user, eventkey.clone()]).await?;
            if known.is_some() {
                return Ok((false, Effects::default()));
            }
            let id = tx.next('Q').await?;
            let sql = "INSERT INTO inbox (userid, qid, eventkey, title, url, created, state) VALUES (?, ?, ?, ?, ?, ?, 'N')";
            tx.write_row("inbox", &[Value::Int(id)], sql, params![user, id, eventkey, title, url, clock::now()]).await?;
            let mut effects = Effects::keys([keys::unread(user)]);
            effects.events.extend(mail);
            Ok((true, effects))
        })
    })
    .await
}

/// Notices not seen yet.
///
/// # Errors
/// The cluster's.
pub async fn unread(app: &App, user: UserId) -> Result<i64> {
    let load = || async {
        let row = app.cluster.read(
            user,
            move |tx: &mut Tx| -> BoxFuture<'_, Result<Option<Row>>> {
                Box::pin(async move {
                    Ok(tx
                        .query_one(
                            "SELECT COUNT(*) FROM inbox WHERE userid = ? AND state = 'N'",
                            params![user],
                        )
                        .await?)
                })
            },
        );
        Ok::<_, Error>(row.await?.map(|row| row.get::<i64>(0)).transpose()?)
    };
    Ok(app
        .cache
        .one(keys::UNREAD, keys::unread(user), load)
        .await?
        .unwrap_or(0))
}

/// The newest notices.
///
/// # Errors
/// The cluster's.
pub async fn newest(app: &App, user: UserId) -> Result<Vec<Notice>> {
    let rows = app.cluster.read(user, move |tx: &mut Tx| -> BoxFuture<'_, Result<Vec<Row>>> {
        let sql = "SELECT title, url, created, state FROM inbox WHERE userid = ? ORDER BY qid DESC LIMIT 50";
        Box::pin(async move { Ok(tx.query(sql, params![user]).await?) })
    });
    let notice = |row: &Row| {
        Ok(Notice {
            title: row.get(0)?,
            url: row.get(1)?,
            created: row.get(2)?,
            is_unread: row.get::<String>(3)? == "N",
        })
    };
    Ok(rows
        .await?
        .iter()
        .map(notice)
        .collect::<Result<_, ibex_sql::Error>>()?)
}

/// Marks all as seen.
///
/// # Errors
/// The cluster's.
pub async fn mark_read(app: &App, user: UserId) -> Result<()> {
    app.write(
        user,
        move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<((), Effects)>> {
            Box::pin(async move {
                let rows = tx
                    .query(
                        "SELECT qid FROM inbox WHERE userid = ? AND state = 'N'",
                        params![user],
                    )
                    .await?;
                let ids = rows
                    .iter()
                    .map(|row| row.get::<i64>(0))
                    .collect::<Result<Vec<_>, _>>()?;
                let keys = ids.iter().map(|id| params![*id]).collect();
                let sets = ids.iter().map(|id| params![user, *id]).collect();
                tx.write_rows(
                    "inbox",
                    keys,
                    "UPDATE inbox SET state = 'R' WHERE userid = ? AND qid = ?",
                    sets,
                )
                .await?;
                Ok(((), Effects::keys([keys::unread(user)])))
            })
        },
    )
    .await
}
