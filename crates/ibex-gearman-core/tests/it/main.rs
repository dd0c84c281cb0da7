//! The job server from outside: transcripts, and a simulation under hostile schedules.
#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod sim;
mod transcripts;
