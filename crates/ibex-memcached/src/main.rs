//! Cache daemon speaking the memcached protocols.

fn main() {}
