//! One HTTP request against the disks.
//!
//! Owns methods, statuses and headers. Statuses follow what trackers and clients of the original accept: 200/201 for PUT, 204 for DELETE, 404 for
//! missing, 507 for a full disk,
//! 400 to MKCOL, which tells trackers that directories make themselves.

use crate::digest::Hasher;
use crate::disks::{Disks, Urgency, is_missing};
use crate::metrics::{Metrics, RequestLabels};
use crate::paths::{self, PathError, Target};
use crate::read::{self, Span};
use crate::server::Live;
use crate::write::{self, Patch, Upload, is_full};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use ibex_mogilefs_proto::{DevId, HashAlgorithm};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Body of every response.
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, io::Error>;

/// Bytes of an upload gathered before they go to disk in one call.
const GATHER_BYTES: usize = 512 << 10;

/// What a request needs.
#[derive(Debug)]
pub(crate) struct Handler {
    pub(crate) disks: Arc<Disks>,
    pub(crate) live: Arc<Live>,
    pub(crate) metrics: Arc<Metrics>,
}

/// A response decided early.
#[derive(Debug)]
struct Refusal(StatusCode, String);

impl From<PathError> for Refusal {
    fn from(error: PathError) -> Self {
        let status = match error {
            PathError::Reserved => StatusCode::FORBIDDEN,
            PathError::TooLong => StatusCode::URI_TOO_LONG,
            PathError::NoDevice => StatusCode::NOT_FOUND,
            PathError::Bytes | PathError::Parent => StatusCode::BAD_REQUEST,
        };
        Self(status, error.to_string())
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        if is_full(&error) {
            return Self(
                StatusCode::INSUFFICIENT_STORAGE,
                "no space left on device".into(),
            );
        }
        let kind = error.kind();
        if kind == io::ErrorKind::IsADirectory {
            Self(StatusCode::FORBIDDEN, "is a directory".into())
        } else if kind == io::ErrorKind::PermissionDenied
            || kind == io::ErrorKind::ReadOnlyFilesystem
        {
            Self(StatusCode::FORBIDDEN, error.to_string())
        } else if is_missing(&error) {
            Self(StatusCode::NOT_FOUND, "not found".into())
        } else {
            Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
        }
    }
}

impl Handler {
    /// Answers one request; never fails.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let started = Instant::now();
        let method = method_name(request.method());
        let response = match self.dispatch(request).await {
            Ok(response) => response,
            Err(Refusal(status, reason)) => {
                if status.is_server_error() {
                    tracing::debug!(
                        method,
                        status = status.as_u16(),
                        error = reason,
                        "request failed"
                    );
                }
                text(status, &reason)
            }
        };
        let labels = RequestLabels {
            method,
            status: response.status().as_u16(),
        };
        self.metrics.requests.get_or_create(&labels).inc();
        self.metrics
            .request_seconds
            .observe(started.elapsed().as_secs_f64());
        response
    }

    async fn dispatch(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let target = paths::parse(request.uri().path())?;
        let method = request.method().clone();
        match (method.as_str(), target) {
            ("GET" | "HEAD", Target::Root) => Ok(text(StatusCode::OK, "ibex-mogstored\n")),
            ("GET" | "HEAD", Target::File(device, parts)) => {
                self.get(&request, device, parts).await
            }
            ("GET" | "HEAD", Target::Directory(..)) => {
                Err(Refusal(StatusCode::NOT_FOUND, "no such file".into()))
            }
            ("PUT" | "DELETE", Target::File(_, parts)) if parts == ["usage"] => Err(Refusal(
                StatusCode::FORBIDDEN,
                "usage is written by the node".into(),
            )),
            ("PUT", Target::File(device, parts)) => self.put(request, device, parts).await,
            ("DELETE", Target::File(device, parts)) => self.delete(device, parts).await,
            ("PUT" | "DELETE", Target::Directory(..) | Target::Root) => {
                Err(Refusal(StatusCode::FORBIDDEN, "is a directory".into()))
            }
            // COMPAT(mogstored): trackers stop asking for directories after this answer.
            ("MKCOL", _) => Err(Refusal(
                StatusCode::BAD_REQUEST,
                "directories are made by PUT".into(),
            )),
            _ => {
                let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
                response.headers_mut().insert(
                    header::ALLOW,
                    HeaderValue::from_static("GET, HEAD, PUT, DELETE"),
                );
                Ok(response)
            }
        }
    }

    async fn get(
        &self,
        request: &Request<Incoming>,
        device: DevId,
        parts: Vec<String>,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let range = request
            .headers()
            .get(header::RANGE)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let is_head = request.method() == Method::HEAD;
        let disks = Arc::clone(&self.disks);
        // One trip to a blocking thread opens the file and, when it is small, reads it too.
        let found = self
            .disks
            .run(device, Urgency::Request, move || {
                Found::open(&disks, device, &parts, range.as_deref(), is_head)
            })
            .await?;
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Some(modified) = http_date(found.modified) {
            headers.insert(header::LAST_MODIFIED, modified);
        }
        if found.span == Span::Whole && is_unmodified(request.headers(), found.modified) {
            return Ok(respond(StatusCode::NOT_MODIFIED, headers, empty()));
        }
        let (status, start, end) = match found.span {
            Span::Whole => (StatusCode::OK, 0, found.length),
            Span::Part { start, end } => {
                headers.insert(
                    header::CONTENT_RANGE,
                    value(&format!("bytes {start}-{}/{}", end - 1, found.length))?,
                );
                (StatusCode::PARTIAL_CONTENT, start, end)
            }
            Span::Unsatisfiable => {
                let mut response = text(StatusCode::RANGE_NOT_SATISFIABLE, "");
                response.headers_mut().insert(
                    header::CONTENT_RANGE,
                    value(&format!("bytes */{}", found.length))?,
                );
                return Ok(response);
            }
        };
        headers.insert(header::CONTENT_LENGTH, value(&(end - start).to_string())?);
        let body = match (is_head, found.content) {
            (true, _) => empty(),
            (false, Some(content)) => full(content),
            (false, None) => read::body(Arc::clone(&self.disks), device, found.file, start, end),
        };
        if !is_head {
            self.metrics.sent_bytes.inc_by(end - start);
        }
        Ok(respond(status, headers, body))
    }

    async fn put(
        &self,
        request: Request<Incoming>,
        device: DevId,
        parts: Vec<String>,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let headers = request.headers();
        let expected_md5 = headers.get("content-md5").map(parse_md5).transpose()?;
        let length = content_length(headers);
        let config = self.live.config();
        let disks = Arc::clone(&self.disks);
        if let Some(content_range) = headers.get(header::CONTENT_RANGE) {
            let (start, bytes) = parse_content_range(content_range)?;
            if length != Some(bytes) {
                return Err(Refusal(
                    StatusCode::BAD_REQUEST,
                    "content-length does not match content-range".into(),
                ));
            }
            let patch = self
                .disks
                .run(device, Urgency::Request, move || {
                    Patch::open(&disks, device, &parts, start, config.sync)
                })
                .await?;
            return self
                .receive(
                    request.into_body(),
                    device,
                    Sink::Patch(patch),
                    expected_md5,
                    false,
                )
                .await;
        }
        let hashes_trailer = length.is_none();
        let upload = self
            .disks
            .run(device, Urgency::Request, move || {
                if !disks.is_mounted(device, config.require_mounts)? {
                    return Err(io::Error::other("device is not mounted"));
                }
                Upload::create(&disks, device, &parts, length, config.sync)
            })
            .await?;
        self.receive(
            request.into_body(),
            device,
            Sink::Upload(upload),
            expected_md5,
            hashes_trailer,
        )
        .await
    }

    /// Takes the body into `sink` and finishes it. Dropping the sink on the way undoes an upload.
    async fn receive(
        &self,
        mut body: Incoming,
        device: DevId,
        mut sink: Sink,
        mut expected_md5: Option<Vec<u8>>,
        hashes_trailer: bool,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let mut hasher =
            (expected_md5.is_some() || hashes_trailer).then(|| Hasher::new(HashAlgorithm::Md5));
        let mut gathered = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Refusal(StatusCode::BAD_REQUEST, format!("body broke off: {error}"))
            })?;
            let frame = match frame.into_data() {
                Ok(data) => {
                    self.metrics.received_bytes.inc_by(data.len() as u64);
                    gathered.extend_from_slice(&data);
                    if gathered.len() >= GATHER_BYTES {
                        (sink, hasher) = self
                            .flush(device, sink, hasher, gathered.split().freeze())
                            .await?;
                    }
                    continue;
                }
                Err(frame) => frame,
            };
            if let Some(md5) = frame
                .trailers_ref()
                .and_then(|trailers| trailers.get("content-md5"))
            {
                expected_md5 = Some(parse_md5(md5)?);
            }
        }
        let tail = gathered.freeze();
        let replaced = self
            .disks
            .run(device, Urgency::Request, move || {
                if let Some(hasher) = &mut hasher {
                    hasher.update(&tail);
                }
                sink.write(&tail)?;
                if expected_md5.is_some_and(|expected| hasher.map(Hasher::finish) != Some(expected))
                {
                    return Ok(None);
                }
                sink.commit().map(Some)
            })
            .await?;
        match replaced {
            None => Err(Refusal(
                StatusCode::BAD_REQUEST,
                "content-md5 does not match".into(),
            )),
            Some(true) => Ok(text(StatusCode::OK, "")),
            Some(false) => Ok(text(StatusCode::CREATED, "")),
        }
    }

    async fn flush(
        &self,
        device: DevId,
        mut sink: Sink,
        mut hasher: Option<Hasher>,
        bytes: Bytes,
    ) -> Result<(Sink, Option<Hasher>), Refusal> {
        let written = self
            .disks
            .run(device, Urgency::Request, move || {
                if let Some(hasher) = &mut hasher {
                    hasher.update(&bytes);
                }
                sink.write(&bytes)?;
                Ok((sink, hasher))
            })
            .await?;
        Ok(written)
    }

    async fn delete(
        &self,
        device: DevId,
        parts: Vec<String>,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let disks = Arc::clone(&self.disks);
        let sync = self.live.config().sync;
        let existed = self
            .disks
            .run(device, Urgency::Request, move || {
                write::remove(&disks, device, &parts, sync)
            })
            .await?;
        if existed {
            Ok(respond(StatusCode::NO_CONTENT, HeaderMap::new(), empty()))
        } else {
            Err(Refusal(StatusCode::NOT_FOUND, "not found".into()))
        }
    }
}

/// Where the bytes of a PUT go.
#[derive(Debug)]
enum Sink {
    Upload(Upload),
    Patch(Patch),
}

impl Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Upload(upload) => upload.write(bytes),
            Self::Patch(patch) => patch.write(bytes),
        }
    }

    /// Whether a file of the name was there before.
    fn commit(self) -> io::Result<bool> {
        match self {
            Self::Upload(upload) => upload.commit(),
            Self::Patch(patch) => patch.commit().map(|()| true),
        }
    }
}

/// A file that is about to be sent.
struct Found {
    file: File,
    length: u64,
    modified: Option<SystemTime>,
    span: Span,
    /// The bytes of the span, when they are few.
    content: Option<Bytes>,
}

impl Found {
    fn open(
        disks: &Disks,
        device: DevId,
        parts: &[String],
        range: Option<&str>,
        is_head: bool,
    ) -> io::Result<Self> {
        let file = disks.open_file(device, parts)?;
        let metadata = file.metadata()?;
        let length = metadata.len();
        let span = read::span(range, length);
        let (start, end) = match span {
            Span::Whole => (0, length),
            Span::Part { start, end } => (start, end),
            Span::Unsatisfiable => (0, 0),
        };
        let small = usize::try_from(end - start)
            .ok()
            .filter(|&bytes| bytes <= read::CHUNK_BYTES && !is_head);
        let content = small
            .map(|bytes| read::read_at(&file, start, bytes))
            .transpose()?;
        Ok(Self {
            length,
            modified: metadata.modified().ok(),
            span,
            content,
            file,
        })
    }
}

fn method_name(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        "MKCOL" => "MKCOL",
        _ => "other",
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// The 16 bytes of a `Content-MD5`.
fn parse_md5(value: &HeaderValue) -> Result<Vec<u8>, Refusal> {
    let bad = || {
        Refusal(
            StatusCode::BAD_REQUEST,
            "content-md5 is not base64 of 16 bytes".into(),
        )
    };
    let text = value.to_str().map_err(|_| bad())?.trim();
    let digest = decode_base64(text).ok_or_else(bad)?;
    if digest.len() == HashAlgorithm::Md5.digest_bytes() {
        Ok(digest)
    } else {
        Err(bad())
    }
}

/// Standard base64; padding may be missing.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(out)
}

/// Start and length of `bytes a-b/*`.
fn parse_content_range(value: &HeaderValue) -> Result<(u64, u64), Refusal> {
    let bad = || {
        Refusal(
            StatusCode::BAD_REQUEST,
            "content-range is not bytes first-last/*".into(),
        )
    };
    let text = value.to_str().map_err(|_| bad())?;
    let range = text.trim().strip_prefix("bytes ").ok_or_else(bad)?;
    let (span, _total) = range.split_once('/').ok_or_else(bad)?;
    let (first, last) = span.split_once('-').ok_or_else(bad)?;
    let number = |text: &str| ibex_base::ascii::parse_u64(text.trim().as_bytes()).ok_or_else(bad);
    let (first, last) = (number(first)?, number(last)?);
    // The largest offset a file can have is a signed 64-bit number.
    if last < first || last >= i64::MAX as u64 {
        return Err(bad());
    }
    Ok((first, last - first + 1))
}

fn http_date(time: Option<SystemTime>) -> Option<HeaderValue> {
    let timestamp = jiff::Timestamp::try_from(time?).ok()?;
    HeaderValue::from_str(&timestamp.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()).ok()
}

fn is_unmodified(headers: &HeaderMap, modified: Option<SystemTime>) -> bool {
    let since = headers
        .get(header::IF_MODIFIED_SINCE)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| jiff::fmt::strtime::parse("%a, %d %b %Y %H:%M:%S GMT", text).ok())
        .and_then(|parsed| parsed.to_datetime().ok())
        .and_then(|datetime| jiff::tz::TimeZone::UTC.to_timestamp(datetime).ok());
    let modified = modified.and_then(|time| jiff::Timestamp::try_from(time).ok());
    matches!((since, modified), (Some(since), Some(modified)) if modified.as_second() <= since.as_second())
}

fn value(text: &str) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_str(text)
        .map_err(|error| Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn text(status: StatusCode, body: &str) -> Response<ResponseBody> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    if !body.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    respond(
        status,
        headers,
        full(Bytes::copy_from_slice(body.as_bytes())),
    )
}

fn respond(status: StatusCode, headers: HeaderMap, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn empty() -> ResponseBody {
    full(Bytes::new())
}

fn full(bytes: Bytes) -> ResponseBody {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_headers() {
        let good = HeaderValue::from_static("XUFAKrxLKna5cZ2REBfFkg==");
        assert_eq!(
            parse_md5(&good)
                .map(|digest| ibex_mogilefs_proto::checksum::to_hex(&digest))
                .ok()
                .as_deref(),
            Some("5d41402abc4b2a76b9719d911017c592")
        );
        for bad in [
            "",
            "x",
            "XUFAKrxLKna5cZ2REBfFkg==XX",
            "5d41402abc4b2a76b9719d911017c592",
        ] {
            assert!(parse_md5(&HeaderValue::from_static(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn content_ranges() {
        assert_eq!(
            parse_content_range(&HeaderValue::from_static("bytes 10-19/*")).ok(),
            Some((10, 10))
        );
        for bad in [
            "bytes 5-4/*",
            "bytes 0-/*",
            "bytes 0-1",
            "0-1/*",
            "bytes 0-18446744073709551615/*",
        ] {
            assert!(
                parse_content_range(&HeaderValue::from_static(bad)).is_err(),
                "{bad}"
            );
        }
    }
}
