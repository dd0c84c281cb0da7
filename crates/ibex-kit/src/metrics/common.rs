//! The metrics every daemon has from the kit: build, readiness, phase, reloads, log messages, workers, loop stalls.
//!
//! Owns their names and the reading of the kit's parts at scrape time; nothing is counted twice.

use std::fmt::Display;
use std::sync::atomic::Ordering;

use crate::about::{REVISION, RUSTC};
use crate::admin::readiness;
use crate::health::STALL_BUCKETS;
use crate::kit::Inner;
use crate::logging;
use crate::phase::Phase;

/// Everything `/metrics` says, in OpenMetrics form with the end mark.
pub(crate) fn openmetrics(kit: &Inner) -> String {
    let mut out = kit.metrics.encode();
    super::process::write(&mut out);
    write(&mut out, kit);
    out.push_str("# EOF\n");
    out
}

/// Writes families; a String cannot refuse a write, so results are dropped here once.
struct Families<'a>(&'a mut String);

impl Families<'_> {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        put!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let escaped = text
                .replace('\\', "\\\\")
                .replace('"', "\\\"")
                .replace('\n', "\\n");
            put!(
                self.0,
                "{}{label}=\"{escaped}\"",
                if index == 0 { '{' } else { ',' }
            );
        }
        putln!(
            self.0,
            "{} {value}",
            if labels.is_empty() { "" } else { "}" }
        );
    }

    fn one(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.sample(name, &[], value);
    }
}

fn write(out: &mut String, kit: &Inner) {
    let mut families = Families(out);
    let about = kit.about;
    families.head("ibex_build", "info", "What is running.");
    families.sample(
        "ibex_build_info",
        &[
            ("daemon", about.short),
            ("version", about.version),
            ("revision", REVISION),
            ("rustc", RUSTC),
        ],
        1,
    );
    families.one(
        "ibex_ready",
        "Whether /readyz says yes.",
        u8::from(readiness(kit).is_ready()),
    );
    families.head(
        "ibex_phase",
        "gauge",
        "The phase of life: 1 for the one it is in.",
    );
    let phase = kit.phase.borrow().name();
    for name in Phase::NAMES {
        families.sample("ibex_phase", &[("phase", name)], u8::from(name == phase));
    }
    reloads(&mut families, kit);
    families.head(
        "ibex_log_messages",
        "counter",
        "Log messages by level, suppressed ones too.",
    );
    for (level, count) in logging::counts() {
        families.sample("ibex_log_messages_total", &[("level", level)], count);
    }
    families.head(
        "ibex_connections_shed",
        "counter",
        "Connections closed at once for want of file descriptors.",
    );
    families.sample(
        "ibex_connections_shed_total",
        &[],
        crate::listen::shed_count(),
    );
    workers(&mut families, kit);
    stalls(&mut families, kit);
}

fn reloads(families: &mut Families<'_>, kit: &Inner) {
    families.head("ibex_config_reloads", "counter", "Reloads by result.");
    families.sample(
        "ibex_config_reloads_total",
        &[("result", "success")],
        kit.reloader.successes.load(Ordering::Relaxed),
    );
    families.sample(
        "ibex_config_reloads_total",
        &[("result", "failure")],
        kit.reloader.failures.load(Ordering::Relaxed),
    );
    let success = u8::from(!kit.reloader.last_failed.load(Ordering::Relaxed));
    families.one(
        "ibex_config_reload_success",
        "Whether the last load of the configuration succeeded.",
        success,
    );
    let when = kit.reloader.last_success.load(Ordering::Relaxed);
    families.one(
        "ibex_config_last_reload_success_timestamp_seconds",
        "When the configuration was last loaded, Unix time.",
        when,
    );
}

fn workers(families: &mut Families<'_>, kit: &Inner) {
    let views = kit.workers.views();
    if views.is_empty() {
        return;
    }
    families.head(
        "ibex_worker_progress_ratio",
        "gauge",
        "Done of total, for workers that know their total.",
    );
    for view in &views {
        if let Some(total) = view.total.filter(|total| *total > 0) {
            #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
            let ratio = view.done as f64 / total as f64;
            families.sample(
                "ibex_worker_progress_ratio",
                &[("worker", &view.name)],
                ratio,
            );
        }
    }
    families.head("ibex_worker_steps", "counter", "Steps made.");
    for view in &views {
        families.sample(
            "ibex_worker_steps_total",
            &[("worker", &view.name)],
            view.steps,
        );
    }
    families.head("ibex_worker_errors", "counter", "Steps that failed.");
    for view in &views {
        families.sample(
            "ibex_worker_errors_total",
            &[("worker", &view.name)],
            view.errors,
        );
    }
    families.head(
        "ibex_worker_paused",
        "gauge",
        "Whether an operator paused it.",
    );
    for view in &views {
        families.sample(
            "ibex_worker_paused",
            &[("worker", &view.name)],
            u8::from(view.paused),
        );
    }
}

fn stalls(families: &mut Families<'_>, kit: &Inner) {
    let all = kit.health.stalls();
    if all.is_empty() {
        return;
    }
    families.head(
        "ibex_loop_stall_seconds",
        "histogram",
        "Longest gap between turns of a loop, looked at once a second.",
    );
    for (name, stalls) in &all {
        let mut sum = 0;
        let bounds = STALL_BUCKETS
            .iter()
            .map(|bound| format!("{bound:?}"))
            .chain(["+Inf".to_owned()]);
        for (count, bound) in stalls.counts.iter().zip(bounds) {
            sum += count;
            families.sample(
                "ibex_loop_stall_seconds_bucket",
                &[("loop", name), ("le", &bound)],
                sum,
            );
        }
        families.sample("ibex_loop_stall_seconds_sum", &[("loop", name)], stalls.sum);
        families.sample("ibex_loop_stall_seconds_count", &[("loop", name)], sum);
    }
}
