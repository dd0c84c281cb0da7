//! Sessions and API keys: rows on the user's own cluster.
//!
//! Apart from accounts because they come and go with each log-in. The cookie has the form old clients send by hand:
//! `v1:u<userid>:s<sessid>:a<auth>//`.

use crate::app::{App, Effects};
use crate::error::{Error, Result};
use crate::{clock, keys, token};
use ibex_cluster::{BoxFuture, UserId, UserTx};
use ibex_sql::{Row, Tx, Value, params};

/// Name of the cookie, the original's.
pub const COOKIE: &str = "ljsession";
/// Lives of sessions, in seconds: without and with "stay logged in".
const SHORT: i64 = 36 * 3600;
const LONG: i64 = 60 * 86_400;
/// Random characters of a session: 22 letters and digits, 131 bits.
const AUTH: usize = 22;
/// Length of an API key.
const KEY: usize = 32;

/// One session.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Session {
    /// Whose.
    pub user: UserId,
    /// Its number.
    pub id: i64,
    /// What proves it.
    pub auth: String,
    /// Since when.
    pub created: i64,
    /// Until when.
    pub expires: i64,
    /// The browser.
    pub agent: String,
}

impl Session {
    /// The cookie's value.
    #[must_use]
    pub fn cookie(&self) -> String {
        format!("v1:u{}:s{}:a{}//", self.user, self.id, self.auth)
    }

    /// Seconds it has left.
    #[must_use]
    pub fn left(&self) -> i64 {
        self.expires - clock::now()
    }
}

/// Reads user, session and auth out of a cookie's value.
fn parse(cookie: &str) -> Option<(UserId, i64, &str)> {
    let mut parts = cookie.split(':');
    if parts.next()? != "v1" {
        return None;
    }
    let user = UserId(parts.next()?.strip_prefix('u')?.parse().ok()?);
    let id = parts.next()?.strip_prefix('s')?.parse().ok()?;
    let auth = parts.next()?.strip_prefix('a')?;
    let auth = auth.strip_suffix("//").unwrap_or(auth);
    (!auth.is_empty() && parts.next().is_none()).then_some((user, id, auth))
}

fn session(user: UserId, row: &Row) -> Result<Session, ibex_sql::Error> {
    Ok(Session {
        user,
        id: row.get(0)?,
        auth: row.get(1)?,
        created: row.get(2)?,
        expires: row.get(3)?,
        agent: row.get(4)?,
    })
}

/// The session a cookie names, if it is good.
///
/// # Errors
/// The cluster's.
pub async fn of_cookie(app: &App, cookie: &str) -> Result<Option<Session>> {
    let Some((user, id, auth)) = parse(cookie) else {
        return Ok(None);
    };
    let load = || async {
        let row = app.cluster.read(user, move |tx: &mut Tx| -> BoxFuture<'_, Result<Option<Row>>> {
            let sql = "SELECT sessid, auth, timecreate, timeexpire, useragent FROM session WHERE userid = ? AND sessid = ?";
            Box::pin(async move { Ok(tx.query_one(sql, params![user, id]).await?) })
        });
        match row.await {
            Ok(row) => Ok(row.map(|row| session(user, &row)).transpose()?),
            Err(Error::Cluster(ibex_cluster::Error::NoSuchUser(_))) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let found = app
        .cache
        .one(keys::SESSION, keys::session(user, id), load)
        .await?;
    Ok(found.filter(|session| {
        session.left() > 0 && token::same(session.auth.as_bytes(), auth.as_bytes())
    }))
}

/// Begins a session.
///
/// # Errors
/// The cluster's.
pub async fn begin(app: &App, user: UserId, is_long: bool, agent: &str) -> Result<Session> {
    let now = clock::now();
    let life = if is_long { LONG } else { SHORT };
    let new = Session {
        user,
        id: 0,
        auth: token::random(AUTH),
        created: now,
        expires: now + life,
        agent: agent.chars().take(150).collect(),
    };
    let exptype = if is_long { "long" } else { "short" };
    app.write(user, move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<(Session, Effects)>> {
        let mut new = new.clone();
        Box::pin(async move {
            new.id = tx.next('S').await?;
            let old = tx.query("SELECT sessid FROM session WHERE userid = ? AND timeexpire < ?", params![user, now]).await?;
            for row in &old {
                let id: i64 = row.get(0)?;
                tx.write_row("session", &[Value::Int(id)], "DELETE FROM session WHERE userid = ? AND sessid = ?", params![user, id]).await?;
            }
            let sql = "INSERT INTO session (userid, sessid, auth, exptype, timecreate, timeexpire, useragent) VALUES (?, ?, ?, ?, ?, ?, ?)";
            let values = params![user, new.id, new.auth.clone(), exptype, new.created, new.expires, new.agent.clone()];
            tx.write_row("session", &[Value::Int(new.id)], sql, values).await?;
            Ok((new, Effects::default()))
        })
    })
    .await
}

/// Ends sessions of a user: one of them, or all but one.
///
/// # Errors
/// The cluster's.
pub async fn end(app: &App, user: UserId, which: Which) -> Result<()> {
    app.write(
        user,
        move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<((), Effects)>> {
            Box::pin(async move {
                let rows = tx
                    .query("SELECT sessid FROM session WHERE userid = ?", params![user])
                    .await?;
                let mut effects = Effects::default();
                for row in &rows {
                    let id: i64 = row.get(0)?;
                    if which.names(id) {
                        tx.write_row(
                            "session",
                            &[Value::Int(id)],
                            "DELETE FROM session WHERE userid = ? AND sessid = ?",
                            params![user, id],
                        )
                        .await?;
                        effects.invalidate.push(keys::session(user, id));
                    }
                }
                Ok(((), effects))
            })
        },
    )
    .await
}

/// Which sessions end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// This one.
    One(i64),
    /// All but this one.
    AllBut(i64),
}

impl Which {
    fn names(self, id: i64) -> bool {
        match self {
            Self::One(one) => id == one,
            Self::AllBut(kept) => id != kept,
        }
    }
}

/// A user's sessions.
///
/// # Errors
/// The cluster's.
pub async fn all(app: &App, user: UserId) -> Result<Vec<Session>> {
    let rows = app.cluster.read(user, move |tx: &mut Tx| -> BoxFuture<'_, Result<Vec<Row>>> {
        let sql = "SELECT sessid, auth, timecreate, timeexpire, useragent FROM session WHERE userid = ? AND timeexpire > ? ORDER BY sessid DESC";
        Box::pin(async move { Ok(tx.query(sql, params![user, clock::now()]).await?) })
    });
    Ok(rows
        .await?
        .iter()
        .map(|row| session(user, row))
        .collect::<Result<_, _>>()?)
}

/// One API key as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its number.
    pub id: i64,
    /// What its owner calls it.
    pub name: String,
    /// Since when.
    pub created: i64,
}

/// Makes an API key and returns it; it is shown once and stored as a digest.
///
/// # Errors
/// The databases'.
pub async fn make_key(app: &App, user: UserId, name: &str) -> Result<String> {
    let name: String = name.trim().chars().take(40).collect();
    if name.is_empty() {
        return Err(Error::invalid("A key needs a name."));
    }
    let (key, now) = (token::random(KEY), clock::now());
    let hash = token::sha256(key.as_bytes());
    let row_hash = hash.clone();
    let id = app
        .write(user, move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<(i64, Effects)>> {
            let (name, hash) = (name.clone(), row_hash.clone());
            Box::pin(async move {
                let id = tx.next('B').await?;
                let sql = "INSERT INTO apikey (userid, keyid, name, hash, created) VALUES (?, ?, ?, ?, ?)";
                tx.write_row("apikey", &[Value::Int(id)], sql, params![user, id, name, hash, now]).await?;
                Ok((id, Effects::default()))
            })
        })
        .await?;
    app.cluster
        .global()
        .execute(
            "INSERT INTO apikey_lookup (hash, userid, keyid) VALUES (?, ?, ?)",
            params![hash, user, id],
        )
        .await?;
    Ok(key)
}

/// Revokes an API key.
///
/// # Errors
/// The databases'.
pub async fn revoke_key(app: &App, user: UserId, id: i64) -> Result<()> {
    app.cluster
        .global()
        .execute(
            "DELETE FROM apikey_lookup WHERE userid = ? AND keyid = ?",
            params![user, id],
        )
        .await?;
    app.write(
        user,
        move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<((), Effects)>> {
            Box::pin(async move {
                tx.write_row(
                    "apikey",
                    &[Value::Int(id)],
                    "DELETE FROM apikey WHERE userid = ? AND keyid = ?",
                    params![user, id],
                )
                .await?;
                Ok(((), Effects::default()))
            })
        },
    )
    .await
}

/// A user's API keys.
///
/// # Errors
/// The cluster's.
pub async fn keys_of(app: &App, user: UserId) -> Result<Vec<ApiKey>> {
    let rows = app.cluster.read(
        user,
        move |tx: &mut Tx| -> BoxFuture<'_, Result<Vec<Row>>> {
            Box::pin(async move {
                Ok(tx
                    .query(
                        "SELECT keyid, name, created FROM apikey WHERE userid = ? ORDER BY keyid",
                        params![user],
                    )
                    .await?)
            })
        },
    );
    let key = |row: &Row| {
        Ok(ApiKey {
            id: row.get(0)?,
            name: row.get(1)?,
            created: row.get(2)?,
        })
    };
    Ok(rows
        .await?
        .iter()
        .map(key)
        .collect::<Result<_, ibex_sql::Error>>()?)
}

/// Whether `key` is one of the user's API keys.
///
/// # Errors
/// The global database's.
pub async fn is_key(app: &App, user: UserId, key: &str) -> Result<bool> {
    let hash = token::sha256(key.as_bytes());
    let row = app
        .cluster
        .global()
        .query_one(
            "SELECT 1 FROM apikey_lookup WHERE hash = ? AND userid = ?",
            params![hash, user],
        )
        .await?;
    Ok(row.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_read_back_and_nothing_else_is() {
        let session = Session {
            user: UserId(7),
            id: 3,
            auth: "abcDEF123".to_owned(),
            created: 0,
            expires: 0,
            agent: String::new(),
        };
        assert_eq!(parse(&session.cookie()), Some((UserId(7), 3, "abcDEF123")));
        for bad in [
            "",
            "v2:u7:s3:ax//",
            "v1:u7:s3:a//",
            "v1:7:s3:ax",
            "v1:u7:s3",
            "v1:u7:s3:ax:b",
            "v1:u-7:s3:ax",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
