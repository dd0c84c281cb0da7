//! The Gearman job server as a state machine: no sockets, no clock, no threads, no randomness.
//!
//! ```text
//!            Input                                                   Output
//!  Connected, Packet, Refused, Closed ──►┌────────────────┐──► Send, Text   to a connection
//!  Persisted, PersistFailed, Restored ──►│   JobServer    │──► Persist, Attempt, Forget, Bury … to the store
//!  handle_timeout(now) ─────────────────►│                │──► poll_timeout: when to call again
//!                                        └────────────────┘
//!  a job:   submit ─► committing ─► waiting ─► running ─► gone (done, failed, excepted, cancelled)
//!                         └──► scheduled ─┘ ▲       │  └─► dead (background, attempts used up)
//!                                           └───────┘ worker lost, CANT_DO, timeout, nack: an attempt is counted
//! ```
//!
//! The shell feeds events with the time at which they happened and drains [`JobServer::poll_output`] after each, or after a batch. Everything the
//! server will ever say follows from the inputs, their times and the drains: the simulation in `tests/it/sim.rs` replays a seed to the same trace.
//!
//! Invariants ([`JobServer::check_invariants`], run after every input in debug builds of the tests):
//! - a job is in exactly one place: committing, one queue of its function, the schedule, or one worker's hands; counters equal a recount;
//! - a background job of a durable server is not handed out, nor its JOB_CREATED sent, before the store said [`Input::Persisted`];
//! - a job without background submitters has a client, or is running;
//! - the replies of one connection leave in the order of its requests;
//! - if a job waits and may run, no sleeping worker that could take it has been left without a NOOP that is still to be answered.
//!
//! Where to find what: `submit.rs` submissions, coalescing, durability; `recurring.rs` and `cron.rs` jobs that come again; `headers.rs` and `results.rs`
//! what a submission may ask for and what is kept of its end; `grab.rs` choosing a job, sleeping and waking; `work.rs` what workers report and what becomes
//! of jobs whose worker is gone; `control.rs` operators' acts; `view.rs` what lists and status pages show.
#![forbid(unsafe_code)]

mod arena;
mod config;
mod conn;
mod control;
mod cron;
mod function;
mod grab;
mod handle;
mod headers;
mod invariants;
mod job;
mod recurring;
mod results;
mod server;
mod submit;
mod view;
mod wake;
mod work;

pub use config::{Config, RetryPolicy, TimeoutAction, TimeoutUnit, Wakeup};
pub use control::{CancelOutcome, DropOutcome};
pub use function::FunctionId;
pub use handle::HandleText;
pub use job::{ConnId, JobId, StoredJob};
pub use recurring::{StoredSchedule, is_schedule};
pub use server::{Counters, Histogram, Input, JobServer, Output, Reply};
pub use view::{ConnView, DeadView, FunctionView, JobState, JobView, ScheduleView};
