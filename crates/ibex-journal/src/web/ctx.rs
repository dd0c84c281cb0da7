//! [`Ctx`]: who asks, from where, with which proof. Made once for each request, before the handler.
//!
//! Apart because every handler needs it and none may do it by itself. It refuses what comes from another site before any handler
//! runs; the form token is checked by the handlers that change something ([`Ctx::check`]).

use super::view::{self, Page, Viewing};
use super::{Refusal, is_fresh};
use crate::app::App;
use crate::circle::Viewer;
use crate::error::{Error, Result};
use crate::session::{self, Session};
use crate::{inbox, token, user};
use askama::Template;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use std::net::IpAddr;

/// Cookie of visitors who are not logged in; base of their form tokens.
const VISITOR: &str = "jvisitor";
/// Cookie that sends paid accounts to the balancer's fast queue; cleared at log-out.
pub(super) const FAST: &str = "ljfastserver";

/// Address of the connection's other end; `None` for a unix socket, which is trusted.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub Option<IpAddr>);

/// See the module.
#[derive(Debug)]
pub(super) struct Ctx {
    pub(super) app: App,
    pub(super) viewer: Option<Viewer>,
    pub(super) session: Option<Session>,
    /// Address of the browser, for counting failures.
    pub(super) from: String,
    pub(super) agent: String,
    /// The balancer in front can fetch files itself.
    pub(super) may_reproxy: bool,
    base: String,
    new_visitor: Option<String>,
    headers: HeaderMap,
}

impl FromRequestParts<App> for Ctx {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let headers = parts.headers.clone();
        if !matches!(parts.method, Method::GET | Method::HEAD) {
            refuse_other_sites(&headers, &app.config.site.url)?;
        }
        let peer = parts
            .extensions
            .get::<Peer>()
            .copied()
            .unwrap_or(Peer(None));
        let is_proxied = peer.0.is_none_or(|ip| {
            app.config
                .site
                .trusted_proxies
                .iter()
                .any(|proxy| proxy.parse() == Ok(ip))
        });
        let text = |name: &str| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        let forwarded = text("x-forwarded-for")
            .rsplit(',')
            .next()
            .map(str::trim)
            .filter(|_| is_proxied)
            .and_then(|ip| ip.parse::<IpAddr>().ok());
        let from = forwarded
            .or(peer.0)
            .map_or_else(|| "local".to_owned(), network);
        let may_reproxy = is_proxied
            && text("x-proxy-capabilities")
                .split([',', ' ', ';'])
                .any(|word| word.trim() == "reproxy-file");
        let session = match cookie(&headers, session::COOKIE) {
            Some(value) => session::of_cookie(app, value).await?,
            None => None,
        };
        let viewer = match &session {
            Some(session) => match user::by_id(app, session.user).await {
                Ok(user) if user.is_visible() => Some(Viewer::load(app, user).await?),
                Ok(_) | Err(Error::NotFound) => None,
                Err(error) => return Err(error.into()),
            },
            None => None,
        };
        let known = cookie(&headers, VISITOR).filter(|value| {
            value.len() == 22 && value.bytes().all(|byte| byte.is_ascii_alphanumeric())
        });
        let new_visitor = (viewer.is_none() && known.is_none()).then(|| token::random(22));
        let base = match &session {
            Some(session) => format!("{}:{}", session.id, session.auth),
            None => new_visitor
                .clone()
                .or(known.map(str::to_owned))
                .unwrap_or_default(),
        };
        let agent = text("user-agent").to_owned();
        Ok(Self {
            app: app.clone(),
            viewer,
            session,
            from,
            agent,
            may_reproxy,
            base,
            new_visitor,
            headers,
        })
    }
}

/// The network of an address: failures are counted for a /64, which is what one household has.
fn network(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let all = headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    all.flat_map(|line| line.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

/// A form that another site sent. Browsers say so in two headers; other clients send neither and have no cookies to abuse.
fn refuse_other_sites(headers: &HeaderMap, site: &str) -> Result<()> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if text("sec-fetch-site").is_some_and(|from| !matches!(from, "same-origin" | "none")) {
        return Err(Error::Refused("This form came from another site."));
    }
    if let Some(origin) = text("origin") {
        let host = origin.split_once("://").map(|(_, host)| host);
        let own = site.split_once("://").map(|(_, host)| host);
        if host.is_none() || (host != text("host") && host != own) {
            return Err(Error::Refused("This form came from another site."));
        }
    }
    Ok(())
}

impl Ctx {
    /// The reader, or a way to log in.
    pub(super) fn must(&self) -> Result<&Viewer> {
        self.viewer.as_ref().ok_or(Error::LoginNeeded)
    }

    /// The form token of this reader.
    pub(super) fn csrf(&self) -> String {
        token::form(&self.app.secret, &self.base)
    }

    /// Refuses a form without the right token.
    pub(super) fn check(&self, csrf: &str) -> Result<()> {
        if !self.base.is_empty()
            && self.new_visitor.is_none()
            && token::is_form(&self.app.secret, &self.base, csrf)
        {
            Ok(())
        } else {
            Err(Error::Refused(
                "This form is too old, or cookies are off. Please go back, reload the page and try again.",
            ))
        }
    }

    /// What every page has.
    pub(super) async fn page(&self, title: impl Into<String>, here: &'static str) -> Result<Page> {
        let viewer = match &self.viewer {
            Some(viewer) => {
                // A cluster that is away costs the count, not the page.
                let unread = inbox::unread(&self.app, viewer.user.id).await.unwrap_or(0);
                Some(Viewing {
                    name: viewer.user.name.clone(),
                    avatar: view::Avatar::of(&viewer.user),
                    unread,
                })
            }
            None => None,
        };
        Ok(Page {
            site: self.app.config.site.name.clone(),
            title: title.into(),
            viewer,
            csrf: self.csrf(),
            notices: self.app.degraded().into_iter().map(str::to_owned).collect(),
            css: super::asset::css_url(),
            feeds: Vec::new(),
            here,
        })
    }

    /// A page as an answer. Pages for those who are not logged in carry an entity tag.
    pub(super) fn html(&self, template: &impl Template) -> Result<Response> {
        let body = template
            .render()
            .map_err(|error| Error::Bug(error.to_string()))?;
        let mut response = if self.viewer.is_none() && self.new_visitor.is_none() {
            let etag = format!("\"{}\"", token::md5(body.as_bytes()));
            let mut response = if is_fresh(&self.headers, &etag, None) {
                StatusCode::NOT_MODIFIED.into_response()
            } else {
                Html(body).into_response()
            };
            response.headers_mut().insert(
                header::ETAG,
                HeaderValue::from_str(&etag).map_err(|error| Error::Bug(error.to_string()))?,
            );
            response
        } else {
            Html(body).into_response()
        };
        if let Some(visitor) = &self.new_visitor {
            self.set_cookie(&mut response, VISITOR, visitor, 400 * 86_400)?;
        }
        Ok(response)
    }

    /// A page that says why a form was not taken, with the status that says so too.
    pub(super) fn refused(&self, template: &impl Template) -> Result<Response> {
        let mut response = self.html(template)?;
        *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
        Ok(response)
    }

    /// Sets a cookie for so many seconds; 0 removes it.
    pub(super) fn set_cookie(
        &self,
        response: &mut Response,
        name: &str,
        value: &str,
        seconds: i64,
    ) -> Result<()> {
        let secure = if self.app.config.site.secure_cookies {
            "; Secure"
        } else {
            ""
        };
        let text =
            format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
        let value = HeaderValue::from_str(&text).map_err(|error| Error::Bug(error.to_string()))?;
        response.headers_mut().append(header::SET_COOKIE, value);
        Ok(())
    }

    /// Whether the browser has this version already.
    pub(super) fn has(&self, etag: &str, modified: Option<i64>) -> bool {
        is_fresh(&self.headers, etag, modified)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    header::HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn forms_of_other_sites_are_refused() {
        let check = |pairs: &[(&'static str, &'static str)]| {
            refuse_other_sites(&headers(pairs), "https://j.example").is_ok()
        };
        assert!(check(&[]));
        assert!(check(&[
            ("sec-fetch-site", "same-origin"),
            ("origin", "https://j.example"),
            ("host", "10.0.0.1:80")
        ]));
        assert!(check(&[
            ("origin", "http://10.0.0.1:80"),
            ("host", "10.0.0.1:80")
        ]));
        assert!(!check(&[("sec-fetch-site", "cross-site")]));
        assert!(!check(&[("sec-fetch-site", "same-site")]));
        assert!(!check(&[
            ("origin", "https://evil.example"),
            ("host", "j.example")
        ]));
        assert!(!check(&[("origin", "null"), ("host", "j.example")]));
    }

    #[test]
    fn cookies_are_found_by_their_whole_name() {
        let all = headers(&[("cookie", "xljsession=bad; ljsession=good; b=c")]);
        assert_eq!(cookie(&all, "ljsession"), Some("good"));
        assert_eq!(cookie(&all, "session"), None);
    }
}
