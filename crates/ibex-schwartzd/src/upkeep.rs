//! What every daemon does without requests: noticing others' inserts, the second's tick, its own lost leases, depths; and cleaning, while it leads.
//!
//! Apart because none of it is in a request's way. Every task survives its database being away.

use crate::api::App;
use crate::leading::Seat;
use crate::metrics::Cause;
use crate::wal::Wal;
use ibex_kit::{Step, Worker, WorkerStatus};
use ibex_schwartz::{Client, Database, Error, Finish, FuncCount, LostLease, RetryPolicy};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the depths of all functions are counted for the metrics: the count reads an index once.
const DEPTHS_EVERY: Duration = Duration::from_secs(10);
/// A count that takes long is made the more rarely: at most a part in so many of the time is spent on it. A million jobs are counted in a third of a
/// second, so once in two minutes.
const DEPTHS_SHARE: u32 = 400;
/// All functions somebody waits for are asked about this often, and the more rarely the longer that takes: at most a part in so many of the time.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
const SWEEP_SHARE: u32 = 200;
/// How long nothing is thought of a function that has no job; a sweep comes sooner.
const QUIET_MAX: Duration = Duration::from_secs(3600);
/// A quiet database is cleaned this often.
const CLEAN_EVERY: Duration = Duration::from_secs(60);
/// A lease counts as lost only this long after its end: the clocks of database and daemon may differ by part of a second.
const LOST_GRACE: Duration = Duration::from_secs(2);
/// The first look after the log of a file was written to; a commit shows when its sync is done.
const LOOK_SOON: Duration = Duration::from_millis(1);
/// So long after a write looks follow each other closely: what is written shows when it is synced, some milliseconds later on most disks.
const LOOK_CLOSELY: Duration = Duration::from_millis(6);
/// A log that is written all the time begins the close looks anew this often: some eight hundred looks a second at most, which cost a twentieth of a
/// processor, and only while someone waits.
const TOLD_AGAIN: Duration = Duration::from_millis(8);
/// Longest pause of a watcher whose database is away.
const AWAY_MAX: Duration = Duration::from_secs(5);

/// When the next look at a database is due.
struct Looks {
    next: Instant,
    pause: Duration,
    told: Instant,
}

impl Looks {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            next: now,
            pause: LOOK_SOON,
            told: now,
        }
    }

    /// Whether to listen for writes; events that come meanwhile wait.
    fn is_listening(&self) -> bool {
        self.told.elapsed() >= TOLD_AGAIN
    }

    /// The log is being written: looks follow each other closely again.
    fn told(&mut self) {
        let now = Instant::now();
        *self = Self {
            next: now + LOOK_SOON,
            pause: LOOK_SOON,
            told: now,
        };
    }

    /// After a look: the next one follows closely for a while, then each is twice as far, `longest` at most.
    fn looked(&mut self, longest: Duration) {
        if self.told.elapsed() >= LOOK_CLOSELY {
            self.pause = (self.pause * 2).min(longest);
        }
        self.next = Instant::now() + self.pause;
    }
}

/// Notices jobs that others inserted into a database, as long as someone waits for jobs.
pub(crate) async fn watch(app: Arc<App>, database: Database) {
    let mut seen: Option<u64> = None;
    let mut pause_away = Duration::from_millis(100);
    let mut looks = Looks::new();
    let address = database.address();
    let file = address
        .strip_prefix("sqlite:")
        .filter(|_| database.is_file());
    let file = file.filter(|_| app.config.load().watch_files);
    let file = file.map(|file| Path::new(file.split_once('?').map_or(file, |(file, _)| file)));
    let mut wal = None;
    loop {
        if let (None, Some(file)) = (&wal, file) {
            // The file may come later, with its database.
            wal = Wal::watch(file).ok();
        }
        tokio::select! {
            () = tokio::time::sleep_until(looks.next.into()) => {}
            () = app.hub.look.notified() => {}
            () = written(wal.as_ref()), if looks.is_listening() => {
                looks.told();
                continue;
            }
        }
        let config = app.config.load_full();
        looks.looked(match wal {
            None if database.is_file() => config.sqlite_poll_interval.std(),
            None | Some(_) => config.poll_interval.std(),
        });
        if !app.hub.has_waiters() {
            // A fetch looks by itself before it waits.
            seen = None;
            continue;
        }
        match look(&app, &database, seen).await {
            Ok(newest) => {
                seen = Some(newest);
                pause_away = Duration::from_millis(100);
            }
            Err(error) => {
                tracing::debug!(database = %database.address(), error = %error, "database cannot be watched now");
                tokio::time::sleep(pause_away).await;
                pause_away = (pause_away * 2).min(AWAY_MAX);
            }
        }
    }
}

async fn written(wal: Option<&Wal>) {
    match wal {
        Some(wal) => wal.written().await,
        None => std::future::pending().await,
    }
}

async fn look(app: &App, database: &Database, seen: Option<u64>) -> Result<u64, Error> {
    let Some(seen) = seen else {
        let newest = app.client.newest(database).await?;
        // Whatever came before this look may have come after the fetches looked.
        app.hub.wake_each(Cause::Foreign);
        return Ok(newest);
    };
    let (newest, found) = app.client.newer(database, seen).await?;
    for (func, jobs) in found {
        app.hub.wake_for(Cause::Foreign, &func, jobs);
    }
    Ok(newest)
}

/// Once a second: jobs that became due, leases that ran out, whether the databases are up.
pub(crate) async fn tick(app: Arc<App>, check: ibex_kit::Check, beat: ibex_kit::Heartbeat) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut sweep = Instant::now();
    loop {
        ticks.tick().await;
        beat.beat();
        sweep = due(&app, sweep).await;
        lost(&app).await;
        app.metrics
            .leases
            .set(i64::try_from(app.leases.count()).unwrap_or(i64::MAX));
        let mut down = Vec::new();
        for (index, database) in app.client.databases().iter().enumerate() {
            if let Some(seat) = app.seats.get(index) {
                app.metrics
                    .leader
                    .get_or_create(&crate::metrics::DbLabels { db: index })
                    .set(i64::from(seat.leads()));
            }
            let is_up = !database.is_down();
            app.metrics
                .db_up
                .get_or_create(&crate::metrics::DbLabels { db: index })
                .set(i64::from(is_up));
            if !is_up {
                down.push(database.address());
            }
        }
        if down.len() == app.client.databases().len() {
            // Nobody else may ask while nothing comes in.
            match app.client.time().await {
                Ok(_) => check.ok(),
                Err(error) => check.failed(error.to_string()),
            }
        } else {
            check.ok();
        }
    }
}

/// Times are whole seconds, so something may have become due: one waiter of each function that has a job now. One question for all functions, however
/// many workers wait, and none about functions whose next job is known to be later; those are asked about again every [`SWEEP_EVERY`] for what other
/// programs did to their jobs. Answers when that is to be.
async fn due(app: &App, swept: Instant) -> Instant {
    let now = Instant::now();
    let is_sweep = swept <= now;
    let funcs = app.hub.perhaps_due(is_sweep);
    let mut next = swept;
    if !funcs.is_empty() {
        match app.client.next_due(&funcs).await {
            Ok(due) => tell_due(app, &funcs, &due, now),
            Err(error) => {
                // The waiting ones learn of it by looking themselves.
                tracing::debug!(error = %error, "nobody knows what is due");
                app.hub.tick();
            }
        }
    }
    if is_sweep {
        next = now + SWEEP_EVERY.max(now.elapsed() * SWEEP_SHARE);
    }
    next
}

/// Wakes who has something to do now, and notes for the others when that will be.
fn tell_due(app: &App, funcs: &[String], due: &BTreeMap<String, u64>, asked: Instant) {
    let mut later = Vec::with_capacity(funcs.len());
    for func in funcs {
        match due.get(func) {
            Some(0) => app.hub.wake_for(Cause::Tick, func, 1),
            // Both are whole seconds: it may be a second sooner.
            Some(seconds) => later.push((func.clone(), asked + Duration::from_secs(*seconds - 1))),
            None => later.push((func.clone(), asked + QUIET_MAX)),
        }
    }
    app.hub.quiet(later);
}

/// Leases of ours that ran out count as failures, so that a job that kills its workers ends.
async fn lost(app: &App) {
    for held in app.leases.take_expired(LOST_GRACE) {
        if !app.config.load().count_lost {
            continue;
        }
        let policy = held.policy();
        let lease = LostLease {
            jobid: held.jobid,
            value: held.value,
            funcname: held.func,
        };
        if let Err(error) = expire(app, &held.database, &lease, "lease expired", policy).await {
            tracing::debug!(job = lease.jobid, error = %error, "lost lease is left to the leader");
        }
    }
}

/// Counts one lease that ran out, or a run that takes too long, as a failed run, unless someone else has the job meanwhile.
pub(crate) async fn expire(
    app: &App,
    database: &Database,
    lease: &LostLease,
    message: &str,
    policy: Option<RetryPolicy>,
) -> Result<(), Error> {
    let LostLease {
        jobid,
        value,
        funcname: func,
    } = lease;
    let fail = Finish::Fail {
        message: message.to_owned(),
        status: 1,
        retry: policy.unwrap_or_else(|| app.retry_policy()),
        keep: app.config.load().keep_exit_status_for.std().as_secs(),
    };
    match database.finish_job(*jobid, *value, fail).await {
        Ok(_) => {
            app.events
                .tell("expired", func, &app.client.handle(database, *jobid));
            app.metrics
                .expired
                .get_or_create(&app.metrics.func(func))
                .inc();
            tracing::debug!(job = jobid, func, message, "counted as a failure");
            app.hub.wake(func, 1);
            Ok(())
        }
        // Someone else has it, or it was finished by another daemon.
        Err(Error::LeaseLost(_) | Error::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Wakes who waits for jobs that a limit, a parent or a batch let go.
pub(crate) async fn stirred(app: Arc<App>) {
    loop {
        for (func, jobs) in app.client.stirred().await {
            app.hub.wake(&func, jobs);
        }
    }
}

/// Counts all functions for the metrics and the status page.
pub(crate) async fn depths(app: Arc<App>) {
    loop {
        let started = Instant::now();
        if let Err(error) = count(&app).await {
            tracing::debug!(error = %error, "depths cannot be counted now");
        }
        tokio::time::sleep(DEPTHS_EVERY.max(started.elapsed() * DEPTHS_SHARE)).await;
    }
}

/// Counts all functions of every database that answers, for the metrics and the pages; what is not counted keeps its last figures in the metrics.
///
/// # Errors
/// The last database's, when none answers.
pub(crate) async fn count(app: &App) -> Result<Arc<Vec<FuncCount>>, Error> {
    let (mut by_db, mut last) = (Vec::new(), None);
    for (place, database) in app.client.databases().iter().enumerate() {
        match app.client.counts_of(database).await {
            Ok(counts) => by_db.push((place, counts)),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) if by_db.is_empty() => return Err(error),
        Some(error) => tracing::debug!(error = %error, "a database cannot be counted now"),
        None => {}
    }
    app.metrics.depths(&by_db);
    let counts = by_db.into_iter().flat_map(|(_, counts)| counts);
    let counts = Arc::new(FuncCount::sum(counts));
    app.depths.store(Arc::clone(&counts));
    Ok(counts)
}

/// Datagrams that say that others inserted; what they hold does not matter.
pub(crate) async fn datagrams(app: Arc<App>, socket: tokio::net::UdpSocket) {
    let mut buffer = [0; 512];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok(_) => app.look_now(),
            Err(error) => {
                tracing::debug!(error = %error, "poke socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// The policy of finishes that do not say: n^4 + 15 seconds and a random part that grows with n, `max_attempts` runs.
pub(crate) fn backoff(max_attempts: u32, seed: u64) -> RetryPolicy {
    RetryPolicy {
        max_retries: max_attempts.saturating_sub(1),
        retry_delay: Arc::new(move |failures| {
            let n = u64::from(failures);
            let random = ibex_base::rng::Rng::new(seed ^ n).below(30) * (n + 1);
            n.saturating_pow(4).saturating_add(15 + random)
        }),
        is_final: false,
    }
}

/// Removes old errors and exit statuses of one database, a chunk at a time.
pub(crate) struct Cleaner {
    pub(crate) client: Client,
    pub(crate) seat: Arc<Seat>,
    pub(crate) number: usize,
    pub(crate) done: u64,
}

impl Worker for Cleaner {
    fn name(&self) -> String {
        format!("clean-{}", self.number)
    }

    fn status(&self) -> WorkerStatus {
        WorkerStatus {
            done: self.done,
            total: None,
            note: if self.seat.leads() {
                "old errors and exit statuses"
            } else {
                "another daemon leads"
            }
            .to_owned(),
        }
    }

    async fn step(&mut self) -> Result<Step, anyhow::Error> {
        if !self.seat.leads() {
            return Ok(Step::Idle {
                wait: Duration::from_secs(5),
            });
        }
        match self.client.clean(&self.seat.database).await {
            Ok(0) => Ok(Step::Idle { wait: CLEAN_EVERY }),
            Ok(rows) => {
                self.done += rows;
                Ok(Step::Busy)
            }
            // The database being away is said once, by the readiness check.
            Err(error) if error.is_retryable() || error.is_database_down() => {
                Ok(Step::Idle { wait: CLEAN_EVERY })
            }
            Err(error) => Err(error.into()),
        }
    }
}
