//! HTTP as the handlers see it: bodies in, JSON and streams out, errors with a code.
//!
//! Apart because limits on strangers' bytes are here, once: size, time and nesting. It knows no jobs.

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::fmt;
use std::io::Read as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// Bytes of a request body: 500 jobs of 32 KiB. Policy: 413, the rest is not read.
pub(crate) const BODY_BYTES_MAX: usize = 16 << 20;
/// Bytes of all bodies on their way: sixteen of the largest. Policy: 429 for the one that exceeds it.
const ARRIVING_BYTES_MAX: usize = 16 * BODY_BYTES_MAX;
/// A body that takes longer to arrive is cut off.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// The first bytes of everything that gzip packed.
const GZIP_MARK: [u8; 2] = [0x1f, 0x8b];
/// Nesting of a JSON body; deeper ones are refused before they are parsed.
pub(crate) const JSON_DEPTH_MAX: usize = 64;

/// A refusal: status, code, message.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) code: &'static str,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn shutting_down() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "shutting_down",
            "this daemon stops",
        )
    }

    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({ "code": self.code, "message": self.message })
    }
}

/// What a library error is to a caller; the texts of databases stay out of `bad_request`.
impl From<&ibex_schwartz::Error> for Refusal {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library may add causes; those unknown here are the database's"
    )]
    fn from(error: &ibex_schwartz::Error) -> Self {
        use ibex_schwartz::Error;
        let text = error.to_string();
        match error {
            Error::Invalid(_) => Self::bad_request(text),
            Error::TooLarge { .. } => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", text),
            Error::Duplicate | Error::Grabbed(_) => {
                Self::new(StatusCode::CONFLICT, "conflict", text)
            }
            Error::LeaseLost(_) | Error::Finished => {
                Self::new(StatusCode::CONFLICT, "lease_lost", text)
            }
            Error::NotFound(_) | Error::ForeignHandle(_) => Self::not_found(text),
            Error::Sql(sql) if !error.is_database_down() && !sql.is_connection_lost() => {
                tracing::warn!(error = %sql, "database refused a statement");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal",
                    "the database refused; the log says why",
                )
            }
            _ => Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_database", text),
        }
    }
}

impl From<ibex_schwartz::Error> for Refusal {
    fn from(error: ibex_schwartz::Error) -> Self {
        Self::from(&error)
    }
}

/// A response body: whole, or a stream fed by a task.
#[derive(Debug)]
pub(crate) enum Out {
    Whole(Full<Bytes>),
    Stream(mpsc::Receiver<Bytes>),
}

impl Body for Out {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(context),
            Self::Stream(receiver) => receiver
                .poll_recv(context)
                .map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Stream(_) => hyper::body::SizeHint::default(),
        }
    }
}

pub(crate) type Reply = Response<Out>;

fn typed(status: StatusCode, content_type: &'static str, body: Out) -> Reply {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

pub(crate) fn reply(status: StatusCode, value: &Value) -> Reply {
    let mut text = value.to_string();
    text.push('\n');
    typed(
        status,
        "application/json",
        Out::Whole(Full::new(Bytes::from(text))),
    )
}

pub(crate) fn ok(value: &Value) -> Reply {
    reply(StatusCode::OK, value)
}

pub(crate) fn refuse(refusal: &Refusal) -> Reply {
    let mut reply = reply(refusal.status, &json!({ "error": refusal.to_json() }));
    match refusal.status {
        StatusCode::UNAUTHORIZED => {
            let bearer = HeaderValue::from_static("Bearer realm=\"ibex-schwartzd\"");
            reply.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            reply
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    reply
}

pub(crate) fn text(content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    typed(
        StatusCode::OK,
        content_type,
        Out::Whole(Full::new(body.into())),
    )
}

/// A stream of lines; the receiver's end is the client's.
pub(crate) fn stream(content_type: &'static str, receiver: mpsc::Receiver<Bytes>) -> Reply {
    typed(StatusCode::OK, content_type, Out::Stream(receiver))
}

/// The whole body as JSON; an empty one is `{}`. What it takes to read it is gone when the call goes on.
pub(crate) fn json_body(
    body: Incoming,
) -> Pin<Box<dyn Future<Output = Result<Value, Refusal>> + Send>> {
    Box::pin(async move { parse(&body_bytes(body).await?) })
}

/// The whole body as it came, or unpacked when it is gzip by its first bytes: JSON never begins so.
pub(crate) async fn body_bytes(body: Incoming) -> Result<Bytes, Refusal> {
    let too_large = || {
        Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("a body has at most {BODY_BYTES_MAX} bytes"),
        )
    };
    // What is announced too large is not waited for.
    if body.size_hint().lower() > u64::try_from(BODY_BYTES_MAX).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    let bytes = match tokio::time::timeout(BODY_TIME_MAX, collect(body)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(Broken::TooLarge)) => return Err(too_large()),
        Ok(Err(Broken::TooMany)) => {
            return Err(Refusal::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                "too many bodies are on their way",
            ));
        }
        Ok(Err(Broken::Ended)) => return Err(Refusal::bad_request("the body ends early")),
        Err(_) => {
            return Err(Refusal::new(
                StatusCode::REQUEST_TIMEOUT,
                "bad_request",
                "the body does not arrive",
            ));
        }
    };
    if !bytes.starts_with(&GZIP_MARK) {
        return Ok(bytes);
    }
    let unpacked = tokio::task::spawn_blocking(move || gunzip(&bytes)).await;
    match unpacked {
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(Some(()))) => Err(too_large()),
        Ok(Err(None)) | Err(_) => Err(Refusal::bad_request(
            "the body is cut off or damaged within its compression",
        )),
    }
}

/// Why there is no body.
enum Broken {
    TooLarge,
    TooMany,
    Ended,
}

/// Bytes of all bodies that are on their way. One count for the process: its memory is one.
static ARRIVING: AtomicUsize = AtomicUsize::new(0);

/// What one body has of them.
#[derive(Default)]
struct Arriving(usize);

impl Arriving {
    fn add(&mut self, bytes: usize) -> Result<(), Broken> {
        self.0 += bytes;
        let all = ARRIVING.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if all > ARRIVING_BYTES_MAX {
            Err(Broken::TooMany)
        } else {
            Ok(())
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        ARRIVING.fetch_sub(self.0, Ordering::Relaxed);
    }
}

async fn collect(mut body: Incoming) -> Result<Bytes, Broken> {
    let mut arriving = Arriving::default();
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Broken::Ended)?.into_data() else {
            continue;
        };
        if whole.len() + data.len() > BODY_BYTES_MAX {
            return Err(Broken::TooLarge);
        }
        arriving.add(data.len())?;
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// Unpacks; `Some` says that there is more than a body may have, nothing that it is damaged.
pub(crate) fn gunzip(bytes: &[u8]) -> Result<Vec<u8>, Option<()>> {
    let mut unpacked = Vec::new();
    let limit = u64::try_from(BODY_BYTES_MAX).unwrap_or(u64::MAX) + 1;
    let read = flate2::read::MultiGzDecoder::new(bytes)
        .take(limit)
        .read_to_end(&mut unpacked);
    match read {
        Ok(_) if unpacked.len() > BODY_BYTES_MAX => Err(Some(())),
        Ok(_) => Ok(unpacked),
        Err(_) => Err(None),
    }
}

/// Values in a JSON body: a hundred for each of the most jobs of an insert. Each is 32 bytes in memory, however short it was. Policy: 413; a long list of
/// numbers goes as text, in `arg`.
const JSON_VALUES_MAX: usize = 1_000_000;

/// JSON of at most [`JSON_DEPTH_MAX`] levels and [`JSON_VALUES_MAX`] values.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Refusal> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(json!({}));
    }
    let shape = Shape::of(bytes);
    if shape.depth > JSON_DEPTH_MAX {
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "bad_json",
            format!("nested deeper than {JSON_DEPTH_MAX}"),
        ));
    }
    if shape.values > JSON_VALUES_MAX {
        return Err(Refusal::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("a body has at most {JSON_VALUES_MAX} values"),
        ));
    }
    serde_json::from_slice::<Strict>(bytes)
        .map(|strict| strict.0)
        .map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, "bad_json", error.to_string()))
}

/// JSON in which no object has a field twice: two programs would read two different jobs.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Strict, E> {
        Ok(Strict(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Strict, E> {
        Ok(Strict(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Strict, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Strict(list.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Strict, A::Error> {
        let mut map = serde_json::Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let Strict(value) = fields.next_value()?;
            if map.contains_key(&name) {
                return Err(serde::de::Error::custom(format!(
                    "field {name:?} is there twice"
                )));
            }
            map.insert(name, value);
        }
        Ok(Strict(Value::Object(map)))
    }
}

/// What JSON will be like, before anything is kept of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Shape {
    depth: usize,
    /// At least as many as there are values.
    values: usize,
}

impl Shape {
    fn of(bytes: &[u8]) -> Self {
        let mut shape = Self {
            depth: 0,
            values: 1,
        };
        let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
        for byte in bytes {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'[' | b'{' if !in_string => {
                    depth += 1;
                    shape.values += 1;
                    shape.depth = shape.depth.max(depth);
                    // What is deeper than allowed is not looked at further.
                    if depth > JSON_DEPTH_MAX {
                        break;
                    }
                }
                b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
                b',' if !in_string => shape.values += 1,
                _ => {}
            }
        }
        shape
    }
}

/// The fields of a query string, percent-decoded; later ones win.
pub(crate) fn query_pairs(query: Option<&str>) -> std::collections::BTreeMap<String, String> {
    let decode = |text: &str| {
        percent_encoding::percent_decode_str(&text.replace('+', " "))
            .decode_utf8_lossy()
            .into_owned()
    };
    query
        .unwrap_or_default()
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(key), decode(value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_limited_before_parsing() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(64).as_bytes()).is_ok());
        assert_eq!(parse(nested(65).as_bytes()).unwrap_err().code, "bad_json");
        assert_eq!(
            parse("[".repeat(100_000).as_bytes()).unwrap_err().code,
            "bad_json"
        );
        let brackets = format!("{{\"a\": \"{}\\\"{}\"}}", "[".repeat(200), "{".repeat(200));
        assert!(
            parse(brackets.as_bytes()).is_ok(),
            "brackets in strings nest nothing"
        );
        assert_eq!(parse(b" \n").unwrap(), json!({}));
        assert_eq!(parse(b"\xff").unwrap_err().code, "bad_json");
        assert_eq!(
            parse(br#"{"a": [{"b": 1, "b": 1}]}"#).unwrap_err().code,
            "bad_json"
        );
        let list = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        assert_eq!(
            parse(list(JSON_VALUES_MAX).as_bytes()).unwrap_err().code,
            "too_large"
        );
        assert!(parse(list(10_000).as_bytes()).is_ok());
        let all = json!({"a": [null, true, -1, u64::MAX, 1.5, "x"], "b": {}});
        assert_eq!(parse(all.to_string().as_bytes()).unwrap(), all);
    }

    #[test]
    fn packed_bodies_are_bounded_by_what_is_in_them() {
        use std::io::Write as _;
        let pack = |bytes: &[u8]| {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packer.write_all(bytes).unwrap();
            packer.finish().unwrap()
        };
        let packed = pack(b"{\"func\": \"f\"}");
        assert_eq!(gunzip(&packed).unwrap(), b"{\"func\": \"f\"}");
        for length in 0..packed.len() {
            let cut = packed.get(..length).unwrap();
            assert!(gunzip(cut).is_err() || cut.is_empty(), "{length}");
        }
        assert_eq!(
            gunzip(&pack(&vec![b' '; BODY_BYTES_MAX])).unwrap().len(),
            BODY_BYTES_MAX
        );
        let bomb = pack(&vec![b' '; BODY_BYTES_MAX + 1]);
        assert!(bomb.len() < 100_000);
        assert_eq!(gunzip(&bomb), Err(Some(())));
    }

    #[test]
    fn query_strings() {
        let pairs = query_pairs(Some("func=a%2Fb&x&state=ready&func=c+d"));
        assert_eq!(pairs["func"], "c d");
        assert_eq!(pairs["x"], "");
    }
}
