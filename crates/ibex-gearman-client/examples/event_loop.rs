//! Slow code called from an event loop: the loop goes on ticking while workers, here threads that sleep, do what would have held it up.
//!
//! `cargo run -p ibex-gearman-client --example event_loop` with a job server on 127.0.0.1:4730 or at $GEARMAN_SERVERS.
#![allow(
    clippy::print_stdout,
    dead_code,
    reason = "a program to read; a test runs `run` without `main`"
)]

use std::time::{Duration, Instant};

use ibex_gearman_client::{Client, Config, Error, Worker};
use tokio_util::sync::CancellationToken;

/// What the slow code takes.
const SLOW: Duration = Duration::from_millis(100);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let servers = std::env::var("GEARMAN_SERVERS").unwrap_or_else(|_| "127.0.0.1:4730".into());
    run(servers.split(',').map(str::to_owned).collect())
        .await
        .map(drop)
}

/// Calls slow code twenty times from a loop that ticks every ten milliseconds; the ticks meanwhile and the latest of them.
pub(crate) async fn run(servers: Vec<String>) -> Result<(usize, Duration), Error> {
    let stop = CancellationToken::new();
    let (stopped, at) = (stop.clone(), servers.clone());
    // Another process as a rule; a thread of its own here.
    let working = std::thread::spawn(move || {
        let worker = Worker::new(Config::new(at))
            .concurrency(4)
            .blocking_function("slow", |job| {
                std::thread::sleep(SLOW);
                Ok(job.workload().clone())
            });
        ibex_gearman_client::blocking::work(worker, stopped)
    });

    let client = Client::connect(Config::new(servers)).await?;
    let begun = Instant::now();
    let mut slow = std::pin::pin!(client.map("slow", (0..20).map(|n: u32| n.to_string()), 20));
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    let (mut ticks, mut latest, mut before) = (0, Duration::ZERO, Instant::now());
    let results = loop {
        tokio::select! {
            results = &mut slow => break results,
            _ = tick.tick() => {
                ticks += 1;
                latest = latest.max(before.elapsed());
                before = Instant::now();
            }
        }
    };
    println!(
        "{} slow calls of {SLOW:?} in {:?}; {ticks} ticks meanwhile, the longest gap {latest:?}",
        results.len(),
        begun.elapsed()
    );

    stop.cancel();
    for result in results {
        result?;
    }
    if let Ok(outcome) = working.join() {
        outcome?;
    }
    Ok((ticks, latest))
}
