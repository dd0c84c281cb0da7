//! An effect that happens exactly once: the row a job writes and the end of the job are one transaction.
//!
//! `cargo run -p ibex-schwartz --example exactly_once`

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use ibex_schwartz::{Error, Job, JobContext, Outcome, Schwartz, Worker};
use ibex_sql::params;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let schwartz = Schwartz::builder().db("sqlite::memory:").build().await?;
    let Some(database) = schwartz.databases().first() else {
        return Ok(());
    };
    let db = database.db().await?;
    db.execute("CREATE TABLE payments (account INTEGER)", params![])
        .await?;
    for account in 1..=3 {
        let job = Job::new("Pay", account.to_string());
        schwartz.insert(job).await?;
    }
    let worker = Worker::new(&schwartz).register_fn("Pay", pay);
    worker.work_until_done().await?;
    let rows = db.query("SELECT account FROM payments", params![]).await?;
    println!("{} payments", rows.len());
    Ok(())
}

/// Committed with the job's end or rolled back with it, however often the worker dies in between.
async fn pay(job: JobContext) -> Outcome {
    match try_pay(&job).await {
        Ok(()) => Outcome::Complete,
        Err(error) => Outcome::fail(error.to_string()),
    }
}

async fn try_pay(job: &JobContext) -> Result<(), Error> {
    let text = std::str::from_utf8(job.arg()).unwrap_or_default();
    let account: i64 = text
        .parse()
        .map_err(|_| Error::Invalid("no account".to_owned()))?;
    let Some(database) = job.database() else {
        return Err(Error::Invalid("needs a database".to_owned()));
    };
    let ours = job.clone();
    database
        .db()
        .await?
        .write(move |tx| {
            let job = ours.clone();
            Box::pin(async move {
                tx.execute("INSERT INTO payments VALUES (?)", params![account])
                    .await?;
                job.complete_tx(tx).await
            })
        })
        .await
}
