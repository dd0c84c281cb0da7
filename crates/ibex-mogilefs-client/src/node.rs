//! HTTP to storage nodes over pooled connections.
//!
//! Owns connecting, reuse, timeouts and the reading of status lines; the meaning of an upload or a missing replica belongs to the callers, which are
//! the client library
//! and the tracker. Redirects are never followed, bodies never exceed what was announced, and a connection is reused only after its response was read
//! to the end.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// A request body: bytes in memory or a stream.
pub type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// Idle connections kept per node.
const IDLE_MAX: usize = 20;

/// An idle connection older than this is not used again; nodes close theirs after 30 to 120 s.
const IDLE_LIFE: Duration = Duration::from_secs(20);

/// Why a node could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The address is no `http://host:port/path`.
    #[error("not a storage url: {0}")]
    BadUrl(String),
    /// Nothing accepts connections there, or not in time.
    #[error("connect to {node}: {reason}")]
    Connect {
        /// `host:port`.
        node: String,
        /// What the system said.
        reason: String,
    },
    /// The node stopped making progress.
    #[error("{0} timed out")]
    Timeout(&'static str),
    /// The conversation broke.
    #[error("http: {0}")]
    Http(String),
    /// The node answered with a status that means failure.
    #[error("status {0}")]
    Status(u16),
    /// Fewer or more bytes than announced.
    #[error("{got} bytes of {expected} arrived")]
    Length {
        /// Announced.
        expected: u64,
        /// Received before the end.
        got: u64,
    },
}

impl NodeError {
    /// Whether nothing listens there, as opposed to a node that answered or hung.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Connect { .. })
    }
}

/// How long to wait for nodes.
#[derive(Debug, Clone, Copy)]
pub struct NodeTimeouts {
    /// For a connection to be accepted.
    pub connect: Duration,
    /// For the head of a response, and between two pieces of a body.
    pub progress: Duration,
}

/// A pool of connections to storage nodes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NodeClient {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    timeouts: NodeTimeouts,
    idle: Mutex<HashMap<String, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// One connection and the task that drives it; dropping it ends both.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Body>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A response whose body is still to be read.
#[derive(Debug)]
pub struct NodeResponse {
    status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    connection: Option<Connection>,
    node: String,
    client: NodeClient,
}

/// An empty request body.
#[must_use]
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A request body of `bytes`.
#[must_use]
pub fn full(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

impl NodeClient {
    /// An empty pool.
    #[must_use]
    pub fn new(timeouts: NodeTimeouts) -> Self {
        Self {
            shared: Arc::new(Shared {
                timeouts,
                idle: Mutex::default(),
            }),
        }
    }

    /// Sends one request and waits for the head of its response. The head must come within `wait` **after the body was sent as fast as the node takes
    /// it**; pass the transfer's
    /// whole allowance for large bodies.
    ///
    /// # Errors
    /// Every kind but [`NodeError::Status`]: a status is the caller's to judge.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Body,
        wait: Duration,
    ) -> Result<NodeResponse, NodeError> {
        let (node, path) = split_url(url)?;
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = path;
        *request.headers_mut() = headers;
        let host =
            http::HeaderValue::from_str(&node).map_err(|_| NodeError::BadUrl(url.to_owned()))?;
        request.headers_mut().insert(header::HOST, host);

        while let Some(mut connection) = self.take_idle(&node) {
            match self.exchange(&mut connection, request, wait).await {
                Ok(response) => return Ok(self.response(node, connection, response)),
                // The node closed the idle connection before it read anything: the request is intact, the next connection may do.
                Err((_, Some(unsent))) => request = unsent,
                Err((error, None)) => return Err(error),
            }
        }
        let mut connection = self.connect(&node).await?;
        match self.exchange(&mut connection, request, wait).await {
            Ok(response) => Ok(self.response(node, connection, response)),
            Err((error, _)) => Err(error),
        }
    }

    /// Size of the file at `url`; `None` when the node says it has none.
    ///
    /// # Errors
    /// As [`NodeClient::send`], and for any status but 200, 404 and 410, and for a response without a length.
    pub async fn head(&self, url: &str) -> Result<Option<u64>, NodeError> {
        let response = self
            .send(
                Method::HEAD,
                url,
                HeaderMap::new(),
                empty(),
                self.shared.timeouts.progress,
            )
            .await?;
        let status = response.status();
        let length = response.length();
        response.finish().await?;
        match status.as_u16() {
            200 => length
                .map(Some)
                .ok_or(NodeError::Http("no length in the response to HEAD".into())),
            404 | 410 => Ok(None),
            other => Err(NodeError::Status(other)),
        }
    }

    /// Starts reading the file at `url` from byte `from` on; the response is 200, or 206 when `from` is not 0.
    ///
    /// # Errors
    /// As [`NodeClient::send`]; [`NodeError::Status`] for anything but the statuses named.
    pub async fn get(&self, url: &str, from: u64) -> Result<NodeResponse, NodeError> {
        let mut headers = HeaderMap::new();
        if from > 0 {
            let range = http::HeaderValue::from_str(&format!("bytes={from}-"))
                .map_err(|_| NodeError::Http("range".into()))?;
            headers.insert(header::RANGE, range);
        }
        let response = self
            .send(
                Method::GET,
                url,
                headers,
                empty(),
                self.shared.timeouts.progress,
            )
            .await?;
        let expected = if from > 0 {
            StatusCode::PARTIAL_CONTENT
        } else {
            StatusCode::OK
        };
        if response.status() == expected {
            return Ok(response);
        }
        let status = response.status().as_u16();
        response.finish().await?;
        Err(NodeError::Status(status))
    }

    /// Stores `body` at `url`. `wait` bounds the whole transfer.
    ///
    /// # Errors
    /// As [`NodeClient::send`]; [`NodeError::Status`] for anything but 2xx.
    pub async fn put(
        &self,
        url: &str,
        headers: HeaderMap,
        body: Body,
        wait: Duration,
    ) -> Result<(), NodeError> {
        let response = self.send(Method::PUT, url, headers, body, wait).await?;
        let status = response.status();
        response.finish().await?;
        if status.is_success() {
            Ok(())
        } else {
            Err(NodeError::Status(status.as_u16()))
        }
    }

    /// Removes the file at `url`; a missing one is as good as removed.
    ///
    /// # Errors
    /// As [`NodeClient::send`]; [`NodeError::Status`] for anything but 2xx, 404 and 410.
    pub async fn delete(&self, url: &str) -> Result<(), NodeError> {
        let response = self
            .send(
                Method::DELETE,
                url,
                HeaderMap::new(),
                empty(),
                self.shared.timeouts.progress,
            )
            .await?;
        let status = response.status();
        response.finish().await?;
        match status.as_u16() {
            200..=299 | 404 | 410 => Ok(()),
            other => Err(NodeError::Status(other)),
        }
    }

    /// Drops all idle connections.
    pub fn clear(&self) {
        lock(&self.shared.idle).clear();
    }

    async fn connect(&self, node: &str) -> Result<Connection, NodeError> {
        let failed = |reason: String| NodeError::Connect {
            node: node.to_owned(),
            reason,
        };
        let stream = timeout(self.shared.timeouts.connect, TcpStream::connect(node))
            .await
            .map_err(|_| failed("timed out".into()))?
            .map_err(|error| failed(error.to_string()))?;
        stream
            .set_nodelay(true)
            .map_err(|error| failed(error.to_string()))?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.to_string()))?;
        let driver = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::trace!(%error, "node connection ended");
            }
        });
        Ok(Connection { sender, driver })
    }

    async fn exchange(
        &self,
        connection: &mut Connection,
        request: Request<Body>,
        wait: Duration,
    ) -> Result<Response<Incoming>, (NodeError, Option<Request<Body>>)> {
        if let Err(error) = connection.sender.ready().await {
            return Err((NodeError::Http(error.to_string()), Some(request)));
        }
        match timeout(wait, connection.sender.try_send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(mut error)) => {
                let unsent = error.take_message();
                Err((NodeError::Http(describe(&error.into_error())), unsent))
            }
            Err(_) => Err((NodeError::Timeout("response"), None)),
        }
    }

    fn response(
        &self,
        node: String,
        connection: Connection,
        response: Response<Incoming>,
    ) -> NodeResponse {
        let (head, body) = response.into_parts();
        NodeResponse {
            status: head.status,
            headers: head.headers,
            body,
            connection: Some(connection),
            node,
            client: self.clone(),
        }
    }

    fn take_idle(&self, node: &str) -> Option<Connection> {
        let mut idle = lock(&self.shared.idle);
        let connections = idle.get_mut(node)?;
        while let Some(candidate) = connections.pop() {
            if candidate.since.elapsed() < IDLE_LIFE && !candidate.connection.sender.is_closed() {
                return Some(candidate.connection);
            }
        }
        None
    }

    fn put_idle(&self, node: String, connection: Connection) {
        if connection.sender.is_closed() {
            return;
        }
        let mut idle = lock(&self.shared.idle);
        let connections = idle.entry(node).or_default();
        if connections.len() < IDLE_MAX {
            connections.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }
}

impl NodeResponse {
    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// `Content-Length`, when it is a number.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.headers
            .get(header::CONTENT_LENGTH)?
            .to_str()
            .ok()?
            .parse()
            .ok()
    }

    /// The next piece of the body; `None` after the last one.
    ///
    /// # Errors
    /// [`NodeError::Timeout`] without progress, [`NodeError::Http`] when the connection broke.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, NodeError> {
        let wait = self.client.shared.timeouts.progress;
        loop {
            match timeout(wait, self.body.frame()).await {
                Err(_) => return Err(NodeError::Timeout("body")),
                Ok(None) => {
                    if let Some(connection) = self.connection.take() {
                        self.client
                            .put_idle(std::mem::take(&mut self.node), connection);
                    }
                    return Ok(None);
                }
                Ok(Some(Err(error))) => return Err(NodeError::Http(describe(&error))),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Reads what is left of a short body and gives the connection back to the pool.
    ///
    /// # Errors
    /// As [`NodeResponse::chunk`].
    pub async fn finish(mut self) -> Result<(), NodeError> {
        /// An error page longer than this is not worth the connection.
        const DRAIN_BYTES_MAX: usize = 64 << 10;
        let mut drained = 0;
        while let Some(chunk) = self.chunk().await? {
            drained += chunk.len();
            if drained > DRAIN_BYTES_MAX {
                break;
            }
        }
        Ok(())
    }

    /// The whole body, if it is at most `bytes_max` long.
    ///
    /// # Errors
    /// As [`NodeResponse::chunk`]; [`NodeError::Length`] when it is longer.
    pub async fn bytes(mut self, bytes_max: usize) -> Result<Bytes, NodeError> {
        let mut collected = bytes::BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if collected.len() + chunk.len() > bytes_max {
                return Err(NodeError::Length {
                    expected: bytes_max as u64,
                    got: (collected.len() + chunk.len()) as u64,
                });
            }
            collected.extend_from_slice(&chunk);
        }
        Ok(collected.freeze())
    }
}

/// `host:port` and the path of a storage URL.
fn split_url(url: &str) -> Result<(String, Uri), NodeError> {
    let bad = || NodeError::BadUrl(url.to_owned());
    let uri: Uri = url.parse().map_err(|_| bad())?;
    if uri.scheme_str() != Some("http") {
        return Err(bad());
    }
    let host = uri.host().ok_or_else(bad)?;
    let node = format!("{host}:{}", uri.port_u16().unwrap_or(80));
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok((node, path.parse().map_err(|_| bad())?))
}

/// An error with its causes, in one line.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_urls_are_storage_urls() {
        let (node, path) =
            split_url("http://10.0.0.1:7500/dev1/0/000/000/0000000001.fid").expect("valid");
        assert_eq!(
            (node.as_str(), path.path()),
            ("10.0.0.1:7500", "/dev1/0/000/000/0000000001.fid")
        );
        for url in ["https://h:1/x", "ftp://h/x", "/dev1/x", "", "http://"] {
            assert!(split_url(url).is_err(), "{url}");
        }
    }
}
