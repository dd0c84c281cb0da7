//! Fuzz target: bytes that strangers chose, as everything an HTTP caller can send.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ibex_schwartzd::probe(data));
