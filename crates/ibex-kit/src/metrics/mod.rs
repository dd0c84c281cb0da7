//! The metrics of the process: one registry handed down, the kit's own numbers, two text forms.
//!
//! Owns what `GET /metrics` says: OpenMetrics when asked for, classic text otherwise. Apart from the daemons' metrics, which
//! each daemon declares in its own `metrics.rs`; there is no global registry.

pub(crate) mod cap;
pub(crate) mod classic;
pub(crate) mod common;
pub(crate) mod process;

use std::fmt;
use std::sync::Mutex;

use prometheus_client::registry::Registry;

use crate::lock;

/// Buckets of every duration histogram, in seconds: 50 µs to 10 s in steps of about 2.5, the same everywhere so that panels can be shared.
pub const DURATION_BUCKETS: [f64; 14] = [
    0.000_05, 0.000_125, 0.000_3, 0.000_75, 0.002, 0.005, 0.012, 0.03, 0.075, 0.2, 0.5, 1.2, 3.0,
    10.0,
];

/// Declares metrics on the process's registry. Names start with the daemon's short name; `ibex_` is put before them.
pub struct Metrics {
    registry: Mutex<Registry>,
    foreign: Mutex<Registry>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            registry: Mutex::new(Registry::with_prefix("ibex")),
            foreign: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Gives the registry to `declare`: `registry.register("gearmand_jobs_submitted", "Jobs submitted", counter.clone())`
    /// is exported as `ibex_gearmand_jobs_submitted_total`.
    pub fn with<R>(&self, declare: impl FnOnce(&mut Registry) -> R) -> R {
        declare(&mut lock(&self.registry))
    }

    /// As [`Metrics::with`], for names that are an agreement with others and have no `ibex_` before them.
    pub fn with_foreign<R>(&self, declare: impl FnOnce(&mut Registry) -> R) -> R {
        declare(&mut lock(&self.foreign))
    }

    /// The daemon's metrics in OpenMetrics form, without the end mark.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        for registry in [&self.registry, &self.foreign] {
            if prometheus_client::encoding::text::encode_registry(&mut text, &lock(registry))
                .is_err()
            {
                tracing::error!("a metric cannot be written");
            }
        }
        text
    }
}
