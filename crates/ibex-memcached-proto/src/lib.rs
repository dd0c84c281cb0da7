//! The memcached protocols (text, meta, binary): bytes to requests and replies, both directions.
