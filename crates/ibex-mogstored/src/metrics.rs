//! Every metric of the node.

use ibex_kit::prometheus_client::encoding::EncodeLabelSet;
use ibex_kit::prometheus_client::metrics::counter::Counter;
use ibex_kit::prometheus_client::metrics::family::Family;
use ibex_kit::prometheus_client::metrics::gauge::Gauge;
use ibex_kit::prometheus_client::metrics::histogram::Histogram;
use ibex_mogilefs_proto::DevId;
use ibex_mogilefs_proto::usage::Usage;

/// Method and status class of a request: both closed sets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) method: &'static str,
    pub(crate) status: u16,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DeviceLabels {
    pub(crate) devid: u32,
}

/// The node's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) requests: Family<RequestLabels, Counter>,
    pub(crate) request_seconds: Histogram,
    pub(crate) received_bytes: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) side_requests: Counter,
    total_bytes: Family<DeviceLabels, Gauge>,
    used_bytes: Family<DeviceLabels, Gauge>,
}

impl Metrics {
    pub(crate) fn register(metrics: &ibex_kit::Metrics) -> Self {
        let new = Self {
            requests: Family::default(),
            request_seconds: Histogram::new(ibex_kit::DURATION_BUCKETS),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            side_requests: Counter::default(),
            total_bytes: Family::default(),
            used_bytes: Family::default(),
        };
        metrics.with(|registry| {
            registry.register(
                "mogstored_requests",
                "HTTP requests answered",
                new.requests.clone(),
            );
            registry.register(
                "mogstored_request_seconds",
                "Time from request head to response head",
                new.request_seconds.clone(),
            );
            registry.register(
                "mogstored_received_bytes",
                "Bytes of uploads taken",
                new.received_bytes.clone(),
            );
            registry.register(
                "mogstored_sent_bytes",
                "Bytes of files offered in responses",
                new.sent_bytes.clone(),
            );
            registry.register(
                "mogstored_side_requests",
                "Side channel requests",
                new.side_requests.clone(),
            );
            registry.register(
                "mogstored_device_total_bytes",
                "Size of a device",
                new.total_bytes.clone(),
            );
            registry.register(
                "mogstored_device_used_bytes",
                "Used space of a device",
                new.used_bytes.clone(),
            );
        });
        new
    }

    pub(crate) fn observe_usage(&self, device: DevId, usage: &Usage) {
        let labels = DeviceLabels { devid: device.0 };
        let bytes = |kib: u64| i64::try_from(kib.saturating_mul(1024)).unwrap_or(i64::MAX);
        self.total_bytes
            .get_or_create(&labels)
            .set(bytes(usage.total_kib));
        self.used_bytes
            .get_or_create(&labels)
            .set(bytes(usage.used_kib));
    }
}
