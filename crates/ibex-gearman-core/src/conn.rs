//! One connection: what it can do, what it holds, what it waits for, and replies that wait for the store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ibex_gearman_proto::Grab;

use crate::function::FunctionId;
use crate::job::JobId;
use crate::replies::Outgoing;

/// Handles a connection remembers after the jobs were taken from it. A worker has rarely more jobs at once; late packets for older ones get an ERROR.
const TOMBSTONES_MAX: usize = 64;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Ability {
    pub(crate) function: FunctionId,
    pub(crate) timeout: Option<Duration>,
}

/// Whether a worker waits for jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// It does something else, or is no worker.
    Awake,
    /// It sent PRE_SLEEP and wants a NOOP; the number orders sleepers.
    Asleep(u64),
    /// It got its NOOP, for this function, and has not grabbed yet.
    Woken(FunctionId),
    /// It grabbed and no job was there; the end of the batch decides.
    Grabbing(Grab),
    /// It wants the next job itself (options `wait` and `push`); the number orders sleepers.
    Parked(u64, Grab),
}

/// A reply that cannot leave yet because of an earlier one.
#[derive(Debug)]
pub(crate) enum Held {
    Ready(Outgoing),
    /// A submission whose job is on its way into the store.
    Committing,
}

#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: Bytes,
    /// In the order of registration.
    pub(crate) abilities: Vec<Ability>,
    /// Where the next round over the abilities begins.
    pub(crate) turn: usize,
    pub(crate) rest: Rest,
    /// It is parked with a grab that is to be answered NO_JOB soon, see [`crate::Config::grab_hold`].
    pub(crate) is_held: bool,
    /// Its next empty grab is worth holding: the last one was followed by a job soon.
    pub(crate) is_brisk: bool,
    /// When it last heard NO_JOB.
    pub(crate) empty_at: Option<Instant>,
    pub(crate) holding: BTreeSet<JobId>,
    /// Jobs it waits for as a client, with the number of submissions.
    pub(crate) waiting_for: BTreeMap<JobId, u32>,
    pub(crate) tombstones: VecDeque<JobId>,
    pub(crate) held: VecDeque<Held>,
    /// Number of the first entry of `held`.
    pub(crate) held_from: u64,
    pub(crate) wants_exceptions: bool,
    pub(crate) wants_heartbeat: bool,
    pub(crate) wants_no_workers_error: bool,
    pub(crate) wants_cancel: bool,
    pub(crate) wants_wait: bool,
    pub(crate) wants_headers: bool,
    pub(crate) wants_results: bool,
    /// Option `push`: jobs it may hold, and the form of assignment.
    pub(crate) push: Option<(u32, Grab)>,
}

impl Conn {
    pub(crate) fn new() -> Self {
        Self {
            id: Bytes::new(),
            abilities: Vec::new(),
            turn: 0,
            rest: Rest::Awake,
            is_held: false,
            is_brisk: false,
            empty_at: None,
            holding: BTreeSet::new(),
            waiting_for: BTreeMap::new(),
            tombstones: VecDeque::new(),
            held: VecDeque::new(),
            held_from: 0,
            wants_exceptions: false,
            wants_heartbeat: false,
            wants_no_workers_error: false,
            wants_cancel: false,
            wants_wait: false,
            wants_headers: false,
            wants_results: false,
            push: None,
        }
    }

    pub(crate) fn can_do(&self, function: FunctionId) -> bool {
        self.abilities.iter().any(|a| a.function == function)
    }

    /// Remembers that `job` is not its business any more.
    pub(crate) fn bury(&mut self, job: JobId) {
        if self.tombstones.len() == TOMBSTONES_MAX {
            self.tombstones.pop_front();
        }
        self.tombstones.push_back(job);
    }
}
