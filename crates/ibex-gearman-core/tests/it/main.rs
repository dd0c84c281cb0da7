//! The job server from outside: transcripts, a simulation under hostile schedules, fuzzed conversations.
#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

mod fuzzed;
mod sim;
mod transcripts;
