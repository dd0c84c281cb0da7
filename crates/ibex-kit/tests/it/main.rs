//! The kit as a process: the example daemon is started, asked, signalled and stopped.
//!
//! Owns what unit tests cannot show (spec/ops.md 13): exit codes, signals, the notify protocol, drain, passed sockets. The
//! harness is small and its own, because the family's test kit stands above this crate.

#![allow(clippy::unwrap_used, reason = "test helpers fail by panicking")]

mod admin;
mod command_line;
mod daemon;
mod lifecycle;
mod listeners;
mod logs;
mod supervisor;
