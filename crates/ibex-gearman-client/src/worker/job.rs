//! A job as its handler sees it: what to do, and the way to say something meanwhile.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use ibex_gearman_proto::{Request, headers};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

/// Something to write on the job's connection. The last report of a job carries its permit, so that the next GRAB_JOB follows the result in the same write.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) packet: Vec<u8>,
    _permit: Option<OwnedSemaphorePermit>,
}

/// A job in a worker's hands.
#[derive(Debug, Clone)]
pub struct Job {
    pub(crate) handle: Bytes,
    pub(crate) function: Bytes,
    pub(crate) unique: Bytes,
    pub(crate) reducer: Bytes,
    pub(crate) workload: Bytes,
    pub(crate) reports: mpsc::Sender<Report>,
    pub(crate) headers: Bytes,
    pub(crate) lost: CancellationToken,
    /// Cancelled with `lost`, too.
    pub(crate) unwanted: CancellationToken,
    pub(crate) can: Can,
}

/// What the job's server knows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Can {
    pub(crate) nack: bool,
    pub(crate) touch: bool,
}

impl Job {
    /// The argument.
    #[must_use]
    pub fn workload(&self) -> &Bytes {
        &self.workload
    }

    /// The handle.
    #[must_use]
    pub fn handle(&self) -> &Bytes {
        &self.handle
    }

    /// The function's name, with its namespace.
    #[must_use]
    pub fn function(&self) -> &Bytes {
        &self.function
    }

    /// The unique key as submitted; empty also when the worker grabs with [`Grab::Plain`](ibex_gearman_proto::Grab::Plain).
    #[must_use]
    pub fn unique(&self) -> &Bytes {
        &self.unique
    }

    /// The reducer's name; empty when there is none.
    #[must_use]
    pub fn reducer(&self) -> &Bytes {
        &self.reducer
    }

    /// The connection to the job's server is gone: the result will reach nobody, and the server gives the job to another worker.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.is_cancelled()
    }

    /// Waits until [`is_lost`](Self::is_lost).
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// A header's value; needs [`Worker::headers`](crate::Worker::headers).
    #[must_use]
    pub fn header(&self, key: &str) -> Option<Bytes> {
        headers::value_of(&self.headers, key.as_bytes()).map(Bytes::from)
    }

    /// The submitter's W3C trace context; needs [`Worker::headers`](crate::Worker::headers).
    #[must_use]
    pub fn traceparent(&self) -> Option<Bytes> {
        self.header("traceparent")
    }

    /// Nobody wants the result any more: the job was cancelled, its last client has left, or its server is lost. Only ibex-gearmand tells of the first two.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.unwanted.is_cancelled()
    }

    /// Waits until [`is_cancelled`](Self::is_cancelled).
    pub async fn cancelled(&self) {
        self.unwanted.cancelled().await;
    }

    /// Restarts the job's timeout. `false` where the server cannot: it does not know this extension.
    pub async fn touch(&self) -> bool {
        if self.can.touch {
            let handle = &self.handle;
            self.report(&Request::Touch { handle }).await;
        }
        self.can.touch
    }

    /// Whether the server takes jobs back ([`JobError::Back`]).
    #[must_use]
    pub fn can_give_back(&self) -> bool {
        self.can.nack
    }

    /// Reports progress.
    pub async fn status(&self, numerator: u32, denominator: u32) {
        let (numerator, denominator) = (numerator.to_string(), denominator.to_string());
        self.report(&Request::WorkStatus {
            handle: &self.handle,
            numerator: numerator.as_bytes(),
            denominator: denominator.as_bytes(),
        })
        .await;
    }

    /// Sends a part of the result.
    pub async fn data(&self, part: impl AsRef<[u8]>) {
        let data = part.as_ref();
        self.report(&Request::WorkData {
            handle: &self.handle,
            data,
        })
        .await;
    }

    /// Sends a warning.
    pub async fn warning(&self, text: impl AsRef<[u8]>) {
        let data = text.as_ref();
        self.report(&Request::WorkWarning {
            handle: &self.handle,
            data,
        })
        .await;
    }

    async fn report(&self, request: &Request<'_>) {
        self.send(request, None).await;
    }

    /// Reports the end; the permit to run is given back when the packet is in the session's hands.
    pub(crate) async fn end(&self, request: &Request<'_>, permit: OwnedSemaphorePermit) {
        self.send(request, Some(permit)).await;
    }

    async fn send(&self, request: &Request<'_>, permit: Option<OwnedSemaphorePermit>) {
        let mut packet = Vec::new();
        request.encode(&mut packet);
        // A closed channel is a lost connection, which `is_lost` tells.
        drop(
            self.reports
                .send(Report {
                    packet,
                    _permit: permit,
                })
                .await,
        );
    }
}

/// How a job fails. Any [`std::error::Error`] turns into an exception with its text, so `?` works in handlers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobError {
    /// WORK_FAIL: no reason given.
    Fail,
    /// WORK_EXCEPTION: clients that asked for exceptions get these bytes, the others WORK_FAIL.
    Exception(Bytes),
    /// Not done, and not to be given up: the job waits again and an attempt is counted. To a server that does not take jobs back
    /// ([`Job::can_give_back`]) it is an exception with this reason.
    Back {
        /// Not handed out again before, in whole seconds, rounded up.
        delay: Duration,
        /// Why.
        reason: Bytes,
    },
}

impl JobError {
    /// An exception with this text.
    #[must_use]
    pub fn exception(text: impl fmt::Display) -> Self {
        Self::Exception(text.to_string().into())
    }

    /// The job back to its queue, not before `delay` has passed.
    #[must_use]
    pub fn back(delay: Duration, reason: impl fmt::Display) -> Self {
        Self::Back {
            delay,
            reason: reason.to_string().into(),
        }
    }
}

impl<E: std::error::Error> From<E> for JobError {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::Exception(text.into())
    }
}
