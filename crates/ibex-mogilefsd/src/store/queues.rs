//! The queues through which trackers share work without a leader.
//!
//! A claim pushes a row's `nexttry` into the future by the lease, so that nobody else sees it; the row is deleted when the work is done, rescheduled
//! when it failed, and given back
//! when the tracker stops. A tracker that dies leaves its rows to become due again by themselves.

use super::files::{queue_delete, queue_replication};
use super::{FAILCOUNT_MAX, Result, Store, StoreError, fid_values, marks};
use ibex_mogilefs_proto::{DevId, Fid};
use ibex_sql::{Row, Value, params};

/// A claimed row of `file_to_replicate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ToReplicate {
    pub(crate) fid: Fid,
    pub(crate) from: Option<DevId>,
    pub(crate) failcount: u32,
}

/// A claimed row of `file_to_delete2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ToDelete {
    pub(crate) fid: Fid,
    pub(crate) failcount: u32,
}

/// A claimed row of `file_to_queue`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Queued {
    pub(crate) fid: Fid,
    pub(crate) device: Option<DevId>,
    pub(crate) failcount: u32,
    pub(crate) arg: String,
}

/// Which kind of rows of `file_to_queue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueType {
    Fsck,
    Rebalance,
}

impl QueueType {
    pub(crate) const fn number(self) -> u32 {
        match self {
            Self::Fsck => 1,
            Self::Rebalance => 2,
        }
    }
}

/// A queue with one row per file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    Replicate,
    Delete,
    Other(QueueType),
}

impl Queue {
    fn table(self) -> &'static str {
        match self {
            Self::Replicate => "file_to_replicate",
            Self::Delete => "file_to_delete2",
            Self::Other(_) => "file_to_queue",
        }
    }

    /// A condition that picks this queue's rows out of its table.
    fn condition(self) -> &'static str {
        match self {
            Self::Replicate | Self::Delete => "1 = 1",
            Self::Other(QueueType::Fsck) => "type = 1",
            Self::Other(QueueType::Rebalance) => "type = 2",
        }
    }

    /// A condition that fails when the row means new work since it was claimed: a claim's `nexttry` is never urgent, and a
    /// deletion is not over while a location is recorded.
    fn unless_requeued(self) -> &'static str {
        match self {
            Self::Replicate | Self::Other(_) => "nexttry <> 0",
            Self::Delete => {
                "NOT EXISTS (SELECT 1 FROM file_on WHERE file_on.fid = file_to_delete2.fid)"
            }
        }
    }

    fn columns(self) -> &'static str {
        match self {
            Self::Replicate => "fid, failcount, fromdevid",
            Self::Delete => "fid, failcount",
            Self::Other(_) => "fid, failcount, devid, arg",
        }
    }
}

impl Store {
    async fn claim(&self, queue: Queue, limit: u64, lease: u64) -> Result<Vec<Row>> {
        let (now, lock) = (self.sql.now(), self.sql.for_update());
        let (table, condition) = (queue.table(), queue.condition());
        // A look without a transaction first: an idle tracker must not take the write lock several times a second.
        let due = format!("SELECT 1 FROM {table} WHERE {condition} AND nexttry <= {now} LIMIT 1");
        if self.db.query_one(due, params![]).await?.is_none() {
            return Ok(Vec::new());
        }
        let select = format!(
            "SELECT {} FROM {table} WHERE {condition} AND nexttry <= {now} ORDER BY nexttry, fid LIMIT ? {lock}",
            queue.columns()
        );
        self.db
            .write(move |tx| {
                let select = select.clone();
                Box::pin(async move {
                    let rows = tx.query(select, params![limit]).await?;
                    if rows.is_empty() {
                        return Ok(rows);
                    }
                    let fids: Vec<Fid> = rows
                        .iter()
                        .map(|row| row.get(0).map(Fid))
                        .collect::<std::result::Result<_, _>>()?;
                    let update = format!(
                        "UPDATE {table} SET nexttry = {now} + ? WHERE {condition} AND fid IN ({})",
                        marks(fids.len())
                    );
                    let mut params = params![lease];
                    params.extend(fid_values(&fids));
                    tx.execute(update, params).await?;
                    Ok::<_, StoreError>(rows)
                })
            })
            .await
    }

    pub(crate) async fn claim_replications(
        &self,
        limit: u64,
        lease: u64,
    ) -> Result<Vec<ToReplicate>> {
        let rows = self.claim(Queue::Replicate, limit, lease).await?;
        let read = |row: &Row| {
            Ok::<_, ibex_sql::Error>(ToReplicate {
                fid: Fid(row.get(0)?),
                failcount: row.get(1)?,
                from: row
                    .get::<Option<u32>>(2)?
                    .filter(|&device| device > 0)
                    .map(DevId),
            })
        };
        Ok(rows
            .iter()
            .map(read)
            .collect::<std::result::Result<_, _>>()?)
    }

    pub(crate) async fn claim_deletions(&self, limit: u64, lease: u64) -> Result<Vec<ToDelete>> {
        let rows = self.claim(Queue::Delete, limit, lease).await?;
        let read = |row: &Row| {
            Ok::<_, ibex_sql::Error>(ToDelete {
                fid: Fid(row.get(0)?),
                failcount: row.get(1)?,
            })
        };
        Ok(rows
            .iter()
            .map(read)
            .collect::<std::result::Result<_, _>>()?)
    }

    pub(crate) async fn claim_queued(
        &self,
        kind: QueueType,
        limit: u64,
        lease: u64,
    ) -> Result<Vec<Queued>> {
        let rows = self.claim(Queue::Other(kind), limit, lease).await?;
        let read = |row: &Row| {
            Ok::<_, ibex_sql::Error>(Queued {
                fid: Fid(row.get(0)?),
                failcount: row.get(1)?,
                device: row
                    .get::<Option<u32>>(2)?
                    .filter(|&device| device > 0)
                    .map(DevId),
                arg: row.get::<Option<String>>(3)?.unwrap_or_default(),
            })
        };
        Ok(rows
            .iter()
            .map(read)
            .collect::<std::result::Result<_, _>>()?)
    }

    /// Work is done: the row goes, unless somebody queued the file again meanwhile, or a deleted file got another location.
    pub(crate) async fn finish(&self, queue: Queue, fid: Fid) -> Result<()> {
        let (table, condition, unless) =
            (queue.table(), queue.condition(), queue.unless_requeued());
        let sql = format!("DELETE FROM {table} WHERE {condition} AND fid = ? AND {unless}");
        self.db.execute(sql, params![fid.0]).await?;
        Ok(())
    }

    /// Work failed: the row is due again in `delay` seconds with one more failure, unless somebody made it urgent meanwhile.
    pub(crate) async fn reschedule(
        &self,
        queue: Queue,
        fid: Fid,
        delay: u64,
        failcount: u32,
    ) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET nexttry = {} + ?, failcount = ? WHERE {} AND fid = ? AND nexttry <> {}",
            queue.table(),
            self.sql.now(),
            queue.condition(),
            super::URGENT
        );
        self.db
            .execute(sql, params![delay, failcount.min(FAILCOUNT_MAX), fid.0])
            .await?;
        Ok(())
    }

    /// Only a person can help: the row is never due again.
    pub(crate) async fn park(&self, queue: Queue, fid: Fid) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET nexttry = ? WHERE {} AND fid = ?",
            queue.table(),
            queue.condition()
        );
        self.db.execute(sql, params![super::NEVER, fid.0]).await?;
        Ok(())
    }

    /// Gives claimed rows back, due at once.
    pub(crate) async fn give_back(&self, queue: Queue, fids: &[Fid]) -> Result<()> {
        if fids.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "UPDATE {} SET nexttry = {} WHERE {} AND fid IN ({})",
            queue.table(),
            self.sql.now(),
            queue.condition(),
            marks(fids.len())
        );
        self.db.execute(sql, fid_values(fids)).await?;
        Ok(())
    }

    /// Makes every postponed replication due; how many. Parked rows come back, too.
    pub(crate) async fn replicate_now(&self) -> Result<u64> {
        let sql = format!(
            "UPDATE file_to_replicate SET nexttry = {now} WHERE nexttry > {now}",
            now = self.sql.now()
        );
        Ok(self.db.execute(sql, params![]).await?.rows_affected)
    }

    pub(crate) async fn queue_replication(&self, fids: Vec<Fid>) -> Result<()> {
        let sql = self.sql;
        self.db
            .write(move |tx| {
                let fids = fids.clone();
                Box::pin(async move {
                    for fid in fids {
                        queue_replication(tx, sql, fid).await?;
                    }
                    Ok::<_, StoreError>(())
                })
            })
            .await
    }

    /// Forgets a batch of replicas on a dead device after queueing their files for replication, in that order and in one transaction. Files that no
    /// longer exist are queued for deletion.
    pub(crate) async fn reap(&self, device: DevId, fids: Vec<Fid>) -> Result<()> {
        let sql = self.sql;
        self.db
            .write(move |tx| {
                let fids = fids.clone();
                Box::pin(async move {
                    for fid in fids {
                        let exists = tx.query_one("SELECT 1 FROM file WHERE fid = ?", params![fid.0]).await?.is_some();
                        if exists {
                            queue_replication(tx, sql, fid).await?;
                        } else {
                            queue_delete(tx, sql, fid).await?;
                        }
                        tx.execute("DELETE FROM file_on WHERE fid = ? AND devid = ?", params![fid.0, device.0]).await?;
                        let recount = "UPDATE file SET devcount = (SELECT COUNT(*) FROM file_on WHERE file_on.fid = file.fid) WHERE fid = ?";
                        tx.execute(recount, params![fid.0]).await?;
                    }
                    Ok::<_, StoreError>(())
                })
            })
            .await
    }

    /// Drops everything small that belongs to a deleted file. The queue row stays until the replicas are gone.
    pub(crate) async fn forget_extras(&self, fid: Fid) -> Result<()> {
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    for table in ["checksum", "tempfile", "file_to_replicate"] {
                        tx.execute(format!("DELETE FROM {table} WHERE fid = ?"), params![fid.0])
                            .await?;
                    }
                    Ok::<_, StoreError>(())
                })
            })
            .await
    }

    /// Adds files to a queue unless they are in it.
    pub(crate) async fn enqueue(
        &self,
        kind: QueueType,
        items: Vec<(Fid, Option<DevId>, String)>,
    ) -> Result<()> {
        let sql = self.sql;
        self.db
            .write(move |tx| {
                let items = items.clone();
                Box::pin(async move {
                    let insert = format!(
                        "{} INTO file_to_queue (fid, devid, type, nexttry, failcount, flags, arg) VALUES (?, ?, ?, {}, 0, 0, ?)",
                        sql.insert_ignore(),
                        sql.now()
                    );
                    let sets: Vec<Vec<Value>> = items
                        .into_iter()
                        .map(|(fid, device, arg)| params![fid.0, device.map(|device| device.0), kind.number(), (!arg.is_empty()).then_some(arg)])
                        .collect();
                    tx.execute_each(insert, sets).await?;
                    Ok::<_, StoreError>(())
                })
            })
            .await
    }

    pub(crate) async fn clear_queue(&self, kind: QueueType) -> Result<()> {
        self.db
            .execute(
                "DELETE FROM file_to_queue WHERE type = ?",
                params![kind.number()],
            )
            .await?;
        Ok(())
    }

    /// Rows of a queue: all, and those due now.
    pub(crate) async fn queue_depth(&self, queue: Queue) -> Result<(u64, u64)> {
        let sql = format!(
            "SELECT COUNT(*), COALESCE(SUM(CASE WHEN nexttry <= {} THEN 1 ELSE 0 END), 0) FROM {} WHERE {}",
            self.sql.now(),
            queue.table(),
            queue.condition()
        );
        let row = self.db.query_one(sql, params![]).await?;
        Ok(row.map_or(Ok((0, 0)), |row| {
            Ok::<_, ibex_sql::Error>((row.get(0)?, row.get(1)?))
        })?)
    }

    /// Replications that were postponed after a failure.
    pub(crate) async fn postponed(&self) -> Result<u64> {
        let sql = format!(
            "SELECT COUNT(*) FROM file_to_replicate WHERE nexttry > {}",
            self.sql.now()
        );
        let row = self.db.query_one(sql, params![]).await?;
        Ok(row.map_or(Ok(0), |row| row.get(0))?)
    }

    /// Makes deletions that waited for a device due, now that it answers again.
    pub(crate) async fn wake_deletions_on(&self, device: DevId) -> Result<u64> {
        let sql = format!(
            "UPDATE file_to_delete2 SET nexttry = {now} WHERE nexttry > {now} AND failcount > 0 AND fid IN (SELECT fid FROM file_on WHERE devid = ?)",
            now = self.sql.now()
        );
        Ok(self.db.execute(sql, params![device.0]).await?.rows_affected)
    }

    /// Moves rows of the tables that early versions of the original used into the present queue; how many.
    pub(crate) async fn drain_legacy_deletes(&self, limit: u64) -> Result<u64> {
        let sql = self.sql;
        self.db
            .write(move |tx| {
                Box::pin(async move {
                    let mut moved = 0;
                    let due = format!(
                        "SELECT fid FROM file_to_delete_later WHERE delafter <= {} LIMIT ?",
                        sql.now()
                    );
                    for (select, table) in [
                        ("SELECT fid FROM file_to_delete LIMIT ?", "file_to_delete"),
                        (due.as_str(), "file_to_delete_later"),
                    ] {
                        for row in tx.query(select, params![limit]).await? {
                            let fid = Fid(row.get(0)?);
                            queue_delete(tx, sql, fid).await?;
                            tx.execute(
                                format!("DELETE FROM {table} WHERE fid = ?"),
                                params![fid.0],
                            )
                            .await?;
                            moved += 1;
                        }
                    }
                    Ok::<_, StoreError>(moved)
                })
            })
            .await
    }
}

impl Store {
    /// When a file's row of a queue is due and how often it failed.
    pub(crate) async fn queue_row(&self, queue: Queue, fid: Fid) -> Result<Option<(u64, u32)>> {
        let sql = format!(
            "SELECT nexttry, failcount FROM {} WHERE {} AND fid = ?",
            queue.table(),
            queue.condition()
        );
        let row = self.db.query_one(sql, params![fid.0]).await?;
        Ok(row
            .map(|row| Ok::<_, ibex_sql::Error>((row.get(0)?, row.get(1)?)))
            .transpose()?)
    }

    /// Keeps a claim while its work goes on.
    pub(crate) async fn renew(&self, queue: Queue, fid: Fid, lease: u64) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET nexttry = {} + ? WHERE {} AND fid = ?",
            queue.table(),
            self.sql.now(),
            queue.condition()
        );
        self.db.execute(sql, params![lease, fid.0]).await?;
        Ok(())
    }
}
