//! Workloads that are in the store only: memory bounded by disk.
//!
//! Half of the memory that jobs may take is for workloads that wait in a durable queue. Beyond it the workload of a job that enters the end of its queue,
//! or the schedule, is let go: the store has it. Such jobs and all that come after them wait in a second list *behind* the queue; from its head workloads are
//! fetched ([`Output::Fetch`]) while fewer than [`AHEAD_MIN`] jobs are ready, and jobs that have theirs move into the queue. So the order is that of
//! arrival, and a worker is never given a job whose workload is not here.
//!
//! A workload that cannot be read because the store does not answer is asked for again; meanwhile jobs that come need not wait behind it. One that the
//! store says it does not have is lost: its job is buried with that reason.
//!
//! Foreground jobs, jobs of a queue in memory, and jobs whose workload is their key (unique key `-`) keep theirs.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ibex_gearman_proto::Priority;

use crate::arena::NIL;
use crate::function::FunctionId;
use crate::io::{Output, Reply};
use crate::job::{ConnId, Job, JobId, Stored};
use crate::keys::BY_WORKLOAD;
use crate::server::{JobServer, Timer};

/// Workloads smaller than this stay: the job without it costs about as much.
pub(crate) const AWAY_BYTES_MIN: u32 = 256;
/// Jobs of one queue that are asked for at once.
const FETCH_JOBS_MAX: u32 = 256;
/// Bytes of workload that one queue asks for at once, one job excepted.
const FETCH_BYTES_MAX: u64 = 8 << 20;
/// While fewer jobs of a queue than this are ready, workloads are fetched.
const AHEAD_MIN: u32 = 128;
/// Pause before a store that did not answer is asked again.
const FETCH_AGAIN: Duration = Duration::from_secs(1);

/// What is in the store only.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Away {
    /// Jobs whose workload is there.
    pub jobs: u64,
    /// Bytes of those workloads.
    pub bytes: u64,
    /// Workloads that were let go since the start.
    pub sent: u64,
    /// Workloads that came back since the start.
    pub fetched: u64,
    /// Times the store did not answer.
    pub failed: u64,
    /// Workloads the store did not have; their jobs were buried.
    pub lost: u64,
}

impl Away {
    pub(crate) fn count(&mut self, job: &Job) {
        self.jobs += 1;
        self.bytes += u64::from(job.workload_len());
    }

    pub(crate) fn uncount(&mut self, job: &Job) {
        self.jobs -= 1;
        self.bytes -= u64::from(job.workload_len());
    }
}

impl JobServer {
    /// Lets the workload of a job go that is about to wait, if memory is short and the store has it.
    pub(crate) fn spare_memory(&mut self, index: u32) {
        let bound = self.config.workload_bytes_max;
        let job = self.jobs.get(index);
        let may_go = job.stored == Stored::Yes
            && !job.is_away()
            && job.workload_len() >= AWAY_BYTES_MIN
            && job.unique() != BY_WORKLOAD;
        if bound == 0 || !may_go || self.memory() <= bound / 2 {
            return;
        }
        let job = self.jobs.get_mut(index);
        self.workload_bytes -= job.resident_bytes();
        job.send_away();
        self.away.count(job);
        self.away.sent += 1;
    }

    /// Has the function's queues looked at by [`Self::fetch_due`] before the batch is decided.
    pub(crate) fn want_fetch(&mut self, function: FunctionId) {
        if let Some(f) = self.functions[function.0 as usize].as_mut()
            && !f.is_fetch_due
        {
            f.is_fetch_due = true;
            self.due_fetches.push_back(function);
        }
    }

    /// Moves jobs that have their workload from behind into the queues, and asks the store for the next workloads.
    pub(crate) fn fetch_due(&mut self, now: Instant) {
        while let Some(function) = self.due_fetches.pop_front() {
            let Some(f) = self.functions[function.0 as usize].as_mut() else {
                // Dropped meanwhile.
                continue;
            };
            f.is_fetch_due = false;
            for priority in Priority::ALL {
                self.move_up(now, function, priority.index());
                self.fetch(function, priority.index());
            }
        }
    }

    fn move_up(&mut self, now: Instant, function: FunctionId, priority: usize) {
        let f = self.functions[function.0 as usize]
            .as_mut()
            .expect("a function that is looked at exists");
        let mut has_moved = false;
        while f.behind[priority].len > 0 {
            let index = f.behind[priority].head;
            let job = self.jobs.get_mut(index);
            if job.is_away() {
                break;
            }
            job.is_behind = false;
            f.behind[priority].unlink(&mut self.jobs, index);
            f.queues[priority].push_back(&mut self.jobs, index);
            has_moved = true;
        }
        if has_moved {
            self.wake_ready(now, function);
        }
    }

    fn fetch(&mut self, function: FunctionId, priority: usize) {
        let f = self.functions[function.0 as usize]
            .as_mut()
            .expect("a function that is looked at exists");
        let is_wanted = f.workers > 0
            && f.behind[priority].len > 0
            && f.queues[priority].len < AHEAD_MIN
            && f.fetching[priority] == 0
            && !f.is_store_stalled;
        if !is_wanted {
            return;
        }
        let (mut ids, mut bytes) = (Vec::new(), 0);
        let mut at = f.behind[priority].head;
        for _ in 0..FETCH_JOBS_MAX {
            if at == NIL {
                break;
            }
            let job = self.jobs.get_mut(at);
            if job.is_away() {
                bytes += u64::from(job.workload_len());
                if bytes > FETCH_BYTES_MAX && !ids.is_empty() {
                    break;
                }
                job.is_fetching = true;
                f.fetching[priority] += 1;
                ids.push(job.id);
            }
            at = job.next;
        }
        if !ids.is_empty() {
            self.output(Output::Fetch(ids));
        }
    }

    /// Whether workloads of jobs that a worker can do are on their way.
    pub(crate) fn is_fetching_for(&self, conn: ConnId) -> bool {
        self.away.jobs > 0
            && self.conns.get(&conn).is_some_and(|c| {
                let mut functions = c.abilities.iter().map(|a| self.function(a.function));
                functions.any(|f| f.fetching.iter().any(|count| *count > 0))
            })
    }

    /// The job that waits for its workload under that number; `None` when it is gone meanwhile.
    fn take_fetching(&mut self, id: JobId) -> Option<u32> {
        let index = self.jobs.index_of(id)?;
        let job = self.jobs.get_mut(index);
        if !std::mem::take(&mut job.is_fetching) {
            return None;
        }
        let (function, priority) = (job.function, job.priority.index());
        self.function_mut(function).fetching[priority] -= 1;
        self.want_fetch(function);
        Some(index)
    }

    pub(crate) fn handle_fetched(&mut self, now: Instant, id: JobId, workload: Bytes) {
        let Some(index) = self.take_fetching(id) else {
            return;
        };
        let job = self.jobs.get_mut(index);
        if job.workload_len() as usize != workload.len() {
            self.lose(index);
            return;
        }
        self.away.uncount(job);
        self.away.fetched += 1;
        job.bring_back(workload);
        self.workload_bytes += job.resident_bytes();
        let function = job.function;
        self.function_mut(function).is_store_stalled = false;
        self.settle_at = now;
    }

    /// The store did not answer: it is asked again after a pause.
    pub(crate) fn handle_fetch_failed(&mut self, now: Instant, id: JobId) {
        let Some(index) = self.take_fetching(id) else {
            return;
        };
        self.away.failed += 1;
        let function = self.jobs.get(index).function;
        self.function_mut(function).is_store_stalled = true;
        self.timers
            .insert(Timer::Fetch(function), now + FETCH_AGAIN);
        self.settle_at = now;
    }

    /// The store does not have it.
    pub(crate) fn handle_fetch_lost(&mut self, now: Instant, id: JobId) {
        if let Some(index) = self.take_fetching(id) {
            self.settle_at = now;
            self.lose(index);
        }
    }

    fn lose(&mut self, index: u32) {
        self.away.lost += 1;
        self.relay(index, |handle| Reply::WorkFail { handle });
        self.bury(
            index,
            Bytes::from_static(b"its workload is not in the store"),
        );
    }

    pub(crate) fn fetch_again(&mut self, now: Instant, function: FunctionId) {
        if let Some(f) = self.functions[function.0 as usize].as_mut() {
            f.is_store_stalled = false;
            self.settle_at = now;
            self.want_fetch(function);
        }
    }

    /// What of the queue is in the store only.
    #[must_use]
    pub fn away(&self) -> Away {
        self.away
    }
}
