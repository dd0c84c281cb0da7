//! Helpers of the pure crates: what protocol parsers and state machines share and the standard library lacks.
//!
//! Nothing here knows a socket, a clock, a thread or a file. Time comes in as [`std::time::Instant`] arguments, randomness as a seed, and every iteration order
//! is a function of the inputs, so that a simulation with the same seed gives the same trace.
//!
//! - [`ascii`]: decimal numbers in wire formats, without going through `str`.
//! - [`deadline`]: "which key is due next?" for cores that keep many timers.
//! - [`escape`]: bytes from strangers, made safe for a log line.
//! - [`rng`]: small, seeded random numbers for choices and simulations (never for secrets).
//! - [`zipf`]: ranks by popularity, for load generators and simulated caches.
#![forbid(unsafe_code)]

pub mod ascii;
pub mod deadline;
pub mod escape;
pub mod rng;
pub mod zipf;
