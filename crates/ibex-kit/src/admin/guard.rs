//! Who may ask the admin port: Host check, bearer token, refusal of cross-site requests.
//!
//! Owns the three rules of spec/ops.md 4.1. It answers nothing but refusals.

use http::{StatusCode, header};
use subtle::ConstantTimeEq as _;

use super::{Answer, Request, text};
use crate::config::common::AdminConfig;

/// Against DNS rebinding: the Host must be an address, `localhost`, or a configured name. Boxed because an answer is large.
pub(super) fn host(request: &Request, config: &AdminConfig) -> Result<(), Box<Answer>> {
    let Some(value) = request.headers.get(header::HOST) else {
        return Ok(());
    };
    let host = value.to_str().unwrap_or_default();
    let name = bare_host(host);
    let known = name == "localhost"
        || name.parse::<std::net::IpAddr>().is_ok()
        || config
            .hosts
            .iter()
            .any(|known| known.eq_ignore_ascii_case(name));
    // A unix socket's client may send an empty Host.
    if known || name.is_empty() {
        Ok(())
    } else {
        Err(Box::new(text(
            StatusCode::MISDIRECTED_REQUEST,
            "unknown Host; list it in admin.hosts\n",
        )))
    }
}

/// The host of `host`, `host:port`, `[v6]` or `[v6]:port`.
fn bare_host(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

/// The bearer token, if one is configured; compared in constant time.
pub(super) fn token(request: &Request, config: &AdminConfig) -> Result<(), Box<Answer>> {
    if config.token.is_empty() {
        return Ok(());
    }
    let given = request
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let given = given
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map_or("", |(_, token)| token.trim());
    if bool::from(given.as_bytes().ct_eq(config.token.reveal().as_bytes())) {
        return Ok(());
    }
    let mut refused = text(
        StatusCode::UNAUTHORIZED,
        "needs Authorization: Bearer TOKEN (admin.token_file)\n",
    );
    refused.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        header::HeaderValue::from_static("Bearer"),
    );
    Err(Box::new(refused))
}

/// A page of another site must not change anything through a browser.
pub(super) fn same_site(request: &Request) -> Result<(), Box<Answer>> {
    let value = |name: &str| {
        request
            .headers
            .get(name)
            .map(|value| value.to_str().unwrap_or("unreadable"))
    };
    let site_ok =
        value("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none");
    let host = value("host").unwrap_or_default();
    let origin_ok = value("origin").is_none_or(|origin| {
        origin
            .split_once("://")
            .is_some_and(|(_, authority)| authority == host)
    });
    if site_ok && origin_ok {
        Ok(())
    } else {
        Err(Box::new(text(
            StatusCode::FORBIDDEN,
            "cross-site request refused\n",
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;

    fn request(headers: &[(&'static str, &str)]) -> Request {
        let mut map = http::HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        Request {
            method: http::Method::GET,
            path: String::new(),
            query: String::new(),
            headers: map,
            body: bytes::Bytes::new(),
            peer: String::new(),
        }
    }

    #[test]
    fn hosts() {
        let config = AdminConfig {
            hosts: vec!["ops.example".to_owned()],
            ..AdminConfig::default()
        };
        for good in [
            "127.0.0.1:9815",
            "[::1]:9815",
            "[::1]",
            "localhost",
            "localhost:1",
            "OPS.example:80",
            "",
        ] {
            assert!(host(&request(&[("host", good)]), &config).is_ok(), "{good}");
        }
        for bad in [
            "evil.example",
            "127.0.0.1.evil.example:9815",
            "localhost.evil",
        ] {
            assert!(host(&request(&[("host", bad)]), &config).is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens() {
        let config = AdminConfig {
            token: Secret::new("t0k"),
            ..AdminConfig::default()
        };
        assert!(token(&request(&[("authorization", "Bearer t0k")]), &config).is_ok());
        assert!(token(&request(&[("authorization", "bearer  t0k ")]), &config).is_ok());
        for bad in ["Bearer t0", "Bearer t0kk", "Basic t0k", "t0k", "Bearer "] {
            let refused = token(&request(&[("authorization", bad)]), &config).unwrap_err();
            assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{bad}");
        }
        assert!(token(&request(&[]), &AdminConfig::default()).is_ok());
    }

    #[test]
    fn cross_site() {
        assert!(same_site(&request(&[("host", "localhost:1")])).is_ok());
        assert!(
            same_site(&request(&[
                ("host", "localhost:1"),
                ("origin", "http://localhost:1"),
                ("sec-fetch-site", "same-origin")
            ]))
            .is_ok()
        );
        for bad in [
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(
                same_site(&request(&[("host", "localhost:1"), bad])).is_err(),
                "{bad:?}"
            );
        }
    }
}
