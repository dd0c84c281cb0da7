//! What a message looks like when it is passed on.
//!
//! Owns the rewriting of heads between client and backend (spec parts B4, B5 and A6): hop-by-hop fields go, forwarding
//! fields come, exactly one framing field is written. Apart from `head` because these are choices of a proxy, not syntax.
//! It does not touch bodies.

use bytes::{Bytes, BytesMut};

use crate::framing::ResponseBody;
use crate::head::{Field, Fields, Request, Response, Version, list};

/// Fields that concern one connection only and are never passed on, in either direction.
const HOP_BY_HOP: &[&str] = &[
    "Connection",
    "Keep-Alive",
    "Proxy-Connection",
    "Proxy-Authorization",
    "Proxy-Authenticate",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
];

/// Further request fields that stop here. `Proxy` would become the environment variable HTTP_PROXY of a CGI program.
const REQUEST_ONLY: &[&str] = &["Proxy", "TE", "HTTP2-Settings", "Expect", "Content-Length"];

/// Request fields that set what the proxy itself tells backends; a client's own are always removed.
const OURS: &[&str] = &[
    "X-Proxy-Capabilities",
    "X-Upload-File",
    "X-Upload-Size",
    "X-Upload-SHA256",
];

/// Request fields a client may not have removed by naming them in Connection.
const NOT_NAMEABLE: &[&str] = &[
    "Host",
    "Content-Length",
    "Transfer-Encoding",
    "Cookie",
    "Authorization",
    "Content-Type",
    "Forwarded",
];

/// A change of request fields made by configuration (`HEADER`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderChange {
    /// Remove all fields of this name.
    Remove(String),
    /// Set this field, replacing others of the name.
    Insert(String, String),
}

/// How the body that follows is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutBody {
    /// No body and no framing field.
    None,
    /// `Content-Length`, also when it is zero.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// Whether the peer of the client connection is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Forwarding fields are replaced by what we see.
    Untrusted,
    /// The peer's address is appended to what it says.
    Trusted,
    /// Nothing is touched (`blind_proxy` with a trusted peer).
    Blind,
}

/// What a request to a backend is made from besides the client's request.
#[derive(Debug)]
pub struct RequestPolicy<'a> {
    /// Ask the backend to keep the connection.
    pub persist: bool,
    /// Announce that responses may be reproxied.
    pub reproxy: bool,
    /// What the peer of the client may say about other addresses.
    pub trust: Trust,
    /// Address of the peer, without port.
    pub peer: &'a str,
    /// Framing of the body.
    pub body: OutBody,
    /// Version to speak to the backend.
    pub version: Version,
    /// Host used when an HTTP/1.0 client sent none and the backend is spoken to in 1.1.
    pub default_host: &'a str,
    /// Keep field names that contain `_`, which some servers cannot tell from `-`.
    pub underscores: bool,
    /// Further fields, such as `X-Request-Id`.
    pub extra: &'a [(&'a str, String)],
    /// The service's `HEADER` changes, removals first.
    pub changes: &'a [HeaderChange],
    /// Protocol the client asks to switch to, when that is allowed; the connection then serves nothing else.
    pub upgrade: Option<&'a str>,
}

/// The head of the request to the backend.
#[must_use]
pub fn request_head(request: &Request, policy: &RequestPolicy<'_>) -> BytesMut {
    let mut fields = kept_request_fields(request, policy.underscores);
    if policy.version == Version::V11 && !fields.has("Host") {
        fields.push(&b"Host"[..], policy.default_host.to_owned());
    }
    forwarding(&mut fields, policy);
    if policy.reproxy {
        fields.push(&b"X-Proxy-Capabilities"[..], &b"reproxy-file"[..]);
    }
    for (name, value) in policy.extra {
        fields.set(name, value.clone());
    }
    apply_changes(&mut fields, policy.changes);
    match policy.upgrade {
        Some(protocol) => {
            fields.push(&b"Upgrade"[..], protocol.to_owned());
            fields.push(&b"Connection"[..], &b"Upgrade"[..]);
        }
        None if policy.persist => fields.push(&b"Connection"[..], &b"keep-alive"[..]),
        None => fields.push(&b"Connection"[..], &b"close"[..]),
    }
    match policy.body {
        OutBody::None => {}
        OutBody::Length(n) => fields.push(&b"Content-Length"[..], n.to_string()),
        OutBody::Chunked => fields.push(&b"Transfer-Encoding"[..], &b"chunked"[..]),
    }
    let mut out = BytesMut::with_capacity(request.target.len() + 512);
    for part in [
        &request.method[..],
        b" ",
        &request.target,
        b" ",
        policy.version.text().as_bytes(),
        b"\r\n",
    ] {
        out.extend_from_slice(part);
    }
    write_fields(&mut out, &fields);
    out
}

fn kept_request_fields(request: &Request, underscores: bool) -> Fields {
    let named: Vec<&[u8]> = request
        .fields
        .all("Connection")
        .flat_map(|v| list(v))
        .filter(|n| !is_protected(n))
        .collect();
    let mut kept = Fields::default();
    for field in request.fields.iter() {
        let dropped = is_one_of(&field.name, HOP_BY_HOP)
            || is_one_of(&field.name, REQUEST_ONLY)
            || is_one_of(&field.name, OURS)
            || named.iter().any(|n| n.eq_ignore_ascii_case(&field.name))
            || (!underscores && field.name.contains(&b'_'));
        if !dropped {
            kept.push(field.name.clone(), field.value.clone());
        }
    }
    if request.fields.has_token("TE", "trailers")
        && !named.iter().any(|n| n.eq_ignore_ascii_case(b"te"))
    {
        kept.push(&b"TE"[..], &b"trailers"[..]);
    }
    kept
}

fn is_protected(name: &[u8]) -> bool {
    is_one_of(name, NOT_NAMEABLE)
        || name.len() >= 12 && name[..12].eq_ignore_ascii_case(b"X-Forwarded-")
}

fn forwarding(fields: &mut Fields, policy: &RequestPolicy<'_>) {
    match policy.trust {
        Trust::Blind => {}
        Trust::Untrusted => {
            fields.remove("X-Host");
            fields.remove("X-Forwarded-Host");
            fields.set("X-Forwarded-For", policy.peer.to_owned());
        }
        Trust::Trusted => {
            let mut chain: Vec<u8> = Vec::new();
            for value in fields.all("X-Forwarded-For") {
                chain.extend_from_slice(value);
                chain.extend_from_slice(b", ");
            }
            chain.extend_from_slice(policy.peer.as_bytes());
            fields.set("X-Forwarded-For", chain);
        }
    }
}

/// Applies `HEADER` changes: removals first, then insertions, whatever the order of the commands was.
pub fn apply_changes(fields: &mut Fields, changes: &[HeaderChange]) {
    for change in changes {
        if let HeaderChange::Remove(name) = change {
            fields.remove(name);
        }
    }
    for change in changes {
        if let HeaderChange::Insert(name, value) = change {
            fields.set(name, value.clone());
        }
    }
}

/// How a response is passed to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponsePolicy {
    /// Version the client speaks.
    pub version: Version,
    /// Keep the client connection afterwards.
    pub keep_alive: bool,
    /// Idle time announced to HTTP/1.0 clients in seconds.
    pub keep_alive_secs: u64,
    /// Framing towards the client; `None` keeps no framing field at all.
    pub body: ClientBody,
}

/// Framing of a response towards the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientBody {
    /// No body: keep the backend's `Content-Length` as it is (HEAD, 304) or none (204).
    None,
    /// So many bytes.
    Length(u64),
    /// Chunked coding.
    Chunked,
    /// Everything until we close.
    UntilClose,
}

/// Framing towards a client for a backend's body.
#[must_use]
pub fn client_body(body: ResponseBody, version: Version) -> ClientBody {
    match (body, version) {
        (ResponseBody::None, _) => ClientBody::None,
        (ResponseBody::Length(n), _) => ClientBody::Length(n),
        (ResponseBody::Chunked | ResponseBody::UntilClose, Version::V11) => ClientBody::Chunked,
        (ResponseBody::Chunked | ResponseBody::UntilClose, Version::V10) => ClientBody::UntilClose,
    }
}

/// The protocol a request asks to switch to, if it asks properly and the protocol is one of `allowed`.
#[must_use]
pub fn wanted_upgrade<'a>(request: &Request, allowed: &'a [String]) -> Option<&'a str> {
    let asks = &request.method[..] == b"GET"
        && request.version == Version::V11
        && request.fields.has_token("Connection", "upgrade");
    let mut protocols = request.fields.all("Upgrade");
    match (protocols.next(), protocols.next()) {
        (Some(one), None) if asks => allowed
            .iter()
            .find(|a| one.eq_ignore_ascii_case(a.as_bytes()))
            .map(String::as_str),
        _ => None,
    }
}

/// End-to-end fields of a response, without framing.
#[must_use]
pub fn end_to_end(response: &Response) -> Fields {
    let named: Vec<&[u8]> = response
        .fields
        .all("Connection")
        .flat_map(|v| list(v))
        .collect();
    let mut kept = Fields::default();
    for Field { name, value } in response.fields.iter() {
        let dropped = is_one_of(name, HOP_BY_HOP)
            || is_one_of(name, &["TE", "Content-Length"])
            || named.iter().any(|n| n.eq_ignore_ascii_case(name));
        if !dropped {
            kept.push(name.clone(), value.clone());
        }
    }
    kept
}

/// The head of the response to the client. `fields` are the end-to-end fields.
/// `described_length` is the length a HEAD or 304 response speaks of without having a body.
#[must_use]
pub fn response_head(
    status: u16,
    reason: &[u8],
    fields: &Fields,
    described_length: Option<&Bytes>,
    policy: &ResponsePolicy,
) -> BytesMut {
    let mut out = BytesMut::with_capacity(512);
    for part in [
        policy.version.text().as_bytes(),
        b" ",
        status.to_string().as_bytes(),
        b" ",
        reason,
        b"\r\n",
    ] {
        out.extend_from_slice(part);
    }
    for Field { name, value } in fields.iter() {
        write_field(&mut out, name, value);
    }
    match policy.body {
        ClientBody::None => {
            if let Some(length) = described_length {
                write_field(&mut out, b"Content-Length", length);
            }
        }
        ClientBody::Length(n) => write_field(&mut out, b"Content-Length", n.to_string().as_bytes()),
        ClientBody::Chunked => write_field(&mut out, b"Transfer-Encoding", b"chunked"),
        ClientBody::UntilClose => {}
    }
    connection_fields(&mut out, policy);
    out.extend_from_slice(b"\r\n");
    out
}

fn connection_fields(out: &mut BytesMut, policy: &ResponsePolicy) {
    if !policy.keep_alive {
        return write_field(out, b"Connection", b"close");
    }
    write_field(out, b"Connection", b"keep-alive");
    if policy.version == Version::V10 && policy.keep_alive_secs > 0 {
        write_field(
            out,
            b"Keep-Alive",
            format!("timeout={}", policy.keep_alive_secs).as_bytes(),
        );
    }
}

fn write_fields(out: &mut BytesMut, fields: &Fields) {
    for Field { name, value } in fields.iter() {
        write_field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

fn write_field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    for part in [name, b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names
        .iter()
        .any(|n| name.eq_ignore_ascii_case(n.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::{Limits, RequestParser, ResponseParser};

    fn policy(trust: Trust, changes: &[HeaderChange]) -> RequestPolicy<'_> {
        RequestPolicy {
            persist: true,
            reproxy: true,
            trust,
            peer: "10.0.0.1",
            body: OutBody::None,
            version: Version::V11,
            default_host: "web",
            underscores: false,
            extra: &[],
            changes,
            upgrade: None,
        }
    }

    fn forwarded(fields: &str, policy: &RequestPolicy<'_>) -> String {
        let mut buffer = BytesMut::from(format!("GET /x HTTP/1.0\r\n{fields}\r\n").as_bytes());
        let request = RequestParser::default()
            .parse(&mut buffer, &Limits::default())
            .unwrap()
            .unwrap();
        String::from_utf8(request_head(&request, policy).to_vec()).unwrap()
    }

    #[test]
    fn hop_by_hop_fields_stop_here() {
        let fields = "Host: h\r\nConnection: close, X-Secret, Cookie, x-forwarded-for\r\nX-Secret: 1\r\nCookie: c\r\nX_Under: u\r\nTE: trailers, deflate\r\nProxy: p\r\nUpgrade: u\r\nKeep-Alive: 5\r\nX-Proxy-Capabilities: lies\r\nContent-Length: 0\r\n";
        assert_eq!(
            forwarded(fields, &policy(Trust::Untrusted, &[])),
            "GET /x HTTP/1.1\r\nHost: h\r\nCookie: c\r\nTE: trailers\r\nX-Forwarded-For: 10.0.0.1\r\nX-Proxy-Capabilities: reproxy-file\r\nConnection: keep-alive\r\n\r\n"
        );
    }

    #[test]
    fn forwarding_fields_depend_on_trust() {
        let fields = "Host: h\r\nX-Forwarded-For: 1.1.1.1\r\nX-Host: a\r\nX-Forwarded-Host: b\r\n";
        let untrusted = forwarded(fields, &policy(Trust::Untrusted, &[]));
        assert!(
            untrusted.contains("X-Forwarded-For: 10.0.0.1\r\n")
                && !untrusted.contains("X-Host")
                && !untrusted.contains("X-Forwarded-Host")
        );
        let trusted = forwarded(fields, &policy(Trust::Trusted, &[]));
        assert!(
            trusted.contains("X-Forwarded-For: 1.1.1.1, 10.0.0.1\r\n")
                && trusted.contains("X-Host: a\r\n")
                && trusted.contains("X-Forwarded-Host: b\r\n")
        );
        let blind = forwarded(fields, &policy(Trust::Blind, &[]));
        assert!(blind.contains("X-Forwarded-For: 1.1.1.1\r\n"));
    }

    #[test]
    fn header_changes_remove_before_they_insert() {
        let changes = [
            HeaderChange::Insert("X-A".into(), "new".into()),
            HeaderChange::Remove("x-a".into()),
            HeaderChange::Insert("Host".into(), "z".into()),
        ];
        let head = forwarded("X-A: old\r\nHost: h\r\n", &policy(Trust::Blind, &changes));
        assert!(
            head.contains("X-A: new\r\n")
                && !head.contains("old")
                && head.contains("Host: z\r\n")
                && !head.contains("Host: h\r\n")
        );
        assert!(forwarded("", &policy(Trust::Blind, &[])).contains("Host: web\r\n"));
    }

    #[test]
    fn upgrades_are_asked_for_properly_or_not_at_all() {
        let allowed = ["websocket".to_owned()];
        let wanted = |head: &str| {
            let mut buffer = BytesMut::from(head.as_bytes());
            let request = RequestParser::default()
                .parse(&mut buffer, &Limits::default())
                .unwrap()
                .unwrap();
            wanted_upgrade(&request, &allowed).is_some()
        };
        assert!(wanted(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n"
        ));
        for head in [
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n\r\n",
        ] {
            assert!(!wanted(head), "{head:?}");
        }
    }

    #[test]
    fn response_fields() {
        let mut buffer = BytesMut::from(&b"HTTP/1.1 200 Fine\r\nServer: s\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 3\r\nKeep-Alive: timeout=1\r\n\r\n"[..]);
        let response = ResponseParser::default()
            .parse(&mut buffer, &Limits::default())
            .unwrap()
            .unwrap();
        let policy = ResponsePolicy {
            version: Version::V10,
            keep_alive: true,
            keep_alive_secs: 30,
            body: ClientBody::Length(3),
        };
        let head = response_head(
            response.status,
            &response.reason,
            &end_to_end(&response),
            None,
            &policy,
        );
        assert_eq!(
            head,
            "HTTP/1.0 200 Fine\r\nServer: s\r\nContent-Length: 3\r\nConnection: keep-alive\r\nKeep-Alive: timeout=30\r\n\r\n"
        );
        assert_eq!(
            client_body(ResponseBody::UntilClose, Version::V11),
            ClientBody::Chunked
        );
        assert_eq!(
            client_body(ResponseBody::Chunked, Version::V10),
            ClientBody::UntilClose
        );
    }
}
