//! The error of every call: a class to act on, and a message to read.
//!
//! Apart because the classes are the interface: callers branch on [`ErrorKind`] or its predicates, never on texts. Nothing
//! here talks to a database.

use std::fmt;

/// What went wrong, shaped by what a caller can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The database is locked by someone else, or the pool is exhausted; the same call may work soon.
    Busy,
    /// The engine chose this transaction as a victim (or a cluster node refused its certification); repeat the whole transaction.
    Deadlock,
    /// A row lock was not given in time; repeat the whole transaction.
    LockTimeout,
    /// The transaction was rolled back for a reason that lies in another caller of the same group; repeat it.
    Aborted,
    /// No connection, or the connection broke before anything was asked to commit; nothing of the call happened.
    ConnectionLost,
    /// The connection broke while a commit was on its way: it happened or it did not. Look before you repeat.
    OutcomeUnknown,
    /// A unique or primary key is already there.
    Unique,
    /// Another constraint refused the row (NOT NULL, CHECK, foreign key, value out of range).
    Constraint,
    /// The disk, quota or table space is full; nothing acknowledged is lost.
    DiskFull,
    /// The database or the server does not take writes.
    ReadOnly,
    /// The statement is wrong: syntax, missing table, wrong number of parameters.
    Syntax,
    /// A statement or value is larger than the engine takes.
    TooLarge,
    /// The deadline of the call passed, or a transaction's closure stalled.
    Timeout,
    /// The `Db` was closed.
    Closed,
    /// The DSN or its options make no sense, or the credentials were refused.
    Config,
    /// A column was read as a type it does not hold.
    Decode,
    /// The schema is newer than the program, was changed behind its back, or a step failed.
    Migration,
    /// The file is damaged or no database.
    Corrupt,
    /// Everything else.
    Other,
}

/// A failed call: [`Error::kind`] says what to do, the text says what happened.
#[derive(thiserror::Error)]
#[error("{}", self.inner.message)]
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    code: Option<u32>,
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.inner.kind)
            .field("code", &self.inner.code)
            .field("message", &self.inner.message)
            .finish()
    }
}

impl Error {
    /// An error of one class; for callers that wrap this crate and need to speak in its classes.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                message: message.into(),
                code: None,
            }),
        }
    }

    pub(crate) fn with_code(mut self, code: u32) -> Self {
        self.inner.code = Some(code);
        self
    }

    pub(crate) fn decode(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Decode, message)
    }

    pub(crate) fn context(mut self, what: &str) -> Self {
        self.inner.message = format!("{what}: {}", self.inner.message);
        self
    }

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.inner.kind = kind;
        self
    }

    /// The same failure for another waiter of the same group.
    pub(crate) fn copy(&self) -> Self {
        Self {
            inner: Box::new(Inner {
                kind: self.inner.kind,
                message: self.inner.message.clone(),
                code: self.inner.code,
            }),
        }
    }

    /// The class.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The engine's own number (SQLite extended result code, MySQL error number), when it gave one.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        self.inner.code
    }

    /// Whether the same call, repeated from its start, may succeed without anyone's help. Never true when it may have happened.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.inner.kind.is_retryable()
    }

    /// Whether a unique or primary key refused the row.
    #[must_use]
    pub fn is_unique_violation(&self) -> bool {
        self.inner.kind == ErrorKind::Unique
    }

    /// Whether the database could not be reached or the connection to it broke (its outcome known or not).
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        matches!(
            self.inner.kind,
            ErrorKind::ConnectionLost | ErrorKind::OutcomeUnknown
        )
    }

    /// Whether the call may have happened although it failed.
    #[must_use]
    pub fn is_outcome_unknown(&self) -> bool {
        self.inner.kind == ErrorKind::OutcomeUnknown
    }

    /// Whether there was no room for the data.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.inner.kind == ErrorKind::DiskFull
    }

    /// Whether the database does not take writes.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.inner.kind == ErrorKind::ReadOnly
    }
}

impl ErrorKind {
    /// See [`Error::is_retryable`].
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Busy
            | Self::Deadlock
            | Self::LockTimeout
            | Self::Aborted
            | Self::ConnectionLost => true,
            Self::OutcomeUnknown
            | Self::Unique
            | Self::Constraint
            | Self::DiskFull
            | Self::ReadOnly
            | Self::Syntax
            | Self::TooLarge
            | Self::Timeout
            | Self::Closed
            | Self::Config
            | Self::Decode
            | Self::Migration
            | Self::Corrupt
            | Self::Other => false,
        }
    }
}
