//! Tests of the decisions: transcripts read as text, and a seeded simulation.
#![allow(
    clippy::unwrap_used,
    reason = "helpers outside #[test] functions fail the test they serve"
)]

mod sim;
mod transcript;
