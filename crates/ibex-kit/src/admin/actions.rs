//! What each admin path answers and does.
//!
//! Owns the table of paths. Every change is logged at INFO with its peer.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Method, StatusCode, header};
use tracing::info;

use super::{Answer, Request, html, json, text, typed};
use crate::about::{REVISION, REVISION_DATE, RUSTC};
use crate::logging;
use crate::metrics::{classic, common};
use crate::{Kit, lock};

/// OpenMetrics as it is asked for and answered.
const OPENMETRICS: &str = "application/openmetrics-text";

/// `GET` and `HEAD`.
pub(super) fn read(kit: &Kit, request: &Request) -> Answer {
    let inner = &kit.inner;
    match request.path.as_str() {
        "/" => typed(
            StatusCode::OK,
            "text/html; charset=utf-8",
            html::status_page(kit),
        ),
        "/metrics" => metrics(kit, request),
        "/-/config" => typed(
            StatusCode::OK,
            "application/toml; charset=utf-8",
            inner.reloader.print(),
        ),
        "/-/status" => json(StatusCode::OK, &status(kit)),
        "/-/log-level" => text(StatusCode::OK, format!("{}\n", logging::level())),
        "/-/workers" => json(StatusCode::OK, &inner.workers.views()),
        "/-/connections" => connections(kit),
        "/-/build" => json(StatusCode::OK, &build(kit)),
        "/-/debug/tasks" => json(StatusCode::OK, &inner.tasks.view()),
        "/-/log" => recent(),
        "/-/reload" | "/-/drain" | "/-/undrain" => not_allowed("POST"),
        path => {
            let page = lock(&inner.json)
                .iter()
                .find(|(known, _)| known == path)
                .map(|(_, page)| std::sync::Arc::clone(page));
            page.map_or_else(not_found, |page| json(StatusCode::OK, &page()))
        }
    }
}

/// `POST`, `PUT` and `DELETE`.
pub(super) fn change(kit: &Kit, request: &Request) -> Answer {
    let parts: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    info!(admin = %request.peer, method = %request.method, path = %request.path.escape_debug(), "admin request");
    match (&request.method, parts.as_slice()) {
        (&Method::POST, ["-", "reload"]) => match kit.reload() {
            Ok(report) => json(StatusCode::OK, &report),
            Err(error) => text(StatusCode::UNPROCESSABLE_ENTITY, format!("{error}\n")),
        },
        (&Method::POST, ["-", "drain"]) => {
            kit.set_lame_duck(true);
            text(StatusCode::OK, "ok\n")
        }
        (&Method::POST, ["-", "undrain"]) => {
            kit.set_lame_duck(false);
            text(StatusCode::OK, "ok\n")
        }
        (&Method::PUT | &Method::POST, ["-", "log-level"]) => log_level(kit, request),
        (&Method::POST, ["-", "workers", name, action]) => worker(kit, request, name, action),
        (&Method::DELETE, ["-", "connections", id]) => {
            let closed = id.parse().is_ok_and(|id| kit.inner.connections.close(id));
            if closed {
                text(StatusCode::OK, "ok\n")
            } else {
                not_found()
            }
        }
        (_, ["" | "metrics" | "healthz" | "readyz" | "startupz"])
        | (
            _,
            [
                "-",
                "config" | "status" | "workers" | "connections" | "build",
            ],
        ) => not_allowed("GET"),
        _ => not_found(),
    }
}

fn not_found() -> Answer {
    text(StatusCode::NOT_FOUND, "no such path\n")
}

fn not_allowed(allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, format!("use {allowed}\n"));
    answer
        .headers_mut()
        .insert(header::ALLOW, header::HeaderValue::from_static(allowed));
    answer
}

fn metrics(kit: &Kit, request: &Request) -> Answer {
    let wants_open = request.headers.get_all(header::ACCEPT).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.contains(OPENMETRICS))
    });
    let open = common::openmetrics(&kit.inner);
    if wants_open {
        typed(
            StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            open,
        )
    } else {
        typed(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            classic::classic(&open),
        )
    }
}

fn connections(kit: &Kit) -> Answer {
    let mut lines = String::new();
    for view in kit.inner.connections.view() {
        lines.push_str(&serde_json::to_string(&view).unwrap_or_default());
        lines.push('\n');
    }
    typed(StatusCode::OK, "application/jsonl; charset=utf-8", lines)
}

fn recent() -> Answer {
    let lines: String = logging::recent()
        .iter()
        .map(|recent| format!("{} {} {}\n", recent.time, recent.level, recent.text))
        .collect();
    text(StatusCode::OK, lines)
}

/// The facts of `ibex status`.
fn status(kit: &Kit) -> serde_json::Value {
    let inner = &kit.inner;
    serde_json::json!({
        "daemon": inner.about.short,
        "version": inner.about.version,
        "node": inner.node,
        "pid": std::process::id(),
        "phase": inner.phase.borrow().name(),
        "ready": super::readiness(inner).is_ready(),
        "lame_duck": inner.lame.load(Ordering::Relaxed),
        "uptime_seconds": inner.started.elapsed().as_secs_f64(),
        "connections": inner.connections.count(),
        "busy": inner.tasks.busy_count(),
        "addresses": kit.addresses().into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    })
}

fn build(kit: &Kit) -> serde_json::Value {
    let about = kit.about();
    serde_json::json!({
        "daemon": about.name,
        "version": about.version,
        "revision": REVISION,
        "revision_date": REVISION_DATE,
        "rustc": RUSTC,
        "profile": if cfg!(debug_assertions) { "debug" } else { "release" },
        "target": format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
    })
}

fn log_level(kit: &Kit, request: &Request) -> Answer {
    let level = String::from_utf8_lossy(&request.body).trim().to_owned();
    let back = match request.parameter("for").map(str::parse::<crate::Duration>) {
        Some(Err(error)) => {
            return text(StatusCode::UNPROCESSABLE_ENTITY, format!("for: {error}\n"));
        }
        Some(Ok(span)) => Some((span.std(), logging::level())),
        None => None,
    };
    if let Err(error) = logging::set_level(&level) {
        return text(StatusCode::UNPROCESSABLE_ENTITY, format!("{error}\n"));
    }
    if let Some((span, before)) = back {
        schedule_level(kit, span, level.clone(), before);
    }
    text(StatusCode::OK, format!("{level}\n"))
}

/// Goes back to `before` after `span`, unless the level was changed again meanwhile.
fn schedule_level(kit: &Kit, span: Duration, set: String, before: String) {
    let draining = kit.draining();
    kit.inner.tasks.spawn("log-level-back", async move {
        tokio::select! { () = tokio::time::sleep(span) => {} () = draining.cancelled() => return }
        if logging::level() == set && logging::set_level(&before).is_ok() {
            info!(level = %before, "log level is back");
        }
    });
}

fn worker(kit: &Kit, request: &Request, name: &str, action: &str) -> Answer {
    let Some(worker) = kit.inner.workers.find(name) else {
        return not_found();
    };
    match action {
        "pause" => worker.pause(true),
        "resume" => worker.pause(false),
        "speed" => {
            let text_given = request.parameter("percent").map_or_else(
                || String::from_utf8_lossy(&request.body).trim().to_owned(),
                str::to_owned,
            );
            match text_given.trim_end_matches('%').parse() {
                Ok(percent @ 1..=100) => worker.speed(percent),
                Ok(_) | Err(_) => {
                    return text(
                        StatusCode::UNPROCESSABLE_ENTITY,
                        "speed: send a percentage from 1 to 100\n",
                    );
                }
            }
        }
        _ => return not_found(),
    }
    json(StatusCode::OK, &worker.view())
}
