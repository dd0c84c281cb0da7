//! What the status page and its JSON show: functions, who is stuck, workers and the jobs they hold, the dead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ibex_gearman_core::{FunctionView, JobState};
use ibex_kit::page::Section;
use serde_json::{Value, json};

use crate::driver::{Hub, Shared};
use crate::peers::Peer;

/// Rows of one table: what a person reads. The text protocol and the JSON have everything.
const ROWS_MAX: usize = 200;
/// Entries of one JSON list.
const ENTRIES_MAX: usize = 10_000;

/// Declares the pages.
pub(crate) fn register(shared: &Arc<Shared>) {
    let kit = shared.kit.clone();
    let page = Arc::clone(shared);
    kit.page(move || sections(&page.hub()));
    let functions = Arc::clone(shared);
    kit.json("/-/functions", move || functions_json(&functions.hub()));
    let jobs = Arc::clone(shared);
    kit.json("/-/jobs", move || jobs_json(&jobs.hub()));
    let workers = Arc::clone(shared);
    kit.json("/-/gearman-workers", move || workers_json(&workers.hub()));
    let dead = Arc::clone(shared);
    kit.json("/-/dead", move || dead_json(&dead.hub()));
    let schedules = Arc::clone(shared);
    kit.json("/-/schedules", move || schedules_json(&schedules.hub()));
    let line = Arc::clone(shared);
    kit.status_line(move || {
        let hub = line.hub();
        format!(
            "{} jobs, {} running, {} connections",
            hub.server.job_count(),
            hub.server.running_count(),
            hub.peers.len()
        )
    });
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn seconds(us: u64) -> f64 {
    (Duration::from_micros(us).as_secs_f64() * 1000.0).round() / 1000.0
}

fn sections(hub: &Hub) -> Vec<Section> {
    let now = Instant::now();
    let counters = hub.server.counters();
    let facts = [
        ("jobs", hub.server.job_count().to_string()),
        ("running", hub.server.running_count().to_string()),
        ("connections", hub.peers.len().to_string()),
        ("completed", counters.completed.to_string()),
        ("failed", (counters.failed + counters.excepted).to_string()),
        ("waited again", counters.requeued.to_string()),
        ("coalesced", counters.coalesced.to_string()),
        ("results kept", hub.server.kept_results().0.to_string()),
        ("workloads on disk", hub.server.away().jobs.to_string()),
        ("draining", hub.server.is_draining().to_string()),
    ];
    let mut functions: Vec<FunctionView> = hub.server.functions(now).collect();
    // Who is stuck comes first.
    functions.sort_by_key(|f| std::cmp::Reverse(f.oldest_us));
    let rows = functions.iter().take(ROWS_MAX).map(function_row).collect();
    let columns = [
        "function",
        "waiting",
        "scheduled",
        "running",
        "workers",
        "asleep",
        "oldest",
        "note",
    ];
    vec![
        Section::facts("Job server", facts),
        Section::table("Functions", columns, rows),
        Section::table(
            "Workers",
            ["peer", "id", "holds", "functions"],
            worker_rows(hub),
        ),
        Section::table(
            "Dead jobs",
            ["handle", "function", "attempts", "reason"],
            dead_rows(hub),
        ),
        Section::table(
            "Recurring jobs",
            ["handle", "function", "unique", "when (UTC)", "next"],
            schedule_rows(hub),
        ),
    ]
}

fn function_row(f: &FunctionView) -> Vec<String> {
    let note = match (f.is_paused, f.workers, f.waiting.iter().sum::<u32>()) {
        (true, ..) => "paused",
        (false, 0, 1..) => "nobody can do this",
        _ => "",
    };
    vec![
        text(&f.name),
        f.waiting.iter().sum::<u32>().to_string(),
        f.scheduled.to_string(),
        f.running.to_string(),
        f.workers.to_string(),
        f.sleeping.to_string(),
        format!("{} s", seconds(f.oldest_us)),
        note.to_owned(),
    ]
}

fn worker_rows(hub: &Hub) -> Vec<Vec<String>> {
    let workers = hub
        .server
        .conns()
        .filter(|c| !c.functions.is_empty())
        .take(ROWS_MAX);
    workers
        .map(|c| {
            let peer = hub
                .peers
                .get(&c.conn)
                .map_or_else(String::new, Peer::address);
            let holds: Vec<String> = c.holding.iter().map(|h| format!("{h:?}")).collect();
            let functions: Vec<String> = c.functions.iter().map(|f| text(f)).collect();
            vec![peer, text(&c.id), holds.join(" "), functions.join(" ")]
        })
        .collect()
}

fn dead_rows(hub: &Hub) -> Vec<Vec<String>> {
    let dead = hub.server.dead().take(ROWS_MAX);
    dead.map(|d| {
        vec![
            format!("{:?}", d.handle),
            text(&d.function),
            d.attempts.to_string(),
            text(&d.reason),
        ]
    })
    .collect()
}

fn schedule_rows(hub: &Hub) -> Vec<Vec<String>> {
    let now_ms = crate::driver::epoch_ms();
    let schedules = hub.server.schedules().take(ROWS_MAX);
    schedules
        .map(|s| {
            vec![
                format!("{:?}", s.handle),
                text(&s.function),
                text(&s.unique),
                text(&crate::admin::schedule_text(&s.fields)),
                format!("in {} s", s.next_ms.saturating_sub(now_ms).div_ceil(1000)),
            ]
        })
        .collect()
}

fn functions_json(hub: &Hub) -> Value {
    let functions = hub.server.functions(Instant::now()).take(ENTRIES_MAX);
    functions
        .map(|f| {
            let [high, normal, low] = f.waiting;
            json!({
                "name": text(&f.name), "waiting": {"high": high, "normal": normal, "low": low}, "scheduled": f.scheduled, "committing": f.committing,
                "running": f.running, "workers": f.workers, "sleeping": f.sleeping, "oldest_seconds": seconds(f.oldest_us), "maxqueue": f.limits.0,
                "running_max": f.running_max, "rate": f.rate, "paused": f.is_paused, "submitted": f.submitted, "finished": f.finished,
            })
        })
        .collect()
}

fn jobs_json(hub: &Hub) -> Value {
    let jobs = hub.server.jobs(Instant::now());
    let listed: Value = jobs
        .take(ENTRIES_MAX)
        .map(|job| {
            let (state, worker) = match job.state {
                JobState::Committing => ("committing", None),
                JobState::Scheduled => ("scheduled", None),
                JobState::Waiting => ("waiting", None),
                JobState::Running(worker) => ("running", hub.peers.get(&worker).map(Peer::address)),
            };
            json!({
                "handle": format!("{:?}", job.handle), "function": text(&job.function), "unique": text(&job.unique), "priority": job.priority.name(),
                "state": state, "worker": worker, "attempts": job.attempts, "background": job.is_background, "stored": job.is_stored, "clients": job.clients,
                "numerator": job.numerator, "denominator": job.denominator, "due_ms": job.due_ms, "workload_bytes": job.workload_bytes, "age_seconds": seconds(job.age_us),
            })
        })
        .collect();
    json!({"count": hub.server.job_count(), "jobs": listed})
}

fn workers_json(hub: &Hub) -> Value {
    let workers = hub
        .server
        .conns()
        .filter(|c| !c.functions.is_empty())
        .take(ENTRIES_MAX);
    workers
        .map(|c| {
            json!({
                "peer": hub.peers.get(&c.conn).map(Peer::address), "id": text(&c.id), "functions": c.functions.iter().map(|f| text(f)).collect::<Vec<_>>(),
                "holding": c.holding.iter().map(|h| format!("{h:?}")).collect::<Vec<_>>(), "sleeping": c.is_sleeping,
            })
        })
        .collect()
}

fn schedules_json(hub: &Hub) -> Value {
    let schedules = hub.server.schedules().take(ENTRIES_MAX);
    schedules
        .map(|s| {
            let [minute, hour, day, month, weekday] = s.fields.map(|field| text(&field));
            json!({
                "handle": format!("{:?}", s.handle), "function": text(&s.function), "unique": text(&s.unique), "minute": minute, "hour": hour,
                "day_of_month": day, "month": month, "day_of_week": weekday, "next_ms": s.next_ms, "workload_bytes": s.workload_bytes,
            })
        })
        .collect()
}

fn dead_json(hub: &Hub) -> Value {
    let dead = hub.server.dead().take(ENTRIES_MAX);
    dead.map(|d| {
        json!({
            "handle": format!("{:?}", d.handle), "function": text(&d.function), "unique": text(&d.unique), "attempts": d.attempts, "reason": text(&d.reason),
        })
    })
    .collect()
}
