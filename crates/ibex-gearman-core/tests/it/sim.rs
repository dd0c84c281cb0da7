//! A simulation of the job server under hostile schedules: one seed, one trace.
//!
//! Workers die between any two packets, clients leave, replies of the store come late, fail or are lost with the whole server, clocks jump, limits
//! shrink below what is
//! there. After every step the invariants are checked, and the outputs against a small model: replies come in order, every foreground submission ends
//! exactly once, a
//! background job that was acknowledged is never lost. At the end a patient worker drains everything to zero.
//!
//! `IBEX_SIM_SEED=n` replays one seed, `IBEX_SIM_SEEDS=n` widens the run.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ibex_base::rng::Rng;
use ibex_gearman_core::{
    Config, ConnId, Input, JobId, JobServer, Output, Reply, RetryPolicy, StoredJob, StoredSchedule,
    TimeoutAction, Wakeup,
};
use ibex_gearman_proto::{Grab, Mode, Priority, QueueLimits, Request, Submit};

const STEPS: usize = 400;
const FUNCTIONS: [&str; 4] = ["a", "b", "c", "d"];
const EPOCH_MS: u64 = 1_000_000_000_000;
/// Failed jobs of one function come again.
const RETRY: RetryPolicy = RetryPolicy {
    attempts: 3,
    pause_min: Duration::from_secs(2),
    pause_max: Duration::from_secs(3),
};

#[test]
fn hostile_schedules() {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    if let Some(seed) = number("IBEX_SIM_SEED") {
        println!("{}", run(seed));
        return;
    }
    for seed in 0..number("IBEX_SIM_SEEDS").unwrap_or(256) {
        run(seed);
    }
}

#[test]
fn same_seed_same_trace() {
    for seed in [1, 77, 4730] {
        assert_eq!(run(seed), run(seed));
    }
    assert_ne!(run(1), run(2));
}

fn run(seed: u64) -> String {
    let mut sim = Sim::new(seed);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        for step in 0..STEPS {
            sim.step = step;
            sim.act();
        }
        sim.finish();
    }));
    if let Err(panic) = outcome {
        let trace = sim.trace.lines().rev().take(40).collect::<Vec<_>>();
        let trace = trace.into_iter().rev().collect::<Vec<_>>().join("\n");
        eprintln!(
            "seed {seed} broke at step {}; IBEX_SIM_SEED={seed} replays it. Last lines:\n{trace}",
            sim.step
        );
        std::panic::resume_unwind(panic);
    }
    sim.trace
}

/// What a connection still has to hear, and what it holds.
#[derive(Debug, Default)]
struct Peer {
    /// Replies due, in order.
    expected: VecDeque<Due>,
    /// Jobs assigned to it and not yet reported.
    holding: Vec<JobId>,
    /// Foreground submissions of this connection that have not ended, by job.
    open: BTreeMap<JobId, u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Created(Mode),
    /// Answer to a grab, with the step at which it was sent.
    Job(usize),
    Status,
    Echo,
    Option,
    /// A report that may or may not be answered by an ERROR.
    MaybeError,
}

struct Sim {
    rng: Rng,
    step: usize,
    now: Instant,
    clock_ms: u64,
    server: JobServer,
    config: Config,
    peers: BTreeMap<ConnId, Peer>,
    next_conn: u64,
    /// Store requests under way, in order.
    store_queue: VecDeque<Output>,
    /// Rows that would survive a crash.
    rows: BTreeMap<JobId, StoredJob>,
    dead_rows: BTreeMap<JobId, StoredJob>,
    /// Recurring jobs that would survive a crash, by function and unique key.
    schedule_rows: BTreeMap<(Bytes, Bytes), StoredSchedule>,
    /// Numbers of recurring jobs.
    schedule_ids: BTreeSet<JobId>,
    /// Background jobs whose JOB_CREATED went out and whose end is not known.
    acknowledged: BTreeSet<JobId>,
    /// Jobs that were given up and not revived: a reply that was held may tell of their acceptance afterwards.
    buried: BTreeSet<JobId>,
    /// Jobs that were ended by a worker or an operator, with the step.
    ended: BTreeMap<JobId, usize>,
    trace: String,
}

#[expect(
    clippy::disallowed_methods,
    reason = "an origin; only differences matter"
)]
fn origin() -> Instant {
    Instant::now()
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let durable = rng.chance(3, 4);
        let config = Config {
            handle_prefix: "H:s".into(),
            durable,
            retries_max: *rng.pick(&[None, None, Some(0), Some(1), Some(3)]).unwrap(),
            timeout_action: *rng
                .pick(&[TimeoutAction::Fail, TimeoutAction::Requeue])
                .unwrap(),
            wakeup: *rng
                .pick(&[
                    Wakeup::Auto,
                    Wakeup::Auto,
                    Wakeup::All,
                    Wakeup::Count(1),
                    Wakeup::Count(3),
                ])
                .unwrap(),
            retry: if rng.chance(1, 2) {
                BTreeMap::from([(Bytes::from_static(b"a"), RETRY)])
            } else {
                BTreeMap::new()
            },
            is_loss_failure: rng.chance(1, 8),
            is_round_robin: rng.chance(7, 8),
            jobs_max: *rng.pick(&[0, 0, 20, 200]).unwrap(),
            dead_max: if durable && rng.chance(1, 2) {
                2
            } else {
                10_000
            },
            ..Config::default()
        };
        let now = origin();
        Self {
            server: JobServer::new(config.clone(), now, EPOCH_MS),
            rng,
            step: 0,
            now,
            clock_ms: EPOCH_MS,
            config,
            peers: BTreeMap::new(),
            next_conn: 0,
            store_queue: VecDeque::new(),
            rows: BTreeMap::new(),
            dead_rows: BTreeMap::new(),
            schedule_rows: BTreeMap::new(),
            schedule_ids: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            buried: BTreeSet::new(),
            ended: BTreeMap::new(),
            trace: String::new(),
        }
    }

    fn act(&mut self) {
        match self.rng.below(100) {
            0..6 => self.connect(),
            6..10 => self.close_one(),
            10..45 => self.client_act(),
            45..80 => self.worker_act(),
            80..88 => self.pass_time(),
            88..96 => self.store_act(),
            96..99 => self.operator_act(),
            _ => {
                if self.rng.chance(1, 3) {
                    self.crash();
                }
            }
        }
        if self.rng.chance(1, 4) {
            self.settle_early();
        } else {
            self.settle();
        }
    }

    fn note(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.trace, "{} {line}", self.step).unwrap();
    }

    fn connect(&mut self) {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.note(format_args!("connect {}", conn.0));
        self.peers.insert(conn, Peer::default());
        self.server.handle(self.now, Input::Connected(conn));
    }

    fn some_peer(&mut self) -> Option<ConnId> {
        let conns: Vec<ConnId> = self.peers.keys().copied().collect();
        self.rng.pick(&conns).copied()
    }

    fn close_one(&mut self) {
        let Some(conn) = self.some_peer() else { return };
        self.note(format_args!("close {}", conn.0));
        self.peers.remove(&conn);
        self.server.handle(self.now, Input::Closed(conn));
    }

    fn send(&mut self, conn: ConnId, request: Request<'_>) {
        self.note(format_args!("{} -> {request:?}", conn.0));
        self.server.handle(self.now, Input::Packet(conn, request));
    }

    fn expect(&mut self, conn: ConnId, due: Due) {
        self.peers.get_mut(&conn).unwrap().expected.push_back(due);
    }

    fn client_act(&mut self) {
        let Some(conn) = self.some_peer() else { return };
        let function = self.rng.pick(&FUNCTIONS).unwrap().as_bytes();
        let unique = *self.rng.pick(&["", "", "-", "k1", "k2", "k3"]).unwrap();
        let workload = *self.rng.pick(&["", "w1", "w2"]).unwrap();
        let priority = *self.rng.pick(&Priority::ALL).unwrap();
        match self.rng.below(12) {
            0..5 => {
                self.expect(conn, Due::Created(Mode::Foreground));
                let submit = Submit::new(function, unique.as_bytes(), workload.as_bytes())
                    .priority(priority);
                self.send(conn, Request::Submit(submit));
            }
            5..9 => {
                self.expect(conn, Due::Created(Mode::Background));
                let at = (self.clock_ms / 1000 + self.rng.below(20)).to_string();
                let submit = Submit {
                    epoch: self.rng.chance(1, 4).then_some(at.as_bytes()),
                    schedule: self
                        .rng
                        .chance(1, 12)
                        .then_some([b"*/2", b"", b"*", b"*", b"*"]),
                    ..Submit::new(function, unique.as_bytes(), workload.as_bytes())
                        .priority(priority)
                        .background()
                };
                self.send(conn, Request::Submit(submit));
            }
            9 => {
                self.expect(conn, Due::Echo);
                self.send(conn, Request::Echo { data: b"e" });
            }
            10 => {
                self.expect(conn, Due::Status);
                let handle = format!("H:s:{}", self.rng.below(100));
                self.send(
                    conn,
                    Request::GetStatus {
                        handle: handle.as_bytes(),
                    },
                );
            }
            _ => {
                self.expect(conn, Due::Option);
                let name = *self
                    .rng
                    .pick(&[
                        "exceptions",
                        "cancel",
                        "heartbeat",
                        "no-workers-fail",
                        "nonsense",
                    ])
                    .unwrap();
                self.send(
                    conn,
                    Request::Option {
                        name: name.as_bytes(),
                    },
                );
            }
        }
    }

    fn worker_act(&mut self) {
        let Some(conn) = self.some_peer() else { return };
        let function = self.rng.index(FUNCTIONS.len());
        let name = FUNCTIONS[function].as_bytes();
        match self.rng.below(20) {
            0..3 => {
                if self.rng.chance(1, 2) {
                    self.send(conn, Request::CanDo { function: name });
                } else {
                    self.send(
                        conn,
                        Request::CanDoTimeout {
                            function: name,
                            timeout: b"3",
                        },
                    );
                }
            }
            3 => {
                if self.rng.chance(1, 3) {
                    self.send(conn, Request::ResetAbilities);
                } else {
                    self.send(conn, Request::CantDo { function: name });
                }
            }
            4..9 => {
                self.expect(conn, Due::Job(self.step));
                let form = *self
                    .rng
                    .pick(&[Grab::Plain, Grab::Unique, Grab::All])
                    .unwrap();
                self.send(conn, Request::GrabJob(form));
            }
            9..12 => self.send(conn, Request::PreSleep),
            _ => self.report(conn),
        }
    }

    /// A report about a held job, or sometimes about any job.
    fn report(&mut self, conn: ConnId) {
        let holding = &self.peers[&conn].holding;
        let job = match self.rng.pick(holding) {
            Some(job) if self.rng.chance(9, 10) => *job,
            _ => JobId(self.rng.below(60)),
        };
        let text = format!("H:s:{}", job.0);
        let handle = text.as_bytes();
        let is_held = self
            .server
            .job(self.now, handle)
            .is_some_and(|j| j.state == ibex_gearman_core::JobState::Running(conn));
        if is_held && !self.peers[&conn].holding.contains(&job) {
            // The assignment is still behind a held reply: no worker knows of it.
            return;
        }
        if !is_held {
            // Behind a held reply nobody could tell whose ERROR it is.
            if self.server.held_replies(conn) > 0 {
                return;
            }
            self.expect(conn, Due::MaybeError);
        }
        let request = match self.rng.below(10) {
            0 => Request::WorkStatus {
                handle,
                numerator: b"1",
                denominator: b"2",
            },
            1 => Request::WorkData { handle, data: b"d" },
            2 => Request::WorkWarning { handle, data: b"w" },
            3 => Request::WorkFail { handle },
            4 => Request::WorkException { handle, data: b"x" },
            5 => Request::Nack {
                handle,
                delay: b"2",
                data: b"",
            },
            6 => Request::Touch { handle },
            _ => Request::WorkComplete { handle, data: b"r" },
        };
        let is_end = matches!(
            request,
            Request::WorkFail { .. } | Request::WorkException { .. } | Request::WorkComplete { .. }
        );
        let comes_again = is_held
            && !matches!(request, Request::WorkComplete { .. })
            && self.server.job(self.now, handle).is_some_and(|job| {
                job.is_background && self.config.retry.contains_key(&job.function)
            });
        if is_held && is_end && !comes_again {
            self.ended.insert(job, self.step);
            self.acknowledged.remove(&job);
        }
        self.peers
            .get_mut(&conn)
            .unwrap()
            .holding
            .retain(|j| *j != job || !is_end);
        self.send(conn, request);
    }

    fn pass_time(&mut self) {
        let ms = *self
            .rng
            .pick(&[1, 49, 50, 999, 1000, 3000, 20_000])
            .unwrap();
        self.note(format_args!("pass {ms} ms"));
        self.now += Duration::from_millis(ms);
        self.clock_ms += ms;
        if self.rng.chance(1, 6) {
            // Somebody sets the wall clock, back or forth.
            self.clock_ms = EPOCH_MS + self.rng.below(100_000);
            self.server.handle(self.now, Input::Clock(self.clock_ms));
        }
        // A shell is called at the deadline or late, or too early.
        self.server.handle_timeout(self.now);
        assert!(
            self.server.poll_timeout().is_none_or(|at| at > self.now),
            "what is due was done"
        );
    }

    /// The store does some of what it was asked, in order.
    fn store_act(&mut self) {
        for _ in 0..=self.rng.below(6) {
            let Some(request) = self.store_queue.pop_front() else {
                return;
            };
            self.note(format_args!("store does {request:?}"));
            match request {
                Output::Persist(job) | Output::Revive(job) => {
                    let id = job.id;
                    if self.rng.chance(1, 8) {
                        self.server.handle(self.now, Input::PersistFailed(id));
                    } else {
                        self.dead_rows.remove(&id);
                        self.rows.insert(id, job);
                        self.server.handle(self.now, Input::Persisted(id));
                    }
                }
                Output::Attempt {
                    job,
                    attempts,
                    due_ms,
                } => {
                    if let Some(row) = self.rows.get_mut(&job) {
                        (row.attempts, row.due_ms) = (attempts, due_ms);
                    }
                }
                Output::Forget(job) => {
                    self.rows.remove(&job);
                    self.dead_rows.remove(&job);
                }
                Output::Bury { job, .. } => {
                    if let Some(row) = self.rows.remove(&job) {
                        self.dead_rows.insert(job, row);
                    }
                }
                Output::KeepSchedule(schedule) => {
                    let is_refused = self.rng.chance(1, 8);
                    let id = schedule.id;
                    // A commit that failed for the server may have been done all the same.
                    if !is_refused || self.rng.chance(1, 2) {
                        let name = (schedule.function.clone(), schedule.unique.clone());
                        self.schedule_rows.insert(name, schedule);
                    }
                    let outcome = if is_refused {
                        Input::PersistFailed(id)
                    } else {
                        Input::Persisted(id)
                    };
                    self.server.handle(self.now, outcome);
                }
                Output::RestoreSchedule(schedule) => {
                    let name = (schedule.function.clone(), schedule.unique.clone());
                    self.schedule_rows.insert(name, schedule);
                }
                Output::MoveSchedule {
                    function,
                    unique,
                    next_ms,
                } => {
                    if let Some(row) = self.schedule_rows.get_mut(&(function, unique)) {
                        row.next_ms = next_ms;
                    }
                }
                Output::DropSchedule { function, unique } => {
                    self.schedule_rows.remove(&(function, unique));
                }
                Output::Send(..) | Output::Text(..) => unreachable!("not for the store"),
            }
            self.settle();
        }
    }

    fn operator_act(&mut self) {
        let name = self.rng.pick(&FUNCTIONS).unwrap().as_bytes();
        let now = self.now;
        let act = self.rng.below(11);
        self.note(format_args!("operator {act} {}", name.escape_ascii()));
        match act {
            0 => {
                let id = JobId(self.rng.below(100));
                let outcome = self
                    .server
                    .cancel_job(now, format!("H:s:{}", id.0).as_bytes());
                if outcome == ibex_gearman_core::CancelOutcome::Cancelled {
                    self.ended.insert(id, self.step);
                    self.acknowledged.remove(&id);
                }
            }
            1 => {
                let waiting: Vec<_> = self
                    .server
                    .jobs(now)
                    .into_iter()
                    .filter(|j| {
                        j.function == name && j.state == ibex_gearman_core::JobState::Waiting
                    })
                    .collect();
                assert_eq!(self.server.purge(now, name, None), waiting.len());
                for job in waiting {
                    let id = number_of(job.handle.as_ref());
                    self.ended.insert(id, self.step);
                    self.acknowledged.remove(&id);
                }
            }
            2 => {
                let limits = [self.shrunk(), self.shrunk(), self.shrunk()];
                self.server.limit_queue(name, QueueLimits(limits));
            }
            3 => {
                let max = self.shrunk();
                self.server.limit_running(now, name, max);
            }
            4 => {
                let (rate, burst) = (self.shrunk(), self.shrunk());
                self.server.limit_rate(now, name, rate, burst);
            }
            5 => self.server.pause(now, name, true),
            6 => self.server.pause(now, name, false),
            7 => {
                let is_draining = self.rng.chance(1, 3);
                self.server.drain(is_draining);
            }
            8 => {
                self.server
                    .retry_dead(now, self.rng.chance(1, 2).then_some(name));
            }
            9 => {
                let unique = *self.rng.pick(&["", "-", "k1", "k2", "k3"]).unwrap();
                self.server.drop_schedule(name, unique.as_bytes());
            }
            _ => {
                self.server.drop_function(name);
            }
        }
    }

    fn shrunk(&mut self) -> u32 {
        *self.rng.pick(&[0, 0, 1, 2, 50]).unwrap()
    }

    /// kill -9: connections and everything in memory are gone, and so is what the store had not done.
    fn crash(&mut self) {
        self.note(format_args!("crash"));
        if self.config.durable {
            for s in self.server.schedules() {
                let name = (s.function, s.unique);
                assert!(
                    self.schedule_rows.contains_key(&name),
                    "an acknowledged recurring job is not in the store"
                );
            }
        }
        self.peers.clear();
        self.store_queue.clear();
        // A burial that had not reached the disk did not happen.
        self.buried.clear();
        let first_job = self.server.next_job_number() + 1000;
        let config = Config {
            first_job,
            ..self.config.clone()
        };
        self.server = JobServer::new(config, self.now, self.clock_ms);
        if !self.config.durable {
            self.acknowledged.clear();
            self.rows.clear();
            self.schedule_rows.clear();
            return;
        }
        for (id, row) in self.rows.clone() {
            // A worker's end that had not reached the disk comes back: at least once, never lost.
            self.ended.remove(&id);
            self.server.handle(self.now, Input::Restored(row));
        }
        for (_, row) in self.schedule_rows.clone() {
            self.server.handle(self.now, Input::RestoredSchedule(row));
        }
        for (_, row) in self.dead_rows.clone() {
            self.server
                .handle(self.now, Input::RestoredDead(row, "before".into()));
        }
        for id in &self.acknowledged {
            assert!(
                self.rows.contains_key(id) || self.dead_rows.contains_key(id),
                "acknowledged job {} is not in the store",
                id.0
            );
        }
    }

    /// What may leave amid a batch goes through the model; nothing is decided yet, so invariants wait.
    fn settle_early(&mut self) {
        while let Some(output) = self.server.poll_output_early() {
            self.take_output(output);
        }
        // What may answer a report has answered.
        for (conn, peer) in &mut self.peers {
            if self.server.held_replies(*conn) == 0 {
                peer.expected.retain(|due| *due != Due::MaybeError);
            }
        }
    }

    /// Drains the outputs through the model, then checks the invariants.
    fn settle(&mut self) {
        while let Some(output) = self.server.poll_output() {
            self.take_output(output);
        }
        for dead in self.server.dead() {
            self.acknowledged.remove(&number_of(dead.handle.as_ref()));
        }
        self.server.check_invariants(self.now);
        for (conn, peer) in &mut self.peers {
            if self.server.held_replies(*conn) == 0 {
                peer.expected.retain(|due| *due != Due::MaybeError);
                assert!(
                    peer.expected.is_empty(),
                    "{} still waits for {:?}",
                    conn.0,
                    peer.expected
                );
            }
        }
    }

    fn take_output(&mut self, output: Output) {
        self.note(format_args!("  {output:?}"));
        match output {
            Output::Send(conn, reply) => self.hear(conn, &reply),
            Output::Text(..) => unreachable!("nobody asked for text"),
            store @ (Output::Persist(_)
            | Output::Revive(_)
            | Output::Attempt { .. }
            | Output::Forget(_)
            | Output::Bury { .. }
            | Output::KeepSchedule(_)
            | Output::RestoreSchedule(_)
            | Output::MoveSchedule { .. }
            | Output::DropSchedule { .. }) => {
                if let Output::KeepSchedule(schedule) = &store {
                    self.schedule_ids.insert(schedule.id);
                }
                if let Output::Bury { job, .. } = &store {
                    self.buried.insert(*job);
                    self.acknowledged.remove(job);
                }
                if let Output::Revive(job) = &store {
                    self.buried.remove(&job.id);
                }
                self.store_queue.push_back(store);
            }
        }
    }

    fn is_schedule(&self, reply: &Reply) -> bool {
        let Reply::JobCreated { handle } = reply else {
            return false;
        };
        let handle = handle.as_ref();
        self.schedule_ids.contains(&number_of(handle))
            || self.server.schedules().any(|s| s.handle.as_ref() == handle)
    }

    fn hear(&mut self, conn: ConnId, reply: &Reply) {
        let is_schedule = self.is_schedule(reply);
        let peer = self
            .peers
            .get_mut(&conn)
            .expect("nothing is sent to the gone");
        let mut due = |wanted: &[Due]| loop {
            let next = peer
                .expected
                .pop_front()
                .unwrap_or_else(|| panic!("{reply:?} was not asked for"));
            if wanted.contains(&next) || wanted.is_empty() && matches!(next, Due::Job(_)) {
                return next;
            }
            assert_eq!(next, Due::MaybeError, "{reply:?} came out of order");
        };
        match reply {
            Reply::JobCreated { handle } => {
                let id = number_of(handle.as_ref());
                match due(&[
                    Due::Created(Mode::Foreground),
                    Due::Created(Mode::Background),
                ]) {
                    Due::Created(Mode::Foreground) => {
                        // It may have joined a job and that job may have ended in between only if it was gone, which the server never does for foreground.
                        *peer.open.entry(id).or_insert(0) += 1;
                    }
                    Due::Created(Mode::Background) if is_schedule => {}
                    Due::Created(Mode::Background)
                    | Due::Job(_)
                    | Due::Status
                    | Due::Echo
                    | Due::Option
                    | Due::MaybeError => {
                        if self.config.durable
                            && !self.ended.contains_key(&id)
                            && !self.dead_rows.contains_key(&id)
                            && !self.buried.contains(&id)
                        {
                            assert!(
                                self.rows.contains_key(&id),
                                "job {} was acknowledged before it was stored",
                                id.0
                            );
                        }
                        if !self.ended.contains_key(&id) && !self.buried.contains(&id) {
                            self.acknowledged.insert(id);
                        }
                    }
                }
            }
            Reply::Error { .. } => {
                let answered = [
                    Due::Created(Mode::Foreground),
                    Due::Created(Mode::Background),
                    Due::Option,
                    Due::Status,
                    Due::MaybeError,
                ];
                due(&answered);
            }
            Reply::JobAssign { handle, .. }
            | Reply::JobAssignUnique { handle, .. }
            | Reply::JobAssignAll { handle, .. } => {
                let Due::Job(asked) = due(&[]) else {
                    unreachable!("only jobs are asked for without a list")
                };
                let id = number_of(handle.as_ref());
                // Behind a held reply an assignment may come after the job was taken back and ended; never one of a job that was gone when the grab came.
                let ended = self.ended.get(&id);
                assert!(
                    ended.is_none_or(|step| *step >= asked),
                    "job {} ended and was handed out again",
                    id.0
                );
                peer.holding.push(id);
            }
            Reply::NoJob => drop(due(&[])),
            Reply::Status { .. } => drop(due(&[Due::Status])),
            Reply::Echo { .. } => drop(due(&[Due::Echo])),
            Reply::Option { .. } => drop(due(&[Due::Option])),
            Reply::WorkComplete { handle, .. }
            | Reply::WorkFail { handle }
            | Reply::WorkException { handle, .. } => {
                let id = number_of(handle.as_ref());
                match peer.open.get_mut(&id) {
                    Some(1) => drop(peer.open.remove(&id)),
                    Some(count) => *count -= 1,
                    // With the option `cancel`, a worker is told that its job is wanted no more.
                    None => peer.holding.retain(|job| *job != id),
                }
            }
            Reply::WorkStatus { handle, .. }
            | Reply::WorkData { handle, .. }
            | Reply::WorkWarning { handle, .. } => {
                assert!(
                    peer.open.contains_key(&number_of(handle.as_ref())),
                    "a relay for somebody who does not wait"
                );
            }
            // It may come late, behind held replies, to somebody who is no worker any more.
            Reply::Noop => {}
            Reply::StatusUnique { .. } => unreachable!("not asked for"),
        }
    }

    /// A patient worker and a healthy store drain everything to zero.
    fn finish(&mut self) {
        self.step = STEPS;
        self.server.drain(false);
        while !self.store_queue.is_empty() {
            self.store_act();
        }
        for s in self.server.schedules().collect::<Vec<_>>() {
            assert!(self.server.drop_schedule(&s.function, &s.unique));
        }
        for name in FUNCTIONS {
            let name = name.as_bytes();
            self.server.limit_running(self.now, name, 0);
            self.server.limit_rate(self.now, name, 0, 0);
            self.server.pause(self.now, name, false);
        }
        self.settle();
        self.connect();
        let patient = ConnId(self.next_conn);
        for other in self
            .peers
            .keys()
            .copied()
            .filter(|c| *c != patient)
            .collect::<Vec<_>>()
        {
            self.peers.remove(&other);
            self.server.handle(self.now, Input::Closed(other));
            self.settle();
        }
        for name in FUNCTIONS {
            self.send(
                patient,
                Request::CanDo {
                    function: name.as_bytes(),
                },
            );
        }
        for _ in 0..10_000 {
            while !self.store_queue.is_empty() {
                self.store_act();
            }
            if self.server.job_count() == 0 {
                break;
            }
            self.now += Duration::from_secs(120);
            self.clock_ms += 120_000;
            self.server.handle_timeout(self.now);
            self.settle();
            self.expect(patient, Due::Job(self.step));
            self.send(patient, Request::GrabJob(Grab::Plain));
            self.settle();
            for job in std::mem::take(&mut self.peers.get_mut(&patient).unwrap().holding) {
                self.ended.insert(job, self.step);
                self.acknowledged.remove(&job);
                self.send(
                    patient,
                    Request::WorkComplete {
                        handle: format!("H:s:{}", job.0).as_bytes(),
                        data: b"",
                    },
                );
                self.settle();
            }
        }
        assert_eq!(self.server.job_count(), 0, "jobs are left");
        assert!(self.schedule_rows.is_empty(), "recurring jobs are left");
        assert!(
            self.rows.is_empty(),
            "rows are left: {:?}",
            self.rows.keys()
        );
        assert!(
            self.acknowledged.is_empty(),
            "acknowledged and lost: {:?}",
            self.acknowledged
        );
        assert_eq!(self.server.workload_bytes(), 0);
    }
}

fn number_of(handle: &[u8]) -> JobId {
    let text = std::str::from_utf8(handle).unwrap();
    JobId(text.strip_prefix("H:s:").unwrap().parse().unwrap())
}
