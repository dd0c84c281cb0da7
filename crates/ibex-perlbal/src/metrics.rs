//! Every metric of the balancer.
//!
//! Owns names and help texts. Labels are service names, which come from configuration, and status classes. The compatibility
//! listings count on their own where the original's meaning differs.

use std::time::Duration;

use ibex_kit::DURATION_BUCKETS;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByService {
    service: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByStatus {
    service: String,
    code: String,
}

type Histograms = Family<ByService, Histogram, fn() -> Histogram>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Metrics {
    requests: Family<ByStatus, Counter>,
    duration: Histograms,
    wait: Histograms,
    answer: Histograms,
    retries: Family<ByService, Counter>,
    reproxied: Family<ByService, Counter>,
    failovers: Family<ByService, Counter>,
    sent: Counter,
    spool_files: Counter,
    spool_bytes: Counter,
}

fn histogram() -> Histogram {
    Histogram::new(DURATION_BUCKETS)
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let new = || Histograms::new_with_constructor(histogram as fn() -> Histogram);
        let metrics = Self {
            requests: Family::default(),
            duration: new(),
            wait: new(),
            answer: new(),
            retries: Family::default(),
            reproxied: Family::default(),
            failovers: Family::default(),
            sent: Counter::default(),
            spool_files: Counter::default(),
            spool_bytes: Counter::default(),
        };
        registry.register(
            "perlbal_requests",
            "Requests answered, by service of the listener and status class",
            metrics.requests.clone(),
        );
        registry.register(
            "perlbal_request_seconds",
            "Time from the head of a request to the end of its response",
            metrics.duration.clone(),
        );
        registry.register(
            "perlbal_queue_wait_seconds",
            "Time requests waited for a backend connection",
            metrics.wait.clone(),
        );
        registry.register(
            "perlbal_backend_response_seconds",
            "Time from a request's first byte to a backend to the head of its response",
            metrics.answer.clone(),
        );
        registry.register(
            "perlbal_retries",
            "Requests given to a backend again",
            metrics.retries.clone(),
        );
        registry.register(
            "perlbal_reproxied",
            "Responses that named another source of their body",
            metrics.reproxied.clone(),
        );
        registry.register(
            "perlbal_reproxy_failovers",
            "Reproxy URLs that failed so that the next one was tried",
            metrics.failovers.clone(),
        );
        registry.register(
            "perlbal_sent_bytes",
            "Bytes of responses sent to clients",
            metrics.sent.clone(),
        );
        registry.register(
            "perlbal_spool_files",
            "Request bodies spooled to disk",
            metrics.spool_files.clone(),
        );
        registry.register(
            "perlbal_spool_bytes",
            "Bytes of request bodies spooled to disk",
            metrics.spool_bytes.clone(),
        );
        metrics
    }

    pub(crate) fn request(&self, service: &str, status: u16, took: Duration) {
        let code = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            500..=599 => "5xx",
            _ => "cut",
        };
        self.requests
            .get_or_create(&ByStatus {
                service: service.to_owned(),
                code: code.to_owned(),
            })
            .inc();
        self.duration
            .get_or_create(&label(service))
            .observe(took.as_secs_f64());
    }

    pub(crate) fn waited(&self, service: &str, took: Duration) {
        self.wait
            .get_or_create(&label(service))
            .observe(took.as_secs_f64());
    }

    pub(crate) fn answered(&self, service: &str, took: Duration) {
        self.answer
            .get_or_create(&label(service))
            .observe(took.as_secs_f64());
    }

    pub(crate) fn retried(&self, service: &str) {
        self.retries.get_or_create(&label(service)).inc();
    }

    pub(crate) fn reproxied(&self, service: &str) {
        self.reproxied.get_or_create(&label(service)).inc();
    }

    pub(crate) fn failed_over(&self, service: &str) {
        self.failovers.get_or_create(&label(service)).inc();
    }

    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.inc_by(bytes as u64);
    }

    pub(crate) fn spooled(&self, bytes: u64) {
        self.spool_files.inc();
        self.spool_bytes.inc_by(bytes);
    }
}

fn label(service: &str) -> ByService {
    ByService {
        service: service.to_owned(),
    }
}
