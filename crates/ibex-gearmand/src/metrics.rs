//! Every number of the daemon: the job server's counters, its functions, the traffic. One collector reads them at scrape; nothing is counted twice.

mod functions;

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Instant;

use ibex_gearman_core::{Away, Counters, FunctionView};
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
    away: Away,
    /// Name, help and value of what only grows.
    traffic: [(&'static str, &'static str, u64); 10],
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
        away: hub.server.away(),
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
    functions::write(&mut encoder, &snapshot.functions, cap)?;
    functions::write_times(&mut encoder, &snapshot.counters)?;
    write_away(&mut encoder, &snapshot.away)?;
    write_traffic(&mut encoder, snapshot)
}

/// Workloads that are in the store only.
fn write_away(encoder: &mut DescriptorEncoder<'_>, away: &Away) -> fmt::Result {
    let (jobs, bytes) = (away.jobs, away.bytes);
    let help = "Jobs whose workload is in the store only";
    gauge(encoder, "gearmand_workloads_away", help, jobs)?;
    let help = "Bytes of workloads that are in the store only";
    gauge(encoder, "gearmand_workload_bytes_away", help, bytes)?;
    for (name, help, value) in [
        (
            "gearmand_workloads_sent_away",
            "Workloads that left memory because it was short",
            away.sent,
        ),
        (
            "gearmand_workloads_fetched",
            "Workloads that were read back",
            away.fetched,
        ),
        (
            "gearmand_workload_fetches_failed",
            "Workloads that could not be read and are asked for again",
            away.failed,
        ),
        (
            "gearmand_workloads_lost",
            "Workloads the store did not have; their jobs are dead",
            away.lost,
        ),
    ] {
        counter(encoder, name, help, value)?;
    }
    Ok(())
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

fn traffic(shared: &Shared) -> [(&'static str, &'static str, u64); 10] {
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
            "gearmand_http_requests",
            "Requests that the HTTP front has answered",
            read(&t.http_requests),
        ),
        (
            "gearmand_http_failures",
            "Those answered with 500 or more: a job failed, was not ended in time or not accepted",
            read(&t.http_failures),
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
