//! Watching the devices: usage, test writes, and whether a node verifies uploads.
//!
//! Every round re-reads the small tables, then asks all devices at once, so that a slow node delays nobody. A host that times out is not asked about
//! its other devices in the same
//! round by more than one wait, because all questions run side by side.

use crate::store::queues::{Queue, QueueType};
use crate::tracker::{Observation, Tracker};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use ibex_kit::{Step, Worker, WorkerStatus};
use ibex_mogilefs_client::node::{self, NodeClient, NodeError};
use ibex_mogilefs_core::Observed;
use ibex_mogilefs_proto::DevId;
use ibex_mogilefs_proto::console::JobKind;
use ibex_mogilefs_proto::usage::Usage;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Longest usage file read.
const USAGE_BYTES_MAX: usize = 16 << 10;
/// How old a device row's usage may become before this tracker writes it anew.
const USAGE_ROW_AGE: Duration = Duration::from_secs(15);
/// How often queue lengths are counted for metrics.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// Test files per device; the original's number, so that a directory of them stays small.
const TEST_FILES: u64 = 100;

/// The worker.
pub(super) struct Monitor {
    tracker: Arc<Tracker>,
    last_test: BTreeMap<DevId, Instant>,
    last_usage_row: Option<Instant>,
    last_count: Option<Instant>,
    rounds: u64,
}

/// A question to one device.
#[derive(Debug, Clone)]
struct Question {
    device: DevId,
    get_base: String,
    put_base: String,
    tests_write: bool,
    before: Observation,
    test_file: u64,
    token: u64,
    wait: Duration,
}

impl Monitor {
    pub(super) fn new(tracker: Arc<Tracker>) -> Self {
        Self {
            tracker,
            last_test: BTreeMap::new(),
            last_usage_row: None,
            last_count: None,
            rounds: 0,
        }
    }

    fn questions(&mut self) -> Vec<Question> {
        let snapshot = self.tracker.snapshot();
        let config = self.tracker.config();
        let mut rng = self.tracker.rng();
        let mut questions = Vec::new();
        for device in snapshot.cluster.devices.values() {
            let Some((_, host)) = snapshot.cluster.device(device.id) else {
                continue;
            };
            if !snapshot.cluster.can_read(device.id) {
                continue;
            }
            let writes = snapshot.cluster.can_delete(device.id);
            let before = self.tracker.observation(device.id);
            let is_due = self
                .last_test
                .get(&device.id)
                .is_none_or(|at| at.elapsed() >= config.test_write_interval.std());
            // A device that is not known to be writeable is tried every round, so that it comes back at once.
            let tests_write = writes && (is_due || before.observed != Observed::Writeable);
            questions.push(Question {
                device: device.id,
                get_base: format!("http://{}:{}/dev{}", host.ip, host.get_port(), device.id),
                put_base: format!("http://{}:{}/dev{}", host.ip, host.http_port, device.id),
                tests_write,
                before: if writes {
                    before
                } else {
                    Observation {
                        observed: Observed::Readable,
                        ..before
                    }
                },
                test_file: rng.below(TEST_FILES),
                token: rng.next_u64(),
                wait: config.node_timeout.std(),
            });
        }
        questions
    }

    async fn ask_all(&mut self) -> Vec<(DevId, Observation)> {
        let mut asked = JoinSet::new();
        for question in self.questions() {
            if question.tests_write {
                self.last_test.insert(question.device, Instant::now());
            }
            let nodes = self.tracker.nodes.clone();
            asked.spawn(async move { (question.device, ask(&nodes, &question).await) });
        }
        let mut seen = Vec::new();
        while let Some(answer) = asked.join_next().await {
            if let Ok(answer) = answer {
                seen.push(answer);
            }
        }
        seen
    }

    async fn note_changes(&self, seen: &[(DevId, Observation)]) -> crate::store::Result<()> {
        for (device, now) in seen {
            let before = self.tracker.observation(*device);
            if before.observed == now.observed {
                continue;
            }
            tracing::info!(devid = %device, from = before.observed.name(), to = now.observed.name(), "device observed");
            self.tracker.console.say(format!(
                "[monitor] dev{device}: observed state is now {}",
                now.observed.name()
            ));
            if now.observed == Observed::Writeable {
                let woken = self.tracker.store.wake_deletions_on(*device).await?;
                if woken > 0 {
                    self.tracker.wake(JobKind::Delete);
                }
            }
        }
        Ok(())
    }

    async fn write_usage_rows(
        &mut self,
        seen: &[(DevId, Observation)],
    ) -> crate::store::Result<()> {
        if self
            .last_usage_row
            .is_some_and(|at| at.elapsed() < USAGE_ROW_AGE)
        {
            return Ok(());
        }
        let rows: Vec<(DevId, u64, u64)> = seen
            .iter()
            .filter_map(|(device, now)| now.usage_mb.map(|(total, used)| (*device, total, used)))
            .collect();
        if !rows.is_empty() {
            self.tracker.store.set_device_usage(rows).await?;
            self.last_usage_row = Some(Instant::now());
        }
        Ok(())
    }

    async fn count_queues(&mut self) -> crate::store::Result<()> {
        if self.last_count.is_some_and(|at| at.elapsed() < COUNT_EVERY) {
            return Ok(());
        }
        self.last_count = Some(Instant::now());
        for (queue, name) in [
            (Queue::Replicate, "replicate"),
            (Queue::Delete, "delete"),
            (Queue::Other(QueueType::Fsck), "fsck"),
            (Queue::Other(QueueType::Rebalance), "rebalance"),
        ] {
            let (rows, _due) = self.tracker.store.queue_depth(queue).await?;
            let gauge = self
                .tracker
                .metrics
                .queue_rows
                .get_or_create_owned(&crate::metrics::QueueLabels { queue: name });
            gauge.set(i64::try_from(rows).unwrap_or(i64::MAX));
        }
        Ok(())
    }

    fn show_devices(&self) {
        let snapshot = self.tracker.snapshot();
        for device in snapshot.cluster.devices.values() {
            let labels = crate::metrics::DeviceLabels { devid: device.id.0 };
            let writeable = self
                .tracker
                .metrics
                .device_writeable
                .get_or_create_owned(&labels);
            writeable.set(i64::from(device.observed == Observed::Writeable));
            let free = device.mb_free().unwrap_or(0).saturating_mul(1 << 20);
            let gauge = self
                .tracker
                .metrics
                .device_free_bytes
                .get_or_create_owned(&labels);
            gauge.set(i64::try_from(free).unwrap_or(i64::MAX));
        }
    }
}

impl Worker for Monitor {
    fn name(&self) -> String {
        "monitor".to_owned()
    }

    fn status(&self) -> WorkerStatus {
        WorkerStatus {
            done: self.rounds,
            total: None,
            note: "rounds over all devices".to_owned(),
        }
    }

    async fn step(&mut self) -> Result<Step, anyhow::Error> {
        let wait = self.tracker.config().monitor_interval.std();
        if self.tracker.want(JobKind::Monitor) == 0 {
            return Ok(Step::Idle { wait });
        }
        self.tracker.reload().await?;
        let seen = self.ask_all().await;
        self.note_changes(&seen).await?;
        self.write_usage_rows(&seen).await?;
        self.tracker.observe(seen);
        self.show_devices();
        self.count_queues().await?;
        self.rounds += 1;
        self.tracker.monitor_round_done();
        Ok(Step::Idle { wait })
    }
}

/// Asks one device how it is.
async fn ask(nodes: &NodeClient, question: &Question) -> Observation {
    let mut seen = question.before.clone();
    match usage(nodes, &question.get_base).await {
        Ok(usage) => {
            seen.usage_mb = usage
                .map(|usage| (usage.total_kib / 1024, usage.used_kib / 1024))
                .or(seen.usage_mb)
        }
        Err(NodeError::Status(_)) => {
            // The node answers and has no usage file: its disk is not mounted.
            seen.observed = Observed::Unreachable;
            return seen;
        }
        Err(_) => {
            seen.observed = Observed::Unreachable;
            return seen;
        }
    }
    if question.tests_write {
        let written = test_write(nodes, question).await;
        seen.observed = if written {
            Observed::Writeable
        } else {
            Observed::Readable
        };
        if written && seen.rejects_bad_md5.is_none() {
            seen.rejects_bad_md5 = rejects_bad_md5(nodes, question).await;
        }
    } else if seen.observed == Observed::Unknown || seen.observed == Observed::Unreachable {
        seen.observed = Observed::Readable;
    }
    seen
}

async fn usage(nodes: &NodeClient, base: &str) -> Result<Option<Usage>, NodeError> {
    let text = nodes
        .get(&format!("{base}/usage"), 0)
        .await?
        .bytes(USAGE_BYTES_MAX)
        .await?;
    Ok(Usage::parse(&text))
}

async fn test_write(nodes: &NodeClient, question: &Question) -> bool {
    let name = format!("/test-write/test-write-{}", question.test_file);
    let content = format!("time={} rand={}", question.token >> 32, question.token);
    let url = format!("{}{name}", question.put_base);
    let mut headers = HeaderMap::new();
    headers.insert(
        http::header::CONTENT_LENGTH,
        HeaderValue::from(content.len()),
    );
    let body = || node::full(Bytes::from(content.clone()));
    let mut put = nodes
        .put(&url, headers.clone(), body(), question.wait)
        .await;
    if put.is_err() {
        // A node that does not make directories itself.
        let directory = format!("{}/test-write/", question.put_base);
        let mkcol = http::Method::from_bytes(b"MKCOL").unwrap_or(http::Method::OPTIONS);
        if let Ok(response) = nodes
            .send(
                mkcol,
                &directory,
                HeaderMap::new(),
                node::empty(),
                question.wait,
            )
            .await
            && response.finish().await.is_ok()
        {
            put = nodes.put(&url, headers, body(), question.wait).await;
        }
    }
    if put.is_err() {
        return false;
    }
    let read = async {
        nodes
            .get(&format!("{}{name}", question.get_base), 0)
            .await?
            .bytes(USAGE_BYTES_MAX)
            .await
    };
    read.await.is_ok_and(|found| found == content.as_bytes())
}

/// Whether the node refuses an upload whose `Content-MD5` is wrong; `None` when it did not answer.
async fn rejects_bad_md5(nodes: &NodeClient, question: &Question) -> Option<bool> {
    let content = Bytes::from_static(b"this is not what the header says");
    let mut headers = HeaderMap::new();
    headers.insert(
        http::header::CONTENT_LENGTH,
        HeaderValue::from(content.len()),
    );
    headers.insert(
        "content-md5",
        HeaderValue::from_static("AAAAAAAAAAAAAAAAAAAAAA=="),
    );
    let url = format!("{}/test-write/test-md5", question.put_base);
    match nodes
        .put(&url, headers, node::full(content), question.wait)
        .await
    {
        Ok(()) => Some(false),
        Err(NodeError::Status(_)) => Some(true),
        Err(_) => None,
    }
}
