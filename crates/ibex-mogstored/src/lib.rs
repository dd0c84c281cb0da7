//! The storage node of MogileFS: plain files under `docroot/devN/`, over HTTP, and a side channel for sizes, digests and disk load.
//!
//! ```text
//!   http listener ──► conn ──► handler ──► paths   which file may be touched at all
//!                                      ├─► read    ranges, bodies from disk
//!                                      └─► write   temporary file, sync, rename
//!   side listener ──► side ──► digest, utilization
//!   worker usage  ──► usage    scans docroot, writes devN/usage
//! ```
//!
//! Life of an upload: the path is checked and its directories are opened one by one without following links; bytes go to a file in `devN/.tmp`,
//! hashed on the way; then length and MD5 are
//! compared, the file is synced, renamed over its final name, the directory synced, and only then answered. Whatever fails before leaves the old
//! content untouched and no partial
//! file.
//!
//! Sockets run on the tokio runtime; every call that touches a disk runs on its blocking threads, bounded per device, so that one slow disk does not
//! stop the others.

mod args;
mod config;
mod conn;
mod digest;
mod disks;
mod handler;
mod metrics;
mod paths;
mod read;
mod server;
mod side;
mod stall;
mod usage;
mod utilization;
mod write;

pub use args::Args;
pub use config::{Config, SyncMode};
pub use server::run;

/// Facts of this daemon.
pub const ABOUT: ibex_kit::About = ibex_kit::About {
    name: "ibex-mogstored",
    short: "mogstored",
    summary: "MogileFS storage node over HTTP",
    version: env!("CARGO_PKG_VERSION"),
    admin_port: 9814,
    original_flags: "Takes mogstored's --httplisten, --mgmtlisten, --docroot, --maxconns, --daemonize, --pidfile; --server, --serverbin, --iostat and --skipconfig are accepted and change nothing.",
};
