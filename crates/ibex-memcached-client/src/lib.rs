//! Pooled, pipelined asynchronous memcached client with ketama hashing over many servers.
