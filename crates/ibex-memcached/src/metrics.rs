//! Every metric of the daemon. They are read from the same numbers as `stats`, when somebody scrapes.

use crate::counters::Totals;
use crate::shared::Shared;
use ibex_cache_core::Stats;
use ibex_kit::Kit;
use ibex_kit::prometheus_client::collector::Collector;
use ibex_kit::prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use ibex_kit::prometheus_client::metrics::counter::ConstCounter;
use ibex_kit::prometheus_client::metrics::gauge::ConstGauge;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Reads the daemon's numbers.
#[derive(Debug)]
struct Numbers(Arc<Shared>);

/// Declares the daemon's metrics.
pub(crate) fn register(kit: &Kit, shared: &Arc<Shared>) {
    kit.metrics()
        .with(|registry| registry.register_collector(Box::new(Numbers(Arc::clone(shared)))));
}

/// Commands by name and outcome, as the counters of `stats` have them.
fn commands(totals: &Totals) -> [(&'static str, &'static str, u64); 14] {
    [
        ("get", "hit", totals.get_hits),
        ("get", "miss", totals.get_misses),
        ("set", "any", totals.cmd_set),
        ("touch", "hit", totals.touch_hits),
        ("touch", "miss", totals.touch_misses),
        ("delete", "hit", totals.delete_hits),
        ("delete", "miss", totals.delete_misses),
        ("incr", "hit", totals.incr_hits),
        ("incr", "miss", totals.incr_misses),
        ("decr", "hit", totals.decr_hits),
        ("decr", "miss", totals.decr_misses),
        ("cas", "hit", totals.cas_hits),
        ("cas", "miss", totals.cas_misses),
        ("cas", "badval", totals.cas_badval),
    ]
}

/// Name, help, value.
type Row = (&'static str, &'static str, u64);

fn counters(shared: &Shared, totals: &Totals, items: &Stats) -> [Row; 18] {
    [
        (
            "memcached_requests",
            "Requests read from clients.",
            totals.requests,
        ),
        (
            "memcached_received_bytes",
            "Bytes read from clients.",
            totals.bytes_read,
        ),
        (
            "memcached_sent_bytes",
            "Bytes written to clients.",
            totals.bytes_written,
        ),
        ("memcached_flushes", "flush_all commands.", totals.cmd_flush),
        ("memcached_items_stored", "Items stored.", items.total_items),
        (
            "memcached_items_evicted",
            "Live items dropped for room.",
            items.evictions,
        ),
        (
            "memcached_items_evicted_unfetched",
            "Items dropped for room that were never read.",
            items.evicted_unfetched,
        ),
        (
            "memcached_items_expired",
            "Expired items freed.",
            items.reclaimed + items.sweep_reclaimed,
        ),
        (
            "memcached_stores_too_large",
            "Items refused for their size.",
            totals.store_too_large,
        ),
        (
            "memcached_stores_no_memory",
            "Items refused for lack of room.",
            totals.store_no_memory,
        ),
        (
            "memcached_connections_accepted",
            "Connections accepted.",
            shared.globals.total_connections.load(Ordering::Relaxed),
        ),
        (
            "memcached_connections_rejected",
            "Connections over the limit.",
            shared.globals.rejected_connections.load(Ordering::Relaxed),
        ),
        (
            "memcached_connections_shed",
            "Connections closed because all buffers together were over their limit.",
            totals.read_buf_oom + totals.response_obj_oom,
        ),
        (
            "memcached_tls_handshake_errors",
            "TLS handshakes that failed.",
            totals.tls_handshake_errors,
        ),
        (
            "memcached_tls_errors",
            "TLS sessions that failed after their handshake.",
            totals.tls_errors,
        ),
        (
            "memcached_datagrams_answered",
            "Datagrams with a reply.",
            totals.datagrams_answered,
        ),
        (
            "memcached_datagrams_dropped",
            "Datagrams that were no whole request.",
            totals.datagrams_dropped,
        ),
        (
            "memcached_connections_yielded",
            "Turns that ended at the request limit.",
            totals.conn_yields,
        ),
    ]
}

fn gauges(shared: &Shared, items: &Stats) -> [Row; 9] {
    [
        ("memcached_items", "Live items.", items.curr_items),
        ("memcached_items_bytes", "Bytes of live items.", items.bytes),
        (
            "memcached_limit_bytes",
            "Memory limit.",
            shared.store.limit_bytes() as u64,
        ),
        (
            "memcached_index_bytes",
            "Bytes of the index.",
            items.index_bytes,
        ),
        (
            "memcached_segment_bytes",
            "Bytes of segments.",
            items.segment_bytes,
        ),
        (
            "memcached_connection_buffer_bytes",
            "Bytes of connection buffers.",
            shared.buffer_bytes(),
        ),
        (
            "memcached_namespaces",
            "Prefixes that were invalidated.",
            shared.namespaces.count() as u64,
        ),
        (
            "memcached_restored_items",
            "Items taken up from an earlier process at the start.",
            shared.restored_items.load(Ordering::Relaxed),
        ),
        (
            "memcached_connections",
            "Client connections.",
            shared.connections(),
        ),
    ]
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let shared = &self.0;
        let (totals, items) = (shared.lifetime_totals(), shared.store.stats());
        let counter = ConstCounter::new(0_u64);
        let mut family = encoder.encode_descriptor(
            "memcached_commands",
            "Commands carried out, by outcome.",
            None,
            counter.metric_type(),
        )?;
        for (command, status, value) in commands(&totals) {
            let labels = [("command", command), ("status", status)];
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        let counters = counters(shared, &totals, &items);
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        let gauges = gauges(shared, &items);
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}
