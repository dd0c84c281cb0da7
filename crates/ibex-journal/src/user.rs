//! Accounts: who exists, what he is called, his settings; sign-up.
//!
//! Apart from sessions and circles. The row lives in the global database and is cached; settings live on the user's cluster.

use crate::app::{App, Effects};
use crate::error::{Error, Result};
use crate::visibility::Kind;
use crate::{clock, keys, token};
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use ibex_cluster::{BoxFuture, ClusterId, UserId, UserTx};
use ibex_sql::{Row, Tx, Value, params};
use std::collections::{BTreeMap, HashMap};

/// Longest name, in letters.
const NAME_MAX: usize = 25;
/// Shortest password.
const PASSWORD_MIN: usize = 8;
/// Longest password: argon2 takes more, nobody types it.
const PASSWORD_MAX: usize = 1000;
/// Names that are addresses of the site or would confuse readers.
const RESERVED: &[&str] = &[
    "admin",
    "root",
    "system",
    "support",
    "login",
    "logout",
    "create",
    "update",
    "manage",
    "static",
    "interface",
    "users",
    "community",
];
/// Passwords that everybody tries first.
const COMMON: &[&str] = &[
    "password",
    "password1",
    "12345678",
    "123456789",
    "1234567890",
    "qwertyui",
    "qwerty123",
    "11111111",
    "iloveyou",
    "letmein1",
    "sunshine",
];

/// One account, as almost every page needs it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct User {
    /// His number.
    pub id: UserId,
    /// His name, lower case.
    pub name: String,
    /// What kind of account.
    pub kind: Kind,
    /// `V` visible, `D` deleted, `S` suspended, `X` expunged, `O` read-only.
    pub statusvis: String,
    /// His name in full.
    pub display: String,
    /// Default picture; 0 for none.
    pub picid: i64,
    /// Who may comment: `all`, `reg`, `friends`.
    pub whocanreply: String,
    /// When he signed up.
    pub created: i64,
}

impl User {
    /// Whether his journal may be shown at all.
    #[must_use]
    pub fn is_visible(&self) -> bool {
        matches!(self.statusvis.as_str(), "V" | "L" | "M" | "O")
    }
}

const COLUMNS: &str =
    "userid, user, kind, statusvis, name, defaultpicid, opt_whocanreply, timecreate";

fn user(row: &Row) -> Result<User, ibex_sql::Error> {
    Ok(User {
        id: UserId(row.get(0)?),
        name: row.get(1)?,
        kind: Kind::from_letter(&row.get::<String>(2)?),
        statusvis: row.get(3)?,
        display: row.get(4)?,
        picid: row.get(5)?,
        whocanreply: row.get(6)?,
        created: row.get(7)?,
    })
}

/// The accounts of these numbers; unknown ones are missing.
///
/// # Errors
/// The global database's.
pub async fn by_ids(app: &App, ids: &[UserId]) -> Result<HashMap<UserId, User>> {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    ids.dedup();
    let load = |missing: Vec<UserId>| async move {
        let mut found = HashMap::with_capacity(missing.len());
        for chunk in missing.chunks(500) {
            let marks = vec!["?"; chunk.len()].join(",");
            let sql = format!("SELECT {COLUMNS} FROM user WHERE userid IN ({marks})");
            for row in app
                .cluster
                .global()
                .query(sql, chunk.iter().map(|id| Value::from(*id)).collect())
                .await?
            {
                let user = user(&row)?;
                found.insert(user.id, user);
            }
        }
        Ok(found)
    };
    app.cache
        .many(keys::USER, &ids, |id| keys::user(*id), load)
        .await
}

/// The account of a number.
///
/// # Errors
/// [`Error::NotFound`]; the global database's.
pub async fn by_id(app: &App, id: UserId) -> Result<User> {
    by_ids(app, &[id]).await?.remove(&id).ok_or(Error::NotFound)
}

/// The account of a name, as typed.
///
/// # Errors
/// [`Error::NotFound`]; the global database's.
pub async fn by_name(app: &App, name: &str) -> Result<User> {
    let name = canonical(name).ok_or(Error::NotFound)?;
    let load = || async {
        let row = app
            .cluster
            .global()
            .query_one(
                "SELECT userid FROM user WHERE user = ?",
                params![name.clone()],
            )
            .await?;
        Ok::<_, Error>(row.map(|row| row.get::<u32>(0)).transpose()?)
    };
    match app
        .cache
        .one(keys::UID_OF, keys::uid_of(&name), load)
        .await?
    {
        Some(id) => by_id(app, UserId(id)).await,
        None => Err(Error::NotFound),
    }
}

/// Lower case, trimmed, `-` as `_`; `None` if that is no name.
#[must_use]
pub fn canonical(name: &str) -> Option<String> {
    let name = name.trim().to_ascii_lowercase().replace('-', "_");
    let good = !name.is_empty()
        && name.len() <= NAME_MAX
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    good.then_some(name)
}

/// A new account as typed.
#[derive(Debug, Clone, Default)]
pub struct SignUp {
    /// Name.
    pub name: String,
    /// E-mail address; may be empty.
    pub email: String,
    /// Password; empty for an account nobody logs in to.
    pub password: String,
    /// Name in full; the name if empty.
    pub display: String,
    /// Community or person.
    pub is_community: bool,
    /// On this cluster, and not where there is most room.
    pub cluster: Option<ClusterId>,
}

/// Makes an account on the cluster with most room: number, owner row there, then the global rows in one transaction. All of the
/// user's data is written after his cluster is fixed.
///
/// # Errors
/// [`Error::Invalid`] with a text for the visitor.
pub async fn sign_up(app: &App, form: SignUp) -> Result<User> {
    let name = canonical(&form.name)
        .ok_or_else(|| Error::invalid("A name has 1 to 25 letters, digits or underscores."))?;
    if RESERVED.contains(&name.as_str()) {
        return Err(Error::invalid("This name is taken."));
    }
    if !form.email.is_empty() {
        check_email(&form.email)?;
    }
    let hash = if form.password.is_empty() && form.is_community {
        String::new()
    } else {
        hash_new_password(app, &form.password).await?
    };
    if app
        .cluster
        .global()
        .query_one("SELECT 1 FROM user WHERE user = ?", params![name.clone()])
        .await?
        .is_some()
    {
        return Err(Error::invalid("This name is taken."));
    }
    let home = match form.cluster {
        Some(cluster) => cluster,
        None => app.cluster.place().await?,
    };
    let id = next_userid(app, 1).await?;
    app.cluster.adopt(id, home).await?;
    let kind = if form.is_community {
        Kind::Community
    } else {
        Kind::Person
    };
    let user = User {
        id,
        name: name.clone(),
        kind,
        statusvis: "V".to_owned(),
        display: if form.display.trim().is_empty() {
            name
        } else {
            form.display.trim().chars().take(80).collect()
        },
        picid: 0,
        whocanreply: "all".to_owned(),
        created: clock::now(),
    };
    let (row, email) = (user.clone(), form.email.clone());
    let made: Result<()> = app
        .cluster
        .global()
        .write(move |tx: &mut Tx| -> BoxFuture<'_, Result<()>> {
            let (row, email, hash) = (row.clone(), email.clone(), hash.clone());
            Box::pin(async move {
                insert_user(tx, &row, home, &email, &hash)
                    .await
                    .map_err(Error::from)
            })
        })
        .await;
    match made {
        Ok(()) => Ok(user),
        Err(error) if error.is_taken() => Err(Error::invalid("This name is taken.")),
        Err(error) => Err(error),
    }
}

/// The rows of a new account in the global database.
///
/// # Errors
/// The database's; a unique violation when the name is taken.
pub async fn insert_user(
    tx: &mut Tx,
    user: &User,
    home: ClusterId,
    email: &str,
    hash: &str,
) -> Result<(), ibex_sql::Error> {
    let sql = "INSERT INTO user (userid, user, clusterid, epoch, dversion, kind, statusvis, status, name, caps, defaultpicid, opt_whocanreply, timecreate)
               VALUES (?, ?, ?, 1, 1, ?, ?, 'A', ?, 0, 0, ?, ?)";
    let values = params![
        user.id,
        user.name.clone(),
        home,
        user.kind.letter(),
        user.statusvis.clone(),
        user.display.clone(),
        user.whocanreply.clone(),
        user.created
    ];
    tx.execute(sql, values).await?;
    if !hash.is_empty() {
        tx.execute(
            "INSERT INTO password (userid, hash) VALUES (?, ?)",
            params![user.id, hash],
        )
        .await?;
    }
    if !email.is_empty() {
        tx.execute(
            "INSERT INTO email (userid, email) VALUES (?, ?)",
            params![user.id, email],
        )
        .await?;
    }
    tx.execute(
        "INSERT INTO userusage (userid, timeupdate, public) VALUES (?, 0, 0)",
        params![user.id],
    )
    .await?;
    Ok(())
}

/// The first of `count` numbers of users.
///
/// # Errors
/// The global database's.
pub async fn next_userid(app: &App, count: u32) -> Result<UserId> {
    app.cluster
        .global()
        .write(move |tx: &mut Tx| -> BoxFuture<'_, Result<UserId>> {
            Box::pin(async move {
                tx.execute(
                    "UPDATE counter SET max = max + ? WHERE area = 'U'",
                    params![i64::from(count)],
                )
                .await?;
                let row = tx
                    .query_one("SELECT max FROM counter WHERE area = 'U'", params![])
                    .await?
                    .ok_or_else(|| Error::Bug("no counter of users".to_owned()))?;
                Ok(UserId(row.get::<u32>(0)? + 1 - count))
            })
        })
        .await
}

/// Refuses what is no address; whether mail arrives is another matter.
///
/// # Errors
/// [`Error::Invalid`] with a text for the visitor.
pub fn check_email(email: &str) -> Result<()> {
    let plain = email.len() <= 200 && email.parse::<lettre::Address>().is_ok();
    if plain {
        Ok(())
    } else {
        Err(Error::invalid("This is not an e-mail address."))
    }
}

fn argon2(kib: u32) -> Result<Argon2<'static>> {
    let params = Params::new(kib, 2, 1, None).map_err(|error| Error::Bug(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

/// Sixteen random bytes.
fn salt() -> Result<SaltString> {
    SaltString::encode_b64(token::random(16).as_bytes())
        .map_err(|error| Error::Bug(error.to_string()))
}

/// Checks a new password and hashes it, on a thread that may block: it takes tens of milliseconds by design.
///
/// # Errors
/// [`Error::Invalid`] with a text for the visitor.
pub async fn hash_new_password(app: &App, password: &str) -> Result<String> {
    if password.chars().count() < PASSWORD_MIN || password.len() > PASSWORD_MAX {
        return Err(Error::invalid("A password has at least 8 characters."));
    }
    if COMMON.contains(&password.to_ascii_lowercase().as_str()) {
        return Err(Error::invalid(
            "This password is one of those that everybody tries first.",
        ));
    }
    let (kib, password) = (app.config.site.argon2_kib, password.to_owned());
    let work = move || -> Result<String> {
        let salt = salt()?;
        let hash = argon2(kib)?
            .hash_password(password.as_bytes(), &salt)
            .map_err(|error| Error::Bug(error.to_string()))?;
        Ok(hash.to_string())
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Bug(error.to_string()))?
}

/// The account, if the password is his. The time does not tell an unknown name from a wrong password.
///
/// # Errors
/// [`Error::Invalid`] for a wrong one; [`Error::TooMany`] after three failures in five minutes from this address.
pub async fn check_password(app: &App, name: &str, password: &str, from: &str) -> Result<User> {
    let who = format!("{}@{from}", canonical(name).unwrap_or_default());
    if failures(app, &who).await? >= FAILURES_MAX {
        return Err(Error::TooMany);
    }
    let wrong = || Error::invalid("The name or the password is wrong.");
    let user = match by_name(app, name).await {
        Ok(user) => Some(user),
        Err(Error::NotFound) => None,
        Err(error) => return Err(error),
    };
    let id = user.as_ref().map_or(UserId(0), |user| user.id);
    let row = app
        .cluster
        .global()
        .query_one("SELECT hash FROM password WHERE userid = ?", params![id])
        .await?;
    let stored: Option<String> = row.map(|row| row.get(0)).transpose()?;
    let (kib, password) = (app.config.site.argon2_kib, password.to_owned());
    let work = move || -> Result<bool> {
        let argon2 = argon2(kib)?;
        match stored {
            Some(stored) => {
                let parsed =
                    PasswordHash::new(&stored).map_err(|error| Error::Bug(error.to_string()))?;
                Ok(argon2.verify_password(password.as_bytes(), &parsed).is_ok())
            }
            None => {
                // The same work as for a known name.
                let salt = salt()?;
                argon2
                    .hash_password(password.as_bytes(), &salt)
                    .map_err(|error| Error::Bug(error.to_string()))?;
                Ok(false)
            }
        }
    };
    let right = tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::Bug(error.to_string()))??;
    match user {
        Some(user) if right && user.is_visible() => Ok(user),
        Some(_) | None => {
            app.cluster
                .global()
                .execute(
                    "INSERT INTO login_failure (who, at) VALUES (?, ?)",
                    params![who, clock::now()],
                )
                .await?;
            Err(wrong())
        }
    }
}

/// Failed log-ins before an address is refused for a name, and for how long they count, in seconds.
const FAILURES_MAX: i64 = 3;
const FAILURES_FOR: i64 = 300;

async fn failures(app: &App, who: &str) -> Result<i64> {
    let sql = "SELECT COUNT(*) FROM login_failure WHERE who = ? AND at > ?";
    let row = app
        .cluster
        .global()
        .query_one(sql, params![who, clock::now() - FAILURES_FOR])
        .await?;
    Ok(row.map(|row| row.get(0)).transpose()?.unwrap_or(0))
}

/// The settings of a user, by name.
pub type Props = BTreeMap<String, String>;

/// All settings of a user.
///
/// # Errors
/// His cluster's.
pub async fn props(app: &App, id: UserId) -> Result<Props> {
    let load = || async {
        let rows = app
            .cluster
            .read(id, move |tx: &mut Tx| -> BoxFuture<'_, Result<Vec<Row>>> {
                Box::pin(async move {
                    Ok(tx
                        .query(
                            "SELECT name, value FROM userprop WHERE userid = ?",
                            params![id],
                        )
                        .await?)
                })
            });
        let props: Props = rows
            .await?
            .iter()
            .map(|row| Ok((row.get(0)?, row.get(1)?)))
            .collect::<Result<_, ibex_sql::Error>>()?;
        Ok::<_, Error>(Some(props))
    };
    Ok(app
        .cache
        .one(keys::PROPS, keys::props(id), load)
        .await?
        .unwrap_or_default())
}

/// Sets settings; empty values remove them.
///
/// # Errors
/// His cluster's.
pub async fn set_props(app: &App, id: UserId, props: Vec<(&'static str, String)>) -> Result<()> {
    app.write(
        id,
        move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<((), Effects)>> {
            let props = props.clone();
            Box::pin(async move {
                for (name, value) in props {
                    let key = [Value::from(name)];
                    if value.is_empty() {
                        tx.write_row(
                            "userprop",
                            &key,
                            "DELETE FROM userprop WHERE userid = ? AND name = ?",
                            params![id, name],
                        )
                        .await?;
                    } else {
                        tx.write_row(
                            "userprop",
                            &key,
                            "REPLACE INTO userprop (userid, name, value) VALUES (?, ?, ?)",
                            params![id, name, value],
                        )
                        .await?;
                    }
                }
                Ok((
                    (),
                    Effects::keys([
                        keys::props(id),
                        keys::feed(id, "atom"),
                        keys::feed(id, "rss"),
                    ]),
                ))
            })
        },
    )
    .await
}

/// Changes the global row: name in full and who may comment.
///
/// # Errors
/// The global database's.
pub async fn set_profile(app: &App, id: UserId, display: &str, whocanreply: &str) -> Result<()> {
    let who = if matches!(whocanreply, "all" | "reg" | "friends") {
        whocanreply
    } else {
        "all"
    };
    let display: String = display.trim().chars().take(80).collect();
    let sql = "UPDATE user SET name = ?, opt_whocanreply = ? WHERE userid = ?";
    app.write_global(id, Effects::keys([keys::user(id)]), async {
        let global = app.cluster.global();
        global.execute(sql, params![display, who, id]).await?;
        Ok(())
    })
    .await
}

/// His address, if he gave one.
///
/// # Errors
/// The global database's.
pub async fn email(app: &App, id: UserId) -> Result<Option<String>> {
    let row = app
        .cluster
        .global()
        .query_one("SELECT email FROM email WHERE userid = ?", params![id])
        .await?;
    Ok(row.map(|row| row.get(0)).transpose()?)
}

/// Sets or removes his address.
///
/// # Errors
/// [`Error::Invalid`] with a text for the visitor.
pub async fn set_email(app: &App, id: UserId, email: &str) -> Result<()> {
    let email = email.trim();
    if email.is_empty() {
        app.cluster
            .global()
            .execute("DELETE FROM email WHERE userid = ?", params![id])
            .await?;
        return Ok(());
    }
    check_email(email)?;
    app.cluster
        .global()
        .execute(
            "REPLACE INTO email (userid, email) VALUES (?, ?)",
            params![id, email],
        )
        .await?;
    Ok(())
}

/// Accounts by number, after one of them, visible ones only.
///
/// # Errors
/// The global database's.
pub async fn page(app: &App, after: u32, limit: u32) -> Result<Vec<User>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM user WHERE userid > ? AND statusvis = 'V' ORDER BY userid LIMIT ?"
    );
    let rows = app
        .cluster
        .global()
        .query(sql, params![i64::from(after), i64::from(limit)])
        .await?;
    Ok(rows.iter().map(user).collect::<Result<_, _>>()?)
}

/// The newest accounts.
///
/// # Errors
/// The global database's.
pub async fn newest(app: &App, limit: u32) -> Result<Vec<User>> {
    let sql =
        format!("SELECT {COLUMNS} FROM user WHERE statusvis = 'V' ORDER BY userid DESC LIMIT ?");
    let rows = app
        .cluster
        .global()
        .query(sql, params![i64::from(limit)])
        .await?;
    Ok(rows.iter().map(user).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_canonical_or_refused() {
        assert_eq!(
            canonical("  Lewis-Carroll ").as_deref(),
            Some("lewis_carroll")
        );
        for bad in ["", "two words", "über", "a/b", "x.y", &"a".repeat(26)] {
            assert_eq!(canonical(bad), None, "{bad}");
        }
        assert!(canonical(&"a".repeat(25)).is_some());
    }
}
