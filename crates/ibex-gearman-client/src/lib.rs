//! Asynchronous Gearman client and worker.
//!
//! A [`Client`] submits jobs to one or more job servers, a [`Worker`] runs them. Connections open lazily and come back by themselves after a jittered
//! backoff; a dead
//! server costs one deadline, not one per call. Equal unique keys meet on the same server (rendezvous hashing over the live servers), so they coalesce.
//!
//! Every call has a deadline and may be dropped at any time: a connection's replies are matched by the task that owns it, which goes on reading whether or not
//! somebody still waits. Nothing is logged above DEBUG, nothing is global, and the tasks end with the last [`Client`] and [`Job`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use ibex_gearman_client::{Client, Config, Priority, Worker};
//! use tokio_util::sync::CancellationToken;
//!
//! let stop = CancellationToken::new();
//! let worker = Worker::new(Config::new(["127.0.0.1:4730"])).function("reverse", |job| async move {
//!     let mut bytes = job.workload().to_vec();
//!     bytes.reverse();
//!     Ok(bytes.into())
//! });
//! tokio::spawn(worker.run(stop.clone()));
//!
//! let client = Client::connect(Config::new(["127.0.0.1:4730"])).await?;
//! let job = client.submit("reverse", "abc").priority(Priority::High).await?;
//! assert_eq!(job.complete().await?, "cba");
//! let handle = client.submit_background("reverse", "later").unique("nightly").await?;
//! println!("{handle}: {:?}", client.status(&handle).await?);
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod address;
pub mod blocking;
mod client;
mod config;
mod connection;
mod error;
mod headers;
mod job;
#[cfg(feature = "json")]
pub mod json;
mod select;
mod submission;
#[cfg(feature = "tls")]
mod tls;
pub mod worker;

pub use address::Address;
pub use client::{Client, Outcome, Status};
pub use config::{Config, HashMode, Retry};
pub use error::Error;
pub use ibex_gearman_proto::Priority;
pub use job::{Event, Handle, Job};
pub use submission::{Background, Call, Foreground};
#[cfg(feature = "tls")]
pub use tls::{ClientFiles, Tls};
pub use worker::{FunctionOptions, Job as WorkerJob, JobError, Worker};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeExamples;
