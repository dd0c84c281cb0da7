//! One job, and the names by which jobs and connections are known.

use bytes::Bytes;
use ibex_gearman_proto::Priority;

use crate::arena::NIL;
use crate::function::FunctionId;
use crate::headers::Headers;

/// A connection, numbered by the shell. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// A job's number: the digits of its handle, the key of its row in the store. Never used twice, growing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// A background job as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredJob {
    /// Its number.
    pub id: JobId,
    /// Function name.
    pub function: Bytes,
    /// Unique key as submitted.
    pub unique: Bytes,
    /// Queue.
    pub priority: Priority,
    /// Milliseconds since 1970 before which it is not handed out; 0 at once.
    pub due_ms: u64,
    /// Attempts that ended without a result.
    pub attempts: u32,
    /// Reducer's name; empty when there is none.
    pub reducer: Bytes,
    /// Headers as they came; empty when there are none.
    pub headers: Bytes,
    /// Argument.
    pub workload: Bytes,
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// On its way into the store; nobody but its submitters knows it.
    Committing,
    /// In the schedule until its time comes.
    Scheduled,
    /// In a queue of its function.
    Waiting,
    /// In a worker's hands.
    Running(ConnId),
}

/// What the store knows of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Nothing.
    No,
    /// `Persist` is out, its answer is not back.
    Pending,
    /// It is there.
    Yes,
}

/// What nearly no job has.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// Empty when there is none.
    pub(crate) reducer: Bytes,
    pub(crate) headers: Headers,
}

impl Extra {
    pub(crate) fn boxed(reducer: Bytes, headers: Headers) -> Option<Box<Self>> {
        let is_empty = reducer.is_empty() && headers.text.is_empty();
        (!is_empty).then(|| Box::new(Self { reducer, headers }))
    }
}

#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    pub(crate) function: FunctionId,
    pub(crate) priority: Priority,
    pub(crate) state: State,
    pub(crate) stored: Stored,
    /// Somebody submitted it in the background: it does not depend on clients.
    pub(crate) is_background: bool,
    /// It holds its key in the index of unique keys.
    pub(crate) is_keyed: bool,
    pub(crate) attempts: u32,
    /// Neighbours in the queue, or [`NIL`].
    pub(crate) previous: u32,
    pub(crate) next: u32,
    pub(crate) numerator: u32,
    pub(crate) denominator: u32,
    /// Wall clock; 0 when it may run at once.
    pub(crate) due_ms: u64,
    /// When it began to wait or to run, in microseconds of the server's life.
    pub(crate) since_us: u64,
    pub(crate) unique: Bytes,
    pub(crate) workload: Bytes,
    /// Boxed: nearly no job has any.
    pub(crate) extra: Option<Box<Extra>>,
    /// One entry per attached foreground submission.
    pub(crate) clients: Vec<ConnId>,
}

impl Job {
    /// A job without neighbours, progress or clients.
    pub(crate) fn new(
        id: JobId,
        function: FunctionId,
        priority: Priority,
        unique: Bytes,
        workload: Bytes,
    ) -> Self {
        Self {
            id,
            function,
            priority,
            state: State::Committing,
            stored: Stored::No,
            is_background: false,
            is_keyed: false,
            attempts: 0,
            previous: NIL,
            next: NIL,
            numerator: 0,
            denominator: 0,
            due_ms: 0,
            since_us: 0,
            unique,
            workload,
            extra: None,
            clients: Vec::new(),
        }
    }

    /// Empty when there is none.
    pub(crate) fn reducer(&self) -> Bytes {
        let extra = self.extra.as_ref();
        extra.map_or_else(Bytes::new, |extra| extra.reducer.clone())
    }

    pub(crate) fn headers(&self) -> Option<&Headers> {
        self.extra.as_ref().map(|extra| &extra.headers)
    }
}
