//! The tool as a program, beside servers that behave in a given way.
#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

mod bench;
mod cache;
mod schwartz;
