//! The tracker of MogileFS: it speaks the line protocol with clients, owns the metadata in SQLite or MySQL, and runs the background jobs that keep
//! every file on enough disks.
//! Several trackers run side by side on one database; there is no leader.
//!
//! ```text
//!   listener ──► conn ──► commands ──► store (SQL)            one request at a time per connection, replies in order
//!                              │  └──► Snapshot               domains, classes, hosts, devices, settings; swapped whole
//!                              └─────► nodes (HTTP HEAD)      create_close and get_paths ask before they answer
//!   worker monitor    ──► re-reads the database, probes devices ──► Snapshot
//!   worker replicate  ──► claims rows ──► core decides ──► copy node to node ──► file_on
//!   worker delete     ──► claims rows ──► HTTP DELETE ──► rows gone
//!   worker reaper     ──► dead devices: queue replication, forget the location
//!   worker tempfiles  ──► uploads nobody closed
//!   worker fsck, rebalance ──► when started by an administrator
//! ```
//!
//! Life of an upload: `create_open` inserts a tempfile row and names destinations; the client PUTs to one; `create_close` asks that node for the
//! size, then in one transaction
//! makes the key point to the file, records the location, queues replication and the deletion of what the key pointed to before. Only the commit
//! makes it visible, and
//! only the commit is acknowledged. The replicate worker is woken at once.
//!
//! Everything runs on the tokio runtime; SQLite has its own threads inside ibex-sql. Shared state is `tracker::Tracker`: a snapshot behind a lock
//! held for a pointer copy, and the
//! monitor's observations behind another; the lock order is observations, then snapshot.

mod args;
mod commands;
mod config;
mod conn;
mod console;
mod copy;
mod jobs;
mod metrics;
mod server;
mod side;
mod snapshot;
mod store;
mod tracker;

pub use args::Args;
pub use config::Config;
pub use server::run;

/// Facts of this daemon.
pub const ABOUT: ibex_kit::About = ibex_kit::About {
    name: "ibex-mogilefsd",
    short: "mogilefsd",
    summary: "MogileFS tracker",
    version: env!("CARGO_PKG_VERSION"),
    admin_port: 9813,
    original_flags: "Takes mogilefsd's --dsn, --dbuser, --dbpass, --listen, --min_free_space, --default_mindevcount, --node_timeout, --conn_timeout, --mogstored_stream_port, --daemonize, \
                     --pidfile and --user; --skipconfig, --workers, --debug, --no_http, --workerport, --plugins and the like are accepted and change nothing.",
};
