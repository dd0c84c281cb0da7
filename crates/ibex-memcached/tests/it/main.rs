//! The real program over real sockets: wire scripts, limits, life cycle, leases under contention, the original beside it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test helpers")]

mod client;
mod compare;
mod faults;
mod flags;
mod hostile;
mod life;
mod limits;
mod login;
mod namespaces;
mod numbers;
mod reload;
mod restart;
mod schedules;
mod scripts;
mod sync;
mod texts;
mod tls;
mod udp;
mod watch;
