//! Fuzz target: streams of six connections, the store's answers and time, at the job server's door.
#![no_main]

#[path = "../src/body.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
