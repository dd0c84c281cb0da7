//! Tests of the dispatcher from outside: reviewed transcripts and a seeded simulation.

mod sim;
mod transcripts;

use std::time::Instant;

/// Any instant will do as the origin of a test's time line.
fn origin() -> Instant {
    #[expect(
        clippy::disallowed_methods,
        reason = "an Instant cannot be made from nothing"
    )]
    Instant::now()
}
