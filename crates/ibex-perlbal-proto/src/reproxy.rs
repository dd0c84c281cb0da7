//! X-REPROXY: how an application hands the delivery of a response back to the balancer.
//!
//! Owns the reading of X-REPROXY-FILE, -URL, -SERVICE, -EXPECTED-SIZE and -CACHE-FOR (spec part A8) and the choice of
//! what the client sees. Apart from the daemon as pure semantics. It fetches and opens nothing.

use bytes::Bytes;
use ibex_base::ascii;

use crate::head::{Fields, is_host, trim_blanks};

/// Prefix of all fields that are for the balancer only.
const PREFIX: &[u8] = b"X-REPROXY-";

/// Where the response's body is to come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file of this machine.
    File(Bytes),
    /// The first of these URLs that answers well.
    Urls(Vec<Url>),
    /// Another service gets the request.
    Service(String),
}

/// An instruction to reproxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reproxy {
    /// Where the body comes from.
    pub source: Source,
    /// Size the body must have, if the application knows it.
    pub expected_size: Option<u64>,
    /// Remember the URLs for this request.
    pub cache: Option<CacheFor>,
}

/// X-REPROXY-CACHE-FOR: seconds, and which response fields to remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFor {
    /// Life-time in seconds.
    pub secs: u64,
    /// Names of remembered fields.
    pub names: Vec<String>,
}

/// One absolute http URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Host with port as written in the URL.
    pub authority: String,
    /// Host without port and without brackets.
    pub host: String,
    /// Port, 80 if not given.
    pub port: u16,
    /// Path with query, begins with `/`.
    pub path: Bytes,
}

/// The instruction in a backend's response, if there is one. FILE wins over URL wins over SERVICE.
#[must_use]
pub fn instruction(fields: &Fields) -> Option<Reproxy> {
    let source = if let Some(path) = fields.first("X-REPROXY-FILE").filter(|p| !p.is_empty()) {
        Source::File(path.clone())
    } else if let Some(list) = fields.first("X-REPROXY-URL").filter(|u| !u.is_empty()) {
        Source::Urls(urls(list))
    } else {
        let name = fields
            .first("X-REPROXY-SERVICE")
            .filter(|n| !n.is_empty())?;
        Source::Service(String::from_utf8_lossy(name).to_ascii_lowercase())
    };
    let expected_size = fields
        .first("X-REPROXY-EXPECTED-SIZE")
        .and_then(|n| ascii::parse_u64(n));
    let cache = fields
        .first("X-REPROXY-CACHE-FOR")
        .and_then(|v| cache_for(v));
    Some(Reproxy {
        source,
        expected_size,
        cache,
    })
}

/// The blank separated http URLs of a value; others are left out.
#[must_use]
pub fn urls(value: &[u8]) -> Vec<Url> {
    value
        .split(|b| matches!(b, b' ' | b'\t'))
        .filter_map(url)
        .collect()
}

/// Parses one absolute `http://` URL. `None` for anything that cannot be requested safely.
#[must_use]
pub fn url(text: &[u8]) -> Option<Url> {
    let scheme = text.get(..7)?;
    if !scheme.eq_ignore_ascii_case(b"http://") {
        return None;
    }
    let rest = &text[7..];
    let end = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?' | b'#'))
        .unwrap_or(rest.len());
    let authority = &rest[..end];
    if authority.is_empty() || !is_host(authority) {
        return None;
    }
    let (host, port) = split_authority(authority)?;
    let path = rest[end..].split(|b| *b == b'#').next().unwrap_or_default();
    if path.iter().any(|b| *b <= b' ' || *b == 0x7f) {
        return None;
    }
    let path = if path.first() == Some(&b'/') {
        Bytes::copy_from_slice(path)
    } else {
        Bytes::from([b"/", path].concat())
    };
    Some(Url {
        authority: String::from_utf8_lossy(authority).into_owned(),
        host,
        port,
        path,
    })
}

fn split_authority(authority: &[u8]) -> Option<(String, u16)> {
    let text = std::str::from_utf8(authority).ok()?;
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest
            .split_once(']')
            .map(|(host, port)| (host, port.strip_prefix(':').unwrap_or("")))?,
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let port = if port.is_empty() {
        80
    } else {
        port.parse().ok()?
    };
    if host.is_empty() {
        None
    } else {
        Some((host.to_owned(), port))
    }
}

fn cache_for(value: &[u8]) -> Option<CacheFor> {
    let text = std::str::from_utf8(value).ok()?;
    let (secs, names) = text.split_once(';').unwrap_or((text, ""));
    let secs = ascii::parse_u64(secs.trim().as_bytes())?;
    Some(CacheFor {
        secs,
        names: names.split_whitespace().map(str::to_owned).collect(),
    })
}

/// The application's fields without anything that was for the balancer only.
#[must_use]
pub fn without_instructions(fields: &Fields) -> Fields {
    let mut kept = Fields::default();
    for field in fields.iter() {
        let ours = field.name.len() >= PREFIX.len()
            && field.name[..PREFIX.len()].eq_ignore_ascii_case(PREFIX);
        if !ours {
            kept.push(field.name.clone(), field.value.clone());
        }
    }
    kept
}

/// Status the client sees when the application answered `status`: 204 says nothing about the body we add.
#[must_use]
pub fn client_status(status: u16) -> u16 {
    if status == 204 { 200 } else { status }
}

/// True when a target's response is used; otherwise the next URL is tried.
#[must_use]
pub fn is_accepted(status: u16, length: Option<u64>, expected_size: Option<u64>) -> bool {
    let fine = (200..300).contains(&status) || status == 416;
    // A part of a file has its own length; only a whole body is measured against the expectation.
    let measured = status != 206 && status != 416;
    fine && (!measured || expected_size.is_none_or(|n| length == Some(n)))
}

/// Key under which reproxy instructions are remembered.
#[must_use]
pub fn cache_key(host: Option<&Bytes>, target: &Bytes) -> Bytes {
    let host = host
        .map(|h| trim_blanks(h).to_ascii_lowercase())
        .unwrap_or_default();
    Bytes::from([&host[..], b"|", target].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        for (name, value) in list {
            fields.push((*name).to_owned(), (*value).to_owned());
        }
        fields
    }

    #[test]
    fn precedence_is_file_url_service() {
        let all = [
            ("X-REPROXY-SERVICE", "Other"),
            ("X-Reproxy-Url", "http://a/"),
            ("x-reproxy-file", "/f"),
        ];
        assert_eq!(
            instruction(&fields(&all)).unwrap().source,
            Source::File("/f".into())
        );
        assert!(
            matches!(instruction(&fields(&all[..2])).unwrap().source, Source::Urls(u) if u.len() == 1)
        );
        assert_eq!(
            instruction(&fields(&all[..1])).unwrap().source,
            Source::Service("other".into())
        );
        assert!(instruction(&fields(&[("X-Other", "x")])).is_none());
    }

    #[test]
    fn url_lists() {
        let list = urls(b"http://10.0.0.1:7500/dev1/0.fid http://b ftp://c/ http://u@d/ https://e/ http://[::1]:81/x?y#z");
        let shown: Vec<String> = list
            .iter()
            .map(|u| format!("{} {} {}", u.host, u.port, String::from_utf8_lossy(&u.path)))
            .collect();
        assert_eq!(
            shown,
            ["10.0.0.1 7500 /dev1/0.fid", "b 80 /", "::1 81 /x?y"]
        );
        assert!(url(b"http://a/b\r\nX: y").is_none());
        assert!(url(b"http://:80/").is_none());
    }

    #[test]
    fn cache_instructions() {
        let reproxy = instruction(&fields(&[
            ("X-REPROXY-URL", "http://a/"),
            ("X-REPROXY-CACHE-FOR", "3600; Last-Modified Content-Type"),
            ("X-REPROXY-EXPECTED-SIZE", "12"),
        ]))
        .unwrap();
        assert_eq!(
            reproxy.cache,
            Some(CacheFor {
                secs: 3600,
                names: vec!["Last-Modified".into(), "Content-Type".into()]
            })
        );
        assert_eq!(reproxy.expected_size, Some(12));
        assert_eq!(
            without_instructions(&fields(&[
                ("X-REPROXY-URL", "u"),
                ("X-Reproxyish", "k"),
                ("x-reproxy-foo", "z")
            ]))
            .len(),
            1
        );
    }

    #[test]
    fn accepted_answers() {
        assert!(
            is_accepted(200, Some(5), None)
                && is_accepted(200, Some(5), Some(5))
                && is_accepted(206, Some(2), Some(5))
                && is_accepted(416, Some(0), Some(5))
        );
        assert!(
            !is_accepted(200, Some(4), Some(5))
                && !is_accepted(200, None, Some(5))
                && !is_accepted(404, None, None)
                && !is_accepted(302, None, None)
        );
        assert_eq!(
            (client_status(204), client_status(200), client_status(203)),
            (200, 200, 203)
        );
    }
}
