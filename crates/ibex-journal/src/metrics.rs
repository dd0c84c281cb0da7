//! Every metric of the journal, and its part of the status page.
//!
//! Apart because names are promises. Counts live where they happen (`Cluster::stats`, `Cache::stats`, …) and are read at scrape;
//! only requests are counted here.

use crate::app::App;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use ibex_kit::Kit;
use ibex_kit::page::Section;
use ibex_kit::prometheus_client::collector::Collector;
use ibex_kit::prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use ibex_kit::prometheus_client::metrics::counter::{ConstCounter, Counter};
use ibex_kit::prometheus_client::metrics::family::Family;
use ibex_kit::prometheus_client::metrics::histogram::Histogram;
use std::time::Instant;

/// Requests by outcome, and how long they took.
#[derive(Debug, Clone)]
pub(crate) struct Requests {
    answered: Family<Labels, Counter>,
    seconds: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    route: String,
    status: u16,
}

impl Requests {
    pub(crate) fn register(kit: &Kit) -> Self {
        let requests = Self {
            answered: Family::default(),
            seconds: Histogram::new(ibex_kit::DURATION_BUCKETS),
        };
        kit.metrics().with(|registry| {
            registry.register(
                "journal_requests",
                "Requests answered, by route and status",
                requests.answered.clone(),
            );
            registry.register(
                "journal_request_seconds",
                "Time to the head of an answer",
                requests.seconds.clone(),
            );
        });
        requests
    }
}

/// Counts one request; routes are the router's own patterns, so the label set is closed.
pub(crate) async fn count(
    State(requests): State<Requests>,
    request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let response = next.run(request).await;
    requests.seconds.observe(began.elapsed().as_secs_f64());
    let route = response
        .extensions()
        .get::<MatchedPath>()
        .map_or("other", MatchedPath::as_str)
        .to_owned();
    requests
        .answered
        .get_or_create(&Labels {
            route,
            status: response.status().as_u16(),
        })
        .inc();
    response
}

#[derive(Debug)]
struct Numbers(App);

impl Numbers {
    fn list(&self) -> Vec<(&'static str, &'static str, u64)> {
        let (cluster, cache, (remote, local)) = (
            self.0.cluster.stats(),
            self.0.cache.stats(),
            self.0.jobs.counts(),
        );
        let global = self.0.cluster.global().stats();
        vec![
            (
                "journal_home_reads",
                "Homes of users read from the global database",
                cluster.home_reads,
            ),
            (
                "journal_user_reads",
                "Transactions that read one user's data",
                cluster.reads,
            ),
            (
                "journal_user_writes",
                "Transactions that wrote one user's data",
                cluster.writes,
            ),
            (
                "journal_gather_requests",
                "Requests of scatter/gather, one per cluster",
                cluster.gathers,
            ),
            (
                "journal_gather_lost",
                "Requests of scatter/gather that failed or came too late",
                cluster.gathers_lost,
            ),
            (
                "journal_fence_refusals",
                "Transactions the fence turned away",
                cluster.refusals,
            ),
            (
                "journal_global_writes",
                "Write transactions on the global database",
                global.writes,
            ),
            (
                "journal_cache_hits",
                "Values found in the cache",
                cache.hits,
            ),
            (
                "journal_cache_misses",
                "Values not found in the cache",
                cache.misses,
            ),
            (
                "journal_cache_fills",
                "Values stored after a miss",
                cache.fills,
            ),
            (
                "journal_cache_fills_lost",
                "Values not stored because the key was invalidated meanwhile",
                cache.lost,
            ),
            (
                "journal_cache_errors",
                "Calls to the cache that failed",
                cache.errors,
            ),
            (
                "journal_outbox_left_behind",
                "Effects of commits that had to be repeated",
                self.0.swept(),
            ),
            ("journal_jobs_remote", "Pictures scaled by workers", remote),
            (
                "journal_jobs_local",
                "Pictures scaled in the process that needed them",
                local,
            ),
        ]
    }
}

impl Collector for Numbers {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, help, value) in self.list() {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                counter.metric_type(),
            )?)?;
        }
        Ok(())
    }
}

/// Exports the counts and shows them on the status page.
pub(crate) fn register(app: &App, kit: &Kit) {
    kit.metrics()
        .with(|registry| registry.register_collector(Box::new(Numbers(app.clone()))));
    let shown = app.clone();
    kit.page(move || {
        let facts = Numbers(shown.clone())
            .list()
            .into_iter()
            .map(|(_, help, value)| (help, value));
        let clusters = shown.config.cluster.iter().map(|one| {
            let is_down = shown.cluster.down().iter().any(|down| down.0 == one.id);
            vec![
                one.id.to_string(),
                one.weight.to_string(),
                one.readonly.to_string(),
                if is_down { "away" } else { "up" }.to_owned(),
            ]
        });
        vec![
            Section::facts("Journal", facts),
            Section::table(
                "Clusters",
                ["id", "weight", "read-only", "state"],
                clusters.collect(),
            ),
        ]
    });
}
