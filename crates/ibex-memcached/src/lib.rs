//! Cache daemon speaking the memcached protocols.
