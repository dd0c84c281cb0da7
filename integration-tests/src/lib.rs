//! What the modules of `tests/it` share: how each daemon is started with the least it needs, how one asks whether it serves, and how peers are run.
//!
//! The facts about a daemon that the *tools* need too are in `ibex_testkit::family`; here are those that only tests need.
#![forbid(unsafe_code)]

pub mod peers;
pub mod ping;
pub mod start;
