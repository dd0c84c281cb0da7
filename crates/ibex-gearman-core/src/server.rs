//! The job server: its doors (inputs, outputs, time) and what all its parts share.
//!
//! Kept small on purpose: requests are handed to the part that owns them. The order in which replies leave one connection is also kept here
//! ([`JobServer::reply`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ibex_base::deadline::DeadlineHeap;
use ibex_gearman_proto::text::error_text;
use ibex_gearman_proto::{ErrorCode, Grab, QueueLimits, Refusal, Request, Response, limits};

use crate::arena::Arena;
use crate::config::Config;
use crate::conn::{Conn, Held, Rest};
use crate::control::Dead;
use crate::function::{Function, FunctionId};
use crate::handle::{HandleText, Handles};
use crate::job::{ConnId, JobId, State, StoredJob};
use crate::recurring::{Schedules, StoredSchedule};
use crate::results::Results;
use crate::submit::Commit;

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
    /// A dead job the store had from an earlier life, with the reason of its death.
    RestoredDead(StoredJob, Bytes),
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
    /// Make a dead job live again, then say [`Input::Persisted`] or [`Input::PersistFailed`].
    Revive(StoredJob),
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

/// Something for a peer that may have to wait its turn.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Packet(Reply),
    Text(Bytes),
}

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
}

/// Times in powers of two of microseconds: bucket n counts times below 2^n µs that bucket n − 1 does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Histogram {
    /// The counts.
    pub buckets: [u64; 32],
    /// Sum of all times, in microseconds.
    pub sum_us: u64,
}

impl Histogram {
    pub(crate) fn observe(&mut self, us: u64) {
        let bucket = usize::try_from(u64::BITS - us.leading_zeros())
            .unwrap_or(0)
            .min(31);
        self.buckets[bucket] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }
}

/// What happened since the start. Metrics and compatibility lists both read these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Jobs created, by [`ibex_gearman_proto::Priority::index`], foreground.
    pub submitted_foreground: [u64; 3],
    /// Jobs created, by priority, background.
    pub submitted_background: [u64; 3],
    /// Submissions that joined a job.
    pub coalesced: u64,
    /// Submissions that were refused.
    pub refused: u64,
    /// Jobs handed to workers.
    pub assigned: u64,
    /// GRAB_JOBs answered by NO_JOB.
    pub grabs_empty: u64,
    /// Jobs that ended well.
    pub completed: u64,
    /// Jobs whose worker said WORK_FAIL.
    pub failed: u64,
    /// Jobs whose worker said WORK_EXCEPTION.
    pub excepted: u64,
    /// Jobs that waited again because their worker was lost, took too long or gave them back.
    pub requeued: u64,
    /// Jobs whose worker took too long.
    pub timed_out: u64,
    /// Background jobs given up.
    pub buried: u64,
    /// Jobs cancelled or purged by an operator.
    pub cancelled: u64,
    /// Foreground jobs dropped because their last client left.
    pub abandoned: u64,
    /// Submissions answered with the kept result of an equal job.
    pub deduplicated: u64,
    /// Jobs that no worker took within their `ttl`.
    pub expired: u64,
    /// Occurrences of recurring jobs.
    pub recurred: u64,
    /// NOOPs sent.
    pub noops: u64,
    /// ERROR packets sent.
    pub errors: u64,
    /// From submission (or return) to assignment.
    pub wait: Histogram,
    /// From assignment to the end.
    pub run: Histogram,
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
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    pub(crate) by_key: BTreeMap<(Key, FunctionId), u32>,
    pub(crate) timers: DeadlineHeap<Timer>,
    /// Scheduled jobs by due time.
    pub(crate) schedule: BTreeSet<(u64, JobId)>,
    pub(crate) schedules: Schedules,
    /// Who waits for which job's way into the store.
    pub(crate) commits: BTreeMap<JobId, Commit>,
    pub(crate) dead: BTreeMap<JobId, Dead>,
    pub(crate) results: Results,
    pub(crate) is_draining: bool,
    pub(crate) workload_bytes: u64,
    pub(crate) counters: Counters,
    outputs: VecDeque<Output>,
    /// Grabs that found nothing; answered by [`Self::settle`].
    open_grabs: VecDeque<ConnId>,
    /// Functions whose ready jobs are to be held against their sleepers by [`Self::settle`].
    due_wakes: VecDeque<FunctionId>,
    settle_at: Instant,
    next_job: u64,
    next_sleep: u64,
    begun: Instant,
    wall: (Instant, u64),
}

/// What makes two submissions to one function the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// The unique key.
    Unique(Bytes),
    /// Unique key `-`: the workload.
    Workload(Bytes),
}

impl JobServer {
    /// A server without jobs or connections; `epoch_ms` is the wall clock at `now`.
    #[must_use]
    pub fn new(mut config: Config, now: Instant, epoch_ms: u64) -> Self {
        config.has_store |= config.durable;
        Self {
            handles: Handles::new(&config.handle_prefix),
            next_job: config.first_job,
            config,
            jobs: Arena::default(),
            functions: Vec::new(),
            names: BTreeMap::new(),
            presets: BTreeMap::new(),
            conns: BTreeMap::new(),
            by_key: BTreeMap::new(),
            timers: DeadlineHeap::new(),
            schedule: BTreeSet::new(),
            schedules: Schedules::default(),
            commits: BTreeMap::new(),
            dead: BTreeMap::new(),
            results: Results::default(),
            is_draining: false,
            workload_bytes: 0,
            counters: Counters::default(),
            outputs: VecDeque::new(),
            open_grabs: VecDeque::new(),
            due_wakes: VecDeque::new(),
            settle_at: now,
            next_sleep: 0,
            begun: now,
            wall: (now, epoch_ms),
        }
    }

    /// Takes one event that happened at `now`. Times must not go back.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) {
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
            Input::Restored(stored) => self.handle_restored(now, stored),
            Input::RestoredDead(stored, reason) => self.handle_restored_dead(stored, reason),
            Input::RestoredSchedule(stored) => self.handle_restored_schedule(stored),
        }
    }

    /// Does what was due by `now`. Early calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.release_scheduled(now);
        self.forget_old_results(now);
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::Job(job) => self.time_out(now, job),
                Timer::Wake(function) => self.wake_more(now, function),
                Timer::Rate(function) => self.wake_ready(now, function),
                Timer::Expiry(job) => self.expire(now, job),
                Timer::Hold(conn) => self.end_hold(now, conn),
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

    /// The next thing to do outside. Drain until `None` after every `handle*` and every control call, or after a batch of them.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.settle();
        }
        self.outputs.pop_front()
    }

    /// The next thing to do outside that more input of the same moment cannot make needless. A shell that takes several inputs at once drains this
    /// between them and [`poll_output`](Self::poll_output) after the last: a worker that asks for a job in the same batch in which one is submitted
    /// gets it, in whatever order the two came, instead of hearing NO_JOB beside somebody else's NOOP.
    pub fn poll_output_early(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Answers the grabs that are still open, then wakes sleepers for what is left.
    fn settle(&mut self) {
        let now = self.settle_at;
        while let Some(conn) = self.open_grabs.pop_front() {
            self.decide(now, conn);
        }
        while let Some(function) = self.due_wakes.pop_front() {
            self.wake_due(now, function);
        }
    }

    /// Leaves a grab that found nothing open until the batch is over.
    pub(crate) fn open_grab(&mut self, now: Instant, conn: ConnId, form: Grab) {
        if let Some(c) = self.conns.get_mut(&conn) {
            c.rest = Rest::Grabbing(form);
            self.open_grabs.push_back(conn);
            self.settle_at = now;
        }
    }

    /// Sees to it that sleepers of the function are woken once the batch is over, if jobs are ready then.
    pub(crate) fn wake_ready(&mut self, now: Instant, function: FunctionId) {
        self.settle_at = now;
        let f = self.function_mut(function);
        f.wakes_due += 1;
        if f.wakes_due == 1 {
            self.due_wakes.push_back(function);
        }
    }

    /// Everything is decided: the last drain went through [`poll_output`](Self::poll_output) to its end.
    pub(crate) fn is_settled(&self) -> bool {
        self.open_grabs.is_empty() && self.due_wakes.is_empty()
    }

    /// Sends `text` to a connection, after the replies it still waits for.
    pub fn answer(&mut self, conn: ConnId, text: Bytes) {
        self.reply_outgoing(conn, Outgoing::Text(text));
    }

    /// Replies a connection has waiting behind a job that is on its way into the store. A shell stops reading a connection that has too many.
    #[must_use]
    pub fn held_replies(&self, conn: ConnId) -> usize {
        self.conns.get(&conn).map_or(0, |c| c.held.len())
    }

    /// The policies. What may be changed while running is changed here.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    fn handle_request(&mut self, now: Instant, conn: ConnId, request: Request<'_>) {
        match request {
            Request::Submit(submit) => self.handle_submit(now, conn, &submit),
            Request::GrabJob(form) => self.handle_grab(now, conn, form),
            Request::PreSleep => self.handle_pre_sleep(now, conn),
            Request::CanDo { function } => self.handle_can_do(now, conn, function, None),
            Request::CanDoTimeout { function, timeout } => {
                let timeout = self.config.job_timeout(timeout);
                self.handle_can_do(now, conn, function, timeout);
            }
            Request::CantDo { function } => self.handle_cant_do(now, conn, function),
            Request::ResetAbilities => self.handle_reset_abilities(now, conn),
            Request::WorkStatus { .. }
            | Request::WorkComplete { .. }
            | Request::WorkFail { .. }
            | Request::WorkException { .. }
            | Request::WorkData { .. }
            | Request::WorkWarning { .. }
            | Request::Touch { .. }
            | Request::Nack { .. } => self.handle_work(now, conn, &request),
            Request::GetStatus { handle } => self.handle_get_status(conn, handle),
            Request::GetStatusUnique { unique } => self.handle_get_status_unique(conn, unique),
            Request::Attach { handle } => self.handle_attach(conn, handle),
            Request::Echo { data } => {
                let data = Bytes::copy_from_slice(data);
                self.reply(conn, Reply::Echo { data });
            }
            Request::SetClientId { id } => {
                let id = id.get(..limits::CLIENT_ID_BYTES_MAX).unwrap_or(id);
                if let Some(c) = self.conns.get_mut(&conn) {
                    c.id = Bytes::copy_from_slice(id);
                }
            }
            // DIFFERS(gearmand): the original answers ERROR INVALID_COMMAND.
            Request::AllYours => {}
            Request::Option { name } => self.handle_option(now, conn, name),
        }
    }

    fn handle_option(&mut self, now: Instant, conn: ConnId, name: &[u8]) {
        let lower = name.to_ascii_lowercase();
        let mut ends_push = false;
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        let is_known = match &lower[..] {
            _ if lower.len() > limits::OPTION_BYTES_MAX => false,
            b"exceptions" => {
                c.wants_exceptions = true;
                true
            }
            b"heartbeat" => {
                c.wants_heartbeat = true;
                true
            }
            b"no-workers-fail" => {
                c.wants_no_workers_error = true;
                true
            }
            b"cancel" => {
                c.wants_cancel = true;
                true
            }
            b"wait" => {
                c.wants_wait = true;
                true
            }
            b"headers" => {
                c.wants_headers = true;
                true
            }
            b"results" => {
                c.wants_results = true;
                true
            }
            // Served to everybody; asking only tells the peer that it may send them.
            b"nack" | b"touch" | b"subscribe" => true,
            _ => match push_option(&lower) {
                // No more by itself; what it holds stays with it.
                Some((0, _)) => {
                    ends_push = c.push.take().is_some() && matches!(c.rest, Rest::Parked(..));
                    true
                }
                Some(push) => {
                    c.push = Some(push);
                    true
                }
                None => false,
            },
        };
        if ends_push {
            self.leave_rest(conn);
        }
        if is_known {
            let name = Bytes::copy_from_slice(name);
            self.reply(conn, Reply::Option { name });
            self.refill(now, conn);
        } else {
            self.error(conn, ErrorCode::UnknownOption, error_text::UNKNOWN_OPTION);
        }
    }

    fn handle_closed(&mut self, now: Instant, conn: ConnId) {
        let credit = self.leave_rest(conn);
        let Some(gone) = self.conns.remove(&conn) else {
            return;
        };
        for ability in &gone.abilities {
            self.function_mut(ability.function).workers -= 1;
        }
        // The youngest first: each goes to the front of its queue, so the oldest ends up foremost.
        for job in gone.holding.iter().rev() {
            self.take_back(now, *job, Loss::Worker);
        }
        for job in gone.waiting_for.keys() {
            self.client_left(*job, conn);
        }
        if let Some(function) = credit {
            self.wake_ready(now, function);
        }
    }

    // ── what the parts share ──

    /// Sends a packet after what the connection still waits for.
    pub(crate) fn reply(&mut self, conn: ConnId, reply: Reply) {
        self.reply_outgoing(conn, Outgoing::Packet(reply));
    }

    fn reply_outgoing(&mut self, conn: ConnId, outgoing: Outgoing) {
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        if c.held.is_empty() {
            self.output_to(conn, outgoing);
        } else {
            c.held.push_back(Held::Ready(outgoing));
        }
    }

    /// Keeps a place in the connection's order for a reply that the store decides.
    pub(crate) fn hold_place(&mut self, conn: ConnId) -> u64 {
        let Some(c) = self.conns.get_mut(&conn) else {
            return 0;
        };
        c.held.push_back(Held::Committing);
        c.held_from + c.held.len() as u64 - 1
    }

    /// Fills a place kept by [`hold_place`](Self::hold_place) and lets go what now may leave.
    pub(crate) fn fill_place(&mut self, conn: ConnId, place: u64, reply: Reply) {
        let Some(c) = self.conns.get_mut(&conn) else {
            return;
        };
        let index = usize::try_from(place - c.held_from).unwrap_or(usize::MAX);
        if let Some(slot) = c.held.get_mut(index) {
            *slot = Held::Ready(Outgoing::Packet(reply));
        }
        let mut free = Vec::new();
        while let Some(Held::Ready(_)) = c.held.front() {
            c.held_from += 1;
            if let Some(Held::Ready(outgoing)) = c.held.pop_front() {
                free.push(outgoing);
            }
        }
        for outgoing in free {
            self.output_to(conn, outgoing);
        }
    }

    fn output_to(&mut self, conn: ConnId, outgoing: Outgoing) {
        self.outputs.push_back(match outgoing {
            Outgoing::Packet(reply) => Output::Send(conn, reply),
            Outgoing::Text(text) => Output::Text(conn, text),
        });
    }

    pub(crate) fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(crate) fn error(&mut self, conn: ConnId, code: ErrorCode, text: &'static str) {
        self.counters.errors += 1;
        let (code, text) = (
            Bytes::from_static(code.as_str().as_bytes()),
            Bytes::from_static(text.as_bytes()),
        );
        self.reply(conn, Reply::Error { code, text });
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
    pub(crate) fn intern(&mut self, name: &[u8]) -> FunctionId {
        if let Some(id) = self.names.get(name) {
            return *id;
        }
        let name = Bytes::copy_from_slice(name);
        let limits = self.presets.remove(&name).unwrap_or_default();
        let function = Some(Function::new(name.clone(), limits));
        let index = self
            .functions
            .iter()
            .position(Option::is_none)
            .filter(|_| self.names.len() < self.functions.len());
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

    /// Microseconds of this server's life.
    pub(crate) fn life_us(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.begun).as_micros()).unwrap_or(u64::MAX)
    }

    /// The wall clock at `now`.
    pub(crate) fn wall_ms(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.wall.0);
        self.wall
            .1
            .saturating_add(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn instant_of(&self, wall_ms: u64) -> Instant {
        let ahead = Duration::from_millis(wall_ms.saturating_sub(self.wall.1));
        // A time beyond what an Instant can say is looked at again in a day.
        self.wall.0.checked_add(ahead).unwrap_or(self.wall.0 + FAR)
    }

    /// Puts scheduled jobs whose time has come into their queues, and submits what recurs now.
    fn release_scheduled(&mut self, now: Instant) {
        let wall_ms = self.wall_ms(now);
        while let Some((due_ms, job)) = self.schedule.first().copied() {
            if due_ms > wall_ms {
                break;
            }
            let index = self.jobs.index_of(job).expect("scheduled jobs exist");
            debug_assert_eq!(self.jobs.get(index).state, State::Scheduled);
            self.leave(index);
            self.enter_queue(now, index, false);
        }
        self.release_recurring(now);
    }
}

/// A day: how far ahead a timer is set for times that no `Instant` can say.
const FAR: Duration = Duration::from_secs(86_400);

/// Why a job leaves its worker's hands without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The connection is gone, or the worker took its registration back.
    Worker,
    /// It took too long.
    Timeout,
    /// It failed, and its function has a retry policy.
    Failed,
    /// The worker gave it back, not to be tried before that time (wall clock, ms).
    Nack { due_ms: u64 },
}

/// Jobs a pushing worker may ask to hold at once.
const PUSH_MAX: u64 = 10_000;

/// `push=N` and `push-all=N`; 0 ends it.
fn push_option(name: &[u8]) -> Option<(u32, Grab)> {
    let (form, number) = match name.strip_prefix(b"push=") {
        Some(number) => (Grab::Unique, number),
        None => (Grab::All, name.strip_prefix(b"push-all=")?),
    };
    let count = ibex_base::ascii::parse_u64(number).filter(|n| *n <= PUSH_MAX)?;
    Some((u32::try_from(count).ok()?, form))
}

impl JobServer {
    /// Whether the connection rests, for views.
    pub(crate) fn is_resting(rest: Rest) -> bool {
        matches!(rest, Rest::Asleep(_) | Rest::Parked(..))
    }
}
