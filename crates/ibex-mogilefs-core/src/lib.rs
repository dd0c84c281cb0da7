//! MogileFS decisions: placement, replication policy, device and host states.
