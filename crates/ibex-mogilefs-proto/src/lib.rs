//! The MogileFS tracker line protocol and the storage side channel, both directions.
