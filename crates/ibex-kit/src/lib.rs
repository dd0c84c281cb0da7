//! The daemon kit: configuration, logging, metrics, admin HTTP, listeners, signals, readiness, drain, workers.
