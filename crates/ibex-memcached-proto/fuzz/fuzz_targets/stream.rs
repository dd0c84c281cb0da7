//! Fuzz target: a byte stream at a server's door (text, packets, datagrams) and at a client's.
#![no_main]

#[path = "../src/body.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
