//! Reader threads: each owns one connection that cannot write; async callers borrow them.
//!
//! Apart because readers live and fail on their own: WAL lets them go on while the writer commits. They do not see
//! databases in memory.

use super::run;
use super::{Op, Reply, Role, connect, gone};
use crate::config::SqliteTarget;
use crate::error::{Error, ErrorKind};
use crate::value::{Row, Value};
use rusqlite::{Connection, InterruptHandle};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

enum Ask {
    Query {
        sql: String,
        params: Vec<Value>,
        reply: Reply<Vec<Row>>,
    },
    Session {
        ops: Receiver<Op>,
        deadline: Instant,
    },
}

/// One reader thread's address.
struct Reader {
    asks: mpsc::Sender<Ask>,
    interrupt: InterruptHandle,
}

/// All reader threads of a database.
pub(crate) struct Readers {
    free: Arc<Mutex<Vec<Reader>>>,
    permits: Arc<Semaphore>,
    count: u32,
    /// Ends when the last thread has closed its connection.
    alive: tokio::sync::Mutex<tokio::sync::mpsc::Receiver<()>>,
}

/// A borrowed reader; goes back when dropped, and what still runs on it is interrupted.
pub(crate) struct Lease {
    reader: Option<Reader>,
    free: Arc<Mutex<Vec<Reader>>>,
    busy: bool,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(reader) = self.reader.take() else {
            return;
        };
        if self.busy {
            reader.interrupt.interrupt();
        }
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(reader);
    }
}

impl Readers {
    pub(crate) async fn open(target: &SqliteTarget) -> Result<Self, Error> {
        let mut readers = Vec::with_capacity(target.readers);
        let (life, alive) = tokio::sync::mpsc::channel(1);
        for index in 0..target.readers {
            let (asks, receiver) = mpsc::channel();
            let (ready, opened) = oneshot::channel();
            let (wanted, stall, life) = (target.clone(), target.stall_timeout, life.clone());
            std::thread::Builder::new()
                .name(format!("sqlite-read-{index}"))
                .spawn(move || match connect(&wanted, Role::Reader) {
                    Ok(conn) => {
                        if ready.send(Ok(conn.get_interrupt_handle())).is_ok() {
                            serve(&conn, &receiver, stall);
                        }
                        drop(conn);
                        drop(life);
                    }
                    Err(error) => drop(ready.send(Err(error))),
                })
                .map_err(|error| {
                    Error::new(
                        ErrorKind::Other,
                        format!("start SQLite reader thread: {error}"),
                    )
                })?;
            let interrupt = opened.await.map_err(|_| gone())??;
            readers.push(Reader { asks, interrupt });
        }
        let count = u32::try_from(readers.len()).unwrap_or(u32::MAX);
        Ok(Self {
            permits: Arc::new(Semaphore::new(readers.len())),
            free: Arc::new(Mutex::new(readers)),
            count,
            alive: tokio::sync::Mutex::new(alive),
        })
    }

    async fn lease(&self, deadline: Instant) -> Result<Lease, Error> {
        let permit = match tokio::time::timeout_at(
            deadline.into(),
            Arc::clone(&self.permits).acquire_owned(),
        )
        .await
        {
            Ok(permit) => permit.map_err(|_| gone())?,
            Err(_) => return Err(Error::new(ErrorKind::Timeout, "all readers are taken")),
        };
        let reader = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        Ok(Lease {
            reader,
            free: Arc::clone(&self.free),
            busy: false,
            _permit: permit,
        })
    }

    pub(crate) async fn query(
        &self,
        sql: &str,
        params: Vec<Value>,
        deadline: Instant,
    ) -> Result<Vec<Row>, Error> {
        let mut lease = self.lease(deadline).await?;
        let (reply, answer) = oneshot::channel();
        lease.ask(Ask::Query {
            sql: sql.to_owned(),
            params,
            reply,
        })?;
        lease.busy = true;
        match tokio::time::timeout_at(deadline.into(), answer).await {
            Ok(outcome) => {
                lease.busy = false;
                outcome.map_err(|_| gone())?
            }
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                "no answer before the deadline",
            )),
        }
    }

    pub(crate) async fn begin(&self, ops: Receiver<Op>, deadline: Instant) -> Result<Lease, Error> {
        let lease = self.lease(deadline).await?;
        lease.ask(Ask::Session { ops, deadline })?;
        Ok(lease)
    }

    /// Waits for those that are out, then ends the threads.
    pub(crate) async fn close(&self) {
        if let Ok(all) = self.permits.acquire_many(self.count).await {
            all.forget();
        }
        self.permits.close();
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        // Nothing is ever sent: this is the end of the last sender.
        while self.alive.lock().await.recv().await.is_some() {}
    }
}

impl Lease {
    fn ask(&self, ask: Ask) -> Result<(), Error> {
        self.reader
            .as_ref()
            .ok_or_else(gone)?
            .asks
            .send(ask)
            .map_err(|_| gone())
    }
}

fn serve(conn: &Connection, asks: &Receiver<Ask>, stall: Duration) {
    while let Ok(ask) = asks.recv() {
        match ask {
            Ask::Query { sql, params, reply } => drop(reply.send(run::query(conn, &sql, &params))),
            Ask::Session { ops, deadline } => {
                session(conn, &ops, stall, deadline);
                if !conn.is_autocommit()
                    && let Err(error) = run::execute(conn, "ROLLBACK", &[])
                {
                    tracing::error!(error = %error, "reader could not end its transaction");
                }
            }
        }
    }
}

fn session(conn: &Connection, ops: &Receiver<Op>, stall: Duration, deadline: Instant) {
    let mut begun = Some(run::execute(conn, "BEGIN", &[]));
    loop {
        let patience = stall.min(deadline.saturating_duration_since(Instant::now()));
        let op = match ops.recv_timeout(patience) {
            Ok(op) => op,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        };
        let refused = begun.take().and_then(Result::err);
        let refuse = |outcome: Option<Error>| outcome.map_or(Ok(()), Err);
        match op {
            Op::Execute { sql, params, reply } => {
                drop(reply.send(refuse(refused).and_then(|()| run::execute(conn, &sql, &params))))
            }
            Op::ExecuteEach { sql, sets, reply } => drop(
                reply.send(refuse(refused).and_then(|()| run::execute_each(conn, &sql, &sets))),
            ),
            Op::Query { sql, params, reply } => {
                drop(reply.send(refuse(refused).and_then(|()| run::query(conn, &sql, &params))))
            }
            Op::Commit { reply } => {
                drop(reply.send(refuse(refused)));
                return;
            }
        }
    }
}
