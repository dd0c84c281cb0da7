//! Fuzz target: bytes that strangers chose, as an argument, a handle and a schedule.
#![no_main]

#[path = "../src/body.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
