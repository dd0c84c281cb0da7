//! Every number of the daemon: the job server's counters, its functions, the traffic. One collector reads them at scrape; nothing is counted twice.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

use ibex_gearman_core::{Counters, FunctionView, Histogram};
use ibex_gearman_proto::Priority;
use ibex_kit::LabelCap;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::driver::{Hub, Shared};

/// Reads the job server when somebody asks.
#[derive(Debug)]
pub(crate) struct Numbers {
    shared: Weak<Shared>,
    cap: LabelCap,
}

/// Declares the collector on a registry.
pub(crate) fn register(registry: &mut Registry, shared: &Arc<Shared>) {
    registry.register_collector(Box::new(Numbers {
        shared: Arc::downgrade(shared),
        cap: shared.kit.label_cap(),
    }));
}

/// A moment's numbers, copied out of the lock.
#[derive(Debug)]
struct Snapshot {
    counters: Counters,
    functions: Vec<FunctionView>,
    jobs: usize,
    dead: usize,
    workload_bytes: u64,
    /// Name, help and value of what only grows.
    traffic: [(&'static str, &'static str, u64); 8],
    results: usize,
    results_bytes: usize,
    open: u64,
    store_backlog: u64,
}

fn snapshot(shared: &Shared, hub: &Hub) -> Snapshot {
    let functions: Vec<FunctionView> = hub.server.functions(Instant::now()).collect();
    let (results, results_bytes) = hub.server.kept_results();
    Snapshot {
        counters: *hub.server.counters(),
        functions,
        jobs: hub.server.job_count(),
        dead: hub.server.dead().count(),
        workload_bytes: hub.server.workload_bytes(),
        traffic: traffic(shared),
        results,
        results_bytes,
        open: shared.traffic.open.load(Ordering::Relaxed) as u64,
        store_backlog: shared.store_backlog.requests.load(Ordering::Relaxed) as u64,
    }
}

impl Collector for Numbers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(shared) = self.shared.upgrade() else {
            return Ok(());
        };
        // A scrape waits for one batch of one connection, not longer.
        let snapshot = snapshot(&shared, &shared.hub());
        write(encoder, &snapshot, &self.cap)
    }
}

fn write(mut encoder: DescriptorEncoder<'_>, snapshot: &Snapshot, cap: &LabelCap) -> fmt::Result {
    write_jobs(&mut encoder, snapshot)?;
    counter(
        &mut encoder,
        "gearmand_recurring_occurrences",
        "Occurrences of recurring jobs that came due",
        snapshot.counters.recurred,
    )?;
    write_functions(&mut encoder, snapshot, cap)?;
    write_times(&mut encoder, snapshot)?;
    write_traffic(&mut encoder, snapshot)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = ConstCounter::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

/// Jobs by how they came and went.
fn write_ways(encoder: &mut DescriptorEncoder<'_>, c: &Counters) -> fmt::Result {
    let mut submitted = encoder.encode_descriptor(
        "gearmand_jobs_submitted",
        "Jobs created",
        None,
        MetricType::Counter,
    )?;
    for priority in Priority::ALL {
        let kinds = [
            ("foreground", c.submitted_foreground[priority.index()]),
            ("background", c.submitted_background[priority.index()]),
        ];
        for (kind, value) in kinds {
            let labels = [("kind", kind), ("priority", priority.name())];
            ConstCounter::new(value).encode(submitted.encode_family(&labels)?)?;
        }
    }
    let mut ended = encoder.encode_descriptor(
        "gearmand_jobs_ended",
        "Jobs gone, by how",
        None,
        MetricType::Counter,
    )?;
    let ends = [
        ("completed", c.completed),
        ("failed", c.failed),
        ("excepted", c.excepted),
        ("buried", c.buried),
        ("cancelled", c.cancelled),
        ("abandoned", c.abandoned),
    ];
    for (result, value) in ends {
        ConstCounter::new(value).encode(ended.encode_family(&[("result", result)])?)?;
    }
    Ok(())
}

fn write_jobs(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let c = &snapshot.counters;
    write_ways(encoder, c)?;
    counter(
        encoder,
        "gearmand_submissions_coalesced",
        "Submissions that joined a job",
        c.coalesced,
    )?;
    counter(
        encoder,
        "gearmand_submissions_refused",
        "Submissions answered by ERROR",
        c.refused,
    )?;
    counter(
        encoder,
        "gearmand_submissions_deduplicated",
        "Submissions answered with the kept result of an equal job",
        c.deduplicated,
    )?;
    counter(
        encoder,
        "gearmand_jobs_expired",
        "Jobs that no worker took within their ttl",
        c.expired,
    )?;
    counter(
        encoder,
        "gearmand_jobs_assigned",
        "Jobs handed to workers",
        c.assigned,
    )?;
    counter(
        encoder,
        "gearmand_grabs_empty",
        "Grabs answered by NO_JOB",
        c.grabs_empty,
    )?;
    counter(
        encoder,
        "gearmand_jobs_requeued",
        "Jobs that waited again",
        c.requeued,
    )?;
    counter(
        encoder,
        "gearmand_jobs_timed_out",
        "Jobs whose worker took too long",
        c.timed_out,
    )?;
    counter(
        encoder,
        "gearmand_wakeups",
        "NOOPs sent to sleeping workers",
        c.noops,
    )?;
    counter(
        encoder,
        "gearmand_protocol_errors",
        "ERROR packets sent",
        c.errors,
    )?;
    gauge(
        encoder,
        "gearmand_jobs",
        "Jobs there are",
        snapshot.jobs as u64,
    )?;
    gauge(
        encoder,
        "gearmand_jobs_dead",
        "Jobs given up and kept",
        snapshot.dead as u64,
    )?;
    gauge(
        encoder,
        "gearmand_workload_bytes",
        "Memory of workloads",
        snapshot.workload_bytes,
    )
}

/// Sums of one function's label.
#[derive(Default)]
struct FunctionSum {
    waiting: u64,
    scheduled: u64,
    running: u64,
    workers: u64,
    oldest_us: u64,
}

fn write_functions(
    encoder: &mut DescriptorEncoder<'_>,
    snapshot: &Snapshot,
    cap: &LabelCap,
) -> fmt::Result {
    let mut sums: std::collections::BTreeMap<String, FunctionSum> =
        std::collections::BTreeMap::new();
    for f in &snapshot.functions {
        let sum = sums.entry(cap.label(&f.name)).or_default();
        sum.waiting += u64::from(f.waiting.iter().sum::<u32>() + f.committing);
        sum.scheduled += u64::from(f.scheduled);
        sum.running += u64::from(f.running);
        sum.workers += u64::from(f.workers);
        sum.oldest_us = sum.oldest_us.max(f.oldest_us);
    }
    let mut jobs = encoder.encode_descriptor(
        "gearmand_function_jobs",
        "Jobs of a function, by state",
        None,
        MetricType::Gauge,
    )?;
    for (function, sum) in &sums {
        for (state, value) in [
            ("waiting", sum.waiting),
            ("scheduled", sum.scheduled),
            ("running", sum.running),
        ] {
            let labels = [("function", function.as_str()), ("state", state)];
            ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
                .encode(jobs.encode_family(&labels)?)?;
        }
    }
    let mut workers = encoder.encode_descriptor(
        "gearmand_function_workers",
        "Connections that can do a function",
        None,
        MetricType::Gauge,
    )?;
    for (function, sum) in &sums {
        let value = ConstGauge::new(i64::try_from(sum.workers).unwrap_or(i64::MAX));
        value.encode(workers.encode_family(&[("function", function.as_str())])?)?;
    }
    let help = "Age of the longest waiting job of a function";
    let mut oldest = encoder.encode_descriptor(
        "gearmand_function_oldest_seconds",
        help,
        None,
        MetricType::Gauge,
    )?;
    for (function, sum) in &sums {
        let seconds = std::time::Duration::from_micros(sum.oldest_us).as_secs_f64();
        ConstGauge::new(seconds)
            .encode(oldest.encode_family(&[("function", function.as_str())])?)?;
    }
    Ok(())
}

fn write_times(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    let times = [
        (
            "gearmand_job_wait_seconds",
            "From submission or return to assignment",
            &snapshot.counters.wait,
        ),
        (
            "gearmand_job_run_seconds",
            "From assignment to the end",
            &snapshot.counters.run,
        ),
    ];
    for (name, help, histogram) in times {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        let buckets = buckets(histogram);
        let count = buckets.iter().map(|(_, n)| n).sum();
        let sum = std::time::Duration::from_micros(histogram.sum_us).as_secs_f64();
        family.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)?;
    }
    Ok(())
}

/// Upper bounds in seconds; the last one is open.
fn buckets(histogram: &Histogram) -> Vec<(f64, u64)> {
    let last = histogram.buckets.len() - 1;
    let bound = |power: usize| {
        if power == last {
            f64::MAX
        } else {
            std::time::Duration::from_micros(1 << power).as_secs_f64()
        }
    };
    histogram
        .buckets
        .iter()
        .enumerate()
        .map(|(power, count)| (bound(power), *count))
        .collect()
}

fn traffic(shared: &Shared) -> [(&'static str, &'static str, u64); 8] {
    let t = &shared.traffic;
    let read = |value: &std::sync::atomic::AtomicU64| value.load(Ordering::Relaxed);
    [
        (
            "gearmand_connections_accepted",
            "Connections accepted",
            read(&t.accepted),
        ),
        (
            "gearmand_connections_shed",
            "Connections closed at once: too many",
            read(&t.shed),
        ),
        (
            "gearmand_connections_slow",
            "Connections closed: they did not read",
            read(&t.slow_closed),
        ),
        (
            "gearmand_connections_malformed",
            "Connections closed: malformed input",
            read(&t.malformed),
        ),
        (
            "gearmand_handshakes_failed",
            "Connections closed: no TLS, a certificate that is not good, or too slow",
            read(&t.handshakes_failed),
        ),
        (
            "gearmand_requests_denied",
            "Packets and commands that the access rules refuse",
            read(&t.denied),
        ),
        (
            "gearmand_received_bytes",
            "Bytes read from connections",
            read(&t.received_bytes),
        ),
        (
            "gearmand_sent_bytes",
            "Bytes written to connections",
            read(&t.sent_bytes),
        ),
    ]
}

fn write_traffic(encoder: &mut DescriptorEncoder<'_>, snapshot: &Snapshot) -> fmt::Result {
    for (name, help, value) in snapshot.traffic {
        counter(encoder, name, help, value)?;
    }
    gauge(
        encoder,
        "gearmand_connections",
        "Open connections",
        snapshot.open,
    )?;
    gauge(
        encoder,
        "gearmand_results",
        "Results that are kept",
        snapshot.results as u64,
    )?;
    gauge(
        encoder,
        "gearmand_results_bytes",
        "Bytes of results that are kept, with 256 for each",
        snapshot.results_bytes as u64,
    )?;
    gauge(
        encoder,
        "gearmand_store_backlog",
        "Store requests not done",
        snapshot.store_backlog,
    )
}

/// One moment's numbers, for text made under the lock.
#[derive(Debug)]
struct Moment {
    snapshot: Snapshot,
    cap: LabelCap,
}

impl Collector for Moment {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        write(encoder, &self.snapshot, &self.cap)
    }
}

/// The daemon's numbers as Prometheus text, for the admin protocol; called under the lock.
pub(crate) fn text(shared: &Shared, hub: &Hub) -> String {
    let mut text = String::new();
    let mut registry = Registry::with_prefix("ibex");
    registry.register_collector(Box::new(Moment {
        snapshot: snapshot(shared, hub),
        cap: shared.kit.label_cap(),
    }));
    if prometheus_client::encoding::text::encode_registry(&mut text, &registry).is_err() {
        tracing::error!("a metric cannot be written");
    }
    text
}
