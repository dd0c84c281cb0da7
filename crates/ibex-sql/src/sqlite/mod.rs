//! SQLite: one writer thread that groups commits, a few reader threads, and the handles async code holds.
//!
//! ```text
//!  execute / write(closure) ──► writer queue ──► writer thread: BEGIN IMMEDIATE
//!                                                  SAVEPOINT a; statements of caller a; RELEASE
//!                                                  SAVEPOINT b; statements of caller b; RELEASE
//!                                                COMMIT (one fsync) ──► answers to a and b
//!  query / read(closure)    ──► free reader thread (own connection, `query_only`)
//! ```
//!
//! SQLite never runs on the reactor. A caller's closure keeps running as async code; its statements travel to the thread one by
//! one, and while it thinks, the write lock waits for it — bounded by the stall time-out.

mod reader;
mod run;
mod writer;

use crate::config::{Durability, SqliteTarget};
use crate::db::{Access, Stats};
use crate::error::{Error, ErrorKind};
use crate::value::{Done, Row, Value};
use reader::Readers;
use rusqlite::{Connection, OpenFlags};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;
use tokio::sync::{Semaphore, oneshot};

/// Prepared statements kept per connection; more than any daemon of the house uses.
const STATEMENTS_CACHED: usize = 256;
/// Write requests that may wait; over it callers wait for a place, so a slow disk slows them down instead of filling memory.
const WRITES_WAITING_MAX: usize = 8192;

/// Where one answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// One statement of a transaction, or its end.
pub(crate) enum Op {
    Execute {
        sql: String,
        params: Vec<Value>,
        reply: Reply<Done>,
    },
    ExecuteEach {
        sql: String,
        sets: Vec<Vec<Value>>,
        reply: Reply<Vec<Done>>,
    },
    Query {
        sql: String,
        params: Vec<Value>,
        reply: Reply<Vec<Row>>,
    },
    Commit {
        reply: Reply<()>,
    },
}

/// What the writer thread is asked.
pub(crate) enum Request {
    Execute {
        sql: String,
        params: Vec<Value>,
        deadline: Instant,
        reply: Reply<Done>,
        place: tokio::sync::OwnedSemaphorePermit,
    },
    Query {
        sql: String,
        params: Vec<Value>,
        reply: Reply<Vec<Row>>,
    },
    Session {
        access: Access,
        ops: mpsc::Receiver<Op>,
        deadline: Instant,
        place: tokio::sync::OwnedSemaphorePermit,
    },
    Close {
        reply: Reply<()>,
    },
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) writes: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) group_max: AtomicU64,
}

/// The async side of one SQLite database.
pub(crate) struct LiteDb {
    writer: mpsc::Sender<Request>,
    places: Arc<Semaphore>,
    /// `None` for databases in memory: there is one connection, the writer's.
    readers: Option<Readers>,
    counters: Arc<Counters>,
}

impl LiteDb {
    pub(crate) async fn open(target: &SqliteTarget) -> Result<Self, Error> {
        let counters = Arc::new(Counters::default());
        let (sender, receiver) = mpsc::channel();
        let (ready, opened) = oneshot::channel();
        let (wanted, shared) = (target.clone(), Arc::clone(&counters));
        std::thread::Builder::new()
            .name("sqlite-writer".to_owned())
            .spawn(move || writer::run(&wanted, &receiver, &shared, ready))
            .map_err(|error| {
                Error::new(
                    ErrorKind::Other,
                    format!("start SQLite writer thread: {error}"),
                )
            })?;
        opened.await.map_err(|_| gone())??;
        let readers = match &target.path {
            Some(_) => Some(Readers::open(target).await?),
            None => None,
        };
        Ok(Self {
            writer: sender,
            places: Arc::new(Semaphore::new(WRITES_WAITING_MAX)),
            readers,
            counters,
        })
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            writes: self.counters.writes.load(Ordering::Relaxed),
            commits: self.counters.commits.load(Ordering::Relaxed),
            group_max: self.counters.group_max.load(Ordering::Relaxed),
            retries: 0,
        }
    }

    async fn place(&self, deadline: Instant) -> Result<tokio::sync::OwnedSemaphorePermit, Error> {
        match tokio::time::timeout_at(deadline.into(), Arc::clone(&self.places).acquire_owned())
            .await
        {
            Ok(place) => place.map_err(|_| gone()),
            Err(_) => Err(Error::new(ErrorKind::Timeout, "write queue is full")),
        }
    }

    pub(crate) async fn execute(
        &self,
        sql: &str,
        params: Vec<Value>,
        deadline: Instant,
    ) -> Result<Done, Error> {
        let place = self.place(deadline).await?;
        let (reply, answer) = oneshot::channel();
        self.writer
            .send(Request::Execute {
                sql: sql.to_owned(),
                params,
                deadline,
                reply,
                place,
            })
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    pub(crate) async fn query(
        &self,
        sql: &str,
        params: Vec<Value>,
        deadline: Instant,
    ) -> Result<Vec<Row>, Error> {
        if let Some(readers) = &self.readers {
            return readers.query(sql, params, deadline).await;
        }
        let (reply, answer) = oneshot::channel();
        self.writer
            .send(Request::Query {
                sql: sql.to_owned(),
                params,
                reply,
            })
            .map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    pub(crate) async fn begin(&self, access: Access, deadline: Instant) -> Result<LiteTx, Error> {
        let (sender, ops) = mpsc::channel();
        let lease = match (&self.readers, access) {
            (Some(readers), Access::Read) => Some(readers.begin(ops, deadline).await?),
            (None, Access::Read) | (_, Access::Write) => {
                let place = self.place(deadline).await?;
                self.writer
                    .send(Request::Session {
                        access,
                        ops,
                        deadline,
                        place,
                    })
                    .map_err(|_| gone())?;
                None
            }
        };
        Ok(LiteTx {
            ops: sender,
            _reader: lease,
        })
    }

    pub(crate) async fn close(&self) -> Result<(), Error> {
        self.places.close();
        if let Some(readers) = &self.readers {
            readers.close().await;
        }
        let (reply, answer) = oneshot::channel();
        if self.writer.send(Request::Close { reply }).is_err() {
            return Ok(());
        }
        answer.await.unwrap_or(Ok(()))
    }
}

/// The async side of one SQLite transaction. Dropping it rolls back.
pub(crate) struct LiteTx {
    ops: mpsc::Sender<Op>,
    /// Given back when the transaction ends.
    _reader: Option<reader::Lease>,
}

impl LiteTx {
    async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Op) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.ops.send(make(reply)).map_err(|_| stalled())?;
        answer.await.map_err(|_| stalled())?
    }

    pub(crate) async fn execute(&self, sql: &str, params: Vec<Value>) -> Result<Done, Error> {
        let sql = sql.to_owned();
        self.ask(|reply| Op::Execute { sql, params, reply }).await
    }

    pub(crate) async fn execute_each(
        &self,
        sql: &str,
        sets: Vec<Vec<Value>>,
    ) -> Result<Vec<Done>, Error> {
        let sql = sql.to_owned();
        self.ask(|reply| Op::ExecuteEach { sql, sets, reply }).await
    }

    pub(crate) async fn query(&self, sql: &str, params: Vec<Value>) -> Result<Vec<Row>, Error> {
        let sql = sql.to_owned();
        self.ask(|reply| Op::Query { sql, params, reply }).await
    }

    pub(crate) async fn commit(self) -> Result<(), Error> {
        self.ask(|reply| Op::Commit { reply }).await
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Closed, "database is closed")
}

fn stalled() -> Error {
    Error::new(
        ErrorKind::Timeout,
        "transaction was rolled back: it waited too long between statements, or the database closed",
    )
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Writer,
    Reader,
}

/// A connection with the house's settings.
pub(crate) fn connect(target: &SqliteTarget, role: Role) -> Result<Connection, Error> {
    let mut flags = OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if target.read_only {
        flags |= OpenFlags::SQLITE_OPEN_READ_ONLY;
    } else {
        flags |= OpenFlags::SQLITE_OPEN_READ_WRITE;
    }
    if target.create && role == Role::Writer {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let opened = match &target.path {
        Some(path) => Connection::open_with_flags(path, flags),
        None => Connection::open_in_memory_with_flags(flags | OpenFlags::SQLITE_OPEN_CREATE),
    };
    let conn = opened.map_err(|error| run::convert(&error))?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    settings(&conn, target, role).map_err(|error| run::convert(&error))?;
    Ok(conn)
}

fn settings(conn: &Connection, target: &SqliteTarget, role: Role) -> rusqlite::Result<()> {
    conn.busy_timeout(target.busy_timeout)?;
    if role == Role::Writer && !target.read_only {
        // WAL lets readers go on while the writer commits; a database in memory answers "memory" and keeps working.
        conn.query_row("PRAGMA journal_mode = WAL", [], |row| {
            row.get::<_, String>(0)
        })?;
        conn.pragma_update(
            None,
            "synchronous",
            match target.durability {
                Durability::Disk => "FULL",
                Durability::Os => "NORMAL",
            },
        )?;
        // The log is folded back in every thousand pages by the committing thread, and when the writer is idle.
        conn.pragma_update(None, "wal_autocheckpoint", 1000)?;
        // A log that a burst made large is cut back, so that the disk does not stay full for ever.
        conn.pragma_update(None, "journal_size_limit", 64 << 20)?;
    }
    conn.pragma_update(None, "foreign_keys", true)?;
    if role == Role::Reader {
        conn.pragma_update(None, "query_only", true)?;
    }
    Ok(())
}
