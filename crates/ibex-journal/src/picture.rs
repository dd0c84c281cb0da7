//! Userpics: small pictures beside a name, scaled by a worker, kept in the file store.
//!
//! Apart from photos because they are public, small and many. Address `/userpic/<picid>/<userid>`; a number is never used for
//! another picture, so browsers may keep them for ever.

use crate::app::{App, Effects};
use crate::error::{Error, Result};
use crate::images::{Fit, Order};
use crate::{clock, keys, token};
use bytes::Bytes;
use ibex_cluster::{BoxFuture, UserId, UserTx};
use ibex_sql::{Row, Tx, Value, params};

/// Side of a userpic, pixels.
pub const SIDE: u32 = 100;
/// Largest upload.
pub const UPLOAD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Pictures of one user.
const PICTURES_MAX: usize = 15;
/// Class in the file store.
const CLASS: &str = "userpic";

/// One userpic.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Userpic {
    /// Its number.
    pub id: i64,
    /// What its owner calls it.
    pub keyword: String,
    /// Type of the file.
    pub mime: String,
    /// MD5 of the file, for the entity tag.
    pub md5: String,
}

/// Key in the file store.
#[must_use]
pub fn file_key(user: UserId, id: i64) -> String {
    format!("up:{user}:{id}")
}

/// A user's pictures.
///
/// # Errors
/// The cluster's.
pub async fn all(app: &App, user: UserId) -> Result<Vec<Userpic>> {
    let load = || async {
        let rows = app.cluster.read(user, move |tx: &mut Tx| -> BoxFuture<'_, Result<Vec<Row>>> {
            Box::pin(async move { Ok(tx.query("SELECT picid, keyword, mime, md5 FROM picture WHERE userid = ? ORDER BY picid", params![user]).await?) })
        });
        let picture = |row: &Row| {
            Ok(Userpic {
                id: row.get(0)?,
                keyword: row.get(1)?,
                mime: row.get(2)?,
                md5: row.get(3)?,
            })
        };
        Ok::<_, Error>(Some(
            rows.await?
                .iter()
                .map(picture)
                .collect::<Result<Vec<_>, ibex_sql::Error>>()?,
        ))
    };
    Ok(app
        .cache
        .one(keys::PICS, keys::pics(user), load)
        .await?
        .unwrap_or_default())
}

/// Scales and stores an upload; the first one becomes the default. The file is stored before the row, so a row always has a file.
///
/// # Errors
/// [`Error::Invalid`] with a text for the visitor; [`Error::Files`].
pub async fn upload(app: &App, user: UserId, keyword: &str, source: Bytes) -> Result<i64> {
    if source.len() > UPLOAD_BYTES_MAX {
        return Err(Error::invalid("An icon's file has at most 4 MB."));
    }
    let have = all(app, user).await?.len();
    if have >= PICTURES_MAX {
        return Err(Error::invalid("You have 15 icons; delete one first."));
    }
    let keyword: String = keyword.trim().chars().take(40).collect();
    let picture = app
        .jobs
        .resize(
            source,
            Order {
                width: SIDE,
                height: SIDE,
                fit: Fit::Cover,
            },
        )
        .await?;
    let id = app
        .write(
            user,
            move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<(i64, Effects)>> {
                Box::pin(async move { Ok((tx.next('P').await?, Effects::default())) })
            },
        )
        .await?;
    let (md5, now) = (token::md5(&picture.bytes), clock::now());
    app.files
        .put(&file_key(user, id), CLASS, picture.bytes.into())
        .await?;
    let (mime, width, height) = (picture.mime, picture.width, picture.height);
    app.write(user, move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<((), Effects)>> {
        let (keyword, mime, md5) = (keyword.clone(), mime.clone(), md5.clone());
        Box::pin(async move {
            let sql = "INSERT INTO picture (userid, picid, keyword, mime, width, height, md5, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
            let values = params![user, id, keyword, mime, i64::from(width), i64::from(height), md5, now];
            tx.write_row("picture", &[Value::Int(id)], sql, values).await?;
            Ok(((), Effects::keys([keys::pics(user)])))
        })
    })
    .await?;
    if have == 0 {
        set_default(app, user, id).await?;
    }
    Ok(id)
}

/// Makes a picture the one beside the name; 0 for none.
///
/// # Errors
/// [`Error::NotFound`] if it is not his.
pub async fn set_default(app: &App, user: UserId, id: i64) -> Result<()> {
    if id != 0 && !all(app, user).await?.iter().any(|picture| picture.id == id) {
        return Err(Error::NotFound);
    }
    let sql = "UPDATE user SET defaultpicid = ? WHERE userid = ?";
    app.write_global(user, Effects::keys([keys::user(user)]), async {
        let global = app.cluster.global();
        global.execute(sql, params![id, user]).await?;
        Ok(())
    })
    .await
}

/// Deletes a picture, its row first.
///
/// # Errors
/// The cluster's.
pub async fn delete(app: &App, user: UserId, id: i64) -> Result<()> {
    app.write(
        user,
        move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<((), Effects)>> {
            Box::pin(async move {
                tx.write_row(
                    "picture",
                    &[Value::Int(id)],
                    "DELETE FROM picture WHERE userid = ? AND picid = ?",
                    params![user, id],
                )
                .await?;
                Ok((
                    (),
                    Effects::keys([keys::pics(user), keys::paths(user, &file_key(user, id))]),
                ))
            })
        },
    )
    .await?;
    app.cluster
        .global()
        .execute(
            "UPDATE user SET defaultpicid = 0 WHERE userid = ? AND defaultpicid = ?",
            params![user, id],
        )
        .await?;
    app.cache.invalidate(&[keys::user(user)]).await;
    if let Err(error) = app.files.delete(&file_key(user, id)).await {
        tracing::warn!(%error, key = %file_key(user, id), "file of a deleted icon stays behind");
    }
    Ok(())
}
