//! Every metric of the tracker. The console's `!stats` reads the same counters.

use ibex_kit::prometheus_client::encoding::EncodeLabelSet;
use ibex_kit::prometheus_client::metrics::counter::Counter;
use ibex_kit::prometheus_client::metrics::family::Family;
use ibex_kit::prometheus_client::metrics::gauge::Gauge;
use ibex_kit::prometheus_client::metrics::histogram::Histogram;

/// A command and how it ended: both closed sets.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) command: &'static str,
    pub(crate) result: &'static str,
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CommandLabels {
    pub(crate) command: &'static str,
}

/// A job and how a piece of its work ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct WorkLabels {
    pub(crate) job: &'static str,
    pub(crate) result: &'static str,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct QueueLabels {
    pub(crate) queue: &'static str,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DeviceLabels {
    pub(crate) devid: u32,
}

/// The tracker's metrics.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) requests: Family<RequestLabels, Counter>,
    pub(crate) request_seconds: Family<CommandLabels, Histogram>,
    pub(crate) queries: Counter,
    pub(crate) work: Family<WorkLabels, Counter>,
    pub(crate) copied_bytes: Counter,
    pub(crate) queue_rows: Family<QueueLabels, Gauge>,
    pub(crate) device_writeable: Family<DeviceLabels, Gauge>,
    pub(crate) device_free_bytes: Family<DeviceLabels, Gauge>,
}

impl Metrics {
    pub(crate) fn register(metrics: &ibex_kit::Metrics) -> Self {
        let new = Self {
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(|| {
                Histogram::new(ibex_kit::DURATION_BUCKETS)
            }),
            queries: Counter::default(),
            work: Family::default(),
            copied_bytes: Counter::default(),
            queue_rows: Family::default(),
            device_writeable: Family::default(),
            device_free_bytes: Family::default(),
        };
        metrics.with(|registry| {
            registry.register(
                "mogilefsd_requests",
                "Commands answered",
                new.requests.clone(),
            );
            registry.register(
                "mogilefsd_request_seconds",
                "Time to answer a command",
                new.request_seconds.clone(),
            );
            registry.register("mogilefsd_queries", "Commands taken", new.queries.clone());
            registry.register(
                "mogilefsd_work",
                "Pieces of background work ended",
                new.work.clone(),
            );
            registry.register(
                "mogilefsd_copied_bytes",
                "Bytes copied between storage nodes",
                new.copied_bytes.clone(),
            );
            registry.register(
                "mogilefsd_queue_rows",
                "Rows waiting in a queue",
                new.queue_rows.clone(),
            );
            registry.register(
                "mogilefsd_device_writeable",
                "Whether the monitor could write to a device",
                new.device_writeable.clone(),
            );
            registry.register(
                "mogilefsd_device_free_bytes",
                "Free space of a device",
                new.device_free_bytes.clone(),
            );
        });
        new
    }

    pub(crate) fn worked(&self, job: &'static str, result: &'static str) {
        self.work.get_or_create(&WorkLabels { job, result }).inc();
    }
}
