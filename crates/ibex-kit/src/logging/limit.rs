//! The rate limit for events that strangers can cause: those that carry a `peer`.
//!
//! Owns a count per call site and second. What is over the limit is counted, and told in one line a second by the kit.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tracing::{Level, Metadata};

use crate::lock;

/// Messages of one call site with a `peer` in one second before the rest is only counted.
const PEER_MESSAGES_PER_SECOND: u64 = 10;
static LIMITS: Mutex<BTreeMap<usize, Site>> = Mutex::new(BTreeMap::new());

/// How often a call site spoke in the current second.
#[derive(Debug)]
struct Site {
    since: Instant,
    count: u64,
    suppressed: u64,
    place: String,
}

/// The rate limit: an event with a `peer` can be caused by strangers.
pub(super) fn admitted(metadata: &Metadata<'_>) -> bool {
    if *metadata.level() > Level::INFO || metadata.fields().field("peer").is_none() {
        return true;
    }
    let now = Instant::now();
    let mut sites = lock(&LIMITS);
    let key = std::ptr::from_ref(metadata).addr();
    let site = sites.entry(key).or_insert_with(|| {
        let place = format!(
            "{}:{}",
            metadata.file().unwrap_or("unknown"),
            metadata.line().unwrap_or(0)
        );
        Site {
            since: now,
            count: 0,
            suppressed: 0,
            place,
        }
    });
    if now.duration_since(site.since) >= Duration::from_secs(1) {
        site.since = now;
        site.count = 0;
    }
    site.count += 1;
    let admitted = site.count <= PEER_MESSAGES_PER_SECOND;
    site.suppressed += u64::from(!admitted);
    admitted
}

/// Tells what was suppressed since the last call; the kit calls it once a second.
pub(crate) fn tell_suppressed() {
    let told: Vec<(String, u64)> = {
        let mut sites = lock(&LIMITS);
        sites
            .values_mut()
            .filter(|site| site.suppressed > 0)
            .map(|site| (site.place.clone(), std::mem::take(&mut site.suppressed)))
            .collect()
    };
    for (place, suppressed) in told {
        tracing::warn!(suppressed, place, "messages suppressed");
    }
}
