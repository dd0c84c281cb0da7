//! The item store of the cache: memory, index, eviction, expiry, CAS.
