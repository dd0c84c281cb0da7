//! When requests go: the loop of one thread over its connections, closed or open.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use ibex_base::rng::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::conn::Connection;
use super::report::{Measured, Record};
use super::work::{Source, Work};

/// Requests one connection may have on their way in an open loop. Policy: those beyond it go later, and their waiting counts.
const UNANSWERED_MAX: usize = 10_000;
/// How long to wait for the last answers.
const DRAIN: Duration = Duration::from_secs(30);
/// Stores on their way while keys are filled in.
const FILL_BATCH: u32 = 256;
/// No wait is longer: keeps the end of the run in time.
const POLL_MAX: Duration = Duration::from_millis(100);
/// What a timer of this process may be late, in nanoseconds; the default of 50 µs would show in every latency.
const TIMER_SLACK: NonZeroU64 = NonZeroU64::MIN;

/// What paces requests.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// The next `pipeline` requests when all answers are there.
    Closed { pipeline: u32 },
    /// `gap` seconds between two requests of a connection, on average.
    Open { gap: f64, is_random: bool },
}

/// The whole run.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) connections: u32,
    pub(super) threads: u32,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
    pub(super) rate: Option<f64>,
    pub(super) pace: Pace,
    pub(super) fills_misses: bool,
    pub(super) work: Work,
    pub(super) rng: Rng,
}

/// Stores every key once.
pub(super) fn fill(connection: &mut Connection, plan: &Plan) -> anyhow::Result<()> {
    let mut source = Source::new(&plan.work, plan.rng.clone(), 0);
    let mut record = Record::new(Duration::MAX, Duration::MAX)?;
    for first in (0..plan.work.keys).step_by(FILL_BATCH as usize) {
        for key in first..plan.work.keys.min(first.saturating_add(FILL_BATCH)) {
            connection.ask(Duration::ZERO, |out| source.store(out, key));
        }
        while connection.unanswered() > 0 {
            connection.flush()?;
            wait(&mut std::iter::once(&*connection), DRAIN)?;
            if connection.read()? {
                connection.count(Duration::ZERO, &mut record, None)?;
            }
        }
    }
    ensure!(
        record.refusals() == 0,
        "the server refused {} of the keys",
        record.refusals()
    );
    Ok(())
}

/// Runs the load in the plan's threads.
pub(super) fn run(addr: SocketAddr, plan: &Plan) -> anyhow::Result<Measured> {
    let mut rng = plan.rng.clone();
    let mut threads = Vec::new();
    for thread in 0..plan.threads {
        let mine = (thread..plan.connections).step_by(plan.threads as usize);
        let lanes: Vec<Lane<'_>> = mine
            .map(|n| Lane::open(addr, plan, n, rng.next_u64()))
            .collect::<anyhow::Result<_>>()?;
        threads.push(lanes);
    }
    let start = Instant::now();
    let records = std::thread::scope(|scope| {
        let running: Vec<_> = threads
            .into_iter()
            .map(|lanes| scope.spawn(move || thread(lanes, plan, start)))
            .collect();
        running
            .into_iter()
            .map(|running| {
                running
                    .join()
                    .unwrap_or_else(|_| Err(anyhow!("a thread of the load panicked")))
            })
            .collect::<anyhow::Result<Vec<_>>>()
    })?;
    Measured::new(records, plan.duration, plan.rate)
}

/// A connection with its requests and its schedule.
#[derive(Debug)]
struct Lane<'p> {
    connection: Connection,
    source: Source<'p>,
    /// When the next request of an open loop is due.
    due: Duration,
}

impl<'p> Lane<'p> {
    fn open(addr: SocketAddr, plan: &'p Plan, n: u32, seed: u64) -> anyhow::Result<Self> {
        let share = u64::from(plan.work.keys) * u64::from(n) / u64::from(plan.connections);
        let mut source = Source::new(&plan.work, Rng::new(seed), u32::try_from(share)?);
        let due = match plan.pace {
            Pace::Closed { .. } => Duration::ZERO,
            Pace::Open {
                gap,
                is_random: false,
            } => Duration::from_secs_f64(gap * f64::from(n) / f64::from(plan.connections)),
            Pace::Open {
                gap,
                is_random: true,
            } => Duration::from_secs_f64(gap * exponential(source.fraction())),
        };
        Ok(Self {
            connection: Connection::open(addr)?,
            source,
            due,
        })
    }

    /// Puts the requests out that may go at `now`.
    fn issue(&mut self, now: Duration, plan: &Plan, record: &mut Record) {
        let end = plan.warmup + plan.duration;
        match plan.pace {
            Pace::Closed { pipeline } => {
                if self.connection.unanswered() == 0 && now < end {
                    for _ in 0..pipeline {
                        self.connection.ask(now, |out| self.source.ask(out));
                    }
                }
            }
            Pace::Open { gap, is_random } => {
                while self.due <= now
                    && self.due < end
                    && self.connection.unanswered() < UNANSWERED_MAX
                {
                    self.connection.ask(self.due, |out| self.source.ask(out));
                    record.sent(self.due, now);
                    let factor = if is_random {
                        exponential(self.source.fraction())
                    } else {
                        1.0
                    };
                    self.due += Duration::from_secs_f64(gap * factor);
                }
            }
        }
    }

    fn is_over(&self, now: Duration, plan: &Plan) -> bool {
        let end = plan.warmup + plan.duration;
        let is_issued = match plan.pace {
            Pace::Closed { .. } => now >= end,
            Pace::Open { .. } => self.due >= end,
        };
        is_issued && self.connection.unanswered() == 0
    }
}

/// A waiting time of a Poisson process with mean 1 out of a uniform fraction.
fn exponential(fraction: f64) -> f64 {
    -(1.0 - fraction).ln()
}

fn thread(mut lanes: Vec<Lane<'_>>, plan: &Plan, start: Instant) -> anyhow::Result<Record> {
    rustix::thread::set_current_timer_slack(Some(TIMER_SLACK)).context("set the timer slack")?;
    let end = plan.warmup + plan.duration;
    let mut record = Record::new(plan.warmup, end)?;
    loop {
        let now = start.elapsed();
        for lane in &mut lanes {
            lane.issue(now, plan, &mut record);
            lane.connection.flush()?;
        }
        if lanes.iter().all(|lane| lane.is_over(now, plan)) {
            return Ok(record);
        }
        if now > end + DRAIN {
            for lane in &lanes {
                record.unanswered(lane.connection.unanswered());
            }
            return Ok(record);
        }
        let next_due = match plan.pace {
            Pace::Closed { .. } => end,
            Pace::Open { .. } => lanes
                .iter()
                .filter(|lane| lane.connection.unanswered() < UNANSWERED_MAX)
                .map(|lane| lane.due)
                .min()
                .unwrap_or(end),
        };
        // Now and not as above: writing took time.
        let patience = next_due.saturating_sub(start.elapsed()).min(POLL_MAX);
        let patience = if now >= end { POLL_MAX } else { patience };
        let ready = wait(&mut lanes.iter().map(|lane| &lane.connection), patience)?;
        for (lane, is_ready) in lanes.iter_mut().zip(ready) {
            if is_ready && lane.connection.read()? {
                let refill = plan.fills_misses.then_some(&mut lane.source);
                lane.connection
                    .count(start.elapsed(), &mut record, refill)?;
            }
        }
    }
}

/// Waits until connections can be read, or written where there is something to write; which they are.
fn wait(
    connections: &mut dyn Iterator<Item = &Connection>,
    patience: Duration,
) -> anyhow::Result<Vec<bool>> {
    let mut fds: Vec<PollFd<'_>> = connections
        .map(|connection| {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, connection.wants_to_write());
            PollFd::from_borrowed_fd(connection.fd(), flags)
        })
        .collect();
    let patience = Timespec::try_from(patience).context("wait")?;
    match poll(&mut fds, Some(&patience)) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(vec![false; fds.len()]),
        Err(error) => return Err(error).context("wait for the server"),
    }
    Ok(fds
        .iter()
        .map(|fd| {
            fd.revents()
                .intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR)
        })
        .collect())
}
