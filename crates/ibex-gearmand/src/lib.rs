//! The Gearman job server: sockets, store and clock around [`ibex_gearman_core::JobServer`].
//!
//! ```text
//!   reactor 0 … n (mio, one thread each, connections pinned)          store task (tokio)
//!   ┌────────────────────────────────────────┐
//!   │ read → parse → lock ─► JobServer ─► outputs ──── Persist, Forget … ──► one transaction per batch
//!   │                          ▲             │                                        │
//!   │   own connection: out ◄──┼─────────────┤                                        │
//!   │   other reactor: mailbox ┘  write      │ ◄──── mailbox 0: Stored, StoreFailed ──┘
//!   └────────────────────────────────────────┘
//! ```
//!
//! Life of a request. A reactor reads what a connection has (`reactor.rs`), parses packet by packet in place and hands each to the job server under
//! one short lock,
//! executing the command itself: no hand-over to another thread. Outputs for its own connections go to their output buffers, for others' to that
//! reactor's mailbox, in the order in
//! which the job server made them, because that happens under the same lock. At the end of the turn every buffer that grew is written once.
//!
//! A background submission of a durable server comes out as `Persist`; the store task (`store/`) takes all that are there into one transaction,
//! commits, and mails the
//! reactor, which tells the job server; only then JOB_CREATED leaves.
//!
//! Listeners come and go with reloads (`doors.rs`), speak TLS (`tls.rs`) and ask the access rules (`acl.rs`). The HTTP front (`front.rs`) is a client of the
//! job server for each request, in tasks whose writes do not wait for ever (`stall.rs`).
//!
//! Lock order: the job server, then a mailbox. Nothing blocks under the job server's lock.
#![forbid(unsafe_code)]

mod acl;
mod admin;
mod args;
mod conf_file;
mod config;
mod conn;
mod doors;
mod driver;
mod front;
mod lists;
mod metrics;
mod page;
mod peers;
mod reactor;
mod server;
mod slack;
mod stall;
mod store;
mod tls;

pub use args::Args;
pub use config::Config;
pub use server::run;

use ibex_kit::About;

/// What `version` answers. Scripts of the original's users compare it: a version in its order, not below the one this server was compared with.
pub const COMPATIBLE_VERSION: &str = "1.1.21+ibex";

/// Who this daemon is.
pub const ABOUT: About = About {
    name: "ibex-gearmand",
    short: "gearmand",
    summary: "Gearman job server with durable background jobs",
    version: env!("CARGO_PKG_VERSION"),
    admin_port: 9815,
    original_flags: "The letters of gearmand are kept: -b -d -f -j -l -L -p -P -q -R -t -u -V -w, and its long names. Accepted without effect: -f (the limit is raised by \
                     itself), -l and --syslog (the log goes to stderr), -R and --keepalive (on by default), --hashtable-buckets. --config-file reads the \
                     original's file of flags.",
};
