//! Moving a user to another cluster while he reads and writes (spec/journal.md §4).
//!
//! ```text
//!  claim ─ prepare ─ copy ─ catch-up ─ lock ─ last-copy ─ verify ─ pivot-dst ─ pivot-global ─ pivot-src ─ reap
//!    │        │                          │                              │            │
//!    │        dst owner I, src capture   src owner R: writes wait       dst owner L  from here on he lives there
//!    move row with lease, one open per user
//! ```
//!
//! **Two movers.** A lease that ran out lets another mover take the move over. The first may wake up later and go on; it cannot do
//! harm, because every step that matters is conditional on a token: the owner rows carry the move's number (an undo clears it first),
//! and the pivot of the global row happens in one transaction with a look at whose move it is.
//!
//! **A crash** leaves one of two situations, and [`Cluster::recover`] tells them apart by the global row: it points to the
//! destination (finish) or to the source (undo). There are never two live owner rows: the source is `R` before the destination is `L`.
//!
//! Apart from the fence, which it uses; it is the only writer of user data that does not go through [`crate::UserTx`].

mod copy;
mod recover;
mod verify;

pub use recover::Recovered;

use crate::fence::{self, State};
use crate::layout::Table;
use crate::{BoxFuture, Cluster, ClusterId, Error, Home, MoveError, UserId, unix_now};
use ibex_sql::{Db, Row, Tx, params};
use std::time::{Duration, Instant};

/// How long a mover may be silent before another takes over, in seconds.
pub(crate) const LEASE: i64 = 30;
/// How often the lease is renewed while copying.
const RENEW: Duration = Duration::from_secs(5);
/// Rounds of catching up before the lock; a user who writes faster than he is copied is locked with more left.
const CATCH_UP_ROUNDS: u32 = 20;
/// Changes that are few enough to be copied under the lock.
const CATCH_UP_FEW: u64 = 200;

/// The numbered points of a move; fault injection can stop after each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The move row exists.
    Claim,
    /// Destination prepared, changes are captured.
    Prepare,
    /// The first pass over all tables is done.
    Copy,
    /// The change log is nearly used up.
    CatchUp,
    /// The source takes no more writes.
    Lock,
    /// The last changes are copied.
    LastCopy,
    /// Both sides are equal.
    Verify,
    /// The destination's owner row is live.
    PivotDestination,
    /// The global row points to the destination.
    PivotGlobal,
    /// The source's owner row says where he went.
    PivotSource,
    /// The source's rows are deleted.
    Reap,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 11] = [
        Self::Claim,
        Self::Prepare,
        Self::Copy,
        Self::CatchUp,
        Self::Lock,
        Self::LastCopy,
        Self::Verify,
        Self::PivotDestination,
        Self::PivotGlobal,
        Self::PivotSource,
        Self::Reap,
    ];

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Prepare => "prepare",
            Self::Copy => "copy",
            Self::CatchUp => "catch-up",
            Self::Lock => "lock",
            Self::LastCopy => "last-copy",
            Self::Verify => "verify",
            Self::PivotDestination => "pivot-dst",
            Self::PivotGlobal => "pivot-global",
            Self::PivotSource => "pivot-src",
            Self::Reap => "reap",
        }
    }

    /// The step called `name`.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.name() == name)
    }
}

/// How to move.
#[derive(Debug, Clone)]
pub struct MoveOptions {
    /// Rows per chunk.
    pub chunk: u32,
    /// Rows copied per second, at most; 0 for no limit.
    pub rate: u32,
    /// Delete the source's rows at once, and not when the reaper comes.
    pub delete: bool,
    /// Compare every row, and not sums only.
    pub verify_full: bool,
    /// Stop after this step, as if the process died there.
    pub die_at: Option<Step>,
    /// Who moves, for the operator.
    pub mover: String,
}

impl Default for MoveOptions {
    fn default() -> Self {
        Self {
            chunk: 500,
            rate: 0,
            delete: false,
            verify_full: false,
            die_at: None,
            mover: format!("pid {}", std::process::id()),
        }
    }
}

/// What a move did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveReport {
    /// Its number.
    pub moveid: i64,
    /// From where.
    pub src: ClusterId,
    /// To where.
    pub dst: ClusterId,
    /// Rows verified equal.
    pub rows: u64,
    /// Changes that came in while copying.
    pub changes: u64,
    /// All of it.
    pub elapsed: Duration,
    /// How long writes had to wait.
    pub locked: Duration,
}

/// One row of the table of moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveRow {
    /// Its number.
    pub moveid: i64,
    /// Whose.
    pub user: UserId,
    /// From where.
    pub src: ClusterId,
    /// To where.
    pub dst: ClusterId,
    /// `copying`, `locked`, `moved`, `done`, `undone`.
    pub state: String,
    /// Who moves.
    pub mover: String,
    /// Until when the mover may be silent, Unix seconds.
    pub lease_until: i64,
    /// The user's epoch before.
    pub epoch: i64,
    /// What went wrong, if something did.
    pub error: String,
}

pub(crate) const MOVE_COLUMNS: &str =
    "moveid, userid, src, dst, state, mover, lease_until, epoch, error";

pub(crate) fn move_row(row: &Row) -> Result<MoveRow, ibex_sql::Error> {
    Ok(MoveRow {
        moveid: row.get(0)?,
        user: UserId(row.get(1)?),
        src: ClusterId(row.get(2)?),
        dst: ClusterId(row.get(3)?),
        state: row.get(4)?,
        mover: row.get(5)?,
        lease_until: row.get(6)?,
        epoch: row.get(7)?,
        error: row.get(8)?,
    })
}

/// A move under way: both databases, the token, the lease.
pub(crate) struct Move {
    pub(crate) cluster: Cluster,
    pub(crate) user: UserId,
    pub(crate) from: Home,
    pub(crate) dst: ClusterId,
    pub(crate) src_db: Db,
    pub(crate) dst_db: Db,
    pub(crate) moveid: i64,
    pub(crate) options: MoveOptions,
    pub(crate) rows: u64,
    pub(crate) changes: u64,
    pub(crate) last_seq: i64,
    renewed: Instant,
}

impl Cluster {
    /// Moves a user to `dst` while he reads and writes. On an error everything is as before, except as [`MoveError`] says.
    ///
    /// # Errors
    /// [`MoveError`].
    pub async fn move_user(
        &self,
        user: UserId,
        dst: ClusterId,
        options: MoveOptions,
    ) -> Result<MoveReport, MoveError> {
        let started = Instant::now();
        self.forget_home(user);
        let from = self.home(user).await?;
        if from.cluster == dst {
            return Err(MoveError::AlreadyThere(user, dst));
        }
        let (src_db, dst_db) = (self.db(from.cluster).await?, self.db(dst).await?);
        if self.node(dst)?.config.readonly {
            return Err(Error::ReadOnly(dst).into());
        }
        let moveid = self.claim(user, from, dst, &options.mover).await?;
        let mut work = Move {
            cluster: self.clone(),
            user,
            from,
            dst,
            src_db,
            dst_db,
            moveid,
            options,
            rows: 0,
            changes: 0,
            last_seq: 0,
            renewed: Instant::now(),
        };
        match work.run(started).await {
            Ok(report) => Ok(report),
            Err(error @ MoveError::Died(_)) => Err(error),
            Err(error @ MoveError::LostLease(_)) => {
                if let Err(why) = work.withdraw().await {
                    tracing::warn!(user = %user, moveid, error = %why, "a move that was taken over left its token, the next move removes it");
                }
                Err(error)
            }
            Err(error) => {
                tracing::warn!(user = %user, src = %from.cluster, %dst, %error, "move failed, will be undone");
                work.undo(&error.to_string()).await?;
                Err(error)
            }
        }
    }

    async fn claim(
        &self,
        user: UserId,
        from: Home,
        dst: ClusterId,
        mover: &str,
    ) -> Result<i64, MoveError> {
        let now = unix_now();
        let sql = "INSERT INTO move (userid, open_user, src, dst, state, mover, lease_until, epoch, copied, t_start, t_lock, t_pivot, t_done, error)
                   VALUES (?, ?, ?, ?, 'copying', ?, ?, ?, 0, ?, 0, 0, 0, '')";
        let values = params![
            user,
            user,
            from.cluster,
            dst,
            mover,
            now + LEASE,
            from.epoch,
            now
        ];
        match self.global().execute(sql, values).await {
            Ok(done) => Ok(i64::try_from(done.last_insert_id).unwrap_or(i64::MAX)),
            Err(error) if error.is_unique_violation() => Err(MoveError::Busy(user)),
            Err(error) => Err(error.into()),
        }
    }

    /// The moves that are open, and the newest of the others, newest first.
    ///
    /// # Errors
    /// The global database's classes.
    pub async fn moves(&self, limit: u32) -> Result<Vec<MoveRow>, Error> {
        let sql = format!("SELECT {MOVE_COLUMNS} FROM move ORDER BY moveid DESC LIMIT ?");
        let rows = self.global().query(sql, params![i64::from(limit)]).await?;
        Ok(rows.iter().map(move_row).collect::<Result<_, _>>()?)
    }
}

impl Move {
    async fn run(&mut self, started: Instant) -> Result<MoveReport, MoveError> {
        self.reached(Step::Claim).await?;
        self.prepare().await?;
        self.reached(Step::Prepare).await?;
        self.copy_all().await?;
        self.reached(Step::Copy).await?;
        self.catch_up().await?;
        self.reached(Step::CatchUp).await?;
        let locked = Instant::now();
        self.lock().await?;
        self.reached(Step::Lock).await?;
        while self.copy_changes().await? > 0 {}
        self.reached(Step::LastCopy).await?;
        self.verify().await?;
        self.reached(Step::Verify).await?;
        self.pivot_destination().await?;
        self.reached(Step::PivotDestination).await?;
        self.pivot_global().await?;
        self.reached(Step::PivotGlobal).await?;
        self.pivot_source().await?;
        let locked = locked.elapsed();
        self.reached(Step::PivotSource).await?;
        if self.options.delete {
            self.reap().await?;
            self.reached(Step::Reap).await?;
        }
        Ok(MoveReport {
            moveid: self.moveid,
            src: self.from.cluster,
            dst: self.dst,
            rows: self.rows,
            changes: self.changes,
            elapsed: started.elapsed(),
            locked,
        })
    }

    /// After each step: the lease, and fault injection.
    async fn reached(&mut self, step: Step) -> Result<(), MoveError> {
        tracing::debug!(user = %self.user, moveid = self.moveid, step = step.name(), "move step done");
        if self.options.die_at == Some(step) {
            return Err(MoveError::Died(step));
        }
        // From the pivot on the lease no longer decides anything: the move can only be finished.
        if matches!(step, Step::PivotGlobal | Step::PivotSource | Step::Reap) {
            Ok(())
        } else {
            self.renew().await
        }
    }

    /// Renews the lease if some time has passed since the last renewal.
    pub(crate) async fn renew_if_due(&mut self) -> Result<(), MoveError> {
        if self.renewed.elapsed() < RENEW {
            Ok(())
        } else {
            self.renew().await
        }
    }

    async fn renew(&mut self) -> Result<(), MoveError> {
        let sql = "UPDATE move SET lease_until = ?, copied = ? WHERE moveid = ? AND mover = ? AND open_user IS NOT NULL";
        let rows = i64::try_from(self.rows).unwrap_or(i64::MAX);
        let done = self
            .cluster
            .global()
            .execute(
                sql,
                params![
                    unix_now() + LEASE,
                    rows,
                    self.moveid,
                    self.options.mover.clone()
                ],
            )
            .await?;
        self.renewed = Instant::now();
        if done.rows_affected == 1 {
            Ok(())
        } else {
            Err(MoveError::LostLease(self.moveid))
        }
    }

    /// Step 2: both schemas as the layout says, no rows at the destination, its owner row `I`, the source captures changes.
    async fn prepare(&mut self) -> Result<(), MoveError> {
        for table in self.cluster.inner.layout.moving() {
            self.check_schema(&self.src_db, self.from.cluster, table)
                .await?;
            self.check_schema(&self.dst_db, self.dst, table).await?;
        }
        self.clear_earlier_visit().await?;
        for table in self.cluster.inner.layout.moving() {
            let sql = format!(
                "SELECT 1 FROM {} WHERE {} = ? LIMIT 1",
                table.name, table.user
            );
            if self
                .dst_db
                .query_one(sql, params![self.user])
                .await?
                .is_some()
            {
                return Err(MoveError::Occupied {
                    user: self.user,
                    cluster: self.dst,
                    table: table.name,
                });
            }
        }
        let sql = "INSERT INTO owner (userid, state, epoch, seq, fwd, since, moveid, capture) VALUES (?, 'I', ?, 0, 0, ?, ?, 0)";
        self.dst_db
            .execute(
                sql,
                params![self.user, self.from.epoch, unix_now(), self.moveid],
            )
            .await?;
        self.clear_stale_token().await?;
        let (user, moveid, epoch) = (self.user, self.moveid, self.from.epoch);
        let seq = self
            .src_db
            .write(
                move |tx: &mut Tx| -> BoxFuture<'_, Result<i64, MoveError>> {
                    Box::pin(async move {
                        let owner = fence::owner(tx, user, true).await?;
                        let Some(owner) = owner.filter(|owner| {
                            owner.state == State::Live && owner.epoch == epoch && owner.moveid == 0
                        }) else {
                            return Err(MoveError::Busy(user));
                        };
                        tx.execute("DELETE FROM change_log WHERE userid = ?", params![user])
                            .await?;
                        tx.execute(
                            "UPDATE owner SET capture = 1, moveid = ? WHERE userid = ?",
                            params![moveid, user],
                        )
                        .await?;
                        Ok(owner.seq)
                    })
                },
            )
            .await?;
        self.last_seq = seq;
        Ok(())
    }

    async fn check_schema(
        &self,
        db: &Db,
        cluster: ClusterId,
        table: &Table,
    ) -> Result<(), MoveError> {
        let columns = copy::column_list(table);
        let sql = format!(
            "SELECT {columns} FROM {} WHERE {} = ? LIMIT 1",
            table.name, table.user
        );
        match db.query(sql, params![self.user]).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ibex_sql::ErrorKind::Syntax => Err(MoveError::Schema {
                table: table.name,
                cluster,
                reason: error.to_string(),
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// A destination he left earlier and that was not reaped yet is reaped now.
    async fn clear_earlier_visit(&mut self) -> Result<(), MoveError> {
        let row = self
            .dst_db
            .query_one(
                "SELECT state, moveid FROM owner WHERE userid = ?",
                params![self.user],
            )
            .await?;
        let Some(row) = row else { return Ok(()) };
        // Where he lived before; or a copy without a token, or with the token of a closed move, which is nobody's.
        let (state, token): (String, i64) = (row.get(0)?, row.get(1)?);
        let is_left = state == State::Gone.letter()
            || (state == "I" && (token == 0 || self.is_closed(token).await?));
        if !is_left {
            return Err(MoveError::Occupied {
                user: self.user,
                cluster: self.dst,
                table: "owner",
            });
        }
        for table in self.cluster.inner.layout.moving() {
            copy::delete_rows(&self.dst_db, table, self.user, self.options.chunk).await?;
        }
        self.dst_db
            .execute(
                "DELETE FROM owner WHERE userid = ? AND state = ? AND moveid = ?",
                params![self.user, state, token],
            )
            .await?;
        Ok(())
    }

    /// A mover that was slow, lost its move to the recovery and died right after writing its token at the source left it there: a token of a move
    /// that is closed holds nobody up.
    async fn clear_stale_token(&self) -> Result<(), MoveError> {
        let row = self
            .src_db
            .query_one(
                "SELECT moveid FROM owner WHERE userid = ? AND state = 'L' AND moveid <> 0",
                params![self.user],
            )
            .await?;
        let Some(row) = row else { return Ok(()) };
        let token: i64 = row.get(0)?;
        if self.is_closed(token).await? {
            tracing::info!(user = %self.user, moveid = token, "token of a closed move removed");
            self.reopen_source(token).await?;
        }
        Ok(())
    }

    /// Step 4: copies what changed meanwhile until little is left or it does not get less.
    async fn catch_up(&mut self) -> Result<(), MoveError> {
        let mut before = u64::MAX;
        for _ in 0..CATCH_UP_ROUNDS {
            let copied = self.copy_changes().await?;
            if copied <= CATCH_UP_FEW || copied >= before {
                break;
            }
            before = copied;
        }
        Ok(())
    }

    /// Step 5: no more writes at the source.
    async fn lock(&self) -> Result<(), MoveError> {
        let sql = "UPDATE owner SET state = 'R' WHERE userid = ? AND state = 'L' AND moveid = ?";
        let done = self
            .src_db
            .execute(sql, params![self.user, self.moveid])
            .await?;
        if done.rows_affected != 1 {
            return Err(MoveError::LostLease(self.moveid));
        }
        let now = unix_now();
        let sql = "UPDATE move SET state = 'locked', t_lock = ? WHERE moveid = ? AND open_user IS NOT NULL";
        let done = self
            .cluster
            .global()
            .execute(sql, params![now, self.moveid])
            .await?;
        if done.rows_affected == 1 {
            Ok(())
        } else {
            Err(MoveError::LostLease(self.moveid))
        }
    }

    /// Step 7a: the destination is ready; nobody knows it yet.
    async fn pivot_destination(&self) -> Result<(), MoveError> {
        let row = self
            .src_db
            .query_one("SELECT seq FROM owner WHERE userid = ?", params![self.user])
            .await?;
        let seq: i64 = row.map(|row| row.get(0)).transpose()?.unwrap_or(0);
        let sql = "UPDATE owner SET state = 'L', epoch = ?, seq = ?, since = ? WHERE userid = ? AND state = 'I' AND moveid = ?";
        let done = self
            .dst_db
            .execute(
                sql,
                params![self.from.epoch + 1, seq, unix_now(), self.user, self.moveid],
            )
            .await?;
        if done.rows_affected == 1 {
            Ok(())
        } else {
            Err(MoveError::LostLease(self.moveid))
        }
    }

    /// Step 7b: the one moment that decides. Only the mover that owns the move may do it.
    async fn pivot_global(&self) -> Result<(), MoveError> {
        let table = self.cluster.inner.layout.user_table;
        let (user, moveid, from, dst, mover) = (
            self.user,
            self.moveid,
            self.from,
            self.dst,
            self.options.mover.clone(),
        );
        self.cluster
            .global()
            .write(move |tx: &mut Tx| -> BoxFuture<'_, Result<(), MoveError>> {
                let mover = mover.clone();
                Box::pin(async move {
                    let now = unix_now();
                    let sql = "UPDATE move SET state = 'pivoted', t_pivot = ?, lease_until = ? WHERE moveid = ? AND mover = ? AND open_user IS NOT NULL";
                    let owned = tx.execute(sql, params![now, now + LEASE, moveid, mover]).await?;
                    let sql = format!("UPDATE {table} SET clusterid = ?, epoch = ? WHERE userid = ? AND clusterid = ? AND epoch = ?");
                    let moved = tx.execute(sql, params![dst, from.epoch + 1, user, from.cluster, from.epoch]).await?;
                    if owned.rows_affected == 1 && moved.rows_affected == 1 { Ok(()) } else { Err(MoveError::LostLease(moveid)) }
                })
            })
            .await?;
        self.cluster.forget_home(self.user);
        Ok(())
    }

    /// Steps 7c and 7d: the source says where he went; the move is closed.
    pub(crate) async fn pivot_source(&self) -> Result<(), MoveError> {
        let sql = "UPDATE owner SET state = 'X', fwd = ?, capture = 0, moveid = 0, since = ? WHERE userid = ? AND moveid = ?";
        self.src_db
            .execute(sql, params![self.dst, unix_now(), self.user, self.moveid])
            .await?;
        self.src_db
            .execute(
                "DELETE FROM change_log WHERE userid = ?",
                params![self.user],
            )
            .await?;
        self.dst_db
            .execute(
                "UPDATE owner SET moveid = 0 WHERE userid = ? AND moveid = ?",
                params![self.user, self.moveid],
            )
            .await?;
        let sql = "UPDATE move SET state = 'moved', open_user = NULL, t_done = ? WHERE moveid = ?";
        self.cluster
            .global()
            .execute(sql, params![unix_now(), self.moveid])
            .await?;
        self.cluster.forget_home(self.user);
        Ok(())
    }

    /// Step 8: the source's rows go.
    pub(crate) async fn reap(&self) -> Result<(), MoveError> {
        for table in self.cluster.inner.layout.moving() {
            copy::reap_rows(&self.src_db, table, self.user, self.options.chunk).await?;
        }
        self.cluster
            .global()
            .execute(
                "UPDATE move SET state = 'done' WHERE moveid = ? AND state = 'moved'",
                params![self.moveid],
            )
            .await?;
        Ok(())
    }
}
