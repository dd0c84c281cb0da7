//! The page for people: functions, failures, jobs, and what can be done about them.
//!
//! One page without third-party parts; it uses the same calls as everybody, with the token the person types in. It shows arguments
//! only on request.

use crate::http::{Reply, text};
use ::http::{HeaderValue, header};

const PAGE: &str = include_str!("dashboard.html");

/// Nothing from elsewhere may run in it, and it may not be framed.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'";

pub(crate) fn page() -> Reply {
    let mut reply = text("text/html; charset=utf-8", PAGE);
    reply.headers_mut().insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(POLICY),
    );
    reply
}
