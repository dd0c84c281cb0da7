//! The job server: its state, and the doors through which inputs and time come in.
//!
//! Kept small on purpose: what comes is handed to the part that owns it. What goes out, and in which order, is in `replies.rs`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use bytes::Bytes;
use ibex_base::deadline::DeadlineHeap;
use ibex_gearman_proto::QueueLimits;

use crate::arena::Arena;
use crate::commit::Commit;
use crate::config::Config;
use crate::conn::{Conn, Rest};
use crate::control::Dead;
use crate::counters::Counters;
use crate::function::{Function, FunctionId};
use crate::handle::Handles;
use crate::io::{Input, Output};
use crate::job::{ConnId, JobId, Workload};
use crate::keys::Keys;
use crate::numbers::NumberMap;
use crate::paging::Away;
use crate::recurring::Schedules;
use crate::results::Results;

/// What has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A running job's time is up.
    Job(JobId),
    /// A woken worker has been silent for too long.
    Wake(FunctionId),
    /// A function's rate allows the next assignment.
    Rate(FunctionId),
    /// A job's `ttl` is over.
    Expiry(JobId),
    /// A worker's empty grab has been held for long enough.
    Hold(ConnId),
    /// The store may be asked again for the function's workloads.
    Fetch(FunctionId),
}

/// The job server. See the crate's documentation for its picture and invariants.
#[derive(Debug)]
pub struct JobServer {
    pub(crate) config: Config,
    pub(crate) handles: Handles,
    pub(crate) jobs: Arena,
    pub(crate) functions: Vec<Option<Function>>,
    pub(crate) names: BTreeMap<Bytes, FunctionId>,
    /// `maxqueue` of functions that do not exist yet.
    pub(crate) presets: BTreeMap<Bytes, QueueLimits>,
    pub(crate) conns: NumberMap<ConnId, Conn>,
    pub(crate) keys: Keys,
    pub(crate) timers: DeadlineHeap<Timer>,
    /// Scheduled jobs by due time.
    pub(crate) schedule: BTreeSet<(u64, JobId)>,
    pub(crate) schedules: Schedules,
    /// Who waits for which job's way into the store.
    pub(crate) commits: BTreeMap<JobId, Commit>,
    pub(crate) dead: BTreeMap<JobId, Dead>,
    pub(crate) results: Results,
    pub(crate) is_draining: bool,
    /// Bytes of workload in memory.
    pub(crate) workload_bytes: u64,
    pub(crate) away: Away,
    pub(crate) counters: Counters,
    pub(crate) outputs: VecDeque<Output>,
    /// Grabs that found nothing; answered when the batch is over.
    pub(crate) open_grabs: VecDeque<ConnId>,
    /// Functions whose ready jobs are to be held against their sleepers then.
    pub(crate) due_wakes: VecDeque<FunctionId>,
    /// Functions whose workloads are to be fetched then, and that had some fetched.
    pub(crate) due_fetches: VecDeque<FunctionId>,
    /// When the batch began that is to be decided.
    pub(crate) settle_at: Instant,
    next_job: u64,
    next_sleep: u64,
    pub(crate) begun: Instant,
    /// The wall clock, and when it was read.
    pub(crate) wall: (Instant, u64),
}

impl JobServer {
    /// A server without jobs or connections; `epoch_ms` is the wall clock at `now`.
    #[must_use]
    pub fn new(mut config: Config, now: Instant, epoch_ms: u64) -> Self {
        config.has_store |= config.durable;
        Self {
            handles: Handles::new(&config.handle_prefix),
            next_job: config.first_job,
            keys: Keys::new(config.hash_seed),
            config,
            jobs: Arena::default(),
            functions: Vec::new(),
            names: BTreeMap::new(),
            presets: BTreeMap::new(),
            conns: NumberMap::default(),
            timers: DeadlineHeap::new(),
            schedule: BTreeSet::new(),
            schedules: Schedules::default(),
            commits: BTreeMap::new(),
            dead: BTreeMap::new(),
            results: Results::default(),
            is_draining: false,
            workload_bytes: 0,
            away: Away::default(),
            counters: Counters::default(),
            outputs: VecDeque::new(),
            open_grabs: VecDeque::new(),
            due_wakes: VecDeque::new(),
            due_fetches: VecDeque::new(),
            settle_at: now,
            next_sleep: 0,
            begun: now,
            wall: (now, epoch_ms),
        }
    }

    /// Takes one event that happened at `now`. Times must not go back.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
        self.settle_at = now;
        match input {
            Input::Connected(conn) => {
                let before = self.conns.insert(conn, Conn::new());
                assert!(before.is_none(), "connection numbers are used once");
            }
            Input::Packet(conn, request) => {
                if let Some(c) = self.conns.get(&conn) {
                    if let Rest::Grabbing(_) = c.rest {
                        self.decide(now, conn);
                    }
                    self.end_hold(now, conn);
                    self.handle_request(now, conn, request);
                }
            }
            Input::Refused(conn, refusal) => {
                let (code, text) = refusal.error();
                self.error(conn, code, text);
            }
            Input::Closed(conn) => self.handle_closed(now, conn),
            Input::Clock(epoch_ms) => {
                let before_ms = self.wall_ms(now);
                self.wall = (now, epoch_ms);
                self.reckon_schedules(now, before_ms);
                self.release_scheduled(now);
                self.forget_unused(now);
            }
            Input::Persisted(id) if self.schedules.is_pending(id) => self.handle_schedule_kept(id),
            Input::Persisted(job) => self.handle_persisted(now, job),
            Input::PersistFailed(id) if self.schedules.is_pending(id) => {
                self.handle_schedule_refused(id);
            }
            Input::PersistFailed(job) => self.handle_persist_failed(now, job),
            Input::Restored(stored) => {
                let workload = Workload::Owned(stored.workload.clone());
                self.handle_restored(now, &stored, workload);
            }
            Input::RestoredAway(stored, len) => {
                self.handle_restored(now, &stored, Workload::Away(len));
            }
            Input::RestoredDead(stored, len, reason) => {
                self.handle_restored_dead(stored, len, reason);
            }
            Input::RestoredResult(stored) => self.handle_restored_result(now, stored),
            Input::Fetched(job, workload) => self.handle_fetched(now, job, workload),
            Input::FetchFailed(job) => self.handle_fetch_failed(now, job),
            Input::FetchLost(job) => self.handle_fetch_lost(now, job),
            Input::RestoredSchedule(stored) => self.handle_restored_schedule(stored),
        }
    }

    /// Does what was due by `now`. Early calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.settle_at = now;
        self.release_scheduled(now);
        self.forget_old_results(now);
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Job(job) => self.time_out(now, job),
                Timer::Wake(function) => self.wake_more(now, function),
                Timer::Rate(function) => self.wake_ready(now, function),
                Timer::Expiry(job) => self.expire(now, job),
                Timer::Hold(conn) => self.end_hold(now, conn),
                Timer::Fetch(function) => self.fetch_again(now, function),
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called. May change after every other call.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let job_ms = self.schedule.first().map(|(due_ms, _)| *due_ms);
        let due = [job_ms, self.schedules.next_ms()]
            .into_iter()
            .flatten()
            .min()
            .map(|due_ms| self.instant_of(due_ms));
        [self.timers.next(), due, self.results.next()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The policies. What may be changed while running is changed here.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    /// The number of the next job.
    pub(crate) fn take_job_id(&mut self) -> JobId {
        let id = JobId(self.next_job);
        self.next_job += 1;
        id
    }

    /// The number the next job will get; a durable shell reserves numbers in its store before they are used.
    #[must_use]
    pub fn next_job_number(&self) -> u64 {
        self.next_job
    }

    /// Makes sure that `id` is not given out again.
    pub(crate) fn skip_job_id(&mut self, id: JobId) {
        self.next_job = self.next_job.max(id.0 + 1);
    }

    pub(crate) fn take_sleep_number(&mut self) -> u64 {
        self.next_sleep += 1;
        self.next_sleep
    }

    pub(crate) fn function(&self, id: FunctionId) -> &Function {
        self.functions[id.0 as usize]
            .as_ref()
            .expect("a function is dropped only when nothing refers to it")
    }

    pub(crate) fn function_mut(&mut self, id: FunctionId) -> &mut Function {
        self.functions[id.0 as usize]
            .as_mut()
            .expect("a function is dropped only when nothing refers to it")
    }

    /// The function of that name, made if there is none.
    pub(crate) fn may_intern(&self, name: &[u8]) -> bool {
        let max = self.config.functions_max;
        max == 0 || self.names.len() < max || self.names.contains_key(name)
    }

    pub(crate) fn intern(&mut self, name: &[u8]) -> FunctionId {
        if let Some(id) = self.names.get(name) {
            return *id;
        }
        let name = Bytes::copy_from_slice(name);
        let limits = self.presets.remove(&name).unwrap_or_default();
        let function = Some(Function::new(name.clone(), limits));
        // Looked for only where there is a free place: names come by the thousand.
        let has_gap = self.names.len() < self.functions.len();
        let mut places = self.functions.iter();
        let index = has_gap.then(|| places.position(Option::is_none)).flatten();
        let index = index.unwrap_or(self.functions.len());
        match self.functions.get_mut(index) {
            Some(slot) => *slot = function,
            None => self.functions.push(function),
        }
        let id = FunctionId(
            u32::try_from(index).expect("fewer than four billion functions fit into memory"),
        );
        self.names.insert(name, id);
        id
    }
}
