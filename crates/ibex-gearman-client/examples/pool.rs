//! A database pool of sixteen connections behind a thousand callers: statements travel as jobs to one worker that owns the connections, so the database sees
//! sixteen however many processes there are.
//!
//! `cargo run -p ibex-gearman-client --example pool` with a job server on 127.0.0.1:4730 or at $GEARMAN_SERVERS.
#![allow(
    clippy::print_stdout,
    dead_code,
    reason = "a program to read; a test runs `run` without `main`"
)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use ibex_gearman_client::{Client, Config, JobError, Worker};
use rusqlite::{Connection, OpenFlags};
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
    let filling = Connection::open(file)?;
    filling
        .execute_batch("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL); BEGIN")?;
    for id in 0..ROWS {
        filling.execute(
            "INSERT INTO users (id, name) VALUES (?1, ?2)",
            (id, format!("user {id}")),
        )?;
    }
    filling.execute_batch("COMMIT")?;
    drop(filling);

    static BUSY_MAX: AtomicUsize = AtomicUsize::new(0);
    let pool = (0..CONNECTIONS)
        .map(|_| Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY))
        .collect::<Result<Vec<_>, _>>()?;
    let pool = Mutex::new(pool);
    let worker = Worker::new(Config::new(servers.clone()))
        .concurrency(CONNECTIONS)
        .blocking_function("sql.users", move |job| {
            let connection = {
                let mut free = pool
                    .lock()
                    .map_err(|error| JobError::exception(error.to_string()))?;
                let busy = CONNECTIONS - free.len() + 1;
                BUSY_MAX.fetch_max(busy, Ordering::Relaxed);
                free.pop()
            };
            let connection = connection.ok_or(JobError::Fail)?;
            let id = String::from_utf8_lossy(job.workload()).into_owned();
            let name: Result<String, _> =
                connection.query_row("SELECT name FROM users WHERE id = ?1", [id], |row| {
                    row.get(0)
                });
            pool.lock()
                .map_err(|error| JobError::exception(error.to_string()))?
                .push(connection);
            name.map(Into::into)
                .map_err(|error| JobError::exception(error.to_string()))
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
    Ok((right, busy))
}
