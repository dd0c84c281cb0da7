//! Request and response heads: one strict parser for both sides of the proxy.
//!
//! Owns the syntax rules of RFC 9112 sections 2 to 5 in the strict reading of the balancer: what is doubtful is refused,
//! because two readers of one doubtful message are how requests are smuggled. Apart from `framing`, which judges the body.
//! It does not interpret fields beyond Host; it never looks past the empty line that ends the head.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};

/// Why a message is not accepted, with the status the peer gets. The connection is closed afterwards in any case,
/// because nothing behind a doubtful message can be trusted to begin where it seems to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status of the answer, 400 to 505.
    pub status: u16,
    /// Text for the body of the answer; some clients match on it.
    pub text: &'static str,
}

impl Refusal {
    /// A refusal with a status and a text.
    #[must_use]
    pub const fn new(status: u16, text: &'static str) -> Self {
        Self { status, text }
    }

    const fn bad(text: &'static str) -> Self {
        Self::new(400, text)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.text)
    }
}

impl std::error::Error for Refusal {}

/// How much of a head is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Whole head in bytes, request line and empty line included; beyond: 431.
    pub head_bytes_max: usize,
    /// Number of fields; beyond: 431.
    pub fields_max: usize,
    /// Request target in bytes; beyond: 414.
    pub target_bytes_max: usize,
}

impl Default for Limits {
    /// 100 KiB as in the original, 200 fields, 32 KiB of target.
    fn default() -> Self {
        Self {
            head_bytes_max: 100 * 1024,
            fields_max: 200,
            target_bytes_max: 32 * 1024,
        }
    }
}

/// Empty lines skipped before a request line: a stray CRLF after a POST body is normal, more is an attack.
const LEADING_EMPTY_LINES_MAX: usize = 2;

/// Protocol version of a message, as far as the balancer cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0: no chunking, closes unless asked.
    V10,
    /// HTTP/1.1 and the minors 2 to 9, which RFC 9110 tells us to treat like it.
    V11,
}

impl Version {
    /// The text of the version in a start line.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::V10 => "HTTP/1.0",
            Self::V11 => "HTTP/1.1",
        }
    }
}

/// One header field; the name keeps its case and the value has no blanks around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Field name as sent, a token.
    pub name: Bytes,
    /// Field value without surrounding blanks.
    pub value: Bytes,
}

/// Fields in the order and case in which they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<Field>);

impl Fields {
    /// All fields in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Field> {
        self.0.iter()
    }

    /// Number of fields.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when there are no fields.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Value of the first field of that name, any case.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&Bytes> {
        self.0
            .iter()
            .find(|f| f.name.eq_ignore_ascii_case(name.as_bytes()))
            .map(|f| &f.value)
    }

    /// Values of all fields of that name, any case, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Bytes> {
        self.0
            .iter()
            .filter(move |f| f.name.eq_ignore_ascii_case(name.as_bytes()))
            .map(|f| &f.value)
    }

    /// True when a field of that name exists.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.first(name).is_some()
    }

    /// True when the comma separated list in the fields of that name contains the token, any case.
    #[must_use]
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name)
            .any(|value| list(value).any(|t| t.eq_ignore_ascii_case(token.as_bytes())))
    }

    /// Appends a field.
    pub fn push(&mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.0.push(Field {
            name: name.into(),
            value: value.into(),
        });
    }

    /// Removes all fields of that name, any case.
    pub fn remove(&mut self, name: &str) {
        self.0
            .retain(|f| !f.name.eq_ignore_ascii_case(name.as_bytes()));
    }

    /// Replaces all fields of that name by one.
    pub fn set(&mut self, name: &str, value: impl Into<Bytes>) {
        self.remove(name);
        self.push(Bytes::copy_from_slice(name.as_bytes()), value);
    }
}

/// The elements of a comma separated list value, without blanks around them; empty elements are left out.
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|b| *b == b',')
        .map(trim_blanks)
        .filter(|t| !t.is_empty())
}

/// A parsed and accepted request head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Method token, case-sensitive.
    pub method: Bytes,
    /// Origin form (`/path?query`) or `*`; the path of an absolute form.
    pub target: Bytes,
    /// Version spoken by the client.
    pub version: Version,
    /// All fields, Host included.
    pub fields: Fields,
}

impl Request {
    /// True for GET and HEAD.
    #[must_use]
    pub fn is_read(&self) -> bool {
        &self.method[..] == b"GET" || self.is_head()
    }

    /// True for HEAD.
    #[must_use]
    pub fn is_head(&self) -> bool {
        &self.method[..] == b"HEAD"
    }

    /// True for the methods RFC 9110 section 9.2.2 calls idempotent.
    #[must_use]
    pub fn is_idempotent(&self) -> bool {
        matches!(
            &self.method[..],
            b"GET" | b"HEAD" | b"PUT" | b"DELETE" | b"OPTIONS" | b"TRACE"
        )
    }

    /// True when the client lets us keep the connection.
    #[must_use]
    pub fn wants_keep_alive(&self) -> bool {
        match self.version {
            Version::V11 => !self.fields.has_token("Connection", "close"),
            Version::V10 => {
                self.fields.has_token("Connection", "keep-alive")
                    && !self.fields.has_token("Connection", "close")
            }
        }
    }

    /// Value of Host, if the request has one.
    #[must_use]
    pub fn host(&self) -> Option<&Bytes> {
        self.fields.first("Host")
    }

    /// The path without the query.
    #[must_use]
    pub fn path(&self) -> &[u8] {
        self.target.split(|b| *b == b'?').next().unwrap_or_default()
    }
}

/// A parsed and accepted response head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Version the backend speaks.
    pub version: Version,
    /// Status, 100 to 999.
    pub status: u16,
    /// Reason phrase as sent; may be empty.
    pub reason: Bytes,
    /// All fields.
    pub fields: Fields,
}

/// Parses request heads out of one connection's buffer; remembers how far it has looked, so that a peer that sends
/// byte by byte costs linear time.
#[derive(Debug, Default)]
pub struct RequestParser {
    scanned: usize,
    empty_lines: usize,
}

impl RequestParser {
    /// Takes a complete head off the front of `buffer`, or says `None` if more bytes are needed.
    ///
    /// # Errors
    /// The refusal to answer with; the buffer is then of no further use.
    pub fn parse(
        &mut self,
        buffer: &mut BytesMut,
        limits: &Limits,
    ) -> Result<Option<Request>, Refusal> {
        self.skip_empty_lines(buffer)?;
        let Some(end) = head_end(buffer, &mut self.scanned) else {
            return check_incomplete(buffer, limits).map(|()| None);
        };
        if end > limits.head_bytes_max {
            return Err(oversized(buffer, limits));
        }
        let head = buffer.split_to(end).freeze();
        *self = Self::default();
        parse_request(&head, limits).map(Some)
    }

    fn skip_empty_lines(&mut self, buffer: &mut BytesMut) -> Result<(), Refusal> {
        loop {
            let skip = match buffer.first() {
                Some(b'\n') => 1,
                Some(b'\r') if buffer.get(1) == Some(&b'\n') => 2,
                Some(b'\r') if buffer.len() > 1 => return Err(Refusal::bad("Bare CR")),
                _ => return Ok(()),
            };
            self.empty_lines += 1;
            if self.empty_lines > LEADING_EMPTY_LINES_MAX {
                return Err(Refusal::bad("Too many empty lines"));
            }
            buffer.advance(skip);
            self.scanned = 0;
        }
    }
}

/// What can be refused before the head is complete.
fn check_incomplete(buffer: &[u8], limits: &Limits) -> Result<(), Refusal> {
    if buffer
        .first()
        .is_some_and(|b| !is_token_byte(*b) && *b != b'\r')
    {
        return Err(Refusal::bad("Invalid request line"));
    }
    if buffer.len() >= limits.head_bytes_max
        || (buffer.len() > limits.target_bytes_max + 64 && memchr::memchr(b'\n', buffer).is_none())
    {
        return Err(oversized(buffer, limits));
    }
    Ok(())
}

fn oversized(buffer: &[u8], limits: &Limits) -> Refusal {
    let line = memchr::memchr(b'\n', buffer).unwrap_or(buffer.len());
    if line > limits.target_bytes_max {
        Refusal::new(414, "URI too long")
    } else {
        Refusal::new(431, "Request header fields too large")
    }
}

/// Position behind the empty line that ends a head. `scanned` carries over between calls on a growing buffer.
#[must_use]
pub fn head_end(buffer: &[u8], scanned: &mut usize) -> Option<usize> {
    let mut at = *scanned;
    while let Some(found) = memchr::memchr(b'\n', buffer.get(at..)?) {
        let newline = at + found;
        match buffer.get(newline + 1) {
            Some(b'\n') => return Some(newline + 2),
            Some(b'\r') => match buffer.get(newline + 2) {
                Some(b'\n') => return Some(newline + 3),
                Some(_) => at = newline + 1,
                None => {
                    *scanned = newline;
                    return None;
                }
            },
            Some(_) => at = newline + 1,
            None => {
                *scanned = newline;
                return None;
            }
        }
    }
    *scanned = buffer.len();
    None
}

fn parse_request(head: &Bytes, limits: &Limits) -> Result<Request, Refusal> {
    let mut lines = Lines {
        head,
        at: 0,
        bare_lf: true,
    };
    let line = lines.next_line()?.unwrap_or_default();
    let (method, target, version) = request_line(&line, limits)?;
    let mut fields = parse_fields(&mut lines, limits.fields_max, Folds::Refuse)?;
    let target = normal_target(&method, target, &mut fields)?;
    check_host(&fields, version)?;
    Ok(Request {
        method,
        target,
        version,
        fields,
    })
}

fn request_line(line: &Bytes, limits: &Limits) -> Result<(Bytes, Bytes, Version), Refusal> {
    let bad = Refusal::bad("Invalid request line");
    let first = memchr::memchr(b' ', line).ok_or(bad)?;
    let second = memchr::memchr(b' ', &line[first + 1..])
        .map(|n| n + first + 1)
        .ok_or(bad)?;
    let (method, target, version) = (
        line.slice(..first),
        line.slice(first + 1..second),
        line.slice(second + 1..),
    );
    if !is_token(&method) || target.is_empty() {
        return Err(bad);
    }
    if target.len() > limits.target_bytes_max {
        return Err(Refusal::new(414, "URI too long"));
    }
    if target
        .iter()
        .any(|b| *b <= b' ' || *b == 0x7f || *b == b'#')
    {
        return Err(Refusal::bad("Invalid request target"));
    }
    Ok((method, target, request_version(&version)?))
}

fn request_version(text: &[u8]) -> Result<Version, Refusal> {
    match text {
        b"HTTP/1.0" => Ok(Version::V10),
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Ok(Version::V11),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            Err(Refusal::new(505, "HTTP version not supported"))
        }
        _ => Err(Refusal::bad("Invalid HTTP version")),
    }
}

/// Absolute form becomes origin form with its host; `*` and authority form only where they belong.
fn normal_target(method: &[u8], target: Bytes, fields: &mut Fields) -> Result<Bytes, Refusal> {
    if method == b"CONNECT" {
        return Err(Refusal::new(405, "CONNECT is not allowed here"));
    }
    if target[0] == b'/' {
        return Ok(target);
    }
    if &target[..] == b"*" {
        return if method == b"OPTIONS" {
            Ok(target)
        } else {
            Err(Refusal::bad("Invalid request target"))
        };
    }
    let scheme = ["http://", "https://"]
        .iter()
        .find(|s| target.len() > s.len() && target[..s.len()].eq_ignore_ascii_case(s.as_bytes()));
    let Some(scheme) = scheme else {
        return Err(Refusal::bad("Invalid request target"));
    };
    let rest = target.slice(scheme.len()..);
    let end = rest
        .iter()
        .position(|b| matches!(b, b'/' | b'?'))
        .unwrap_or(rest.len());
    let authority = rest.slice(..end);
    if authority.is_empty() || authority.contains(&b'@') || !is_host(&authority) {
        return Err(Refusal::bad("Invalid request target"));
    }
    if fields.all("Host").count() > 1 {
        return Err(Refusal::bad("More than one Host"));
    }
    fields.set("Host", authority);
    let path = rest.slice(end..);
    Ok(match path.first() {
        Some(b'/') => path,
        Some(_) => Bytes::from([b"/", &path[..]].concat()),
        None => Bytes::from_static(b"/"),
    })
}

fn check_host(fields: &Fields, version: Version) -> Result<(), Refusal> {
    let mut hosts = fields.all("Host");
    match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => Err(Refusal::bad("More than one Host")),
        (Some(host), None) if is_host(host) => Ok(()),
        (Some(_), None) => Err(Refusal::bad("Invalid Host")),
        (None, _) if version == Version::V11 => Err(Refusal::bad("Missing Host")),
        (None, _) => Ok(()),
    }
}

/// True for `host[:port]` with host a name, an IPv4 address or `[IPv6]`; empty is allowed.
#[must_use]
pub fn is_host(host: &[u8]) -> bool {
    let (name, port) = if host.first() == Some(&b'[') {
        let Some(end) = memchr::memchr(b']', host) else {
            return false;
        };
        let inside = &host[1..end];
        if inside.is_empty()
            || !inside
                .iter()
                .all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.' | b'%'))
        {
            return false;
        }
        (&host[..0], &host[end + 1..])
    } else {
        let end = memchr::memchr(b':', host).unwrap_or(host.len());
        (&host[..end], &host[end..])
    };
    let name_ok = name.iter().all(|b| {
        b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&' | b'+'
            )
    });
    let port_ok = match port {
        [] | [b':'] => true,
        [b':', digits @ ..] => ibex_base::ascii::parse_u64(digits).is_some_and(|n| n <= 65_535),
        _ => false,
    };
    name_ok && port_ok
}

/// Parses response heads out of one backend connection's buffer.
#[derive(Debug, Default)]
pub struct ResponseParser {
    scanned: usize,
}

impl ResponseParser {
    /// Takes a complete head off the front of `buffer`, or says `None` if more bytes are needed.
    ///
    /// # Errors
    /// A 502 refusal: the backend does not speak HTTP; the connection is to be closed.
    pub fn parse(
        &mut self,
        buffer: &mut BytesMut,
        limits: &Limits,
    ) -> Result<Option<Response>, Refusal> {
        let Some(end) = head_end(buffer, &mut self.scanned) else {
            let shown = buffer.len().min(5);
            if buffer[..shown] != b"HTTP/"[..shown] || buffer.len() >= limits.head_bytes_max {
                return Err(BROKEN_RESPONSE);
            }
            return Ok(None);
        };
        if end > limits.head_bytes_max {
            return Err(BROKEN_RESPONSE);
        }
        let head = buffer.split_to(end).freeze();
        self.scanned = 0;
        parse_response(&head, limits)
            .map(Some)
            .map_err(|_| BROKEN_RESPONSE)
    }
}

/// What a client sees when a backend's response cannot be understood.
pub const BROKEN_RESPONSE: Refusal = Refusal::new(502, "Invalid response from backend");

fn parse_response(head: &Bytes, limits: &Limits) -> Result<Response, Refusal> {
    let mut lines = Lines {
        head,
        at: 0,
        bare_lf: false,
    };
    let line = lines.next_line()?.unwrap_or_default();
    let version = match line.get(..8) {
        Some(b"HTTP/1.0") => Version::V10,
        Some([b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9']) => Version::V11,
        _ => return Err(BROKEN_RESPONSE),
    };
    let digits = line.get(9..12).ok_or(BROKEN_RESPONSE)?;
    let status = ibex_base::ascii::parse_u64(digits)
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n >= 100)
        .ok_or(BROKEN_RESPONSE)?;
    if line[8] != b' '
        || line.get(12).is_some_and(|b| *b != b' ')
        || line.iter().any(|b| is_control(*b))
    {
        return Err(BROKEN_RESPONSE);
    }
    let reason = line.slice(line.len().min(13)..);
    let fields = parse_fields(&mut lines, limits.fields_max, Folds::Join)?;
    Ok(Response {
        version,
        status,
        reason,
        fields,
    })
}

/// What to do with a continuation line (obs-fold).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Folds {
    /// From clients: refused, RFC 9112 section 5.2 allows it and smuggling loves it.
    Refuse,
    /// From backends: joined by one blank.
    Join,
}

fn parse_fields(lines: &mut Lines<'_>, fields_max: usize, folds: Folds) -> Result<Fields, Refusal> {
    let mut fields: Vec<Field> = Vec::with_capacity(16);
    while let Some(line) = lines.next_line()? {
        if matches!(line[0], b' ' | b'\t') {
            let last = fields
                .last_mut()
                .filter(|_| folds == Folds::Join)
                .ok_or(Refusal::bad("Folded header line"))?;
            check_value(&line)?;
            last.value = Bytes::from([&last.value[..], b" ", trim_blanks(&line)].concat());
            continue;
        }
        if fields.len() >= fields_max {
            return Err(Refusal::new(431, "Request header fields too large"));
        }
        fields.push(parse_field(&line)?);
    }
    Ok(Fields(fields))
}

/// One header line without its line end.
///
/// # Errors
/// 400 when the name is not a token right before the colon, or the value has control bytes.
pub fn parse_field(line: &Bytes) -> Result<Field, Refusal> {
    let colon = memchr::memchr(b':', line).ok_or(Refusal::bad("Header line without colon"))?;
    let name = line.slice(..colon);
    if !is_token(&name) {
        return Err(Refusal::bad("Invalid header name"));
    }
    let raw = line.slice(colon + 1..);
    check_value(&raw)?;
    let value = trim_blanks(&raw);
    Ok(Field {
        name,
        value: raw.slice_ref(value),
    })
}

fn check_value(value: &[u8]) -> Result<(), Refusal> {
    if value.iter().any(|b| is_control(*b)) {
        Err(Refusal::bad("Invalid header value"))
    } else {
        Ok(())
    }
}

fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// The value without blanks and tabs around it.
#[must_use]
pub fn trim_blanks(value: &[u8]) -> &[u8] {
    let is_blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value
        .iter()
        .position(|b| !is_blank(b))
        .unwrap_or(value.len());
    let end = value
        .iter()
        .rposition(|b| !is_blank(b))
        .map_or(start, |n| n + 1);
    &value[start..end]
}

/// True for a non-empty RFC 9110 token.
#[must_use]
pub fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|b| is_token_byte(*b))
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The lines of a complete head, ended by its empty line.
struct Lines<'a> {
    head: &'a Bytes,
    at: usize,
    bare_lf: bool,
}

impl Lines<'_> {
    fn next_line(&mut self) -> Result<Option<Bytes>, Refusal> {
        let rest = self.head.get(self.at..).unwrap_or_default();
        let Some(newline) = memchr::memchr(b'\n', rest) else {
            return Ok(None);
        };
        let with_cr = newline > 0 && rest[newline - 1] == b'\r';
        if !with_cr && !self.bare_lf {
            return Err(BROKEN_RESPONSE);
        }
        let end = if with_cr { newline - 1 } else { newline };
        let line = self.head.slice(self.at..self.at + end);
        self.at += newline + 1;
        if memchr::memchr2(b'\r', 0, &line).is_some() {
            return Err(Refusal::bad("Bare CR or NUL"));
        }
        Ok((!line.is_empty()).then_some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<Option<Request>, u16> {
        let mut buffer = BytesMut::from(text.as_bytes());
        RequestParser::default()
            .parse(&mut buffer, &Limits::default())
            .map_err(|r| r.status)
    }

    fn refused(text: &str) -> u16 {
        match request(text) {
            Err(status) => status,
            Ok(other) => panic!("{text:?} gave {other:?}"),
        }
    }

    fn accepted(text: &str) -> Request {
        request(text)
            .unwrap_or_else(|s| panic!("{text:?} refused with {s}"))
            .expect("complete")
    }

    #[test]
    fn accepts_what_clients_send() {
        let r = accepted("POST /a?b=c HTTP/1.1\r\nHost: x:80\r\nX-Y:  two words \t\r\n\r\n");
        assert_eq!(
            (&r.method[..], &r.target[..], r.version),
            (&b"POST"[..], &b"/a?b=c"[..], Version::V11)
        );
        assert_eq!(r.fields.first("x-y").unwrap(), "two words");
        assert_eq!(r.path(), b"/a");
        assert_eq!(accepted("GET / HTTP/1.0\n\n").version, Version::V10);
        assert_eq!(
            accepted("\r\n\r\nGET / HTTP/1.0\r\n\r\n").version,
            Version::V10
        );
        assert_eq!(
            accepted("GET / HTTP/1.7\r\nHost:\r\n\r\n").version,
            Version::V11
        );
        assert_eq!(
            accepted("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").target,
            "*"
        );
        assert_eq!(
            accepted("GET / HTTP/1.1\r\nHost: a\r\nX: \u{e9}\r\n\r\n")
                .fields
                .len(),
            2
        );
    }

    #[test]
    fn absolute_form_replaces_host() {
        let r = accepted("GET http://real.example:81/p?q HTTP/1.1\r\nHost: other\r\n\r\n");
        assert_eq!(
            (r.host().unwrap().as_ref(), r.target.as_ref()),
            (&b"real.example:81"[..], &b"/p?q"[..])
        );
        assert_eq!(
            accepted("GET http://h?q HTTP/1.1\r\nHost: h\r\n\r\n").target,
            "/?q"
        );
        assert_eq!(
            accepted("GET http://h HTTP/1.1\r\nHost: h\r\n\r\n").target,
            "/"
        );
        assert_eq!(
            refused("GET http://u:p@h/ HTTP/1.1\r\nHost: h\r\n\r\n"),
            400
        );
        assert_eq!(refused("GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
    }

    #[test]
    fn refuses_doubtful_request_lines() {
        for (text, status) in [
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
            ("GET / http/1.1\r\nHost: a\r\n\r\n", 400),
            ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET /a\u{7f} HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400),
            ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
            ("\r\n\r\n\r\nGET / HTTP/1.0\r\n\r\n", 400),
            ("\u{16}\u{3}\u{1}", 400),
        ] {
            assert_eq!(refused(text), status, "{text:?}");
        }
    }

    #[test]
    fn refuses_doubtful_fields() {
        for tail in [
            "Host: a\r\n continued\r\n\r\n",
            "Host : a\r\n\r\n",
            "Host: a\r\nno colon here\r\n\r\n",
            "Host: a\r\n: empty\r\n\r\n",
            "Host: a\r\nX: a\rb\r\n\r\n",
            "Host: a\r\nX: a\0b\r\n\r\n",
            "Host: a\r\nX: a\u{1}b\r\n\r\n",
            "Host: a\r\nX\u{e9}: b\r\n\r\n",
            "Host: a\r\nHost: a\r\n\r\n",
            "Host: a b\r\n\r\n",
            "Host: a:99999\r\n\r\n",
            "Host: a:8x\r\n\r\n",
            "Host: a/b\r\n\r\n",
            "X: y\r\n\r\n",
        ] {
            assert_eq!(
                refused(&format!("GET / HTTP/1.1\r\n{tail}")),
                400,
                "{tail:?}"
            );
        }
        assert!(is_host(b"[::1]:80") && is_host(b"") && !is_host(b"[::1") && !is_host(b"[]"));
    }

    #[test]
    fn limits_at_minus_one_zero_plus_one() {
        let limits = Limits {
            head_bytes_max: 60,
            fields_max: 2,
            target_bytes_max: 20,
        };
        let parse = |text: &str| {
            RequestParser::default()
                .parse(&mut BytesMut::from(text.as_bytes()), &limits)
                .map_err(|r| r.status)
        };
        let target = |n: usize| format!("GET /{} HTTP/1.0\r\n\r\n", "x".repeat(n - 1));
        assert!(parse(&target(19)).is_ok() && parse(&target(20)).is_ok());
        assert_eq!(parse(&target(21)), Err(414));
        let head = |n: usize| format!("GET / HTTP/1.0\r\nA: {}\r\n\r\n", "x".repeat(n - 23));
        assert!(parse(&head(59)).is_ok() && parse(&head(60)).is_ok());
        assert_eq!(parse(&head(61)), Err(431));
        assert!(parse("GET / HTTP/1.0\r\nA: 1\r\nB: 2\r\n\r\n").is_ok());
        assert_eq!(
            parse("GET / HTTP/1.0\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n"),
            Err(431)
        );
        assert_eq!(parse(&"x".repeat(90)), Err(414));
        assert_eq!(
            parse(&format!("GET / HTTP/1.0\r\nA: {}", "x".repeat(60))),
            Err(431)
        );
    }

    #[test]
    fn any_split_gives_the_same_request() {
        let text = b"POST /a HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\nBODY";
        let whole = RequestParser::default()
            .parse(&mut BytesMut::from(&text[..]), &Limits::default())
            .unwrap()
            .unwrap();
        let mut parser = RequestParser::default();
        let mut buffer = BytesMut::new();
        let mut found = None;
        for byte in text {
            buffer.extend_from_slice(&[*byte]);
            if found.is_none() {
                found = parser.parse(&mut buffer, &Limits::default()).unwrap();
            }
        }
        assert_eq!(found.unwrap(), whole);
        assert_eq!(&buffer[..], b"BODY");
    }

    #[test]
    fn responses() {
        let parse = |text: &str| {
            ResponseParser::default()
                .parse(&mut BytesMut::from(text.as_bytes()), &Limits::default())
        };
        let r = parse("HTTP/1.1 200 All is well\r\nA: b\r\n folded\r\n\r\n")
            .unwrap()
            .unwrap();
        assert_eq!((r.status, &r.reason[..]), (200, &b"All is well"[..]));
        assert_eq!(r.fields.first("a").unwrap(), "b folded");
        assert_eq!(parse("HTTP/1.0 204\r\n\r\n").unwrap().unwrap().status, 204);
        assert!(parse("HTTP/1.").unwrap().is_none());
        for broken in [
            "hello",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1  200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\nA: b\n\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA b\r\n\r\n",
        ] {
            assert!(parse(broken).is_err(), "{broken:?}");
        }
    }
}
