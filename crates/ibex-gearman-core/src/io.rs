//! What goes into the job server and what comes out of it: the whole of its contract with the shell.

use bytes::Bytes;
use ibex_gearman_proto::{Refusal, Request, Response};

use crate::handle::HandleText;
use crate::job::{ConnId, JobId, StoredJob};
use crate::recurring::StoredSchedule;
use crate::results::StoredResult;

/// A packet to a peer.
pub type Reply = Response<Bytes, HandleText>;

/// What the outside world tells the job server.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "lives on the stack for one call")]
pub enum Input<'a> {
    /// A connection was accepted.
    Connected(ConnId),
    /// A packet arrived.
    Packet(ConnId, Request<'a>),
    /// A packet arrived that only deserves an ERROR.
    Refused(ConnId, Refusal),
    /// A connection is gone.
    Closed(ConnId),
    /// The wall clock, in milliseconds since 1970. Sent now and then, so that a stepped clock moves scheduled jobs.
    Clock(u64),
    /// A `Persist`, `Revive` or `KeepSchedule` is durable.
    Persisted(JobId),
    /// A `Persist`, `Revive` or `KeepSchedule` could not be made durable.
    PersistFailed(JobId),
    /// A job the store had from an earlier life. Only before connections.
    Restored(StoredJob),
    /// The same without its workload, which has that many bytes and stays in the store until the job's turn comes. Not for jobs with the unique key `-`.
    RestoredAway(StoredJob, u32),
    /// A dead job the store had from an earlier life, the bytes of its workload and the reason of its death. The workload itself is looked at only for the
    /// unique key `-`.
    RestoredDead(StoredJob, u32, Bytes),
    /// A result the store had from an earlier life. Only before connections.
    RestoredResult(StoredResult),
    /// The workload of a [`Output::Fetch`].
    Fetched(JobId, Bytes),
    /// The store could not be asked for a workload.
    FetchFailed(JobId),
    /// The store was asked for a workload and does not have it.
    FetchLost(JobId),
    /// A recurring job the store had from an earlier life. Only before connections.
    RestoredSchedule(StoredSchedule),
}

/// What the job server asks the outside world to do. Store requests are to be carried out in order.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "boxing would allocate per packet"
)]
pub enum Output {
    /// Send a packet.
    Send(ConnId, Reply),
    /// Send text of the admin protocol.
    Text(ConnId, Bytes),
    /// Store a job, then say [`Input::Persisted`] or [`Input::PersistFailed`].
    Persist(StoredJob),
    /// Make a dead job live again, without attempts and due at once, then say [`Input::Persisted`] or [`Input::PersistFailed`].
    Revive(JobId),
    /// Read the workloads of these jobs, which are stored, and answer each by [`Input::Fetched`], [`Input::FetchFailed`] or [`Input::FetchLost`]. Need not
    /// wait for earlier requests.
    Fetch(Vec<JobId>),
    /// Keep the result of a job that is about to be forgotten, together with that. Nobody waits for it.
    KeepResult(StoredResult),
    /// Delete a result. Nobody waits for it.
    ForgetResult(JobId),
    /// Note a job's attempts and due time. Nobody waits for it.
    Attempt {
        /// The job.
        job: JobId,
        /// Attempts that ended without a result.
        attempts: u32,
        /// Milliseconds since 1970 before which it is not handed out.
        due_ms: u64,
    },
    /// Delete a job, alive or dead. Nobody waits for it.
    Forget(JobId),
    /// Move a job to the dead. Nobody waits for it.
    Bury {
        /// The job.
        job: JobId,
        /// Attempts that ended without a result.
        attempts: u32,
        /// Why it died.
        reason: Bytes,
    },
    /// Store a recurring job in place of the one with its function and unique key, then say [`Input::Persisted`] or [`Input::PersistFailed`].
    KeepSchedule(StoredSchedule),
    /// The same without an answer: what is stored may differ after a commit whose outcome is unknown.
    RestoreSchedule(StoredSchedule),
    /// Note when a recurring job is due next. Nobody waits for it.
    MoveSchedule {
        /// Function name.
        function: Bytes,
        /// Unique key.
        unique: Bytes,
        /// Milliseconds since 1970.
        next_ms: u64,
    },
    /// Delete a recurring job. Nobody waits for it.
    DropSchedule {
        /// Function name.
        function: Bytes,
        /// Unique key.
        unique: Bytes,
    },
}
