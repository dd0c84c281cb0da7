//! What one daemon per database does for all of them: leases of daemons that are gone, periodic jobs, parked jobs of paused functions and of limits.
//!
//! Apart from `upkeep`, which every daemon does for itself. Who leads is a row with an end in the database; every step is harmless when two
//! do it at once, because each row's change is conditional.

use crate::api::App;
use ibex_schwartz::{CatchUp, CronEntry, Database, Error, Schedule};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A leader that died is followed after this many seconds.
const LEADER_SECONDS: u64 = 15;
/// How often a leader says that it lives.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// A recorded lease counts as lost so many seconds after its end: the daemon that gave it out, if it lives, is faster.
const LOST_GRACE: u64 = 4;
/// A run that is later than this was missed.
const MISSED_SECONDS: i64 = 60;
/// Runs of one entry that are caught up at once.
const TICKS_MAX: usize = 1000;

/// One daemon's part in leading one database.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) database: Database,
    leads: AtomicBool,
}

impl Seat {
    pub(crate) fn new(database: Database) -> Self {
        Self {
            database,
            leads: AtomicBool::new(false),
        }
    }

    /// At a stop: the next leader need not wait.
    pub(crate) async fn resign(&self, holder: &str) {
        if self.leads.swap(false, Ordering::Relaxed)
            && let Err(error) = self.database.resign(holder).await
        {
            tracing::debug!(error = %error, "the next leader has to wait");
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }
}

/// Leads while it may, once a second.
pub(crate) async fn lead(app: Arc<App>, seat: Arc<Seat>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut asked: Option<Instant> = None;
    while !app.hub.closing.is_cancelled() {
        tokio::select! {
            _ = ticks.tick() => {}
            () = app.hub.closing.cancelled() => break,
        }
        if asked.is_none_or(|asked| asked.elapsed() >= RENEW_EVERY) {
            let leads = match seat.database.lead(&app.holder, LEADER_SECONDS).await {
                Ok(leads) => {
                    asked = Some(Instant::now());
                    leads
                }
                Err(error) => {
                    tracing::debug!(database = %seat.database.address(), error = %error, "nobody knows who leads");
                    false
                }
            };
            if leads != seat.leads.swap(leads, Ordering::Relaxed) {
                tracing::info!(database = %seat.database.address(), leads, "leader of the database's upkeep");
            }
        }
        if seat.leads()
            && let Err(error) = step(&app, &seat.database).await
        {
            tracing::debug!(database = %seat.database.address(), error = %error, "upkeep waits for the database");
        }
    }
}

async fn step(app: &Arc<App>, database: &Database) -> Result<(), Error> {
    if database.keep_paused().await? > 0 {
        app.hub.tick();
    }
    database.keep_wide().await?;
    for run in database.overdue().await? {
        let policy = app.leases.policy_on(database.hash(), run.jobid);
        crate::upkeep::expire(app, database, &run, "timeout", policy).await?;
    }
    lost(app, database).await?;
    for (entry, now) in database.cron_due().await? {
        fire(app, database, &entry, now).await?;
    }
    Ok(())
}

/// Counts leases that ran out and whose daemon did not.
async fn lost(app: &App, database: &Database) -> Result<(), Error> {
    loop {
        let lost = database.lost_leases(LOST_GRACE).await?;
        if lost.records.is_empty() {
            return Ok(());
        }
        if app.config.load().count_lost {
            for lease in &lost.leases {
                crate::upkeep::expire(app, database, lease, "lease expired", None).await?;
            }
        }
        database.forget_leases(&lost.records).await?;
    }
}

/// Inserts what is due of one periodic job.
async fn fire(
    app: &Arc<App>,
    database: &Database,
    entry: &CronEntry,
    now: i64,
) -> Result<(), Error> {
    let schedule = Schedule::parse(&entry.spec, &entry.zone)?;
    let (runs, next_at) = due(&schedule, entry, now);
    let jobs = match app.cron_job(entry) {
        Ok(job) => vec![job; runs],
        Err(refusal) => {
            tracing::warn!(
                name = entry.name,
                error = refusal.message,
                "periodic job cannot be inserted"
            );
            Vec::new()
        }
    };
    // Another daemon that was faster: nothing.
    if let Some(handles) = database.cron_fire(entry, next_at, &jobs).await?
        && let Some(job) = jobs.first()
    {
        for handle in &handles {
            app.metrics
                .inserted
                .get_or_create(&app.metrics.func(job.funcname()))
                .inc();
            app.poker.poke(job.funcname(), handle);
        }
        app.hub
            .wake(job.funcname(), u64::try_from(handles.len()).unwrap_or(1));
    }
    Ok(())
}

/// How many runs are to be inserted now, and when the next is due.
fn due(schedule: &Schedule, entry: &CronEntry, now: i64) -> (usize, i64) {
    let mut ticks = Vec::new();
    let mut tick = entry.next_at;
    while tick <= now && ticks.len() < TICKS_MAX {
        ticks.push(tick);
        match schedule.next(tick) {
            Some(next) => tick = next,
            None => return (ticks.len(), i64::MAX),
        }
    }
    if tick <= now {
        // More than can be caught up; those of the last minute may still be among them.
        let mut recent = schedule.next(now - MISSED_SECONDS);
        while let Some(next) = recent.filter(|next| *next <= now) {
            if next >= tick {
                ticks.push(next);
            }
            recent = schedule.next(next);
        }
        tick = recent.unwrap_or(i64::MAX);
    }
    let runs = match entry.catch_up {
        CatchUp::All => ticks.len(),
        CatchUp::One => 1,
        CatchUp::None => ticks
            .iter()
            .filter(|tick| **tick > now - MISSED_SECONDS)
            .count(),
    };
    (runs, tick)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(spec: &str, catch_up: CatchUp, late: i64) -> (usize, i64) {
        let schedule = Schedule::parse(spec, "").unwrap();
        let next_at = schedule.next(1_800_000_000).unwrap();
        let entry = CronEntry {
            name: "n".to_owned(),
            spec: spec.to_owned(),
            zone: String::new(),
            catch_up,
            template: String::new(),
            next_at,
            last_at: None,
        };
        let (runs, next) = due(&schedule, &entry, next_at + late);
        (runs, next - next_at)
    }

    #[test]
    fn missed_runs_are_caught_up_as_the_entry_says() {
        assert_eq!(runs("@hourly", CatchUp::None, 0), (1, 3600), "on time");
        assert_eq!(runs("@hourly", CatchUp::None, 59), (1, 3600), "late");
        assert_eq!(runs("@hourly", CatchUp::None, 61), (0, 3600), "missed");
        assert_eq!(runs("@hourly", CatchUp::None, 7201), (1, 10_800));
        assert_eq!(runs("@hourly", CatchUp::None, 9000), (0, 10_800));
        assert_eq!(runs("@hourly", CatchUp::One, 9000), (1, 10_800));
        assert_eq!(runs("@hourly", CatchUp::All, 9000), (3, 10_800));
        let (caught, next) = runs("@every 1s", CatchUp::All, 100_000);
        assert_eq!((caught, next), (TICKS_MAX + 60, 100_001), "bounded");
        assert_eq!(runs("@every 1s", CatchUp::None, 100_000), (60, 100_001));
    }
}
