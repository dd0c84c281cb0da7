//! MogileFS tracker.

fn main() {}
