//! A simulation of the job server under hostile schedules: one seed, one trace.
//!
//! Workers die between any two packets, clients leave, replies of the store come late, fail or are lost with the whole server, workloads leave memory and are
//! fetched, lost or not found, clocks jump, limits shrink below what is there, connections ask for every extension. After every step the invariants are
//! checked, and the outputs against a small model (`model.rs`): replies come in order, every foreground submission ends exactly once, nobody waits for a job
//! that is gone, a result is what the worker said, a workload what the client sent, and a background job that was acknowledged is never lost. At the end a
//! patient worker drains everything to zero.
//!
//! `acts.rs` has what clients, workers, operators and time do, `store.rs` the store and its crashes.
//!
//! `IBEX_SIM_SEED=n` replays one seed, `IBEX_SIM_SEEDS=n` widens the run.

mod acts;
mod model;
mod store;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ibex_base::rng::Rng;
use ibex_gearman_core::{
    Config, ConnId, End, Input, JobId, JobServer, Output, RetryPolicy, StoredJob, StoredResult,
    StoredSchedule, TimeoutAction, Wakeup,
};
use ibex_gearman_proto::{Grab, Request};

use model::{Due, Peer};

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
        let short = |line: &'_ str| line.chars().take(300).collect::<String>();
        let trace = sim.trace.lines().rev().take(40).map(short);
        let trace = trace.collect::<Vec<_>>();
        let trace = trace.into_iter().rev().collect::<Vec<_>>().join("\n");
        eprintln!(
            "seed {seed} broke at step {}; IBEX_SIM_SEED={seed} replays it. Last lines:\n{trace}",
            sim.step
        );
        std::panic::resume_unwind(panic);
    }
    sim.trace
}

/// The job server, the world around it, and what the world knows.
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
    /// Workloads the store is asked for; it may answer them in any order.
    fetches: Vec<JobId>,
    /// Rows that would survive a crash.
    rows: BTreeMap<JobId, StoredJob>,
    dead_rows: BTreeMap<JobId, StoredJob>,
    result_rows: BTreeMap<JobId, StoredResult>,
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
    /// Jobs whose rows somebody deleted behind the server's back.
    vanished: BTreeSet<JobId>,
    /// What a worker said at the end of a job.
    ends: BTreeMap<JobId, End>,
    /// Workloads of jobs that were to be stored.
    workloads: BTreeMap<JobId, Bytes>,
    /// WORK_COMPLETEs of jobs that were held.
    completed: u64,
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
        let config = policies(&mut rng);
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
            fetches: Vec::new(),
            rows: BTreeMap::new(),
            dead_rows: BTreeMap::new(),
            result_rows: BTreeMap::new(),
            schedule_rows: BTreeMap::new(),
            schedule_ids: BTreeSet::new(),
            acknowledged: BTreeSet::new(),
            buried: BTreeSet::new(),
            ended: BTreeMap::new(),
            vanished: BTreeSet::new(),
            ends: BTreeMap::new(),
            workloads: BTreeMap::new(),
            completed: 0,
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

    /// A patient worker and a healthy store drain everything to zero.
    fn finish(&mut self) {
        self.step = STEPS;
        self.server.drain(false);
        self.calm_the_store();
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
            self.calm_the_store();
            if self.server.job_count() == 0 {
                break;
            }
            self.now += Duration::from_secs(120);
            self.clock_ms += 120_000;
            self.server.handle_timeout(self.now);
            self.settle();
            let due = Due::Job(self.step, self.now);
            self.expect(patient, due);
            self.send(patient, Request::GrabJob(Grab::Plain));
            self.settle();
            self.calm_the_store();
            for job in std::mem::take(&mut self.peers.get_mut(&patient).unwrap().holding) {
                self.end(job, Some(End::Complete(Bytes::new())));
                self.completed += 1;
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
        assert!(self.result_rows.len() <= self.server.kept_results().0);
        assert_eq!((self.server.away().jobs, self.server.away().bytes), (0, 0));
        assert!(
            self.acknowledged.is_empty(),
            "acknowledged and lost: {:?}",
            self.acknowledged
        );
        assert_eq!(self.server.workload_bytes(), 0);
    }
}

/// Policies by chance.
fn policies(rng: &mut Rng) -> Config {
    let durable = rng.chance(3, 4);
    Config {
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
        grab_hold: Duration::from_millis(*rng.pick(&[0, 0, 50, 1000]).unwrap()),
        retry: if rng.chance(1, 2) {
            BTreeMap::from([(Bytes::from_static(b"a"), RETRY)])
        } else {
            BTreeMap::new()
        },
        is_loss_failure: rng.chance(1, 8),
        is_round_robin: rng.chance(7, 8),
        jobs_max: *rng.pick(&[0, 0, 20, 200]).unwrap(),
        // Room for a few workloads, or for many.
        workload_bytes_max: *rng.pick(&[0, 4_000, 8_000, 1 << 20]).unwrap(),
        result_ttl: rng.chance(1, 2).then_some(Duration::from_secs(10)),
        results_bytes_max: *rng.pick(&[1_000, 64 << 20]).unwrap(),
        hash_seed: rng.next_u64(),
        dead_max: if durable && rng.chance(1, 2) {
            2
        } else {
            10_000
        },
        ..Config::default()
    }
}

fn number_of(handle: &[u8]) -> JobId {
    let text = std::str::from_utf8(handle).unwrap();
    JobId(text.strip_prefix("H:s:").unwrap().parse().unwrap())
}
