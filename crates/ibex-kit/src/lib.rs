//! The daemon kit: what every daemon of the family stands on.
//!
//! Owns configuration, logging, metrics, admin HTTP, listeners, signals, readiness, drain, tracked tasks and background
//! workers, so that a daemon crate contains none of them. Apart from the daemons so that all behave alike. It knows no
//! protocol and no store.
//!
//! A daemon is one call:
//!
//! ```no_run
//! use ibex_kit::{About, CommonArgs, DaemonArgs, Failure, Kit, ListenAddr};
//!
//! const ABOUT: About = About {
//!     name: "ibex-echo",
//!     short: "echo",
//!     summary: "says what it hears",
//!     version: env!("CARGO_PKG_VERSION"),
//!     admin_port: 9899,
//!     original_flags: "",
//! };
//!
//! #[derive(clap::Parser)]
//! struct Args {
//!     #[command(flatten)]
//!     common: CommonArgs,
//!     /// An original's letter.
//!     #[arg(short = 'c', long)]
//!     connections: Option<u32>,
//! }
//!
//! impl DaemonArgs for Args {
//!     fn common(&self) -> &CommonArgs {
//!         &self.common
//!     }
//!     fn settings(&self) -> Vec<(String, toml::Value)> {
//!         self.connections.map(|n| ("limits.connections".to_owned(), i64::from(n).into())).into_iter().collect()
//!     }
//! }
//!
//! ibex_kit::config! {
//!     /// Whole configuration of ibex-echo. The kit's own tables (admin, log, limits, shutdown, …) are accepted without
//!     /// being listed; list one as `table` to read it here, or use `kit.common()`.
//!     pub struct Config {
//!         /// Data ports.
//!         live listen: Vec<ListenAddr> = vec![ListenAddr::Tcp { host: None, port: 7 }],
//!         /// What is said first.
//!         live greeting: String = "hello".to_owned(),
//!     }
//! }
//! impl ibex_kit::Validate for Config {}
//!
//! async fn run(cfg: Config, kit: Kit) -> Result<(), Failure> {
//!     let bound = kit.bind("echo", &cfg.listen)?;
//!     bound.serve(
//!         |cfg: &Config| cfg.listen.clone(),
//!         |mut arrival| async move {
//!             let (mut read, mut write) = tokio::io::split(&mut arrival.stream);
//!             let _end = tokio::io::copy(&mut read, &mut write).await;
//!         },
//!     );
//!     kit.ready().await?;
//!     kit.draining().cancelled().await;
//!     Ok(())
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     ibex_kit::main::<Args, Config, _>(ABOUT, |cfg, kit| run(cfg, kit))
//! }
//! ```

extern crate self as ibex_kit;

/// Appends formatted text to a `String`, which cannot fail as a general writer can.
macro_rules! put {
    ($out:expr, $($argument:tt)*) => {
        $out.push_str(&format!($($argument)*))
    };
}

/// [`put!`] with a line feed behind.
macro_rules! putln {
    ($out:expr, $($argument:tt)*) => {{
        $out.push_str(&format!($($argument)*));
        $out.push('\n');
    }};
}

mod about;
mod accept;
mod admin;
mod args;
mod config;
mod connections;
mod control;
mod detach;
mod doors;
mod failure;
mod generate;
mod health;
mod healthcheck;
mod kit;
mod life;
mod limits;
mod listen;
mod logging;
pub mod memory;
mod metrics;
mod notify;
pub mod page;
mod passed;
mod phase;
mod reload;
mod run;
mod state;
mod tasks;
mod worker;

pub use about::About;
pub use accept::Arrival;
pub use args::{CommonArgs, DaemonArgs, Detach, PrintConfig};
pub use config::common::{
    AdminConfig, Common, LimitsConfig, LogConfig, LogFormat, MetricsConfig, ReadyConfig,
    ShutdownConfig, StoreConfig, TlsConfig, WatchdogConfig,
};
pub use config::schema::{ConfigTable, DeepCheck, Field, Problem, Reload, Validate};
#[doc(hidden)]
pub use config::schema::{check_type, is_secret_type};
pub use config::types::{AutoOr, ByteSize, Duration, ListenAddr, OptionalAddr, Secret};
pub use connections::{Connection, Connections};
pub use doors::{Bound, Doors};
pub use failure::{Failure, Kind};
pub use health::{Check, Heartbeat};
pub use kit::Kit;
pub use listen::{AsyncListener, Listener, Peer, Stream};
pub use metrics::cap::{LabelCap, OTHER};
pub use metrics::{DURATION_BUCKETS, Metrics};
pub use phase::Phase;
pub use run::{load, main};
pub use state::{make_state_dir, state_path};
pub use tasks::BusyGuard;
pub use worker::{Step, Worker, WorkerHandle, WorkerStatus};

/// What the macros of this crate and daemons' metrics need by path.
pub use prometheus_client;
pub use serde;
pub use toml;

/// Locks a mutex whose guarded value stays whole between statements, so a panicking holder spoils nothing.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Seconds since 1970, 0 if the clock is before it.
pub(crate) fn unix_seconds() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
