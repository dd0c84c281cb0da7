//! Every metric of the daemon.
//!
//! What TheSchwartz's own specification names is there under that name (`schwartz_…`), too; it is the same counter. Names of functions come from
//! strangers, so the first `metrics.max_names` have series of their own and the others share one.

use ibex_kit::LabelCap;
use ibex_schwartz::FuncCount;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

/// A function, capped as `metrics.max_names` says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
pub(crate) struct FuncLabels {
    pub(crate) func: String,
}

/// A database, by its place in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DbLabels {
    pub(crate) db: usize,
}

/// A function in a database.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
pub(crate) struct QueueLabels {
    pub(crate) func: String,
    pub(crate) db: usize,
}

/// Why a waiting fetch was woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Cause {
    /// An insert, a finish or a resume through this daemon.
    Own,
    /// A job that another program inserted was seen.
    Foreign,
    /// The second's tick, or nobody knows what.
    Tick,
}

impl Cause {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Own => 0,
            Self::Foreign => 1,
            Self::Tick => 2,
        }
    }

    /// The cause of a code; of any other, the least that can be said.
    pub(crate) fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Own,
            1 => Self::Foreign,
            _ => Self::Tick,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Foreign => "foreign",
            Self::Tick => "tick",
        }
    }
}

/// Who told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CauseLabels {
    pub(crate) by: &'static str,
}

/// Counters per function.
type Funcs = Family<FuncLabels, Counter>;
type FuncGauges = Family<FuncLabels, Gauge>;
type QueueGauges = Family<QueueLabels, Gauge>;

/// What became of a function's jobs at this daemon since it started.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Since {
    pub(crate) inserted: u64,
    pub(crate) grabbed: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    pub(crate) retried: u64,
    pub(crate) expired: u64,
    /// Seconds of all runs that ended.
    pub(crate) run_seconds: f64,
}

/// The daemon's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    cap: LabelCap,
    pub(crate) inserted: Funcs,
    pub(crate) duplicates: Funcs,
    pub(crate) grabbed: Funcs,
    pub(crate) completed: Funcs,
    pub(crate) failed: Funcs,
    pub(crate) retried: Funcs,
    pub(crate) expired: Funcs,
    lease_lost: Funcs,
    pub(crate) pokes: Counter,
    pub(crate) pokes_failed: Counter,
    pub(crate) requests: Counter,
    pub(crate) handshakes_failed: Counter,
    pub(crate) repeats: Counter,
    pub(crate) insert_seconds: Histogram,
    pub(crate) pickup_seconds: Histogram,
    run_seconds: Histogram,
    run_sums: Family<FuncLabels, Counter<f64, AtomicU64>>,
    pub(crate) group_jobs: Histogram,
    pub(crate) waiters: Gauge,
    pub(crate) pickups: Family<CauseLabels, Counter>,
    pub(crate) leases: Gauge,
    pub(crate) workers: Gauge,
    pub(crate) db_up: Family<DbLabels, Gauge>,
    pub(crate) leader: Family<DbLabels, Gauge>,
    /// Ready, grabbed, scheduled, blocked.
    queue: [FuncGauges; 4],
    queue_by_db: [QueueGauges; 4],
    oldest: FuncGauges,
}

/// Declares a metric under the daemon's own name.
fn own(registry: &mut Registry, name: &str, help: &str, metric: impl Metric) {
    registry.register(format!("schwartzd_{name}"), help, metric);
}

const STATES: [(&str, &str); 4] = [
    ("ready", "Jobs a worker may take"),
    ("grabbed", "Jobs workers have, of this daemon or not"),
    ("scheduled", "Jobs whose time has not come"),
    (
        "blocked",
        "Jobs kept from all workers by a pause, a limit, a parent or a batch",
    ),
];

impl Metrics {
    pub(crate) fn register(metrics: &ibex_kit::Metrics, cap: LabelCap) -> Self {
        let seconds = || Histogram::new(ibex_kit::DURATION_BUCKETS);
        let new = Self {
            cap,
            inserted: Family::default(),
            duplicates: Family::default(),
            grabbed: Family::default(),
            completed: Family::default(),
            failed: Family::default(),
            retried: Family::default(),
            expired: Family::default(),
            lease_lost: Family::default(),
            pokes: Counter::default(),
            pokes_failed: Counter::default(),
            requests: Counter::default(),
            handshakes_failed: Counter::default(),
            repeats: Counter::default(),
            insert_seconds: seconds(),
            pickup_seconds: seconds(),
            run_seconds: seconds(),
            run_sums: Family::default(),
            group_jobs: Histogram::new([
                1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0,
            ]),
            waiters: Gauge::default(),
            pickups: Family::default(),
            leases: Gauge::default(),
            workers: Gauge::default(),
            db_up: Family::default(),
            leader: Family::default(),
            queue: Default::default(),
            queue_by_db: Default::default(),
            oldest: Family::default(),
        };
        metrics.with(|registry| {
            new.declare_jobs(registry);
            new.declare_times(registry);
            new.declare_service(registry);
        });
        metrics.with_foreign(|registry| new.declare_agreed(registry));
        new
    }

    fn declare_jobs(&self, registry: &mut Registry) {
        for (name, help, counter) in self.job_counters() {
            own(registry, &format!("jobs_{name}"), help, counter);
        }
        own(
            registry,
            "jobs_duplicate",
            "Inserts whose key was pending",
            self.duplicates.clone(),
        );
        own(
            registry,
            "lease_lost",
            "Finishes refused because another has the job or it is gone",
            self.lease_lost.clone(),
        );
        for ((name, help), gauge) in STATES.iter().zip(&self.queue) {
            own(registry, &format!("queue_{name}"), help, gauge.clone());
        }
        own(
            registry,
            "oldest_ready_seconds",
            "How long the oldest ready job waits",
            self.oldest.clone(),
        );
    }

    fn declare_times(&self, registry: &mut Registry) {
        for (name, help, histogram) in self.histograms() {
            own(registry, name, help, histogram);
        }
        own(
            registry,
            "runs_seconds",
            "Time all runs of a function took, from hand-out to finish",
            self.run_sums.clone(),
        );
        own(
            registry,
            "grab_jobs",
            "Jobs taken by one grab",
            self.group_jobs.clone(),
        );
    }

    fn declare_service(&self, registry: &mut Registry) {
        let counters = [
            (
                "pokes",
                "Gearman jobs sent to wake workers",
                self.pokes.clone(),
            ),
            (
                "pokes_failed",
                "Gearman jobs that could not be sent",
                self.pokes_failed.clone(),
            ),
            ("requests", "HTTP requests answered", self.requests.clone()),
            (
                "handshakes_failed",
                "Connections that ended before TLS was agreed on",
                self.handshakes_failed.clone(),
            ),
            (
                "insert_repeats",
                "Inserts answered as a repetition of an earlier one with the same Idempotency-Key",
                self.repeats.clone(),
            ),
        ];
        for (name, help, counter) in counters {
            own(registry, name, help, counter);
        }
        let gauges = [
            (
                "fetch_waiters",
                "Fetches that wait for jobs",
                self.waiters.clone(),
            ),
            (
                "leases",
                "Jobs handed out and not finished",
                self.leases.clone(),
            ),
            (
                "workers",
                "Workers with a name that asked this daemon within a minute",
                self.workers.clone(),
            ),
        ];
        for (name, help, gauge) in gauges {
            own(registry, name, help, gauge);
        }
        own(
            registry,
            "pickups",
            "Fetches that waited and got jobs, by who woke them",
            self.pickups.clone(),
        );
        own(
            registry,
            "db_up",
            "Whether the database answers, by its place in the configuration",
            self.db_up.clone(),
        );
        own(
            registry,
            "leader",
            "Whether this daemon leads the database's upkeep",
            self.leader.clone(),
        );
    }

    /// The names the specification of the job queue has, for dashboards that are made for it.
    fn declare_agreed(&self, registry: &mut Registry) {
        for (name, help, counter) in self.job_counters() {
            registry.register(format!("schwartz_jobs_{name}"), help, counter);
        }
        registry.register(
            "schwartz_jobs_lease_lost",
            "Finishes refused because another has the job or it is gone",
            self.lease_lost.clone(),
        );
        for ((name, help), gauge) in STATES.iter().zip(&self.queue_by_db) {
            registry.register(format!("schwartz_queue_{name}"), *help, gauge.clone());
        }
        for (name, help, histogram) in self.histograms() {
            registry.register(format!("schwartz_{name}"), help, histogram);
        }
        registry.register(
            "schwartz_group_size",
            "Jobs taken by one grab",
            self.group_jobs.clone(),
        );
        registry.register(
            "schwartz_oldest_ready_seconds",
            "How long the oldest ready job waits",
            self.oldest.clone(),
        );
        registry.register(
            "schwartz_db_state",
            "1 while the database answers, else 0; by its place in the configuration",
            self.db_up.clone(),
        );
        registry.register(
            "schwartz_fetch_waiters",
            "Fetches that wait for jobs",
            self.waiters.clone(),
        );
    }

    fn job_counters(&self) -> [(&'static str, &'static str, Funcs); 6] {
        [
            (
                "inserted",
                "Jobs inserted through this daemon",
                self.inserted.clone(),
            ),
            ("grabbed", "Jobs handed out", self.grabbed.clone()),
            ("completed", "Jobs completed", self.completed.clone()),
            ("failed", "Jobs that failed for good", self.failed.clone()),
            (
                "retried",
                "Failed runs that will be repeated",
                self.retried.clone(),
            ),
            (
                "expired",
                "Leases that ran out and were counted as failures",
                self.expired.clone(),
            ),
        ]
    }

    fn histograms(&self) -> [(&'static str, &'static str, Histogram); 3] {
        [
            (
                "insert_commit_seconds",
                "Time from an insert request to its commit",
                self.insert_seconds.clone(),
            ),
            (
                "pickup_seconds",
                "Time a fetch waited before it was answered with jobs",
                self.pickup_seconds.clone(),
            ),
            (
                "run_seconds",
                "Time from hand-out to finish",
                self.run_seconds.clone(),
            ),
        ]
    }

    /// The label of a function.
    pub(crate) fn func(&self, name: &str) -> FuncLabels {
        FuncLabels {
            func: self.cap.label(name.as_bytes()),
        }
    }

    /// A finish of a function's job came too late; the function may not be known any more.
    pub(crate) fn lost(&self, func: &str) {
        let func = if func.is_empty() { "unknown" } else { func };
        self.lease_lost.get_or_create(&self.func(func)).inc();
    }

    /// A run of a function's job ended after so many seconds.
    pub(crate) fn ran(&self, func: &str, seconds: f64) {
        self.run_seconds.observe(seconds);
        self.run_sums
            .get_or_create(&self.func(func))
            .inc_by(seconds);
    }

    /// What became of a function's jobs, for the page; of those beyond the cap all together.
    pub(crate) fn since(&self, name: &str) -> Since {
        let labels = self.func(name);
        let of = |family: &Funcs| family.get(&labels).map_or(0, |counter| counter.get());
        Since {
            inserted: of(&self.inserted),
            grabbed: of(&self.grabbed),
            completed: of(&self.completed),
            failed: of(&self.failed),
            retried: of(&self.retried),
            expired: of(&self.expired),
            run_seconds: self
                .run_sums
                .get(&labels)
                .map_or(0.0, |counter| counter.get()),
        }
    }

    /// Takes the depth of every function, by the place of each database.
    pub(crate) fn depths(&self, by_db: &[(usize, Vec<FuncCount>)]) {
        let mut sums: BTreeMap<FuncLabels, [u64; 4]> = BTreeMap::new();
        let mut parts: BTreeMap<QueueLabels, [u64; 4]> = BTreeMap::new();
        let mut oldest: BTreeMap<FuncLabels, u64> = BTreeMap::new();
        for (db, counts) in by_db {
            for count in counts {
                let labels = self.func(&count.funcname);
                let age = oldest.entry(labels.clone()).or_default();
                *age = count.oldest_ready_age.max(*age);
                let depths = [count.ready, count.grabbed, count.scheduled, count.blocked];
                let part = QueueLabels {
                    func: labels.func.clone(),
                    db: *db,
                };
                for sum in [
                    sums.entry(labels).or_default(),
                    parts.entry(part).or_default(),
                ] {
                    for (sum, depth) in sum.iter_mut().zip(depths) {
                        *sum += depth;
                    }
                }
            }
        }
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for (labels, depths) in &sums {
            for (family, depth) in self.queue.iter().zip(depths) {
                family.get_or_create(labels).set(gauge(*depth));
            }
        }
        for (labels, depths) in &parts {
            for (family, depth) in self.queue_by_db.iter().zip(depths) {
                family.get_or_create(labels).set(gauge(*depth));
            }
        }
        for (labels, age) in &oldest {
            self.oldest.get_or_create(labels).set(gauge(*age));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(funcname: &str, ready: u64) -> FuncCount {
        FuncCount {
            funcname: funcname.to_owned(),
            ready,
            grabbed: 1,
            scheduled: 0,
            blocked: 0,
            oldest_ready_age: ready,
            paused_until: None,
        }
    }

    #[test]
    fn functions_beyond_the_cap_are_summed_and_databases_kept_apart() {
        let registry = ibex_kit::Metrics::default();
        let metrics = Metrics::register(&registry, LabelCap::new(1));
        metrics.depths(&[
            (0, vec![count("a", 1), count("b", 2), count("c", 3)]),
            (1, vec![count("a", 10), count("b", 20)]),
        ]);
        let ready = |func: &str| {
            let labels = FuncLabels {
                func: func.to_owned(),
            };
            let [ready, ..] = &metrics.queue;
            ready.get_or_create(&labels).get()
        };
        let part = |func: &str, db: usize| {
            let labels = QueueLabels {
                func: func.to_owned(),
                db,
            };
            let [ready, ..] = &metrics.queue_by_db;
            ready.get_or_create(&labels).get()
        };
        assert_eq!((ready("a"), ready("other")), (11, 25));
        assert_eq!(
            (part("a", 0), part("other", 0), part("other", 1)),
            (1, 5, 20)
        );
        metrics.ran("z", 0.5);
        metrics.ran("y", 0.25);
        assert!((metrics.since("c").run_seconds - 0.75).abs() < 1e-9);
    }
}
