//! The upkeep thread: once a second it frees expired items, charges the memory of connection buffers against the limit, and wakes the workers
//! for what they do once a second.

use crate::shared::Shared;
use ibex_kit::Heartbeat;
use mio::Waker;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Segments swept under one hold of a shard's lock.
const SEGMENTS_PER_HOLD: usize = 1;
/// Rounds after which the counts of hot keys are halved.
const HALVED_EVERY: u32 = 60;
/// Time between rounds.
const ROUND: Duration = Duration::from_secs(1);
/// Items per index entry before the original's hash table doubles, times two.
const HASH_FILL_HALVES: u64 = 3;

/// Runs until the daemon stops; `unpark` ends the pause.
pub(crate) fn run(shared: &Arc<Shared>, heartbeat: &Heartbeat, workers: &[Arc<Waker>]) {
    let mut rounds = 0_u32;
    while !shared.is_stopping() {
        heartbeat.beat();
        round(shared);
        rounds += 1;
        if rounds.is_multiple_of(HALVED_EVERY) {
            shared.hotkeys.halve();
        }
        for worker in workers {
            if let Err(error) = worker.wake() {
                tracing::warn!(%error, "worker was not woken");
            }
        }
        std::thread::park_timeout(ROUND);
    }
}

fn round(shared: &Shared) {
    let now = shared.clock.now();
    shared.charge_buffers(now);
    let is_enabled = shared.live.crawler_enabled.load(Ordering::Relaxed);
    shared.live.crawl.turn(is_enabled, || sweep(shared, now));
    let items = shared.store.stats().items_max;
    let power = &shared.globals.hash_power;
    while HASH_FILL_HALVES << power.load(Ordering::Relaxed) < 2 * items {
        power.fetch_add(1, Ordering::Relaxed);
    }
}

fn sweep(shared: &Shared, now: u32) {
    for number in 0..shared.store.count() {
        let is_over = || {
            shared
                .store
                .by_number(number)
                .is_none_or(|mut shard| shard.sweep(now, SEGMENTS_PER_HOLD))
        };
        while !is_over() {
            if shared.is_stopping() {
                return;
            }
        }
    }
    shared
        .globals
        .crawler_starts
        .fetch_add(1, Ordering::Relaxed);
}
