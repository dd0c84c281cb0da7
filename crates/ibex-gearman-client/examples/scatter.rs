//! Scatter and gather with a deadline: many questions at once, and the page is made of what has been answered when its time is up.
//!
//! `cargo run -p ibex-gearman-client --example scatter` with a job server on 127.0.0.1:4730 or at $GEARMAN_SERVERS.
#![allow(
    clippy::print_stdout,
    dead_code,
    reason = "a program to read; a test runs `run` without `main`"
)]

use std::time::{Duration, Instant};

use ibex_gearman_client::{Client, Config, Error, Worker};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let servers = std::env::var("GEARMAN_SERVERS").unwrap_or_else(|_| "127.0.0.1:4730".into());
    run(
        servers.split(',').map(str::to_owned).collect(),
        Duration::from_millis(300),
    )
    .await
    .map(drop)
}

/// Asks forty sources, of which every tenth does not answer in time; which were answered.
pub(crate) async fn run(servers: Vec<String>, deadline: Duration) -> Result<Vec<usize>, Error> {
    let stop = CancellationToken::new();
    let hung = stop.clone();
    let worker = Worker::new(Config::new(servers.clone()))
        .concurrency(40)
        .function("source", move |job| {
            let hung = hung.clone();
            async move {
                if job.workload().ends_with(b"0") {
                    hung.cancelled().await;
                }
                Ok(job.workload().clone())
            }
        });
    let working = tokio::spawn(worker.run(stop.clone()));

    let client = Client::connect(Config::new(servers)).await?;
    let begun = Instant::now();
    let questions = (0..40).map(|n| {
        let client = client.clone();
        tokio::spawn(async move {
            let answer = client
                .call("source", format!("source {n}"))
                .timeout(deadline)
                .await;
            (n, answer)
        })
    });
    let questions: Vec<_> = questions.collect();
    let mut answered = Vec::new();
    for question in questions {
        match question.await {
            Ok((n, Ok(_))) => answered.push(n),
            Ok((n, Err(Error::Deadline { .. }))) => println!("source {n}: left out"),
            Ok((n, Err(error))) => println!("source {n}: {error}"),
            Err(error) => println!("{error}"),
        }
    }
    println!("{} of 40 sources in {:?}", answered.len(), begun.elapsed());

    stop.cancel();
    if let Ok(outcome) = working.await {
        outcome?;
    }
    Ok(answered)
}
