//! A distributed map in a few lines: one list in, one list out, in order, computed by whatever workers there are.
//!
//! `cargo run -p ibex-gearman-client --example dmap` with a job server on 127.0.0.1:4730 or at $GEARMAN_SERVERS.
#![allow(
    clippy::print_stdout,
    dead_code,
    reason = "a program to read; a test runs `run` without `main`"
)]

use std::time::Instant;

use ibex_gearman_client::{Client, Config, Error, Worker};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let servers = std::env::var("GEARMAN_SERVERS").unwrap_or_else(|_| "127.0.0.1:4730".into());
    run(servers.split(',').map(str::to_owned).collect())
        .await
        .map(drop)
}

/// Squares a thousand numbers on three workers; the results.
pub(crate) async fn run(servers: Vec<String>) -> Result<Vec<u64>, Error> {
    let stop = CancellationToken::new();
    let mut workers = Vec::new();
    for _ in 0..3 {
        let worker =
            Worker::new(Config::new(servers.clone())).function("square", |job| async move {
                let number: u64 = std::str::from_utf8(job.workload())
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(0);
                Ok((number * number).to_string().into())
            });
        workers.push(tokio::spawn(worker.run(stop.clone())));
    }

    let client = Client::connect(Config::new(servers)).await?;
    let begun = Instant::now();
    let mut squares = Vec::new();
    for result in client
        .map("square", (0..1000).map(|n: u64| n.to_string()), 64)
        .await
    {
        let text = result?;
        squares.push(String::from_utf8_lossy(&text).parse().unwrap_or(0));
    }
    println!("{} squares in {:?}", squares.len(), begun.elapsed());

    stop.cancel();
    for worker in workers {
        if let Ok(outcome) = worker.await {
            outcome?;
        }
    }
    Ok(squares)
}
