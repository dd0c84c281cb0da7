//! One job, and the names by which jobs and connections are known.
//!
//! A million jobs may wait, so a job is small: its unique key and its workload share one allocation, and what nearly no job has lies in a side
//! structure. Large workloads are kept as they were received, to be handed out without a copy.

use bytes::Bytes;
use ibex_gearman_proto::Priority;

use crate::arena::NIL;
use crate::clients::Clients;
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

/// Workloads of at least this size are shared with whoever sends them; smaller ones are copied, which is cheaper than counting references.
const SHARED_BYTES_MIN: usize = 16 << 10;

/// What nearly no job has.
#[derive(Debug, Default)]
struct Cold {
    numerator: u32,
    denominator: u32,
    /// A workload of [`SHARED_BYTES_MIN`] or more.
    large: Option<Bytes>,
    /// Empty when there is none.
    reducer: Bytes,
    headers: Option<Box<Headers>>,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a byte each, in the padding; a set of flags would be read less easily"
)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    /// When it began to wait or to run, in microseconds of the server's life.
    pub(crate) since_us: u64,
    /// Wall clock; 0 when it may run at once.
    pub(crate) due_ms: u64,
    pub(crate) state: State,
    /// The unique key, then the workload unless it is large or away.
    bytes: Box<[u8]>,
    /// One entry per attached foreground submission.
    pub(crate) clients: Clients,
    cold: Option<Box<Cold>>,
    pub(crate) function: FunctionId,
    /// Neighbours in the queue, or [`NIL`].
    pub(crate) previous: u32,
    pub(crate) next: u32,
    pub(crate) attempts: u32,
    workload_len: u32,
    unique_len: u8,
    pub(crate) priority: Priority,
    pub(crate) stored: Stored,
    /// Somebody submitted it in the background: it does not depend on clients.
    pub(crate) is_background: bool,
    /// It holds its key in the index of unique keys.
    pub(crate) is_keyed: bool,
    /// Its workload is in the store only.
    is_away: bool,
    /// The store was asked for its workload.
    pub(crate) is_fetching: bool,
    /// It waits behind jobs whose workload is away, or is one of them.
    pub(crate) is_behind: bool,
}

impl Job {
    /// A job without neighbours, progress or clients. `unique` has at most 64 bytes.
    pub(crate) fn new(
        id: JobId,
        function: FunctionId,
        priority: Priority,
        unique: &[u8],
        workload: Workload<'_>,
    ) -> Self {
        let mut job = Self {
            id,
            since_us: 0,
            due_ms: 0,
            state: State::Committing,
            bytes: Box::default(),
            clients: Clients::None,
            cold: None,
            function,
            previous: NIL,
            next: NIL,
            attempts: 0,
            workload_len: 0,
            unique_len: u8::try_from(unique.len())
                .expect("the length of a unique key is checked when it comes"),
            priority,
            stored: Stored::No,
            is_background: false,
            is_keyed: false,
            is_away: false,
            is_fetching: false,
            is_behind: false,
        };
        job.put(unique, workload);
        job
    }

    fn put(&mut self, unique: &[u8], workload: Workload<'_>) {
        let len = match &workload {
            Workload::Borrowed(bytes) => bytes.len(),
            Workload::Owned(bytes) => bytes.len(),
            Workload::Away(len) => *len as usize,
        };
        self.workload_len = u32::try_from(len).expect("a packet says its length in four bytes");
        self.is_away = false;
        match workload {
            Workload::Away(len) => {
                self.bytes = unique.into();
                self.is_away = len > 0;
            }
            Workload::Borrowed(bytes) if len < SHARED_BYTES_MIN => {
                self.bytes = [unique, bytes].concat().into();
            }
            Workload::Owned(bytes) if len < SHARED_BYTES_MIN => {
                self.bytes = [unique, &bytes].concat().into();
            }
            Workload::Borrowed(bytes) => {
                self.bytes = unique.into();
                self.cold_mut().large = Some(Bytes::copy_from_slice(bytes));
            }
            Workload::Owned(bytes) => {
                self.bytes = unique.into();
                self.cold_mut().large = Some(bytes);
            }
        }
    }

    fn cold_mut(&mut self) -> &mut Cold {
        self.cold.get_or_insert_default()
    }

    /// As submitted.
    pub(crate) fn unique(&self) -> &[u8] {
        &self.bytes[..usize::from(self.unique_len)]
    }

    /// Empty when it is away.
    pub(crate) fn workload(&self) -> &[u8] {
        let large = self.cold.as_ref().and_then(|cold| cold.large.as_ref());
        large.map_or(&self.bytes[usize::from(self.unique_len)..], |large| large)
    }

    /// The workload to hand out: large ones shared, others copied. Empty when it is away.
    pub(crate) fn workload_bytes(&self) -> Bytes {
        let large = self.cold.as_ref().and_then(|cold| cold.large.clone());
        large.unwrap_or_else(|| Bytes::copy_from_slice(self.workload()))
    }

    pub(crate) fn workload_len(&self) -> u32 {
        self.workload_len
    }

    /// Bytes of workload in memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        if self.is_away {
            0
        } else {
            u64::from(self.workload_len)
        }
    }

    pub(crate) fn is_away(&self) -> bool {
        self.is_away
    }

    /// Lets go of the workload, which the store has.
    pub(crate) fn send_away(&mut self) {
        let unique = self.unique().to_vec();
        if let Some(cold) = &mut self.cold {
            cold.large = None;
        }
        self.put(&unique, Workload::Away(self.workload_len));
    }

    /// The workload is back.
    pub(crate) fn bring_back(&mut self, workload: Bytes) {
        let unique = self.unique().to_vec();
        self.put(&unique, Workload::Owned(workload));
    }

    /// Numerator and denominator of the last WORK_STATUS.
    pub(crate) fn progress(&self) -> (u32, u32) {
        let cold = self.cold.as_ref();
        cold.map_or((0, 0), |cold| (cold.numerator, cold.denominator))
    }

    pub(crate) fn set_progress(&mut self, numerator: u32, denominator: u32) {
        if self.progress() != (numerator, denominator) {
            let cold = self.cold_mut();
            (cold.numerator, cold.denominator) = (numerator, denominator);
        }
    }

    /// Empty when there is none.
    pub(crate) fn reducer(&self) -> Bytes {
        let cold = self.cold.as_ref();
        cold.map_or_else(Bytes::new, |cold| cold.reducer.clone())
    }

    pub(crate) fn headers(&self) -> Option<&Headers> {
        self.cold.as_ref()?.headers.as_deref()
    }

    /// Gives it what few jobs have, if there is any of it.
    pub(crate) fn set_extra(&mut self, reducer: &[u8], headers: Headers) {
        if !reducer.is_empty() {
            self.cold_mut().reducer = Bytes::copy_from_slice(reducer);
        }
        if !headers.text.is_empty() {
            self.cold_mut().headers = Some(Box::new(headers));
        }
    }
}

/// A workload on its way into a job.
#[derive(Debug)]
pub(crate) enum Workload<'a> {
    Borrowed(&'a [u8]),
    Owned(Bytes),
    /// It is in the store and has that many bytes.
    Away(u32),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a waiting job costs beside its key and workload; with 32 bytes of allocation for those and nine of index, a million jobs of 16 bytes take
    /// 155 MB. The specification grants 200 bytes and the workload.
    #[test]
    fn a_job_is_small() {
        assert!(
            size_of::<Option<Job>>() <= 112,
            "{}",
            size_of::<Option<Job>>()
        );
    }

    #[test]
    fn workloads_of_every_size_come_and_go() {
        for len in [0, 1, 300, SHARED_BYTES_MIN - 1, SHARED_BYTES_MIN, 1 << 20] {
            let workload = vec![7; len];
            let (id, function) = (JobId(1), FunctionId(0));
            let borrowed = Workload::Borrowed(&workload);
            let mut job = Job::new(id, function, Priority::Low, b"key", borrowed);
            assert_eq!((job.unique(), job.workload()), (&b"key"[..], &workload[..]));
            assert_eq!(job.resident_bytes(), len as u64);
            job.send_away();
            assert_eq!(job.is_away(), len > 0);
            assert_eq!((job.unique(), job.workload()), (&b"key"[..], &b""[..]));
            assert_eq!(
                (job.workload_len() as usize, job.resident_bytes()),
                (len, 0)
            );
            job.bring_back(workload.clone().into());
            assert_eq!(
                (job.unique(), &job.workload_bytes()[..]),
                (&b"key"[..], &workload[..])
            );
        }
    }
}
