//! The Gearman job server as a state machine: no sockets, no clock, no threads, no randomness.
//!
//! ```text
//!            Input                                                   Output
//!  Connected, Packet, Refused, Closed ──►┌────────────────┐──► Send, Text   to a connection
//!  Persisted, PersistFailed, Restored ──►│   JobServer    │──► Persist, Attempt, Forget, Bury … to the store
//!  handle_timeout(now) ─────────────────►│                │──► poll_timeout: when to call again
//!                                        └────────────────┘
//!  Fetched, FetchFailed, FetchLost ─────► workloads that were let go ──► Fetch
//!
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
//! - a job in a queue has its workload here; one whose workload is in the store only waits behind the queue, in order, and is fetched when a worker may want
//!   it.
//!
//! Where to find what. The contract with the shell: `io.rs`; the state and its doors: `server.rs`; the order of what goes out: `replies.rs`.
//!
//! | a job's life | files |
//! | --- | --- |
//! | it comes | `requests.rs`, `submit.rs`, `headers.rs`, `keys.rs` (coalescing); `recurring.rs` and `cron.rs` (by the clock) |
//! | it is made durable | `commit.rs` |
//! | it waits | `place.rs` (queues, schedule), `paging.rs` (workloads on disk), `clock.rs` (due times) |
//! | it is handed out | `grab.rs`, `wake.rs` |
//! | it is worked on and ends | `work.rs`, `results.rs` (what is kept of the end), `status.rs` (who asks) |
//! | it is not finished | `loss.rs` (attempts, pauses), `control.rs` (operators, the dead) |
//!
//! The things themselves: `job.rs` with `clients.rs`, `arena.rs` with `numbers.rs`, `function.rs`, `conn.rs`, `handle.rs`. `view.rs` is what lists and status
//! pages show, `invariants.rs` what must always hold. Read `job.rs`, `place.rs` and `grab.rs` first.
#![forbid(unsafe_code)]

mod arena;
mod clients;
mod clock;
mod commit;
mod config;
mod conn;
mod control;
mod counters;
mod cron;
mod function;
mod grab;
mod handle;
mod headers;
mod invariants;
mod io;
mod job;
mod keys;
mod loss;
mod numbers;
mod paging;
mod place;
mod recurring;
mod replies;
mod requests;
mod results;
mod server;
mod status;
mod submit;
mod view;
mod wake;
mod work;

pub use config::{Config, RetryPolicy, TimeoutAction, TimeoutUnit, Wakeup};
pub use control::{CancelOutcome, DropOutcome};
pub use counters::{Counters, Histogram};
pub use function::FunctionId;
pub use handle::HandleText;
pub use io::{Input, Output, Reply};
pub use job::{ConnId, JobId, StoredJob};
pub use paging::Away;
pub use recurring::{StoredSchedule, is_schedule};
pub use results::{End, StoredResult};
pub use server::JobServer;
pub use view::{ConnView, DeadView, FunctionView, JobState, JobView, ScheduleView};
