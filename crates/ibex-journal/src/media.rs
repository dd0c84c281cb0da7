//! Photos: each protected like an entry, scaled by a worker, kept in the file store in two sizes.
//!
//! Apart from userpics because every request for one is checked. Address `/photo/NAME/<number>[/thumb]` with the number made like an
//! entry's, so that it cannot be guessed; a protected one leaves through the balancer after the check (spec/journal.md §10).

use crate::app::{App, Effects};
use crate::error::{Error, Result};
use crate::images::{Fit, Order};
use crate::visibility::Security;
use crate::{clock, keys, token};
use bytes::Bytes;
use ibex_cluster::{BoxFuture, UserId, UserTx};
use ibex_sql::{Row, Tx, Value, params};

/// Largest upload.
pub const UPLOAD_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Sides of the two sizes, pixels.
const SIDE: u32 = 1600;
const THUMB_SIDE: u32 = 320;
/// Class in the file store.
const CLASS: &str = "photo";

/// Which size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// At most 1600 pixels.
    Full,
    /// At most 320 pixels.
    Thumb,
}

/// One photo.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Photo {
    /// Its number.
    pub id: i64,
    /// Random part of the public number.
    pub anum: u8,
    /// May be empty.
    pub title: String,
    /// Who may see it.
    pub security: Security,
    /// Type of the files.
    pub mime: String,
    /// When it was uploaded.
    pub created: i64,
}

impl Photo {
    /// The number in its address.
    #[must_use]
    pub fn public(&self) -> i64 {
        self.id * 256 + i64::from(self.anum)
    }
}

/// Key in the file store.
#[must_use]
pub fn file_key(user: UserId, id: i64, size: Size) -> String {
    let side = match size {
        Size::Full => SIDE,
        Size::Thumb => THUMB_SIDE,
    };
    format!("ph:{user}:{id}:{side}")
}

const COLUMNS: &str = "mediaid, anum, title, security, allowmask, mime, created";

fn photo(row: &Row) -> Result<Photo, ibex_sql::Error> {
    Ok(Photo {
        id: row.get(0)?,
        anum: u8::try_from(row.get::<i64>(1)?).unwrap_or(0),
        title: row.get(2)?,
        security: Security::from_columns(row.get(3)?, row.get(4)?),
        mime: row.get(5)?,
        created: row.get(6)?,
    })
}

/// A user's photos, newest first.
///
/// # Errors
/// The cluster's.
pub async fn all(app: &App, user: UserId) -> Result<Vec<Photo>> {
    let rows = app.cluster.read(
        user,
        move |tx: &mut Tx| -> BoxFuture<'_, Result<Vec<Row>>> {
            let sql = format!(
                "SELECT {COLUMNS} FROM media WHERE userid = ? ORDER BY mediaid DESC LIMIT 500"
            );
            Box::pin(async move { Ok(tx.query(sql, params![user]).await?) })
        },
    );
    Ok(rows.await?.iter().map(photo).collect::<Result<_, _>>()?)
}

/// The photo of a public number.
///
/// # Errors
/// [`Error::NotFound`]; the cluster's.
pub async fn by_public(app: &App, user: UserId, number: i64) -> Result<Photo> {
    let (id, anum) = crate::entry::split_public(number);
    let load = || async {
        let row = app.cluster.read(
            user,
            move |tx: &mut Tx| -> BoxFuture<'_, Result<Option<Row>>> {
                let sql = format!("SELECT {COLUMNS} FROM media WHERE userid = ? AND mediaid = ?");
                Box::pin(async move { Ok(tx.query_one(sql, params![user, id]).await?) })
            },
        );
        Ok::<_, Error>(row.await?.map(|row| photo(&row)).transpose()?)
    };
    let found = app
        .cache
        .one(keys::MEDIA, keys::media(user, id), load)
        .await?;
    found
        .filter(|photo| photo.anum == anum)
        .ok_or(Error::NotFound)
}

/// Scales and stores an upload; files first, the row last.
///
/// # Errors
/// [`Error::Invalid`] with a text for the visitor; [`Error::Files`].
pub async fn upload(
    app: &App,
    user: UserId,
    title: &str,
    security: Security,
    source: Bytes,
) -> Result<Photo> {
    if source.len() > UPLOAD_BYTES_MAX {
        return Err(Error::invalid("A photo's file has at most 10 MB."));
    }
    let title: String = title.trim().chars().take(100).collect();
    let full = app.jobs.resize(
        source.clone(),
        Order {
            width: SIDE,
            height: SIDE,
            fit: Fit::Inside,
        },
    );
    let thumb = app.jobs.resize(
        source,
        Order {
            width: THUMB_SIDE,
            height: THUMB_SIDE,
            fit: Fit::Inside,
        },
    );
    let (full, thumb) = tokio::try_join!(full, thumb)?;
    let id = app
        .write(
            user,
            move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<(i64, Effects)>> {
                Box::pin(async move { Ok((tx.next('A').await?, Effects::default())) })
            },
        )
        .await?;
    let photo = Photo {
        id,
        anum: token::random_byte(),
        title,
        security,
        mime: full.mime.clone(),
        created: clock::now(),
    };
    let (width, height, bytes) = (
        i64::from(full.width),
        i64::from(full.height),
        full.bytes.len(),
    );
    app.files
        .put(&file_key(user, id, Size::Full), CLASS, full.bytes.into())
        .await?;
    app.files
        .put(&file_key(user, id, Size::Thumb), CLASS, thumb.bytes.into())
        .await?;
    let row = photo.clone();
    app.write(user, move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<((), Effects)>> {
        let photo = row.clone();
        Box::pin(async move {
            let (security, mask) = photo.security.columns();
            let sql = "INSERT INTO media (userid, mediaid, title, security, allowmask, mime, width, height, bytes, anum, created) VALUES (?, ?, ?, ?, \
            ?, ?, ?, ?, ?, ?, ?)";
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            let values = params![user, id, photo.title, security, mask, photo.mime, width, height, bytes, i64::from(photo.anum), photo.created];
            tx.write_row("media", &[Value::Int(id)], sql, values).await?;
            Ok(((), Effects::keys([keys::media(user, id)])))
        })
    })
    .await?;
    Ok(photo)
}

/// Deletes a photo, its row first.
///
/// # Errors
/// The cluster's.
pub async fn delete(app: &App, user: UserId, id: i64) -> Result<()> {
    let files = [
        file_key(user, id, Size::Full),
        file_key(user, id, Size::Thumb),
    ];
    let gone = files.clone();
    app.write(
        user,
        move |tx: &mut UserTx<'_>| -> BoxFuture<'_, Result<((), Effects)>> {
            let gone = gone.clone();
            Box::pin(async move {
                tx.write_row(
                    "media",
                    &[Value::Int(id)],
                    "DELETE FROM media WHERE userid = ? AND mediaid = ?",
                    params![user, id],
                )
                .await?;
                Ok((
                    (),
                    Effects::keys(
                        gone.iter()
                            .map(|file| keys::paths(user, file))
                            .chain([keys::media(user, id)]),
                    ),
                ))
            })
        },
    )
    .await?;
    for file in files {
        if let Err(error) = app.files.delete(&file).await {
            tracing::warn!(%error, key = %file, "file of a deleted photo stays behind");
        }
    }
    Ok(())
}
