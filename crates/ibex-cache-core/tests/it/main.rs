//! The item store against a naive model, and under hostile schedules.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "test helpers"
)]

mod density;
mod holds;
mod model;
mod sim;
