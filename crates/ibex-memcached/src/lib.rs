//! Cache daemon speaking the memcached protocols.
//!
//! ```text
//!  acceptor thread ──sockets──▶ worker threads (mio, one Poll each; a connection stays with its worker)
//!                                  │ bytes → conn.rs → proto::request → exec/ → reply bytes
//!                                  ▼
//!  udp thread ──datagrams──────────┤
//!                     store.rs: shards of ibex-cache-core, each behind one short lock
//!                                  ▲
//!  upkeep thread ── every second: expiry sweep, memory charged for buffers ┘      kit (tokio): admin HTTP, signals
//! ```
//! Life of a request: the worker's poll says a socket is readable; `conn.rs` reads into the worker's scratch buffer, cuts lines and blocks,
//! and hands each request to `exec/`, which locks the key's shard, does the work and appends the reply to the connection's output; when the input is
//! used up the output is written with one system call. A connection whose output is not taken is not read from.
//!
//! Lines for `watch` go through rings to a thread of their own, see `watch/`.
//!
//! Locks: while a shard's lock is held only two others are taken, each a leaf held for nanoseconds: the ring of the worker's own lines for `watch`, and the
//! table of namespaces. Nothing is waited for. Shares of a new memory limit are told to the shards one change after another, under a lock that is taken
//! before theirs. Why a hit is never wrong: docs/notes/2026-11-cache-concurrency.md.
#![forbid(unsafe_code)]

mod acceptor;
mod args;
mod auth;
mod clock;
mod conf_file;
mod config;
mod conn;
mod counters;
mod crawl;
mod exec;
mod hotkeys;
mod latency;
mod login;
mod metrics;
mod namespaces;
#[cfg(test)]
mod namespaces_test;
mod ports;
mod register;
mod restart;
mod server;
mod shared;
mod shown;
#[cfg(test)]
mod splits_test;
mod stats;
mod stats_ours;
mod store;
mod stream;
#[cfg(test)]
mod stress_test;
mod sync;
#[cfg(test)]
mod testing;
mod tls;
mod udp;
mod upkeep;
mod watch;
mod ways;
mod worker;

pub use args::Args;
pub use config::Config;
pub use server::run;
pub use ways::DoorAddr;

/// Who this daemon is.
pub const ABOUT: ibex_kit::About = ibex_kit::About {
    name: "ibex-memcached",
    short: "memcached",
    summary: "cache daemon speaking the memcached protocols",
    version: env!("CARGO_PKG_VERSION"),
    admin_port: 9811,
    original_flags: "The flags of memcached 1.6 are accepted; those about slab classes and LRU threads are kept for the statistics and change nothing. \
        --config also takes a file of flags, one a line, as Debian's /etc/memcached.conf. Extensions: -o ns=CHAR (namespaces, see ns_invalidate), -o metrics=ADDR (the admin port, with /metrics), and every key of the \
        configuration that -o does not know from memcached, as -o KEY=VALUE.",
};

/// What `version` answers. Clients read the number to learn which commands there are: it names the release whose protocol this is.
pub(crate) const PROTOCOL_VERSION: &str = "1.6.45";
