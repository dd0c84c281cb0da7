//! For tests of programs that use jobs: tables in memory, a clock in the test's hand, everything worked at once.
//!
//! Apart because programs must not need it. Nothing here is a stand-in: it is the same client, worker and tables as ever, on SQLite in memory.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), ibex_schwartz::Error> {
//! use ibex_schwartz::{Job, Outcome, Worker, testing};
//!
//! let client = testing::client().await?;
//! client.insert(Job::new("Mail", "to=fred").delay(3600)).await?;
//! testing::assert_enqueued(&client, "Mail", |job| &job.arg[..] == b"to=fred").await?;
//!
//! let worker = Worker::new(&client).function("Mail", |_| async { Outcome::Complete });
//! assert_eq!(testing::drain(&client, &worker).await?, 1, "an hour later");
//! assert!(testing::enqueued(&client, "Mail").await?.is_empty());
//! # Ok(()) }
//! ```

use crate::client::Client;
use crate::error::Error;
use crate::insert::Inserted;
use crate::job::{Job, StoredJob};
use crate::list::{Query, State, Status};
use crate::pause::PARKED;
use crate::worker::Worker;
use std::time::Duration;

/// The second at which the clock of [`client`] stands.
pub const START: u64 = 1_700_000_000;
/// Runs of one [`drain`]: more are a job that inserts itself for ever.
const RUNS_MAX: u64 = 100_000;

/// A client of fresh tables in memory, whose clock stands at [`START`] until [`Client::advance_clock`] moves it.
///
/// # Errors
/// As [`Client::open`].
pub async fn client() -> Result<Client, Error> {
    let client = Client::open(["sqlite::memory:"]).await?;
    client.hold_clock(START);
    Ok(client)
}

/// Pending jobs of a function, whatever their state, in the order they were inserted.
///
/// # Errors
/// What a database answers.
pub async fn enqueued(client: &Client, func: &str) -> Result<Vec<StoredJob>, Error> {
    let query = Query {
        funcs: vec![func.to_owned()],
        limit: u32::MAX,
        ..Query::default()
    };
    let jobs = client.list(&query).await?;
    Ok(jobs.into_iter().map(|(_, job, _)| job).collect())
}

/// Panics unless a pending job of the function is as `expected` says; answers the first that is.
///
/// # Errors
/// What a database answers.
///
/// # Panics
/// When there is none; the message lists those there are.
#[expect(clippy::panic, reason = "an assertion for tests")]
pub async fn assert_enqueued(
    client: &Client,
    func: &str,
    expected: impl Fn(&StoredJob) -> bool,
) -> Result<StoredJob, Error> {
    let jobs = enqueued(client, func).await?;
    match jobs.iter().find(|job| expected(job)) {
        Some(job) => Ok(job.clone()),
        None => panic!("no such job of {func} among {jobs:?}"),
    }
}

/// Works until nothing is pending that can become ready: the clock is moved to the next job's time whenever none is ready. Answers how many
/// runs there were. Jobs of functions the worker does not have stay.
///
/// # Errors
/// What a database answers; [`Error::Invalid`] after a hundred thousand runs.
pub async fn drain(client: &Client, worker: &Worker) -> Result<u64, Error> {
    let mut runs = 0;
    loop {
        for database in client.databases() {
            database.keep_wide().await?;
        }
        runs += worker.work_until_done().await?;
        if runs > RUNS_MAX {
            return Err(Error::Invalid("jobs follow jobs without end".to_owned()));
        }
        match next_time(client, worker).await? {
            Some(wait) => client.advance_clock(Duration::from_secs(wait)),
            None => return Ok(runs),
        }
    }
}

/// Seconds until a job of the worker's functions can be ready; `None` when none waits for its time.
async fn next_time(client: &Client, worker: &Worker) -> Result<Option<u64>, Error> {
    let now = client.time().await?;
    let query = Query {
        funcs: worker.functions().map(str::to_owned).collect(),
        limit: u32::MAX,
        ..Query::default()
    };
    let mut next: Option<u64> = None;
    for (handle, job, state) in client.list(&query).await? {
        let at = match state {
            State::Grabbed => job.grabbed_until,
            State::Scheduled => job.run_after,
            State::Ready => continue,
            State::Blocked if job.run_after == PARKED => {
                match client.status(&handle).await?.wide {
                    Some(wide) if wide.is_parked && wide.due > now => wide.due,
                    // A rate's next token is at most as far as its period.
                    Some(wide) if wide.is_parked && wide.rate.is_some() => now + 1,
                    Some(_) | None => continue,
                }
            }
            State::Blocked => continue,
        };
        next = Some(next.map_or(at, |next| next.min(at)));
    }
    Ok(next.map(|at| at.saturating_sub(now).max(1)))
}

/// Inserts a job and works it at once, as if a worker had waited for it; its status afterwards. A job that is not ready is only inserted.
///
/// # Errors
/// As [`Client::insert`] and [`Worker::grab_and_work_on`]; [`Error::Duplicate`] when its key is pending.
pub async fn inline(client: &Client, worker: &Worker, job: Job) -> Result<Status, Error> {
    match client.insert(job).await? {
        Inserted::New(handle) => {
            worker.grab_and_work_on(&handle).await?;
            client.status(&handle).await
        }
        Inserted::Duplicate(_) => Err(Error::Duplicate),
    }
}
