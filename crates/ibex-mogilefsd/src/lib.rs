//! MogileFS tracker.
