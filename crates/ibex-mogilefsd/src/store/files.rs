//! Files, their replicas, uploads in progress, checksums.

use super::{Result, Store, StoreError, join_devids, key_value, parse_devids};
use ibex_mogilefs_core::{ClassId, DomainId};
use ibex_mogilefs_proto::{Checksum, DevId, ErrorCode, Fid, HashAlgorithm};
use ibex_sql::{Row, Tx, Value, params};

/// A row of `file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) fid: Fid,
    pub(crate) domain: DomainId,
    pub(crate) key: Vec<u8>,
    pub(crate) length: u64,
    pub(crate) class: ClassId,
    pub(crate) devcount: u32,
}

/// A row of `tempfile`: an upload in progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TempFile {
    pub(crate) fid: Fid,
    pub(crate) domain: DomainId,
    pub(crate) class: ClassId,
    pub(crate) key: Vec<u8>,
    pub(crate) devices: Vec<DevId>,
    pub(crate) created: u64,
}

/// An upload about to become a file.
#[derive(Debug, Clone)]
pub(crate) struct Closing {
    pub(crate) fid: Fid,
    pub(crate) domain: DomainId,
    pub(crate) class: ClassId,
    pub(crate) key: Vec<u8>,
    pub(crate) device: DevId,
    pub(crate) length: u64,
    pub(crate) checksum: Option<Checksum>,
}

/// A wish for a file id.
#[derive(Debug, Clone)]
pub(crate) struct Opening {
    pub(crate) explicit: Option<Fid>,
    pub(crate) domain: DomainId,
    pub(crate) class: ClassId,
    pub(crate) key: Vec<u8>,
    pub(crate) devices: Vec<DevId>,
}

/// How far an explicit file id may be ahead of the highest known one: room for anybody's numbering scheme, not for exhausting the number space.
const EXPLICIT_JUMP_MAX: u64 = 1 << 40;

/// Longest list a column of 60 characters holds, in devices of up to 8 digits.
const DEVIDS_BYTES_MAX: usize = 60;

/// How often a store is tried again when another one of the same key commits first.
const CLOSE_ATTEMPTS_MAX: u32 = 5;

impl Store {
    /// The highest file id any table knows: none at or below it may be handed out again.
    pub(crate) async fn highest_fid(&self) -> Result<u64> {
        let mut highest = 0;
        for table in ["file", "tempfile", "file_on", "file_to_delete2"] {
            let row = self
                .db
                .query_one(
                    format!("SELECT COALESCE(MAX(fid), 0) FROM {table}"),
                    params![],
                )
                .await?;
            highest = highest.max(row.map_or(Ok(0), |row| row.get(0))?);
        }
        Ok(highest)
    }

    /// Makes the counter of file ids continue above `floor`, which matters after a restored backup or a MySQL server that forgot its counter.
    pub(crate) async fn raise_fid_counter(&self, floor: u64) -> Result<()> {
        if floor == 0 {
            return Ok(());
        }
        let now = self.sql.now();
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    let sql = format!("INSERT INTO tempfile (fid, createtime, classid, dmid, dkey, devids) VALUES (?, {now}, 0, 0, '_fid_counter', '')");
                    match tx.execute(sql, params![floor]).await {
                        Ok(_) => {}
                        // The row itself is the highest one: the counter is right already.
                        Err(error) if error.is_unique_violation() => return Err(StoreError::Refused(ErrorCode::Dup)),
                        Err(error) => return Err(error.into()),
                    }
                    tx.execute("DELETE FROM tempfile WHERE fid = ? AND dkey = '_fid_counter'", params![floor]).await?;
                    Ok::<_, StoreError>(())
                })
            })
            .await
            .or_else(|error| match error {
                StoreError::Refused(_) => Ok(()),
                StoreError::Sql(_) => Err(error),
            })
    }

    /// Reserves a file id. `floor` is the highest id known at start.
    pub(crate) async fn open_file(&self, opening: Opening, floor: u64) -> Result<Fid> {
        if opening.explicit.is_none() {
            let fid = self.insert_temp(&opening).await?;
            if fid.0 > floor {
                return Ok(fid);
            }
            // The database's counter restarted low; what was reserved is given back.
            self.db
                .execute("DELETE FROM tempfile WHERE fid = ?", params![fid.0])
                .await?;
            let highest = self.highest_fid().await?.max(floor);
            self.raise_fid_counter(highest).await?;
            return self.insert_temp(&opening).await;
        }
        let Some(fid) = opening.explicit else {
            return Err(StoreError::Refused(ErrorCode::NoFid));
        };
        let highest = self.highest_fid().await?;
        if fid.0 > highest.saturating_add(EXPLICIT_JUMP_MAX) || i64::try_from(fid.0).is_err() {
            return Err(StoreError::Refused(ErrorCode::BadParams));
        }
        let used = self.db.query_one("SELECT 1 FROM file WHERE fid = ? UNION SELECT 1 FROM file_on WHERE fid = ? UNION SELECT 1 FROM file_to_delete2 WHERE fid = ?", params![fid.0, fid.0, fid.0]);
        if used.await?.is_some() {
            return Err(StoreError::Refused(ErrorCode::FidInUse));
        }
        match self.insert_temp(&opening).await {
            Err(StoreError::Sql(error)) if error.is_unique_violation() => {
                Err(StoreError::Refused(ErrorCode::FidInUse))
            }
            outcome => outcome,
        }
    }

    async fn insert_temp(&self, opening: &Opening) -> Result<Fid> {
        let mut devids = join_devids(&opening.devices);
        while devids.len() > DEVIDS_BYTES_MAX {
            devids.truncate(devids.rfind(',').unwrap_or(0));
        }
        let (now, text) = (self.sql.now(), self.sql.text());
        let explicit = opening
            .explicit
            .map_or(Value::Null, |fid| Value::from(fid.0));
        let sql = format!(
            "INSERT INTO tempfile (fid, createtime, classid, dmid, dkey, devids) VALUES (?, {now}, ?, ?, {text}, ?)"
        );
        let params = params![
            explicit,
            u32::from(opening.class.0),
            opening.domain.0,
            key_value(&opening.key),
            devids
        ];
        let done = self.db.execute(sql, params).await?;
        Ok(opening.explicit.unwrap_or(Fid(done.last_insert_id)))
    }

    pub(crate) async fn temp_file(&self, fid: Fid) -> Result<Option<TempFile>> {
        let sql = format!(
            "SELECT fid, dmid, classid, {}, devids, createtime FROM tempfile WHERE fid = ?",
            self.sql.bytes("dkey")
        );
        let row = self.db.query_one(sql, params![fid.0]).await?;
        Ok(row.map(|row| temp_file(&row)).transpose()?)
    }

    /// Uploads older than `age` seconds, at most `limit`.
    pub(crate) async fn old_temp_files(&self, age: u64, limit: u64) -> Result<Vec<TempFile>> {
        let (key, now) = (self.sql.bytes("dkey"), self.sql.now());
        let sql = format!(
            "SELECT fid, dmid, classid, {key}, devids, createtime FROM tempfile WHERE createtime < {now} - ? ORDER BY fid LIMIT ?"
        );
        let rows = self.db.query(sql, params![age, limit]).await?;
        Ok(rows
            .iter()
            .map(temp_file)
            .collect::<std::result::Result<_, _>>()?)
    }

    /// Gives up an upload: whatever may be on its devices is queued for deletion. Whether the row was still there.
    pub(crate) async fn discard_temp(&self, temp: TempFile) -> Result<bool> {
        let sql = self.sql;
        self.db
            .write(move |tx| {
                let temp = temp.clone();
                Box::pin(async move {
                    let claimed = tx
                        .execute("DELETE FROM tempfile WHERE fid = ?", params![temp.fid.0])
                        .await?
                        .rows_affected;
                    if claimed == 0 {
                        return Ok(false);
                    }
                    let exists = tx
                        .query_one("SELECT 1 FROM file WHERE fid = ?", params![temp.fid.0])
                        .await?
                        .is_some();
                    if !exists {
                        for device in &temp.devices {
                            let insert = format!(
                                "{} INTO file_on (fid, devid) VALUES (?, ?)",
                                sql.insert_ignore()
                            );
                            tx.execute(insert, params![temp.fid.0, device.0]).await?;
                        }
                        queue_delete(tx, sql, temp.fid).await?;
                    }
                    Ok::<_, StoreError>(true)
                })
            })
            .await
    }

    /// Turns an upload into the file of its key, in one transaction. [`ErrorCode::NoTempFile`] when it was closed or given up meanwhile.
    pub(crate) async fn close_file(&self, closing: Closing) -> Result<()> {
        let mut attempt = 1;
        loop {
            match self.close_once(closing.clone()).await {
                // Another upload of the same key was committed between our look and our insert.
                Err(StoreError::Sql(error))
                    if error.is_unique_violation() && attempt < CLOSE_ATTEMPTS_MAX =>
                {
                    attempt += 1
                }
                outcome => return outcome,
            }
        }
    }

    async fn close_once(&self, closing: Closing) -> Result<()> {
        let sql = self.sql;
        self.db
            .write(move |tx| {
                let closing = closing.clone();
                Box::pin(async move {
                    let claimed = tx
                        .execute("DELETE FROM tempfile WHERE fid = ?", params![closing.fid.0])
                        .await?;
                    if claimed.rows_affected == 0 {
                        return Err(StoreError::Refused(ErrorCode::NoTempFile));
                    }
                    let select = format!(
                        "SELECT fid FROM file WHERE dmid = ? AND dkey = {} {}",
                        sql.text(),
                        sql.for_update()
                    );
                    let old = tx
                        .query_one(select, params![closing.domain.0, key_value(&closing.key)])
                        .await?;
                    if let Some(old) = old {
                        let old = Fid(old.get(0)?);
                        tx.execute("DELETE FROM file WHERE fid = ?", params![old.0])
                            .await?;
                        queue_delete(tx, sql, old).await?;
                    }
                    insert_closed(tx, sql, &closing).await?;
                    Ok::<_, StoreError>(())
                })
            })
            .await
    }

    pub(crate) async fn file(&self, fid: Fid) -> Result<Option<File>> {
        let sql = format!(
            "SELECT fid, dmid, {}, length, classid, devcount FROM file WHERE fid = ?",
            self.sql.bytes("dkey")
        );
        let row = self.db.query_one(sql, params![fid.0]).await?;
        Ok(row.map(|row| file(&row)).transpose()?)
    }

    pub(crate) async fn file_by_key(&self, domain: DomainId, key: &[u8]) -> Result<Option<File>> {
        let sql = format!(
            "SELECT fid, dmid, {}, length, classid, devcount FROM file WHERE dmid = ? AND dkey = {}",
            self.sql.bytes("dkey"),
            self.sql.text()
        );
        let row = self
            .db
            .query_one(sql, params![domain.0, key_value(key)])
            .await?;
        Ok(row.map(|row| file(&row)).transpose()?)
    }

    /// A file and its replicas in one query.
    pub(crate) async fn file_with_devices(
        &self,
        domain: DomainId,
        key: &[u8],
    ) -> Result<Option<(File, Vec<DevId>)>> {
        let sql = format!(
            "SELECT f.fid, f.dmid, {}, f.length, f.classid, f.devcount, o.devid FROM file f LEFT JOIN file_on o ON o.fid = f.fid WHERE f.dmid = ? AND f.dkey = {} ORDER BY o.devid",
            self.sql.bytes("f.dkey"),
            self.sql.text()
        );
        let rows = self
            .db
            .query(sql, params![domain.0, key_value(key)])
            .await?;
        let Some(first) = rows.first() else {
            return Ok(None);
        };
        let found = file(first)?;
        let mut devices = Vec::with_capacity(rows.len());
        for row in &rows {
            if let Some(device) = row.get::<Option<u32>>(6)? {
                devices.push(DevId(device));
            }
        }
        Ok(Some((found, devices)))
    }

    pub(crate) async fn devices_of(&self, fid: Fid) -> Result<Vec<DevId>> {
        let rows = self
            .db
            .query(
                "SELECT devid FROM file_on WHERE fid = ? ORDER BY devid",
                params![fid.0],
            )
            .await?;
        Ok(rows
            .iter()
            .map(|row| row.get(0).map(DevId))
            .collect::<std::result::Result<_, _>>()?)
    }

    /// Forgets a key; its bytes go later. Whether it existed.
    pub(crate) async fn delete_file(&self, fid: Fid) -> Result<bool> {
        let sql = self.sql;
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    let done = tx
                        .execute("DELETE FROM file WHERE fid = ?", params![fid.0])
                        .await?;
                    if done.rows_affected == 0 {
                        return Ok(false);
                    }
                    queue_delete(tx, sql, fid).await?;
                    Ok::<_, StoreError>(true)
                })
            })
            .await
    }

    /// Gives a file another key. [`ErrorCode::KeyExists`] when it is taken.
    pub(crate) async fn rename_file(&self, fid: Fid, to: &[u8]) -> Result<()> {
        let sql = format!("UPDATE file SET dkey = {} WHERE fid = ?", self.sql.text());
        match self.db.execute(sql, params![key_value(to), fid.0]).await {
            Ok(done) if done.rows_affected == 0 => Err(StoreError::Refused(ErrorCode::UnknownKey)),
            Ok(_) => Ok(()),
            Err(error) if error.is_unique_violation() => {
                Err(StoreError::Refused(ErrorCode::KeyExists))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Moves a file to another class and queues it for replication, in either direction.
    pub(crate) async fn update_class(&self, fid: Fid, class: ClassId) -> Result<()> {
        let sql = self.sql;
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    tx.execute(
                        "UPDATE file SET classid = ? WHERE fid = ?",
                        params![u32::from(class.0), fid.0],
                    )
                    .await?;
                    queue_replication(tx, sql, fid).await
                })
            })
            .await
    }

    /// Keys with a prefix after another key, sorted.
    pub(crate) async fn list_keys(
        &self,
        domain: DomainId,
        prefix: &[u8],
        after: &[u8],
        limit: u64,
    ) -> Result<Vec<Vec<u8>>> {
        let (key, text) = (self.sql.bytes("dkey"), self.sql.text());
        let mut sql =
            format!("SELECT {key} FROM file WHERE dmid = ? AND dkey >= {text} AND dkey > {text}");
        let mut params = params![domain.0, key_value(prefix), key_value(after)];
        if let Some(end) = prefix_end(prefix) {
            sql.push_str(&format!(" AND dkey < {text}"));
            params.push(key_value(&end));
        }
        sql.push_str(" ORDER BY dkey LIMIT ?");
        params.push(Value::from(limit));
        let rows = self.db.query(sql, params).await?;
        Ok(rows
            .iter()
            .map(|row| row.get(0))
            .collect::<std::result::Result<_, _>>()?)
    }

    /// Files with an id above `from`, at most `limit`, by id.
    pub(crate) async fn list_files(&self, from: u64, limit: u64) -> Result<Vec<File>> {
        let sql = format!(
            "SELECT fid, dmid, {}, length, classid, devcount FROM file WHERE fid > ? ORDER BY fid LIMIT ?",
            self.sql.bytes("dkey")
        );
        let rows = self.db.query(sql, params![from, limit]).await?;
        Ok(rows
            .iter()
            .map(file)
            .collect::<std::result::Result<_, _>>()?)
    }

    /// Records a replica; the count follows. Whether the file still exists.
    pub(crate) async fn add_replica(&self, fid: Fid, device: DevId) -> Result<bool> {
        let sql = self.sql;
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    let exists = format!("SELECT 1 FROM file WHERE fid = ? {}", sql.for_update());
                    let exists = tx.query_one(exists, params![fid.0]).await?.is_some();
                    let insert = format!(
                        "{} INTO file_on (fid, devid) VALUES (?, ?)",
                        sql.insert_ignore()
                    );
                    tx.execute(insert, params![fid.0, device.0]).await?;
                    if exists {
                        recount(tx, fid).await?;
                    } else {
                        // Deleted while it was copied: the new replica must not outlive it.
                        queue_delete(tx, sql, fid).await?;
                    }
                    Ok::<_, StoreError>(exists)
                })
            })
            .await
    }

    /// Forgets replicas of a file; the count follows.
    pub(crate) async fn remove_replicas(&self, fid: Fid, devices: Vec<DevId>) -> Result<()> {
        self.db
            .write(move |tx| {
                let devices = devices.clone();
                Box::pin(async move {
                    for device in devices {
                        tx.execute(
                            "DELETE FROM file_on WHERE fid = ? AND devid = ?",
                            params![fid.0, device.0],
                        )
                        .await?;
                    }
                    recount(tx, fid).await?;
                    Ok::<_, StoreError>(())
                })
            })
            .await
    }

    /// Corrects the count of a file's replicas.
    pub(crate) async fn recount(&self, fid: Fid) -> Result<()> {
        self.db
            .write(move |tx| {
                Box::pin(async move { recount(tx, fid).await.map_err(StoreError::from) })
            })
            .await
    }

    pub(crate) async fn checksum(&self, fid: Fid) -> Result<Option<Checksum>> {
        let row = self
            .db
            .query_one(
                "SELECT hashtype, checksum FROM checksum WHERE fid = ?",
                params![fid.0],
            )
            .await?;
        let Some(row) = row else { return Ok(None) };
        let digest: Vec<u8> = row.get(1)?;
        Ok(HashAlgorithm::from_number(row.get(0)?).map(|algorithm| Checksum { algorithm, digest }))
    }

    pub(crate) async fn set_checksum(&self, fid: Fid, checksum: &Checksum) -> Result<()> {
        let params = params![
            fid.0,
            u32::from(checksum.algorithm.number()),
            &checksum.digest
        ];
        self.db
            .execute(
                "REPLACE INTO checksum (fid, hashtype, checksum) VALUES (?, ?, ?)",
                params,
            )
            .await?;
        Ok(())
    }

    /// Files recorded on a device with an id above `after`, by id.
    pub(crate) async fn files_on(&self, device: DevId, after: u64, limit: u64) -> Result<Vec<Fid>> {
        let sql = "SELECT fid FROM file_on WHERE devid = ? AND fid > ? ORDER BY fid LIMIT ?";
        let rows = self.db.query(sql, params![device.0, after, limit]).await?;
        Ok(rows
            .iter()
            .map(|row| row.get(0).map(Fid))
            .collect::<std::result::Result<_, _>>()?)
    }
}

async fn insert_closed(tx: &mut Tx, sql: super::Dialect, closing: &Closing) -> Result<()> {
    let fid = closing.fid.0;
    tx.execute(
        format!(
            "{} INTO file_on (fid, devid) VALUES (?, ?)",
            sql.insert_ignore()
        ),
        params![fid, closing.device.0],
    )
    .await?;
    let insert = format!(
        "INSERT INTO file (fid, dmid, dkey, length, classid, devcount) VALUES (?, ?, {}, ?, ?, 1)",
        sql.text()
    );
    let params = params![
        fid,
        closing.domain.0,
        key_value(&closing.key),
        closing.length,
        u32::from(closing.class.0)
    ];
    tx.execute(insert, params).await?;
    queue_replication(tx, sql, closing.fid).await?;
    if let Some(checksum) = &closing.checksum {
        let params = params![
            fid,
            u32::from(checksum.algorithm.number()),
            &checksum.digest
        ];
        tx.execute(
            "REPLACE INTO checksum (fid, hashtype, checksum) VALUES (?, ?, ?)",
            params,
        )
        .await?;
    }
    Ok(())
}

pub(super) async fn queue_delete(
    tx: &mut Tx,
    sql: super::Dialect,
    fid: Fid,
) -> std::result::Result<(), ibex_sql::Error> {
    let insert = format!(
        "{} INTO file_to_delete2 (fid, nexttry, failcount) VALUES (?, {}, 0)",
        sql.insert_ignore(),
        sql.now()
    );
    tx.execute(insert, params![fid.0]).await.map(drop)
}

pub(super) async fn queue_replication(tx: &mut Tx, sql: super::Dialect, fid: Fid) -> Result<()> {
    let insert = format!(
        "{} INTO file_to_replicate (fid, nexttry, failcount, flags) VALUES (?, ?, 0, 0)",
        sql.insert_ignore()
    );
    let done = tx.execute(insert, params![fid.0, super::URGENT]).await?;
    if done.rows_affected == 0 {
        tx.execute(
            "UPDATE file_to_replicate SET nexttry = ? WHERE fid = ?",
            params![super::URGENT, fid.0],
        )
        .await?;
    }
    Ok(())
}

async fn recount(tx: &mut Tx, fid: Fid) -> std::result::Result<(), ibex_sql::Error> {
    let count = tx
        .query_one("SELECT COUNT(*) FROM file_on WHERE fid = ?", params![fid.0])
        .await?;
    let count: u64 = count.map_or(Ok(0), |row| row.get(0))?;
    // The column holds a byte.
    tx.execute(
        "UPDATE file SET devcount = ? WHERE fid = ?",
        params![count.min(255), fid.0],
    )
    .await
    .map(drop)
}

fn file(row: &Row) -> std::result::Result<File, ibex_sql::Error> {
    Ok(File {
        fid: Fid(row.get(0)?),
        domain: DomainId(row.get(1)?),
        key: row.get::<Option<Vec<u8>>>(2)?.unwrap_or_default(),
        length: row.get::<Option<u64>>(3)?.unwrap_or(0),
        class: ClassId(row.get(4)?),
        devcount: row.get(5)?,
    })
}

fn temp_file(row: &Row) -> std::result::Result<TempFile, ibex_sql::Error> {
    Ok(TempFile {
        fid: Fid(row.get(0)?),
        domain: DomainId(row.get(1)?),
        class: ClassId(row.get(2)?),
        key: row.get::<Option<Vec<u8>>>(3)?.unwrap_or_default(),
        devices: parse_devids(&row.get::<Option<String>>(4)?.unwrap_or_default()),
        created: row.get(5)?,
    })
}

/// The first byte string after all that start with `prefix`; `None` when there is no such bound.
fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(prefix_end(b"\xff\xff"), None);
        assert_eq!(prefix_end(b""), None);
    }
}
