//! The daemon as a process: the library's client and worker, the durable queue under kill -9, hostile peers, and the original beside it.
#![allow(
    clippy::unwrap_used,
    clippy::unwrap_in_result,
    reason = "tests stop at the first surprise"
)]

mod access;
mod admin;
mod clients;
mod compat;
mod differences;
mod doors;
mod durable;
mod examples;
mod extensions;
mod front;
mod front_compat;
mod hostile;
mod memory;
mod packets;
mod paging;
mod rows;
mod tls;
