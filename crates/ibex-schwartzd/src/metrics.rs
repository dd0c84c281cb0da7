//! Every metric of the daemon.

use ibex_kit::LabelCap;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// A function, capped as `metrics.max_names` says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FuncLabels {
    pub(crate) func: String,
}

/// A database, by its place in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DbLabels {
    pub(crate) db: usize,
}

/// Counters per function.
type Funcs = Family<FuncLabels, Counter>;

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
    pub(crate) lease_lost: Counter,
    pub(crate) pokes: Counter,
    pub(crate) pokes_failed: Counter,
    pub(crate) requests: Counter,
    pub(crate) insert_seconds: Histogram,
    pub(crate) pickup_seconds: Histogram,
    pub(crate) run_seconds: Histogram,
    pub(crate) group_jobs: Histogram,
    pub(crate) waiters: Gauge,
    pub(crate) leases: Gauge,
    pub(crate) db_up: Family<DbLabels, Gauge>,
    pub(crate) leader: Family<DbLabels, Gauge>,
    pub(crate) ready: Family<FuncLabels, Gauge>,
    pub(crate) running: Family<FuncLabels, Gauge>,
    pub(crate) scheduled: Family<FuncLabels, Gauge>,
    pub(crate) blocked: Family<FuncLabels, Gauge>,
    pub(crate) oldest: Family<FuncLabels, Gauge>,
}

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
            lease_lost: Counter::default(),
            pokes: Counter::default(),
            pokes_failed: Counter::default(),
            requests: Counter::default(),
            insert_seconds: seconds(),
            pickup_seconds: seconds(),
            run_seconds: seconds(),
            group_jobs: Histogram::new([
                1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0,
            ]),
            waiters: Gauge::default(),
            leases: Gauge::default(),
            db_up: Family::default(),
            ready: Family::default(),
            running: Family::default(),
            scheduled: Family::default(),
            blocked: Family::default(),
            leader: Family::default(),
            oldest: Family::default(),
        };
        metrics.with(|registry| {
            new.declare_jobs(registry);
            new.declare_service(registry);
        });
        new
    }

    fn declare_jobs(&self, registry: &mut Registry) {
        registry.register(
            "schwartzd_jobs_inserted",
            "Jobs inserted through this daemon",
            self.inserted.clone(),
        );
        registry.register(
            "schwartzd_jobs_duplicate",
            "Inserts whose key was pending",
            self.duplicates.clone(),
        );
        registry.register(
            "schwartzd_jobs_grabbed",
            "Jobs handed out",
            self.grabbed.clone(),
        );
        registry.register(
            "schwartzd_jobs_completed",
            "Jobs completed",
            self.completed.clone(),
        );
        registry.register(
            "schwartzd_jobs_failed",
            "Jobs that failed for good",
            self.failed.clone(),
        );
        registry.register(
            "schwartzd_jobs_retried",
            "Failed runs that will be repeated",
            self.retried.clone(),
        );
        registry.register(
            "schwartzd_jobs_expired",
            "Leases that ran out and were counted as failures",
            self.expired.clone(),
        );
        registry.register(
            "schwartzd_lease_lost",
            "Finishes refused because another has the job or it is gone",
            self.lease_lost.clone(),
        );
    }

    fn declare_service(&self, registry: &mut Registry) {
        registry.register(
            "schwartzd_pokes",
            "Gearman jobs sent to wake workers",
            self.pokes.clone(),
        );
        registry.register(
            "schwartzd_pokes_failed",
            "Gearman jobs that could not be sent",
            self.pokes_failed.clone(),
        );
        registry.register(
            "schwartzd_requests",
            "HTTP requests answered",
            self.requests.clone(),
        );
        registry.register(
            "schwartzd_insert_commit_seconds",
            "Time from an insert request to its commit",
            self.insert_seconds.clone(),
        );
        registry.register(
            "schwartzd_pickup_seconds",
            "Time a fetch waited before it was answered with jobs",
            self.pickup_seconds.clone(),
        );
        registry.register(
            "schwartzd_run_seconds",
            "Time from hand-out to finish",
            self.run_seconds.clone(),
        );
        registry.register(
            "schwartzd_grab_jobs",
            "Jobs taken by one grab",
            self.group_jobs.clone(),
        );
        registry.register(
            "schwartzd_fetch_waiters",
            "Fetches that wait for jobs",
            self.waiters.clone(),
        );
        registry.register(
            "schwartzd_leases",
            "Jobs handed out and not finished",
            self.leases.clone(),
        );
        registry.register(
            "schwartzd_db_up",
            "Whether the database answers, by its place in the configuration",
            self.db_up.clone(),
        );
        registry.register(
            "schwartzd_queue_ready",
            "Jobs a worker may take",
            self.ready.clone(),
        );
        registry.register(
            "schwartzd_queue_grabbed",
            "Jobs workers have, of this daemon or not",
            self.running.clone(),
        );
        registry.register(
            "schwartzd_queue_scheduled",
            "Jobs whose time has not come",
            self.scheduled.clone(),
        );
        registry.register(
            "schwartzd_queue_blocked",
            "Jobs kept from all workers because their function is paused",
            self.blocked.clone(),
        );
        registry.register(
            "schwartzd_leader",
            "Whether this daemon leads the database's upkeep",
            self.leader.clone(),
        );
        registry.register(
            "schwartzd_oldest_ready_seconds",
            "How long the oldest ready job waits",
            self.oldest.clone(),
        );
    }

    /// The label of a function.
    pub(crate) fn func(&self, name: &str) -> FuncLabels {
        FuncLabels {
            func: self.cap.label(name.as_bytes()),
        }
    }

    /// Takes the depth of every function.
    pub(crate) fn depths(&self, counts: &[ibex_schwartz::FuncCount]) {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for count in counts {
            let labels = self.func(&count.funcname);
            self.ready.get_or_create(&labels).set(gauge(count.ready));
            self.running
                .get_or_create(&labels)
                .set(gauge(count.grabbed));
            self.scheduled
                .get_or_create(&labels)
                .set(gauge(count.scheduled));
            self.blocked
                .get_or_create(&labels)
                .set(gauge(count.blocked));
            self.oldest
                .get_or_create(&labels)
                .set(gauge(count.oldest_ready_age));
        }
    }
}
