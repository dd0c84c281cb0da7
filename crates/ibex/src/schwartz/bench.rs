//! `ibex schwartz bench`: a closed loop of connections that insert jobs, work them, or both.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::ValueEnum;
use hdrhistogram::Histogram;
use ibex_schwartz::{Finish, Grab, Job};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::look::listed;
use super::place::Place;
use crate::output::print_text;

/// The longest latency told apart, in microseconds: ten minutes.
const LATENCY_MAX: u64 = 600_000_000;
/// Seconds of a lease.
const GRAB_FOR: u64 = 600;

/// Arguments of `ibex schwartz bench`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to do.
    #[arg(long, value_enum, default_value = "both")]
    mode: Mode,
    /// Connections, half of them for each kind with `both`.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=1000))]
    conns: u64,
    /// Jobs of one request.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1000))]
    batch: u64,
    /// Seconds it takes.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    secs: u64,
    /// The function.
    #[arg(long, default_value = "Bench")]
    func: String,
    /// Bytes of an argument.
    #[arg(long, default_value_t = 100)]
    size: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    Insert,
    Work,
    Both,
}

/// What one kind of connections did.
struct Tally {
    jobs: u64,
    latency: Histogram<u64>,
}

impl Tally {
    fn new() -> anyhow::Result<Self> {
        let latency = Histogram::new_with_bounds(1, LATENCY_MAX, 3).context("make a histogram")?;
        Ok(Self { jobs: 0, latency })
    }

    fn add(&mut self, other: &Self) -> anyhow::Result<()> {
        self.jobs += other.jobs;
        self.latency.add(&other.latency).context("add histograms")
    }

    fn line(&self, what: &str, seconds: f64) -> Value {
        let at = |part: f64| micros_to_ms(self.latency.value_at_quantile(part));
        #[expect(clippy::cast_precision_loss, reason = "a rate has no 53 bits")]
        let rate = (self.jobs as f64 / seconds).round();
        json!({
            "what": what, "jobs": self.jobs, "jobs_per_second": rate, "requests": self.latency.len(),
            "p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999), "max_ms": micros_to_ms(self.latency.max()),
        })
    }
}

fn micros_to_ms(micros: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "ten minutes fit")]
    let ms = micros as f64 / 1000.0;
    ms
}

/// Loads the place and prints one JSON line for each kind.
pub(super) async fn run(place: &Place, args: Args) -> anyhow::Result<ExitCode> {
    let until = Instant::now() + Duration::from_secs(args.secs);
    let started = Instant::now();
    let load = Arc::new(Load {
        func: args.func,
        arg: "x".repeat(args.size),
        batch: usize::try_from(args.batch)?,
        until,
    });
    let inserting = match args.mode {
        Mode::Insert => args.conns,
        Mode::Work => 0,
        Mode::Both => args.conns.div_ceil(2),
    };
    let working = if args.mode == Mode::Both {
        (args.conns / 2).max(1)
    } else {
        args.conns - inserting
    };
    let loops = |count, is_insert: bool| {
        let load = Arc::clone(&load);
        async move { all(place, &load, count, is_insert).await }
    };
    let (inserted, worked) = tokio::try_join!(loops(inserting, true), loops(working, false))?;
    let seconds = started.elapsed().as_secs_f64();
    for (what, tally, count) in [("insert", inserted, inserting), ("work", worked, working)] {
        if count > 0 {
            print_text(&format!("{}\n", tally.line(what, seconds)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What every connection does.
struct Load {
    func: String,
    arg: String,
    batch: usize,
    until: Instant,
}

async fn all(
    place: &Place,
    load: &Arc<Load>,
    count: u64,
    is_insert: bool,
) -> anyhow::Result<Tally> {
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let (place, load) = (place.clone(), Arc::clone(load));
        tasks.spawn(async move {
            let mut tally = Tally::new()?;
            while Instant::now() < load.until {
                let started = Instant::now();
                let jobs = if is_insert {
                    load.insert(&place).await?
                } else {
                    load.work(&place).await?
                };
                if jobs == 0 {
                    continue;
                }
                tally.jobs += jobs;
                let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(LATENCY_MAX);
                tally.latency.saturating_record(micros.max(1));
            }
            anyhow::Ok(tally)
        });
    }
    let mut sum = Tally::new()?;
    while let Some(tally) = tasks.join_next().await {
        sum.add(&tally??)?;
    }
    Ok(sum)
}

impl Load {
    async fn insert(&self, place: &Place) -> anyhow::Result<u64> {
        match place {
            Place::Tables(client) => {
                let job = Job::new(self.func.clone(), self.arg.clone());
                client.insert_each(vec![job; self.batch]).await?;
            }
            Place::Daemon(server) => {
                let job = json!({ "func": self.func, "arg": self.arg });
                let body = json!({ "jobs": vec![job; self.batch] });
                server.post("/v1/jobs", &body).await?;
            }
        }
        Ok(u64::try_from(self.batch)?)
    }

    /// Takes and completes; waits a little where nothing is ready.
    async fn work(&self, place: &Place) -> anyhow::Result<u64> {
        let done = match place {
            Place::Tables(client) => {
                let want = Grab {
                    max: self.batch,
                    grab_for: GRAB_FOR,
                    ..Grab::new(vec![self.func.clone()])
                };
                let jobs = client.grab(&want).await?;
                for job in &jobs {
                    job.finish(Finish::Complete { status: 0, keep: 0 }).await?;
                }
                if jobs.is_empty() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                jobs.len()
            }
            Place::Daemon(server) => {
                let body = json!({ "worker": "bench", "funcs": [self.func], "max": self.batch, "wait_ms": 100, "grab_for": GRAB_FOR });
                let jobs = listed(&server.post("/v1/fetch", &body).await?, "jobs");
                let results: Vec<Value> = jobs
                    .iter()
                    .map(|job| json!({ "handle": job["handle"], "lease": job["lease"], "op": "complete" }))
                    .collect();
                if !results.is_empty() {
                    server
                        .post("/v1/finish", &json!({ "results": results }))
                        .await?;
                }
                jobs.len()
            }
        };
        Ok(u64::try_from(done)?)
    }
}
