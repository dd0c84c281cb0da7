//! The admin port: health, metrics, configuration, workers, connections, status page, over HTTP/1.
//!
//! Owns the router and its rules (token, Host, cross-site), its own connection limit and accept loop on the control thread,
//! so that it answers while the data ports are saturated. What it shows is read from the kit's parts at each request.

mod actions;
mod guard;
mod html;
mod serve;

pub(crate) use serve::serve;

use bytes::Bytes;
use http::{Method, Response, StatusCode, header};
use http_body_util::Full;

use crate::health::Verdict;
use crate::kit::Inner;
use crate::phase::Phase;

/// An answer, whole in memory.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Readiness with its reasons.
#[derive(Debug)]
pub(crate) struct Readiness {
    verdicts: Vec<Verdict>,
}

impl Readiness {
    pub(crate) fn is_ready(&self) -> bool {
        !self
            .verdicts
            .iter()
            .any(|verdict| matches!(verdict.failure, Some((_, true))))
    }

    /// The lines of `/readyz`: failing checks, or all of them.
    fn text(&self, verbose: bool) -> String {
        let mut out = String::new();
        for verdict in &self.verdicts {
            let line = match &verdict.failure {
                None if verbose => format!("[+]{} ok\n", verdict.name),
                None => String::new(),
                Some((why, true)) => format!("[-]{}: {why}\n", verdict.name),
                Some((why, false)) if verbose => format!("[+]{}: tolerated: {why}\n", verdict.name),
                Some((_, false)) => String::new(),
            };
            out.push_str(&line);
        }
        if self.is_ready() {
            out.push_str("ok\n");
        }
        out
    }
}

/// What `/readyz` and `ibex_ready` say now.
pub(crate) fn readiness(kit: &Inner) -> Readiness {
    let mut verdicts = Vec::new();
    let phase = *kit.phase.borrow();
    let why = match phase {
        Phase::Running => None,
        Phase::Starting | Phase::Draining { .. } | Phase::Stopping => {
            Some((phase.name().to_owned(), true))
        }
    };
    verdicts.push(Verdict {
        name: "phase".to_owned(),
        failure: why,
    });
    if kit.lame.load(std::sync::atomic::Ordering::Relaxed) {
        verdicts.push(Verdict {
            name: "lame-duck".to_owned(),
            failure: Some((
                "an operator asked to drain (undo: POST /-/undrain)".to_owned(),
                true,
            )),
        });
    }
    verdicts.extend(kit.health.verdicts(kit.common.load().ready.tolerance.std()));
    Readiness { verdicts }
}

/// A plain text answer.
fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    typed(status, "text/plain; charset=utf-8", body)
}

fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    let body = serde_json::to_vec_pretty(value).map(|mut body| {
        body.push(b'\n');
        body
    });
    body.map_or_else(
        |error| text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        |body| typed(status, "application/json", body),
    )
}

fn typed(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-store"),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        header::HeaderValue::from_static("nosniff"),
    );
    answer
}

/// A request, read whole: the admin port has no use for streaming.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) peer: String,
}

impl Request {
    /// The value of a query parameter; a bare name has the value "".
    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }
}

/// Answers one request.
pub(crate) fn answer(kit: &crate::Kit, request: &Request) -> Answer {
    let inner = &kit.inner;
    let common = inner.common.load();
    if let Err(refused) = guard::host(request, &common.admin) {
        return *refused;
    }
    let reading = matches!(request.method, Method::GET | Method::HEAD);
    // Probes carry no token.
    match (reading, request.path.as_str()) {
        (true, "/healthz") => return healthz(inner),
        (true, "/readyz") => return readyz(inner, request.parameter("verbose").is_some()),
        (true, "/startupz") => {
            let started = inner.was_ready.load(std::sync::atomic::Ordering::SeqCst);
            return if started {
                text(StatusCode::OK, "ok\n")
            } else {
                text(StatusCode::SERVICE_UNAVAILABLE, "starting\n")
            };
        }
        _ => {}
    }
    if let Err(refused) = guard::token(request, &common.admin) {
        return *refused;
    }
    if reading {
        actions::read(kit, request)
    } else {
        guard::same_site(request)
            .map_or_else(|refused| *refused, |()| actions::change(kit, request))
    }
}

fn healthz(kit: &Inner) -> Answer {
    let stalled = kit.health.stalled(kit.common.load().watchdog.stall.std());
    if stalled.is_empty() {
        return text(StatusCode::OK, "ok\n");
    }
    let lines: Vec<String> = stalled
        .iter()
        .map(|(name, age)| format!("stalled: {name} {}s\n", age.as_secs()))
        .collect();
    text(StatusCode::SERVICE_UNAVAILABLE, lines.concat())
}

fn readyz(kit: &Inner, verbose: bool) -> Answer {
    let readiness = readiness(kit);
    let status = if readiness.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    text(status, readiness.text(verbose))
}
