//! TheSchwartz in Rust: reliable jobs kept in a database's tables, drop-in on the data with the Perl library.
//!
//! ```no_run
//! # async fn example() -> Result<(), ibex_schwartz::Error> {
//! use ibex_schwartz::{Client, Job, Outcome, Worker};
//!
//! let client = Client::open(["sqlite:/var/lib/app/jobs.db"]).await?;
//! client.insert(Job::new("SendMail", "to=fred@example.org").uniqkey("welcome-7")).await?;
//!
//! let worker = Worker::new(&client).function("SendMail", |job| async move {
//!     println!("mail: {:?}", job.arg());
//!     Outcome::Complete
//! });
//! worker.work_until_done().await?;
//! # Ok(()) }
//! ```
//!
//! ```text
//!  Client ── insert / insert_all / insert_tx ──► funcmap, job
//!    │                                             ▲
//!  Worker ── grab (lease = grabbed_until) ─────────┤
//!    └── Outcome ── complete / fail / decline / replace, conditional on the lease ──► error, exitstatus
//! ```
//!
//! A job is acknowledged when its row is committed. It is worked by one worker per lease, at least once in all: a worker that
//! dies loses its lease, and the job comes back. Every finish is conditional on the lease, so a worker that was late changes
//! nothing of what another does with the job meanwhile.
//!
//! It is apart from the daemon because programs use it directly, without any server but the database. [`Handler`] is how work is written as a
//! type; [`Remote`] takes the place of a [`Client`] where a daemon stands between. It spawns nothing that outlives a call, except what
//! [`Worker::run`] awaits and the connections a [`Remote`] keeps.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod apart;
mod client;
mod cron;
mod crypt;
mod database;
mod dsn;
mod ending;
mod error;
mod finish;
mod funcs;
mod grab;
mod handle;
mod handler;
mod hooks;
mod insert;
mod job;
mod leader;
mod lease;
mod list;
mod many;
mod once;
mod options;
mod pause;
mod policy;
mod ready;
mod relay;
mod remote;
mod rendezvous;
pub mod schema;
mod seen;
mod settings;
mod side;
mod stir;
pub mod storable;
mod tables;
mod tenant;
pub mod testing;
mod wide;
mod within;
mod worker;
mod workers;

pub use client::{Atomic, Client, ClientBuilder, UniqueScope};
pub use cron::{CatchUp, CronEntry, Schedule};
pub use crypt::Keys;
pub use database::{Database, Roles};
pub use error::{Causes, Error};
pub use finish::{Finish, Finished, RESULT_BYTES_MAX};
pub use grab::{Grab, GrabbedJob, Only};
pub use handle::Handle;
pub use handler::{Handler, JobCtx};
pub use hooks::Hooks;
pub use insert::Inserted;
pub use job::{Job, StoredJob, When, limits};
pub use leader::{Lost, LostLease};
pub use list::{Attempt, Change, Failure, FuncCount, Query, State, Status};
pub use once::Once;
pub use options::{Concurrency, Merge, OnDeath, OnFail, Parent, Rate, Unique, UniqueBy};
pub use pause::PARKED;
pub use policy::{Backoff, RetryPolicy, Said};
pub use ready::Suspect;
pub use relay::{Outbox, Relayed};
pub use remote::Remote;
pub use settings::{EVERY_FUNCTION, FuncSettings};
pub use side::Ended;
pub use wide::{Batch, BatchStatus, Notes, ParentStatus, WideStatus};
pub use worker::{FunctionOptions, JobContext, Outcome, Source, Worker};

/// A client by the library's own name: `Schwartz::builder().db(url).build()`.
pub type Schwartz = Client;
pub use workers::{KnownWorker, SeenWorker, WORKER_DEAD_SECONDS};

/// The readme's program, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
