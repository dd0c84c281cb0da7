//! Tests of the tracker as a real process, with real storage nodes on loopback. A module per theme; [`cluster`] starts everything.
//!
//! They need the built binaries `ibex-mogilefsd` and `ibex-mogstored` beside the test.
#![allow(
    clippy::too_many_lines,
    reason = "a table of requests and replies is read in one piece"
)]
#![allow(
    clippy::unwrap_used,
    reason = "helpers outside #[test] functions fail the test they serve"
)]

mod admin;
mod cluster;
mod faults;
mod files;
mod jobs;
mod wire;
