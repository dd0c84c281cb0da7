//! Where in its life a daemon is.
//!
//! Owns the phases and their names; the transitions are made by start, signals and drain alone.

use std::time::Instant;

/// The phase of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Opening listeners and store.
    Starting,
    /// Serving.
    Running,
    /// Serving what it has; `/readyz` says no; nothing new after `shutdown.delay`.
    Draining {
        /// When what is left will be cut.
        deadline: Instant,
    },
    /// Closing stores; about to exit.
    Stopping,
}

impl Phase {
    /// All names, in order of life.
    pub(crate) const NAMES: [&'static str; 4] = ["starting", "running", "draining", "stopping"];

    /// Its name in metrics and pages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Draining { .. } => "draining",
            Self::Stopping => "stopping",
        }
    }
}
