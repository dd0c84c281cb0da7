//! A database pool of sixteen connections behind a thousand callers: statements travel as jobs to one worker that owns the connections, so the database sees
//! sixteen however many processes there are.
//!
//! `cargo run -p ibex-gearman-client --example pool` with a job server on 127.0.0.1:4730 or at $GEARMAN_SERVERS.
#![allow(
    clippy::print_stdout,
    dead_code,
    reason = "a program to read; a test runs `run` without `main`"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use ibex_gearman_client::{Client, Config, JobError, Worker};
use ibex_sql::{Db, params};
use tokio_util::sync::CancellationToken;

const CONNECTIONS: usize = 16;
const CALLERS: usize = 1000;
const ROWS: i64 = 1000;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let servers = std::env::var("GEARMAN_SERVERS").unwrap_or_else(|_| "127.0.0.1:4730".into());
    let file = std::env::temp_dir().join(format!("ibex-pool-{}.db", std::process::id()));
    let outcome = run(servers.split(',').map(str::to_owned).collect(), &file).await;
    std::fs::remove_file(file)?;
    outcome.map(drop)
}

/// A thousand callers ask for one row each; how many got the right one, and the connections that were busy at once.
pub(crate) async fn run(servers: Vec<String>, file: &std::path::Path) -> Outcome<(usize, usize)> {
    static BUSY: AtomicUsize = AtomicUsize::new(0);
    static BUSY_MAX: AtomicUsize = AtomicUsize::new(0);
    let url = format!("sqlite:{}", file.display());
    let db = Db::open(&ibex_sql::Config::new(&url)?.with_pool_max(CONNECTIONS)).await?;
    db.execute(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)",
        Vec::new(),
    )
    .await?;
    db.write(|tx| {
        Box::pin(async move {
            let rows = (0..ROWS).map(|id| params![id, format!("user {id}")]);
            tx.execute_each("INSERT INTO users (id, name) VALUES (?, ?)", rows.collect())
                .await
        })
    })
    .await?;

    let pool = db.clone();
    let worker = Worker::new(Config::new(servers.clone()))
        .concurrency(CONNECTIONS)
        .function("sql.users", move |job| {
            let pool = pool.clone();
            async move {
                BUSY_MAX.fetch_max(BUSY.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
                let id = String::from_utf8_lossy(job.workload()).parse::<i64>();
                let row = pool
                    .query_one(
                        "SELECT name FROM users WHERE id = ?",
                        params![id.unwrap_or(-1)],
                    )
                    .await;
                BUSY.fetch_sub(1, Ordering::Relaxed);
                let row = row.map_err(|error| JobError::exception(error.to_string()))?;
                let name: String = row
                    .ok_or(JobError::Fail)?
                    .get(0)
                    .map_err(|error| JobError::exception(error.to_string()))?;
                Ok(name.into())
            }
        });
    let stop = CancellationToken::new();
    let working = tokio::spawn(worker.run(stop.clone()));

    let begun = Instant::now();
    let client = Client::connect(Config::new(servers)).await?;
    let callers: Vec<_> = (0..CALLERS)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                let row = client.call("sql.users", n.to_string()).await;
                row.is_ok_and(|name| name == format!("user {n}"))
            })
        })
        .collect();
    let mut right = 0;
    for caller in callers {
        right += usize::from(caller.await?);
    }
    let busy = BUSY_MAX.load(Ordering::Relaxed);
    println!(
        "{right} of {CALLERS} callers served in {:?} over {busy} connections at most",
        begun.elapsed()
    );

    stop.cancel();
    working.await??;
    db.close().await?;
    Ok((right, busy))
}
