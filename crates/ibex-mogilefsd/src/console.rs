//! Answers of the admin console, and what it watches: recent requests, pending ones, log lines.

use crate::commands::Client;
use crate::tracker::{Tracker, lock};
use ibex_mogilefs_core::netmask;
use ibex_mogilefs_proto::console::{Console as Command, END, JobKind};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::sync::broadcast;

/// Requests `!recent` remembers; the original's count.
const RECENT_MAX: usize = 50;
/// Bytes of a request shown.
const SHOWN_BYTES_MAX: usize = 200;
/// Log lines a slow watcher may be behind.
const WATCH_BACKLOG: usize = 256;
/// First of the made-up process ids, above the kernel's range: test suites send signals to what is printed here.
const PID_BASE: u64 = 5_000_000;

/// What the console shows of the tracker's doings.
#[derive(Debug)]
pub(crate) struct Console {
    started: Instant,
    recent: Mutex<VecDeque<String>>,
    pending: Mutex<BTreeMap<u64, String>>,
    next: std::sync::atomic::AtomicU64,
    lines: broadcast::Sender<String>,
}

impl Default for Console {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            recent: Mutex::default(),
            pending: Mutex::default(),
            next: std::sync::atomic::AtomicU64::new(0),
            lines: broadcast::Sender::new(WATCH_BACKLOG),
        }
    }
}

impl Console {
    /// Sends a line to everybody who watches.
    pub(crate) fn say(&self, line: String) {
        // Nobody watches most of the time, which is no failure.
        let _watchers = self.lines.send(line);
    }

    /// Notes that a request is being worked on.
    pub(crate) fn begin(&self, client: &Client, name: &[u8], args: &[u8]) -> u64 {
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let ip = client
            .ip
            .map_or_else(|| "-".to_owned(), |ip| ip.to_string());
        let shown = format!(
            "{ip} {} {}",
            ibex_base::escape::Escaped(name),
            ibex_base::escape::Escaped(args).cut(SHOWN_BYTES_MAX)
        );
        lock(&self.pending).insert(id, shown);
        id
    }

    /// Notes that it is done.
    pub(crate) fn end(&self, id: u64, took: Duration) {
        let Some(shown) = lock(&self.pending).remove(&id) else {
            return;
        };
        let seconds = took.as_secs_f64();
        let mut recent = lock(&self.recent);
        if recent.len() >= RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(format!("{shown} {seconds:.4} {seconds:.4}"));
    }
}

/// An answer and whether it ends the tracker.
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) stops: bool,
}

/// Answers one console line.
pub(crate) fn answer(
    tracker: &Tracker,
    client: &Client,
    name: &[u8],
    args: &[u8],
    watching: &mut Option<broadcast::Receiver<String>>,
) -> Answer {
    let command = Command::parse(name, args);
    let mut text = String::new();
    if is_allowed(tracker, client) {
        write_answer(tracker, &command, watching, &mut text);
    } else {
        text.push_str("ERROR: not allowed\r\n");
    }
    text.push_str(END);
    Answer {
        text,
        stops: command == Command::Shutdown && is_allowed(tracker, client),
    }
}

fn is_allowed(tracker: &Tracker, client: &Client) -> bool {
    let networks = netmask::parse_list(&tracker.config().console_from).unwrap_or_default();
    match client.ip {
        _ if networks.is_empty() => true,
        Some(IpAddr::V4(ip)) => networks.iter().any(|network| network.contains(ip)),
        Some(IpAddr::V6(ip)) => ip
            .to_ipv4_mapped()
            .is_some_and(|ip| networks.iter().any(|network| network.contains(ip))),
        // A unix socket has its own permissions.
        None => true,
    }
}

fn write_answer(
    tracker: &Tracker,
    command: &Command,
    watching: &mut Option<broadcast::Receiver<String>>,
    out: &mut String,
) {
    let mut line = |text: String| {
        out.push_str(&text);
        out.push_str("\r\n");
    };
    match command {
        // COMPAT(mogilefsd): the first characters must be digits, a dot and digits.
        Command::Version => line(format!("2.73-ibex-{}", env!("CARGO_PKG_VERSION"))),
        Command::Stats => stats(tracker).into_iter().for_each(line),
        Command::Jobs => jobs(tracker).into_iter().for_each(line),
        Command::Queue => lock(&tracker.console.pending)
            .values()
            .cloned()
            .for_each(line),
        Command::Recent => lock(&tracker.console.recent).iter().cloned().for_each(line),
        Command::Watch => match watching.take() {
            Some(_) => line("Removed you from watcher list.".into()),
            None => {
                *watching = Some(tracker.console.lines.subscribe());
                line("Added you to watcher list.".into());
            }
        },
        Command::Shutdown => {}
        Command::Want { count, job } => {
            tracker.set_want(*job, usize::try_from(*count).unwrap_or(0));
            line(format!(
                "Now desiring {count} children doing '{}'.",
                job.name()
            ));
        }
        Command::To { job, message } => {
            if message.starts_with(b":wake_up") {
                tracker.wake(*job);
            }
            line(format!("Message sent to {} children.", tracker.want(*job)));
        }
        Command::Help => HELP.iter().map(|text| (*text).to_owned()).for_each(line),
        Command::Refused(answer) => line(answer.clone()),
    }
}

const HELP: [&str; 10] = [
    "Mogilefsd admin commands:",
    "    !version                 version of this tracker",
    "    !stats                   counters",
    "    !jobs                    jobs and their parallelism",
    "    !want <count> <jobclass> change a job's parallelism",
    "    !to <jobclass> <message> tell a job something, such as :wake_up",
    "    !queue                   requests being worked on",
    "    !recent                  requests answered lately",
    "    !watch                   log lines as they come",
    "    !shutdown                stop this tracker",
];

fn stats(tracker: &Tracker) -> Vec<String> {
    let pending = lock(&tracker.console.pending).len();
    let mut counters: BTreeMap<String, u64> = BTreeMap::new();
    for (name, job) in [
        ("delete", "delete"),
        ("fsck", "fsck"),
        ("replicate", "replicate"),
        ("rebalance", "rebalance"),
    ] {
        let waiting = tracker
            .metrics
            .queue_rows
            .get_or_create(&crate::metrics::QueueLabels { queue: job })
            .get();
        counters.insert(
            format!("work_queue_for_{name}"),
            u64::try_from(waiting).unwrap_or(0),
        );
        let done: u64 = ["done", "failed"]
            .iter()
            .map(|result| {
                tracker
                    .metrics
                    .work
                    .get_or_create(&crate::metrics::WorkLabels { job, result })
                    .get()
            })
            .sum();
        counters.insert(format!("work_sent_to_{name}"), done);
    }
    counters.insert("times_out_of_qworkers".into(), 0);
    let mut lines = vec![
        format!("uptime {}", tracker.console.started.elapsed().as_secs()),
        format!("pending_queries {pending}"),
        format!("processing_queries {pending}"),
        format!(
            "bored_queryworkers {}",
            tracker.want(JobKind::QueryWorker).saturating_sub(pending)
        ),
        format!("queries {}", tracker.metrics.queries.get()),
    ];
    lines.extend(
        counters
            .into_iter()
            .map(|(name, value)| format!("{name} {value}")),
    );
    lines
}

fn jobs(tracker: &Tracker) -> Vec<String> {
    let mut lines = Vec::new();
    let mut pid = PID_BASE;
    for job in JobKind::ALL {
        let want = tracker.want(job);
        let mut pids = String::new();
        for _ in 0..want {
            pid += 1;
            // Writing to a String cannot fail.
            let _done = write!(pids, " {pid}");
        }
        lines.push(format!("{} count {want}", job.name()));
        lines.push(format!("{} desired {want}", job.name()));
        lines.push(format!("{} pids{pids}", job.name()));
    }
    lines
}
