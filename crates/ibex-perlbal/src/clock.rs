//! The wall clock, in the form HTTP wants it.
//!
//! Owns the cached Date text: formatting it once a second is enough. It schedules nothing.

use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

static DATE: LazyLock<ArcSwap<(u64, String)>> =
    LazyLock::new(|| ArcSwap::from_pointee((0, ibex_perlbal_proto::date::format(0))));

/// Seconds since 1970; 0 if the clock is before it.
pub(crate) fn unix_secs() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}

/// Value of a Date field for now.
pub(crate) fn date() -> String {
    let now = unix_secs();
    let cached = DATE.load();
    if cached.0 == now {
        return cached.1.clone();
    }
    let text = ibex_perlbal_proto::date::format(now);
    DATE.store(Arc::new((now, text.clone())));
    text
}
