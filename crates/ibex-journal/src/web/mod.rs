//! The web site: paths, headers of every answer, and what an error looks like.
//!
//! Apart from the modules named after things, which know no HTTP. Handlers are thin: parse, authorise, one call, render.

mod account;
mod asset;
mod circle;
mod ctx;
mod journal;
mod pictures;
mod reply;
mod view;
mod write;

pub use ctx::Peer;

use crate::app::App;
use crate::clock;
use crate::error::Error;
use askama::Template;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};

/// Largest form: the largest entry, percent-encoded at worst, and some room.
const FORM_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Largest upload with its envelope.
const UPLOAD_BYTES_MAX: usize = 11 * 1024 * 1024;

/// Nothing inline, nothing from elsewhere but pictures, no frames, forms to ourselves only.
const CSP: &str = "default-src 'none'; style-src 'self'; img-src 'self' https: http: data:; font-src 'self'; form-action 'self'; base-uri 'none'; \
        frame-ancestors 'none'";

/// All paths of the site.
pub fn router(app: App) -> Router {
    let uploads = Router::new()
        .route(
            "/manage/icons",
            get(pictures::icons_form).post(pictures::upload_icon),
        )
        .route(
            "/manage/photos",
            get(pictures::photos).post(pictures::upload_photo),
        )
        .layer(DefaultBodyLimit::max(UPLOAD_BYTES_MAX));
    Router::new()
        .route("/", get(journal::home))
        .route("/latest", get(journal::latest))
        .route("/people", get(journal::people))
        .route("/create", get(account::create_form).post(account::create))
        .route("/login", get(account::login_form).post(account::login))
        .route("/logout", post(account::logout))
        .route("/update", get(write::update_form).post(write::update))
        .route("/inbox", get(account::inbox))
        .route(
            "/manage/settings",
            get(account::settings_form).post(account::settings),
        )
        .route("/manage/keys", get(account::keys_form).post(account::keys))
        .route("/manage/circle", get(circle::form).post(circle::change))
        .route("/manage/icons/act", post(pictures::act_icon))
        .route("/manage/photos/act", post(pictures::act_photo))
        .route("/userpic/{picid}/{userid}", get(pictures::userpic))
        .route("/photo/{name}/{number}", get(pictures::photo))
        .route("/photo/{name}/{number}/{size}", get(pictures::photo_sized))
        .route("/users/{name}", get(journal::to_slash))
        .route("/users/{name}/", get(journal::recent))
        .route("/users/{name}/read", get(journal::reading))
        .route("/users/{name}/friends", get(journal::reading))
        .route("/users/{name}/archive", get(journal::archive))
        .route("/users/{name}/profile", get(journal::profile))
        .route("/users/{name}/icons", get(pictures::icons))
        .route("/users/{name}/tag/{tag}", get(journal::tagged))
        .route("/users/{name}/data/{kind}", get(journal::feed))
        .route("/users/{name}/{file}", get(journal::entry))
        .route(
            "/users/{name}/{file}/edit",
            get(write::edit_form).post(write::edit),
        )
        .route("/users/{name}/{file}/reply", post(reply::reply))
        .route("/users/{name}/{file}/comment/{id}", post(reply::act))
        .route("/static/{file}", get(asset::file))
        .merge(uploads)
        .fallback(journal::elsewhere)
        .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
        .layer(middleware::from_fn_with_state(app.clone(), headers))
        .with_state(app)
}

/// The headers every answer has.
async fn headers(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &'static str| {
        drop(headers.insert(name, HeaderValue::from_static(value)))
    };
    set(header::CONTENT_SECURITY_POLICY, CSP);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "strict-origin-when-cross-origin");
    set(header::X_FRAME_OPTIONS, "DENY");
    set(
        HeaderName::from_static("permissions-policy"),
        "camera=(), microphone=(), geolocation=(), interest-cohort=()",
    );
    if app.config.site.secure_cookies {
        set(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
    }
    if !response.headers().contains_key(header::CACHE_CONTROL) {
        response.headers_mut().insert(
            header::CACHE_CONTROL,
            HeaderValue::from_static("private, max-age=0"),
        );
    }
    response
}

/// An error as a page. What is missing and what may not be seen look the same.
#[derive(Debug)]
pub struct Refusal(pub Error);

impl<E: Into<Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// Answer of a handler.
type Answer = Result<Response, Refusal>;

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        use ibex_cluster::Error as C;
        let (status, headline, text) = match &self.0 {
            Error::NotFound | Error::Cluster(C::NoSuchUser(_)) => (
                StatusCode::NOT_FOUND,
                "Nothing here",
                "There is no such page, or you may not see it.".to_owned(),
            ),
            Error::LoginNeeded => return Redirect::to("/login").into_response(),
            Error::Refused(why) => (StatusCode::FORBIDDEN, "Not allowed", (*why).to_owned()),
            Error::Invalid(why) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "That did not work",
                why.clone(),
            ),
            Error::TooMany => (
                StatusCode::TOO_MANY_REQUESTS,
                "Too many attempts",
                "Please wait five minutes and try again.".to_owned(),
            ),
            Error::Cluster(C::Moving(_)) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "One moment",
                "This journal is just being moved. Please try again in a few seconds.".to_owned(),
            ),
            Error::Cluster(C::ReadOnly(_)) => (
                StatusCode::SERVICE_UNAVAILABLE,
                "Read-only",
                "This journal can only be read at the moment. Please try again later.".to_owned(),
            ),
            Error::Cluster(C::Unavailable { .. } | C::Sql(_))
            | Error::Files(_)
            | Error::Jobs(_) => {
                tracing::warn!(error = %self.0, "request failed, something it needs is away");
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "Not available just now",
                    "A part of the site is away. Please try again in a minute.".to_owned(),
                )
            }
            Error::Cluster(C::NoSuchCluster(_) | C::NoPlace | C::Config(_)) | Error::Bug(_) => {
                tracing::error!(error = %self.0, "request failed");
                (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "Something went wrong",
                    "This is our fault; it has been noted.".to_owned(),
                )
            }
        };
        let page = view::Page::bare(headline);
        let body = view::Message {
            page,
            headline: headline.to_owned(),
            text,
            link: Some(view::Link {
                href: "/".to_owned(),
                text: "To the front page".to_owned(),
            }),
        };
        let mut response = (status, Html(body.render().unwrap_or_default())).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        response
    }
}

/// A path of our own to go back to; anything else leads to the front page, so that nobody is sent elsewhere.
fn own_path(back: &str) -> &str {
    let own = back.starts_with('/')
        && !back.starts_with("//")
        && !back.contains(['\\', '\r', '\n', '\t', '\0']);
    if own { back } else { "/" }
}

/// See other: after a form.
fn see(path: &str) -> Response {
    Redirect::to(path).into_response()
}

/// Whether a conditional request needs no body.
fn is_fresh(headers: &axum::http::HeaderMap, etag: &str, modified: Option<i64>) -> bool {
    if let Some(given) = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
    {
        return given
            .split(',')
            .any(|one| one.trim().trim_start_matches("W/") == etag);
    }
    let since = headers
        .get(header::IF_MODIFIED_SINCE)
        .and_then(|value| value.to_str().ok());
    since.is_some_and(|since| modified.is_some_and(|modified| clock::http(modified) == since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_sent_elsewhere() {
        assert_eq!(own_path("/users/ada/?skip=20"), "/users/ada/?skip=20");
        for bad in [
            "//evil.example",
            "http://evil.example",
            "/\\evil.example",
            "javascript:alert(1)",
            "",
            "/a\r\nSet-Cookie: x",
        ] {
            assert_eq!(own_path(bad), "/", "{bad}");
        }
    }
}
