//! A submitted job as its client sees it: handle, events, result.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ibex_base::escape::Escaped;
use tokio::sync::mpsc;

use crate::address::Address;
use crate::connection::Link;
use crate::error::Error;

/// Events of one job that may wait to be read. A worker that sends more while nobody reads ends the wait with [`Error::Overflow`], instead of
/// stopping the other jobs
/// of the connection.
pub(crate) const EVENTS_MAX: usize = 4096;

/// A job's name on its server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle {
    text: Bytes,
    server: Address,
}

impl Handle {
    /// A handle that was kept elsewhere, with the server that gave it.
    #[must_use]
    pub fn new(text: impl Into<Bytes>, server: Address) -> Self {
        Self {
            text: text.into(),
            server,
        }
    }

    /// The bytes as the server sent them, usually `H:host:n`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.text
    }

    pub(crate) fn text(&self) -> Bytes {
        self.text.clone()
    }

    /// The server that knows the job.
    #[must_use]
    pub fn server(&self) -> &Address {
        &self.server
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Escaped(&self.text))
    }
}

/// What a worker said about a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Progress.
    Status {
        /// Done.
        numerator: u32,
        /// Of.
        denominator: u32,
    },
    /// A part of the result.
    Data(Bytes),
    /// A warning.
    Warning(Bytes),
    /// The end: the rest of the result.
    Complete(Bytes),
    /// The end: failure.
    Fail,
    /// The end: failure with a reason.
    Exception(Bytes),
}

impl Event {
    /// Nothing follows.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        matches!(self, Self::Complete(_) | Self::Fail | Self::Exception(_))
    }
}

/// Why a job's events ended early; set by the connection before it lets go.
pub(crate) type Cause = Arc<Mutex<Option<Error>>>;

/// A job that is waited for: a foreground job, or one that was attached to. Dropping it stops listening;
/// the server drops the job when no other client wants it.
#[derive(Debug)]
pub struct Job {
    pub(crate) handle: Handle,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) cause: Cause,
    /// Keeps the connection open while somebody waits.
    pub(crate) link: Link,
    pub(crate) ended: bool,
}

impl Job {
    /// The handle.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The next event; `None` after the end. Safe to drop and call again.
    ///
    /// # Errors
    /// [`Error::ConnectionLost`], [`Error::Overflow`].
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        if self.ended {
            return Ok(None);
        }
        match self.events.recv().await {
            Some(event) => {
                self.ended = event.is_end();
                Ok(Some(event))
            }
            None => {
                self.ended = true;
                let cause = self
                    .cause
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                Err(cause.unwrap_or_else(|| Error::ConnectionLost {
                    server: self.link.address().as_ref().clone(),
                    handle: self.handle.clone(),
                }))
            }
        }
    }

    /// Waits for the end: all parts of the result, joined.
    ///
    /// # Errors
    /// [`Error::JobFailed`], [`Error::JobException`], and those of [`next`](Self::next).
    pub async fn complete(mut self) -> Result<Bytes, Error> {
        let mut parts = BytesMut::new();
        loop {
            match self.next().await? {
                Some(Event::Data(part)) => parts.extend_from_slice(&part),
                Some(Event::Complete(rest)) if parts.is_empty() => return Ok(rest),
                Some(Event::Complete(rest)) => {
                    parts.extend_from_slice(&rest);
                    return Ok(parts.freeze());
                }
                Some(Event::Exception(data)) => {
                    return Err(Error::JobException {
                        handle: self.handle,
                        data,
                    });
                }
                Some(Event::Fail) | None => {
                    return Err(Error::JobFailed {
                        handle: self.handle,
                    });
                }
                Some(Event::Status { .. } | Event::Warning(_)) => {}
            }
        }
    }

    /// [`complete`](Self::complete), but no longer than `deadline`.
    ///
    /// # Errors
    /// [`Error::Deadline`], and those of [`complete`](Self::complete).
    pub async fn complete_within(self, deadline: Duration) -> Result<Bytes, Error> {
        let handle = self.handle.clone();
        tokio::time::timeout(deadline, self.complete())
            .await
            .unwrap_or(Err(Error::Deadline { handle, deadline }))
    }
}
