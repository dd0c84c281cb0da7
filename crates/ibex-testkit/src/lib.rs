//! Test harness: real binaries, wire scripts, fault proxy, virtual clock and seeds.
