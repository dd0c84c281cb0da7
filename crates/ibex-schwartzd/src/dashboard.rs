//! The page for people: functions, failures, jobs, workers, periodic jobs, and what can be done about them.
//!
//! One page without third-party parts; it uses the same calls as everybody, with the token the person types in, and puts everything in as text. Who
//! has no scripts has `plain`.

use crate::http::{Reply, text};
use ::http::{HeaderValue, header};

const PAGE: &str = include_str!("dashboard.html");
const SCRIPT: &str = include_str!("dashboard.js");
const STYLE: &str = include_str!("dashboard.css");

/// Nothing from elsewhere may run in it or show it in a frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(crate) fn page() -> Reply {
    let mut reply = text("text/html; charset=utf-8", PAGE);
    reply.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    );
    reply
}

pub(crate) fn script() -> Reply {
    text("text/javascript; charset=utf-8", SCRIPT)
}

pub(crate) fn style() -> Reply {
    text("text/css; charset=utf-8", STYLE)
}
