//! The log of findings and the sums of them.

use super::{Result, Store, StoreError};
use ibex_mogilefs_core::fsck::Event;
use ibex_mogilefs_proto::{DevId, Fid};
use ibex_sql::params;

/// A row of `fsck_log`.
#[derive(Debug, Clone)]
pub(crate) struct LogRow {
    pub(crate) id: u64,
    pub(crate) time: u64,
    pub(crate) fid: Option<u64>,
    pub(crate) code: String,
    pub(crate) device: Option<u32>,
}

impl Store {
    /// Logs findings about a file and adds them to the sums.
    pub(crate) async fn log_findings(
        &self,
        fid: Fid,
        events: Vec<(Event, Option<DevId>)>,
    ) -> Result<()> {
        let now = self.sql.now();
        self.db
            .write(move |tx| {
                let events = events.clone();
                Box::pin(async move {
                    for (event, device) in events {
                        let insert = format!("INSERT INTO fsck_log (utime, fid, evcode, devid) VALUES ({now}, ?, ?, ?)");
                        tx.execute(insert, params![fid.0, event.code(), device.map(|device| device.0)]).await?;
                        let field = format!("fsck_sum_evcount_{}", event.code());
                        let row = tx.query_one("SELECT value FROM server_settings WHERE field = ?", params![&field]).await?;
                        let sum: u64 = row.map(|row| row.get::<Option<u64>>(0)).transpose()?.flatten().unwrap_or(0);
                        tx.execute("REPLACE INTO server_settings (field, value) VALUES (?, ?)", params![&field, (sum + 1).to_string()]).await?;
                    }
                    Ok::<_, StoreError>(())
                })
            })
            .await
    }

    pub(crate) async fn fsck_log(&self, after: u64, limit: u64) -> Result<Vec<LogRow>> {
        let sql = "SELECT logid, utime, fid, evcode, devid FROM fsck_log WHERE logid > ? ORDER BY logid LIMIT ?";
        let rows = self.db.query(sql, params![after, limit]).await?;
        let read = |row: &ibex_sql::Row| {
            Ok::<_, ibex_sql::Error>(LogRow {
                id: row.get(0)?,
                time: row.get(1)?,
                fid: row.get(2)?,
                code: row.get::<Option<String>>(3)?.unwrap_or_default(),
                device: row.get(4)?,
            })
        };
        Ok(rows
            .iter()
            .map(read)
            .collect::<std::result::Result<_, _>>()?)
    }

    pub(crate) async fn fsck_log_max(&self) -> Result<u64> {
        let row = self
            .db
            .query_one("SELECT COALESCE(MAX(logid), 0) FROM fsck_log", params![])
            .await?;
        Ok(row.map_or(Ok(0), |row| row.get(0))?)
    }

    pub(crate) async fn clear_fsck_log(&self) -> Result<()> {
        self.db
            .write(|tx| {
                Box::pin(async move {
                    tx.execute("DELETE FROM fsck_log", params![]).await?;
                    tx.execute(
                        "DELETE FROM server_settings WHERE field LIKE 'fsck_sum_evcount_%'",
                        params![],
                    )
                    .await?;
                    Ok::<_, StoreError>(())
                })
            })
            .await
    }

    /// Seconds since 1970 on the database's clock.
    pub(crate) async fn now(&self) -> Result<u64> {
        let row = self
            .db
            .query_one(format!("SELECT {}", self.sql.now()), params![])
            .await?;
        Ok(row.map_or(Ok(0), |row| row.get(0))?)
    }

    /// The highest id of a file that is visible.
    pub(crate) async fn highest_file(&self) -> Result<u64> {
        let row = self
            .db
            .query_one("SELECT COALESCE(MAX(fid), 0) FROM file", params![])
            .await?;
        Ok(row.map_or(Ok(0), |row| row.get(0))?)
    }
}
