//! Who may call what: tokens and what each opens, hosts that are this machine, pages of other sites.
//!
//! Apart because it decides before any call is looked at. It knows paths and headers, no jobs.

use crate::config::Config;
use crate::http::Refusal;
use ::http::{HeaderMap, Method, Request, StatusCode, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::net::IpAddr;
use subtle::ConstantTimeEq;

/// What a token is for; `token` is for everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scopes {
    insert: bool,
    work: bool,
}

/// Which of the lesser tokens open a call.
fn scopes(method: &Method, segments: &[&str]) -> Scopes {
    let (insert, work) = match (method, segments) {
        (&Method::POST, ["v1", "jobs"]) => (true, false),
        (&Method::POST | &Method::GET, ["v1", "batches", ..]) => (true, false),
        (&Method::GET, ["v1", "jobs", _]) | (&Method::POST, ["v1", "poke"]) => (true, true),
        (&Method::POST, ["v1", "jobs", _, op]) => (false, *op != "retry"),
        (&Method::POST, ["v1", "fetch" | "finish"])
        | (&Method::GET, ["v1", "take"])
        | (&Method::POST, ["v1", "workers", _, "goodbye"]) => (false, true),
        _ => (false, false),
    };
    Scopes { insert, work }
}

/// Refuses a call whose token is missing, wrong, or for something else. Compared in constant time.
pub(crate) fn token<B>(
    config: &Config,
    request: &Request<B>,
    segments: &[&str],
) -> Result<(), Refusal> {
    if !config.has_token() {
        return Ok(());
    }
    let Some(shown) = shown(request.headers()) else {
        return Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "a bearer token is needed",
        ));
    };
    let is = |token: &ibex_kit::Secret| {
        !token.is_empty() && bool::from(shown.as_slice().ct_eq(token.reveal().as_bytes()))
    };
    let scopes = scopes(request.method(), segments);
    let (all, insert, work) = (
        is(&config.token),
        is(&config.token_insert),
        is(&config.token_work),
    );
    if all || insert && scopes.insert || work && scopes.work {
        return Ok(());
    }
    let message = if insert || work {
        "this token is not for that call"
    } else {
        "wrong token"
    };
    Err(Refusal::new(StatusCode::FORBIDDEN, "forbidden", message))
}

/// The token a request shows: a bearer's, or the password a browser asked its user for.
fn shown(headers: &HeaderMap) -> Option<Vec<u8>> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let at = value.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = value.split_at_checked(at)?;
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(rest.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = STANDARD.decode(rest).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair.get(colon + 1..)?.to_vec())
}

/// Without a token the caller's machine is all there is to trust: a page elsewhere whose name was given this machine's address is none of it.
pub(super) fn host<B>(config: &Config, request: &Request<B>) -> Result<(), Refusal> {
    if config.insecure || config.has_token() {
        return Ok(());
    }
    let host = match request.uri().host() {
        Some(host) => host,
        None => match request.headers().get(header::HOST) {
            Some(value) => bare(value.to_str().unwrap_or("?")),
            None => return Ok(()),
        },
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_known = host.is_empty()
        || host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok()
        || config
            .hosts
            .iter()
            .any(|known| known.eq_ignore_ascii_case(host));
    if is_known {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::FORBIDDEN,
        "forbidden",
        "unknown Host: list it in hosts, or set a token",
    ))
}

/// The host of `host`, `host:port`, `[v6]` or `[v6]:port`.
fn bare(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

/// What a browser says of the page a call comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// No browser, or one that says nothing.
    Unsaid,
    /// A page of this daemon, or what the user typed.
    Own,
    /// Another site's.
    Foreign,
}

/// Where a call comes from.
pub(crate) fn origin(headers: &HeaderMap, authority: Option<&str>) -> Origin {
    let value = |name: &str| {
        headers
            .get(name)
            .map(|value| value.to_str().unwrap_or("unreadable"))
    };
    let site = value("sec-fetch-site");
    if site.is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return Origin::Foreign;
    }
    let Some(origin) = value("origin") else {
        return if site.is_some() {
            Origin::Own
        } else {
            Origin::Unsaid
        };
    };
    let host = value("host").or(authority).unwrap_or_default();
    let is_same = origin
        .split_once("://")
        .is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
    if is_same {
        Origin::Own
    } else {
        Origin::Foreign
    }
}

/// A page of another site must not act through a browser that can reach this port.
pub(super) fn same_site<B>(request: &Request<B>) -> Result<(), Refusal> {
    let authority = request
        .uri()
        .authority()
        .map(::http::uri::Authority::as_str);
    match origin(request.headers(), authority) {
        Origin::Unsaid | Origin::Own => Ok(()),
        Origin::Foreign => Err(cross_site()),
    }
}

pub(crate) fn cross_site() -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "forbidden", "cross-site request")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ibex_kit::Secret;

    fn request(method: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().method(method).uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn each_token_opens_its_calls_and_no_others() {
        let config = Config {
            token: Secret::new("a"),
            token_insert: Secret::new("i"),
            token_work: Secret::new("w"),
            ..Config::default()
        };
        let opens = |token: &str, method: &str, path: &str| {
            let shown = format!("Bearer {token}");
            let segments: Vec<&str> = path.split('/').skip(1).collect();
            super::token(
                &config,
                &request(method, &[("authorization", &shown)]),
                &segments,
            )
            .is_ok()
        };
        for (method, path, by) in [
            ("POST", "/v1/jobs", "ai"),
            ("GET", "/v1/jobs/H", "aiw"),
            ("GET", "/v1/jobs", "a"),
            ("DELETE", "/v1/jobs/H", "a"),
            ("PATCH", "/v1/jobs/H", "a"),
            ("POST", "/v1/jobs/H/complete", "aw"),
            ("POST", "/v1/jobs/H/retry", "a"),
            ("POST", "/v1/fetch", "aw"),
            ("GET", "/v1/take", "aw"),
            ("POST", "/v1/finish", "aw"),
            ("POST", "/v1/workers/W/goodbye", "aw"),
            ("POST", "/v1/workers/W/stop", "a"),
            ("POST", "/v1/batches", "ai"),
            ("POST", "/v1/poke", "aiw"),
            ("GET", "/v1/funcs", "a"),
            ("POST", "/v1/funcs/F/pause", "a"),
            ("PUT", "/v1/cron/C", "a"),
            ("GET", "/v1/events", "a"),
        ] {
            for token in ["a", "i", "w", "", "x"] {
                let expected = !token.is_empty() && by.contains(token);
                assert_eq!(
                    opens(token, method, path),
                    expected,
                    "{token} {method} {path}"
                );
            }
        }
    }

    #[test]
    fn tokens_are_shown_as_bearer_or_as_a_password() {
        let shown = |value: &str| {
            shown(request("GET", &[("authorization", value)]).headers())
                .map(|bytes| String::from_utf8(bytes).unwrap())
        };
        assert_eq!(shown("bearer open sesame").as_deref(), Some("open sesame"));
        assert_eq!(shown("Basic dXNlcjphOmI=").as_deref(), Some("a:b"));
        for none in ["", "Bearer", "Basic !", "Basic dXNlcg==", "Digest x"] {
            assert_eq!(shown(none), None, "{none}");
        }
    }

    #[test]
    fn names_given_to_this_machine_by_others_are_refused_while_there_is_no_token() {
        let mut config = Config::default();
        let known =
            |config: &Config, name: &str| host(config, &request("GET", &[("host", name)])).is_ok();
        for name in [
            "localhost:7373",
            "127.0.0.1",
            "[::1]:7373",
            "10.0.0.1:1",
            "",
        ] {
            assert!(known(&config, name), "{name}");
        }
        for name in [
            "evil.example",
            "evil.example:7373",
            "127.0.0.1.evil.example",
            "x",
        ] {
            assert!(!known(&config, name), "{name}");
        }
        config.hosts = vec!["jobs.example".to_owned()];
        assert!(known(&config, "Jobs.example:80"));
        config.insecure = true;
        assert!(known(&config, "evil.example"));
    }

    #[test]
    fn pages_of_others() {
        let of = |headers: &[(&str, &str)]| origin(request("POST", headers).headers(), None);
        assert_eq!(of(&[]), Origin::Unsaid);
        assert_eq!(of(&[("sec-fetch-site", "none")]), Origin::Own);
        assert_eq!(of(&[("sec-fetch-site", "same-site")]), Origin::Foreign);
        let host = ("host", "localhost:7373");
        assert_eq!(
            of(&[host, ("origin", "http://localhost:7373")]),
            Origin::Own
        );
        assert_eq!(
            of(&[host, ("origin", "http://localhost:80")]),
            Origin::Foreign
        );
        assert_eq!(of(&[host, ("origin", "null")]), Origin::Foreign);
    }
}
