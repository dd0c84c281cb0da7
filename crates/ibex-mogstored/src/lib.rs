//! MogileFS storage node over HTTP.
