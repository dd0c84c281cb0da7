//! Whose queue it is: two servers on one database would hand out the same jobs and give the same numbers twice.
//!
//! SQLite: a lock on a file beside the database, which the kernel ends with the process. MySQL: one row that names the owner and counts its beats.
//! Every transaction of the owner begins by counting a beat where the name is still its own, so a server that was taken for dead and comes back finds
//! its first transaction refused, whatever it believes. Another server takes the row only when no beat came for a whole lease, seen by its own clock:
//! no clocks are compared. GET_LOCK would end with a connection that breaks while its holder lives, and says nothing to the transactions that follow.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use ibex_kit::Failure;
use ibex_sql::{Db, Engine, Error, Tx, params};

/// How often a challenger looks.
const LOOK: Duration = Duration::from_millis(200);
/// Beats in a lease: a beat may be late by most of it.
const BEATS_PER_LEASE: u32 = 5;

/// Who asks for the queue.
#[derive(Debug, Clone)]
pub(crate) struct Claimant {
    /// Stays the same over restarts of one server, and no two living servers have it: the state directory is locked.
    pub(crate) server: String,
    /// This life of it.
    pub(crate) life: String,
    /// Silence after which an owner is taken for dead.
    pub(crate) lease: Duration,
}

/// Held as long as the queue is used.
#[derive(Debug)]
pub(super) enum Ownership {
    /// Open and locked.
    File(#[expect(dead_code, reason = "held for its lock")] File),
    /// The name in the row.
    Row { owner: Vec<u8>, lease: Duration },
    /// A database in memory.
    Alone,
}

impl Ownership {
    /// Takes the queue, or says who has it.
    pub(super) async fn take(db: &Db, claimant: &Claimant) -> Result<Self, Failure> {
        match (db.engine(), db.config().path()) {
            (Engine::Sqlite, Some(path)) => lock_file(path),
            (Engine::Sqlite, None) => Ok(Self::Alone),
            (Engine::MySql, _) => take_row(db, claimant).await,
        }
    }

    /// The time within which the owner must write something.
    pub(super) fn beat(&self) -> Option<Duration> {
        match self {
            Self::Row { lease, .. } => Some(*lease / BEATS_PER_LEASE),
            Self::File(_) | Self::Alone => None,
        }
    }

    /// The name that transactions check.
    pub(super) fn name(&self) -> Option<&[u8]> {
        match self {
            Self::Row { owner, .. } => Some(owner),
            Self::File(_) | Self::Alone => None,
        }
    }

    /// Lets the next server in at once.
    pub(super) async fn release(self, db: &Db) -> Result<(), Error> {
        if let Self::Row { owner, .. } = self {
            db.execute(
                "UPDATE gearman_owner SET owner = '' WHERE id = 1 AND owner = ?",
                params![owner],
            )
            .await?;
        }
        Ok(())
    }
}

/// Counts a beat; `false` when the queue is somebody else's by now.
pub(super) async fn beat(tx: &mut Tx, owner: &[u8]) -> Result<bool, Error> {
    let done = tx
        .execute(
            "UPDATE gearman_owner SET beat = beat + 1 WHERE id = 1 AND owner = ?",
            params![owner.to_vec()],
        )
        .await?;
    Ok(done.rows_affected > 0)
}

fn lock_file(database: &Path) -> Result<Ownership, Failure> {
    let mut path = database.as_os_str().to_owned();
    path.push(".lock");
    let path = Path::new(&path);
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|error| Failure::io(format!("job store: {}: {error}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(Ownership::File(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(Failure::temporary(format!(
            "job store: {} belongs to another server that is running",
            database.display()
        ))),
        Err(std::fs::TryLockError::Error(error)) => Err(Failure::io(format!(
            "job store: lock {}: {error}",
            path.display()
        ))),
    }
}

async fn take_row(db: &Db, claimant: &Claimant) -> Result<Ownership, Failure> {
    let failure = |error: Error| {
        if error.is_retryable() {
            Failure::temporary(format!("job store: {error}"))
        } else {
            Failure::io(format!("job store: {error}"))
        }
    };
    let mine = format!("{} {}", claimant.server, claimant.life).into_bytes();
    let mut seen: Option<((Vec<u8>, i64), Instant)> = None;
    loop {
        let row = db
            .query_one(
                "SELECT owner, beat FROM gearman_owner WHERE id = 1",
                Vec::new(),
            )
            .await
            .map_err(failure)?;
        let Some(row) = row else {
            db.execute(
                "INSERT IGNORE INTO gearman_owner (id, owner, beat) VALUES (1, '', 0)",
                Vec::new(),
            )
            .await
            .map_err(failure)?;
            continue;
        };
        let state: (Vec<u8>, i64) = (row.get(0).map_err(failure)?, row.get(1).map_err(failure)?);
        let since = match &seen {
            Some((before, since)) if *before == state => *since,
            Some((before, _)) if before.0 == state.0 => {
                return Err(Failure::temporary(format!(
                    "job store: the queue belongs to the running server {}",
                    String::from_utf8_lossy(&state.0)
                )));
            }
            Some(_) | None => Instant::now(),
        };
        let is_mine = state
            .0
            .starts_with(format!("{} ", claimant.server).as_bytes());
        if state.0.is_empty() || is_mine || since.elapsed() >= claimant.lease {
            let done = db
                .execute(
                    "UPDATE gearman_owner SET owner = ?, beat = beat + 1 WHERE id = 1 AND owner = ? AND beat = ?",
                    params![mine.clone(), state.0, state.1],
                )
                .await
                .map_err(failure)?;
            if done.rows_affected > 0 {
                return Ok(Ownership::Row {
                    owner: mine,
                    lease: claimant.lease,
                });
            }
            continue;
        }
        seen = Some((state, since));
        tokio::time::sleep(LOOK).await;
    }
}
