//! The job server from outside: transcripts, a simulation under hostile schedules, fuzzed conversations.
#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod fuzzed;
mod scripted_store;
mod sim;
mod transcripts;
