//! ibex-schwartzd: TheSchwartz over HTTP, on the tables that Perl programs use.
//!
//! ```text
//!  HTTP connection (a task each)
//!     │ insert ──► ibex-schwartz client ──► databases (SQLite writer thread, MySQL pool)
//!     │               └─► hub.wake(function) ──► waiting fetches ; poke ──► gearman job servers
//!     │ fetch ───► hub: joins the fetches for the same functions into one grab; waits when nothing is ready
//!     │ finish ──► held leases (token ↔ database value) ──► one fenced transaction
//!  fronts: the same insert, fetch and finish for those who speak Gearman
//!  watch (a task per database): jobs that others inserted ──► hub.wake
//!  tick  (a task): once a second, as time is whole seconds: due jobs, lost leases
//!  clean (a kit worker per database): old errors and exit statuses
//! ```
//!
//! Life of a job: POST /v1/jobs answers after the commit; the insert wakes one waiting fetch per job; that fetch takes it with the
//! conditional update every worker of these tables uses, and answers with a lease; complete, fail, decline, extend and replace carry
//! the lease. A lease that runs out counts as a failure. At the end of the daemon, leases still out are given back.
//!
//! The daemon keeps nothing that the tables do not hold, except who waits and which lease it gave to whom. It is apart from the
//! library because programs in other languages, and people, need a door with a lock, metrics and pages.

#![forbid(unsafe_code)]

mod api;
mod args;
mod config;
mod dashboard;
mod events;
mod fronts;
mod held;
mod http;
mod hub;
mod leading;
mod metrics;
mod opening;
mod orders;
mod plain;
mod poke;
mod probe;
mod roster;
mod server;
mod tls;
mod trace;
mod upkeep;
mod wal;

pub use args::Args;
pub use config::Config;
#[doc(hidden)]
pub use probe::probe;
pub use server::run;

/// The constant facts of this daemon.
pub const ABOUT: ibex_kit::About = ibex_kit::About {
    name: "ibex-schwartzd",
    short: "schwartzd",
    summary: "reliable job queue over databases, TheSchwartz over HTTP",
    version: env!("CARGO_PKG_VERSION"),
    admin_port: 9816,
    original_flags: "TheSchwartz is a Perl library and has no daemon; its workers go on using the same tables beside this one.",
};
