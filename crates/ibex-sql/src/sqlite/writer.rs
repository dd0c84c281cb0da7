//! The writer thread: takes every waiting write into one transaction, commits once, answers all.
//!
//! Apart because it owns the only connection that writes. Invariant: an answer to a write is sent after the COMMIT that holds it,
//! or says that it was rolled back. It does not decide about retries.

use super::run;
use super::{Counters, Op, Reply, Request, Role, connect};
use crate::config::SqliteTarget;
use crate::db::Access;
use crate::error::{Error, ErrorKind};
use crate::value::{Done, Value};
use rusqlite::Connection;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Writes that share one commit, at most; more would delay the first of them too long.
const GROUP_WRITES_MAX: usize = 1024;
/// Bytes of parameters that share one commit, at most.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// A group is closed when it took this long, even if more callers wait: the first ones have waited enough.
const GROUP_TIME_MAX: Duration = Duration::from_millis(50);
/// Quiet time after which the log is folded back into the file.
const IDLE: Duration = Duration::from_secs(1);

/// A write whose statements are done and whose commit is not.
enum Waiting {
    Execute(Reply<Done>, Done),
    Session(Reply<()>),
}

impl Waiting {
    fn answer(self, outcome: Result<(), Error>) {
        // A caller that went away does not want its answer.
        match self {
            Self::Execute(reply, done) => drop(reply.send(outcome.map(|()| done))),
            Self::Session(reply) => drop(reply.send(outcome)),
        }
    }
}

struct Writer<'a> {
    conn: Connection,
    stall: Duration,
    counters: &'a Counters,
    waiting: Vec<Waiting>,
    bytes: usize,
}

/// The thread's whole life.
pub(crate) fn run(
    target: &SqliteTarget,
    requests: &Receiver<Request>,
    counters: &Counters,
    ready: oneshot::Sender<Result<(), Error>>,
) {
    let conn = match connect(target, Role::Writer) {
        Ok(conn) => conn,
        Err(error) => {
            drop(ready.send(Err(error)));
            return;
        }
    };
    if ready.send(Ok(())).is_err() {
        return;
    }
    let mut writer = Writer {
        conn,
        stall: target.stall_timeout,
        counters,
        waiting: Vec::new(),
        bytes: 0,
    };
    let mut dirty = false;
    loop {
        let request = match requests.recv_timeout(IDLE) {
            Ok(request) => request,
            Err(RecvTimeoutError::Timeout) => {
                if dirty && writer.checkpoint("PASSIVE").is_ok() {
                    dirty = false;
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        };
        match request {
            Request::Close { reply } => return writer.close(reply),
            Request::Query { sql, params, reply } => {
                drop(reply.send(run::query(&writer.conn, &sql, &params)))
            }
            first @ (Request::Execute { .. } | Request::Session { .. }) => {
                dirty = true;
                if let Some(reply) = writer.group(first, requests) {
                    return writer.close(reply);
                }
            }
        }
    }
    if let Err(error) = writer.checkpoint("TRUNCATE") {
        tracing::debug!(error = %error, "last checkpoint left to the next start");
    }
}

impl Writer<'_> {
    /// One group: `first` and whoever else waits. Returns the reply of a `Close` that came meanwhile.
    fn group(&mut self, first: Request, requests: &Receiver<Request>) -> Option<Reply<()>> {
        let started = Instant::now();
        let mut next = Some(first);
        let mut closing = None;
        let mut taken = 0;
        self.bytes = 0;
        while let Some(request) = next.take() {
            taken += 1;
            match request {
                Request::Execute {
                    sql,
                    params,
                    deadline,
                    reply,
                    place,
                } => {
                    self.single(&sql, &params, deadline, reply);
                    drop(place);
                }
                Request::Session {
                    access,
                    ops,
                    deadline,
                    place,
                } => {
                    self.session(access, &ops, deadline);
                    drop(place);
                }
                // In memory only: reads see what is about to be committed; nothing of it can be lost but with everything else.
                Request::Query { sql, params, reply } => {
                    drop(reply.send(run::query(&self.conn, &sql, &params)))
                }
                Request::Close { reply } => {
                    closing = Some(reply);
                    break;
                }
            }
            if taken < GROUP_WRITES_MAX
                && self.bytes < GROUP_BYTES_MAX
                && started.elapsed() < GROUP_TIME_MAX
            {
                next = requests.try_recv().ok();
            }
        }
        self.commit();
        closing
    }

    /// Makes sure a transaction is open and starts the savepoint of one caller in it.
    fn open(&mut self, deadline: Instant) -> Result<(), Error> {
        if Instant::now() >= deadline {
            return Err(Error::new(
                ErrorKind::Timeout,
                "deadline passed while the write waited for its turn",
            ));
        }
        if self.conn.is_autocommit() {
            run::execute(&self.conn, "BEGIN IMMEDIATE", &[])?;
        }
        run::execute(&self.conn, "SAVEPOINT caller", &[])?;
        Ok(())
    }

    fn single(&mut self, sql: &str, params: &[Value], deadline: Instant, reply: Reply<Done>) {
        self.bytes += params.iter().map(Value::size).sum::<usize>();
        let outcome = self
            .open(deadline)
            .and_then(|()| run::execute(&self.conn, sql, params))
            .and_then(|done| {
                run::execute(&self.conn, "RELEASE caller", &[])?;
                Ok(done)
            });
        match outcome {
            Ok(done) => self.waiting.push(Waiting::Execute(reply, done)),
            Err(error) => {
                self.undo(&error);
                drop(reply.send(Err(error)));
            }
        }
    }

    /// Serves one closure until it commits, goes away, or stalls.
    fn session(&mut self, access: Access, ops: &Receiver<Op>, deadline: Instant) {
        let mut opened = Some(self.open(deadline));
        loop {
            let patience = self
                .stall
                .min(deadline.saturating_duration_since(Instant::now()));
            let op = match ops.recv_timeout(patience) {
                Ok(op) => op,
                Err(RecvTimeoutError::Timeout) => {
                    tracing::debug!(waited = ?patience, "transaction stalled, rolled back");
                    return self.undo(&Error::new(ErrorKind::Timeout, "transaction stalled"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return self.undo(&Error::new(ErrorKind::Other, "rolled back by its caller"));
                }
            };
            let refused = opened.take().and_then(Result::err);
            match op {
                Op::Execute { sql, params, reply } => {
                    self.bytes += params.iter().map(Value::size).sum::<usize>();
                    if !self.statement(reply, refused, |conn| run::execute(conn, &sql, &params)) {
                        return;
                    }
                }
                Op::ExecuteEach { sql, sets, reply } => {
                    self.bytes += sets.iter().flatten().map(Value::size).sum::<usize>();
                    if !self.statement(reply, refused, |conn| run::execute_each(conn, &sql, &sets))
                    {
                        return;
                    }
                }
                Op::Query { sql, params, reply } => {
                    if !self.statement(reply, refused, |conn| run::query(conn, &sql, &params)) {
                        return;
                    }
                }
                Op::Commit { reply } => return self.finish(access, reply, refused),
            }
        }
    }

    /// Runs one statement of a session; `false` when the session cannot go on.
    fn statement<T>(
        &mut self,
        reply: Reply<T>,
        refused: Option<Error>,
        work: impl FnOnce(&Connection) -> Result<T, Error>,
    ) -> bool {
        if let Some(error) = refused {
            self.undo(&error);
            drop(reply.send(Err(error)));
            return false;
        }
        let outcome = work(&self.conn);
        // Some failures (no room, I/O) make SQLite roll back everything; then the group is lost and so is this session.
        let lost = self.conn.is_autocommit();
        if let (true, Err(error)) = (lost, &outcome) {
            self.undo(error);
        }
        drop(reply.send(outcome));
        !lost
    }

    fn finish(&mut self, access: Access, reply: Reply<()>, refused: Option<Error>) {
        if let Some(error) = refused {
            self.undo(&error);
            drop(reply.send(Err(error)));
            return;
        }
        let end = match access {
            Access::Write => run::execute(&self.conn, "RELEASE caller", &[]).map(|_| ()),
            Access::Read => run::execute(&self.conn, "ROLLBACK TO caller", &[])
                .and_then(|_| run::execute(&self.conn, "RELEASE caller", &[]))
                .map(|_| ()),
        };
        match end {
            Ok(()) => self.waiting.push(Waiting::Session(reply)),
            Err(error) => {
                self.undo(&error);
                drop(reply.send(Err(error)));
            }
        }
    }

    /// Takes one caller's work back. When SQLite already rolled back the whole transaction, the others of the group are told.
    fn undo(&mut self, why: &Error) {
        if self.conn.is_autocommit() {
            let kind = if why.is_disk_full() {
                ErrorKind::DiskFull
            } else {
                ErrorKind::Aborted
            };
            for waiting in self.waiting.drain(..) {
                waiting.answer(Err(Error::new(
                    kind,
                    format!("the group's transaction was rolled back: {why}"),
                )));
            }
            return;
        }
        let back = run::execute(&self.conn, "ROLLBACK TO caller", &[])
            .and_then(|_| run::execute(&self.conn, "RELEASE caller", &[]));
        // Without a savepoint of its own (the deadline passed first) there is nothing to take back.
        if let Err(error) = back {
            tracing::debug!(error = %error, "nothing to take back");
        }
    }

    fn commit(&mut self) {
        if self.conn.is_autocommit() {
            return;
        }
        let outcome = run::execute(&self.conn, "COMMIT", &[]).map(|_| ());
        if outcome.is_err()
            && !self.conn.is_autocommit()
            && let Err(error) = run::execute(&self.conn, "ROLLBACK", &[])
        {
            tracing::error!(error = %error, "rollback after a failed commit failed, too");
        }
        let size = self.waiting.len() as u64;
        if outcome.is_ok() {
            self.counters.commits.fetch_add(1, Ordering::Relaxed);
            self.counters.writes.fetch_add(size, Ordering::Relaxed);
            self.counters.group_max.fetch_max(size, Ordering::Relaxed);
        }
        for waiting in self.waiting.drain(..) {
            waiting.answer(match &outcome {
                Ok(()) => Ok(()),
                Err(error) => Err(error.copy()),
            });
        }
    }

    /// Answers when the file is whole and nobody of ours holds it.
    fn close(self, reply: Reply<()>) {
        let mut outcome = self.checkpoint("TRUNCATE");
        if let Err((_, error)) = self.conn.close() {
            outcome = outcome.and(Err(run::convert(&error)));
        }
        drop(reply.send(outcome));
    }

    fn checkpoint(&self, mode: &str) -> Result<(), Error> {
        run::query(&self.conn, &format!("PRAGMA wal_checkpoint({mode})"), &[]).map(|_| ())
    }
}
