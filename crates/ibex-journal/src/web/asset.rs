//! The style sheet and the drawings, compiled in.
//!
//! Apart because they never change while the process runs: their entity tag is computed once, and the style sheet's address carries it.

use super::ctx::Ctx;
use super::{Answer, Refusal};
use crate::error::Error;
use crate::token;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use std::sync::LazyLock;

const CSS: &str = include_str!("../../static/site.css");
const ICONS: &str = include_str!("../../static/icons.svg");
const FAVICON: &str = include_str!("../../static/favicon.svg");

static CSS_URL: LazyLock<String> = LazyLock::new(|| {
    format!(
        "/static/site.css?v={}",
        token::md5(CSS.as_bytes()).get(..10).unwrap_or_default()
    )
});

/// Address of the style sheet; changes with its content.
pub(super) fn css_url() -> &'static str {
    &CSS_URL
}

/// `GET /static/FILE`.
pub(super) async fn file(ctx: Ctx, Path(file): Path<String>) -> Answer {
    let (mime, content) = match file.as_str() {
        "site.css" => ("text/css; charset=utf-8", CSS),
        "icons.svg" => ("image/svg+xml", ICONS),
        "favicon.svg" => ("image/svg+xml", FAVICON),
        _ => return Err(Refusal(Error::NotFound)),
    };
    let etag = format!("\"{}\"", token::md5(content.as_bytes()));
    let life = if file == "site.css" {
        "public, max-age=31536000, immutable"
    } else {
        "public, max-age=86400"
    };
    let head = [
        (header::CONTENT_TYPE, mime),
        (header::CACHE_CONTROL, life),
        (header::ETAG, etag.as_str()),
    ];
    if ctx.has(&etag, None) {
        return Ok((StatusCode::NOT_MODIFIED, head).into_response());
    }
    Ok((head, content).into_response())
}
