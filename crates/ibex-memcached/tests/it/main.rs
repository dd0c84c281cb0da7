//! The real program over real sockets: wire scripts, limits, life cycle, leases under contention, the original beside it.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "test helpers")]

mod client;
mod compare;
mod hostile;
mod life;
mod limits;
mod login;
mod namespaces;
mod numbers;
mod restart;
mod scripts;
mod tls;
mod udp;
mod watch;
