//! What a mover that died left behind: finished if the pivot had happened, undone if not. And the reaper.
//!
//! Apart because it runs in another process, at another time, and trusts nothing but the rows it finds.

use super::{LEASE, MOVE_COLUMNS, Move, MoveOptions, MoveRow, copy, move_row};
use crate::{BoxFuture, Cluster, Error, Home, MoveError, unix_now};
use ibex_sql::{Tx, params};
use std::time::{Duration, Instant};

/// How long a mover that lost its move waits for the recovery to close it.
const WITHDRAWAL: Duration = Duration::from_secs(10);

/// What became of a move whose mover was silent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovered {
    /// The user had been pivoted: he lives at the destination.
    Finished(MoveRow),
    /// He had not: he lives at the source, the copy is deleted.
    Undone(MoveRow),
}

impl Cluster {
    /// Takes over every open move whose lease ran out before `as_of` (Unix seconds) and finishes or undoes it. A move whose clusters
    /// cannot be reached now is left for the next call.
    ///
    /// # Errors
    /// The global database's classes.
    pub async fn recover(&self, as_of: i64) -> Result<Vec<Recovered>, MoveError> {
        let sql = format!(
            "SELECT {MOVE_COLUMNS} FROM move WHERE open_user IS NOT NULL AND lease_until < ? ORDER BY moveid"
        );
        let rows = self.global().query(sql, params![as_of]).await?;
        let mut out = Vec::new();
        for row in &rows {
            let row = move_row(row)?;
            let mover = format!("{} (recovery)", MoveOptions::default().mover);
            let sql = "UPDATE move SET mover = ?, lease_until = ? WHERE moveid = ? AND mover = ? AND lease_until = ? AND open_user IS NOT NULL";
            let values = params![
                mover.clone(),
                unix_now() + LEASE,
                row.moveid,
                row.mover.clone(),
                row.lease_until
            ];
            if self.global().execute(sql, values).await?.rows_affected != 1 {
                continue;
            }
            match self.take_over(&row, mover).await {
                Ok(done) => out.push(done),
                Err(error) => {
                    tracing::warn!(moveid = row.moveid, user = %row.user, %error, "move could not be recovered, will retry")
                }
            }
        }
        Ok(out)
    }

    async fn take_over(&self, row: &MoveRow, mover: String) -> Result<Recovered, MoveError> {
        self.forget_home(row.user);
        let now = self.home(row.user).await?;
        let work = Move {
            cluster: self.clone(),
            user: row.user,
            from: Home {
                cluster: row.src,
                epoch: row.epoch,
            },
            dst: row.dst,
            src_db: self.db(row.src).await?,
            dst_db: self.db(row.dst).await?,
            moveid: row.moveid,
            options: MoveOptions {
                mover,
                ..MoveOptions::default()
            },
            rows: 0,
            changes: 0,
            last_seq: 0,
            renewed: Instant::now(),
        };
        if now.cluster == row.dst && now.epoch == row.epoch + 1 {
            work.pivot_source().await?;
            Ok(Recovered::Finished(row.clone()))
        } else {
            work.undo("the mover was silent").await?;
            Ok(Recovered::Undone(row.clone()))
        }
    }

    /// Deletes what users left behind that moved away more than `age_seconds` ago. Returns how many moves are done with.
    ///
    /// # Errors
    /// The databases' classes.
    pub async fn reap(&self, age_seconds: i64, limit: u32) -> Result<u64, MoveError> {
        let sql = format!(
            "SELECT {MOVE_COLUMNS} FROM move WHERE state = 'moved' AND t_done <= ? ORDER BY moveid LIMIT ?"
        );
        let rows = self
            .global()
            .query(sql, params![unix_now() - age_seconds, i64::from(limit)])
            .await?;
        let mut reaped = 0;
        for row in &rows {
            let row = move_row(row)?;
            let db = self.db(row.src).await?;
            for table in self.inner.layout.moving() {
                copy::reap_rows(&db, table, row.user, MoveOptions::default().chunk).await?;
            }
            self.global()
                .execute(
                    "UPDATE move SET state = 'done' WHERE moveid = ? AND state = 'moved'",
                    params![row.moveid],
                )
                .await?;
            reaped += 1;
        }
        Ok(reaped)
    }
}

impl Move {
    /// Puts everything back. The destination's token goes first, so that a mover which was only slow can write nothing more; then
    /// the source is opened again; the copy is deleted last.
    pub(super) async fn undo(&self, why: &str) -> Result<(), MoveError> {
        let (user, moveid) = (self.user, self.moveid);
        let had_copy = self.disown_copy().await?;
        self.reopen_source(moveid).await?;
        // A recovery that died after clearing the token finds the copy by its state: `I` without a token is nobody's.
        let left = self
            .dst_db
            .query_one(
                "SELECT 1 FROM owner WHERE userid = ? AND state = 'I' AND moveid = 0",
                params![user],
            )
            .await?
            .is_some();
        if had_copy || left {
            for table in self.cluster.inner.layout.moving() {
                copy::delete_rows(&self.dst_db, table, user, self.options.chunk).await?;
            }
            self.dst_db
                .execute(
                    "DELETE FROM owner WHERE userid = ? AND state = 'I' AND moveid = 0",
                    params![user],
                )
                .await?;
        }
        let sql = "UPDATE move SET state = 'undone', open_user = NULL, t_done = ?, error = ? WHERE moveid = ?";
        self.cluster
            .global()
            .execute(sql, params![unix_now(), why, moveid])
            .await?;
        Ok(())
    }

    /// Takes the token from the copy; whether there was one.
    async fn disown_copy(&self) -> Result<bool, MoveError> {
        let sql = "UPDATE owner SET state = 'I', moveid = 0 WHERE userid = ? AND moveid = ? AND state IN ('I', 'L')";
        let done = self
            .dst_db
            .execute(sql, params![self.user, self.moveid])
            .await?;
        Ok(done.rows_affected == 1)
    }

    /// Lets the user write at the source again, where the token is that of the move `moveid`.
    pub(super) async fn reopen_source(&self, moveid: i64) -> Result<(), MoveError> {
        let user = self.user;
        self.src_db
            .write(move |tx: &mut Tx| -> BoxFuture<'_, Result<(), Error>> {
                Box::pin(async move {
                    let sql = "UPDATE owner SET state = 'L', capture = 0, moveid = 0 WHERE userid = ? AND moveid = ?";
                    if tx.execute(sql, params![user, moveid]).await?.rows_affected == 1 {
                        tx.execute("DELETE FROM change_log WHERE userid = ?", params![user]).await?;
                    }
                    Ok(())
                })
            })
            .await?;
        Ok(())
    }

    /// Whether the move `moveid` is over, one way or the other.
    pub(super) async fn is_closed(&self, moveid: i64) -> Result<bool, MoveError> {
        let sql = "SELECT 1 FROM move WHERE moveid = ? AND open_user IS NOT NULL";
        let open = self
            .cluster
            .global()
            .query_one(sql, params![moveid])
            .await?;
        Ok(open.is_none())
    }

    /// What a mover does that was only slow and finds its move taken over: its tokens may have been written after the recovery looked for them.
    /// A lease is lost before the pivot only, so the move can come to nothing but its undoing; both sides do that with the same conditional
    /// statements. The copy itself is the recovery's to delete; a bare owner row that came too late for it is deleted here.
    pub(super) async fn withdraw(&self) -> Result<(), MoveError> {
        let had_copy = self.disown_copy().await?;
        self.reopen_source(self.moveid).await?;
        if !had_copy {
            return Ok(());
        }
        let deadline = Instant::now() + WITHDRAWAL;
        while !self.is_closed(self.moveid).await? {
            if Instant::now() >= deadline {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let sql = "DELETE FROM owner WHERE userid = ? AND state = 'I' AND moveid = 0";
        self.dst_db.execute(sql, params![self.user]).await?;
        Ok(())
    }
}
