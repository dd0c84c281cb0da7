//! MogileFS storage node over HTTP.

fn main() {}
