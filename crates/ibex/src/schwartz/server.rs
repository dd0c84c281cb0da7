//! A daemon's HTTP interface as commands use it: JSON in and out over kept connections.
//!
//! Apart from [`crate::admin`], which speaks to admin ports: here the answers' codes decide what a command does next.

use std::fmt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::Usage;

/// How long a call may take beyond the time it asks the daemon to wait; the daemon itself waits up to 30 s for a database.
const PATIENCE: Duration = Duration::from_secs(40);
/// Largest answer that is read, in bytes: a thousand jobs with arguments of a hundred kilobytes.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Port of the daemon when the URL has none.
const PORT: &str = "7373";

/// A daemon.
pub(super) struct Server {
    authority: String,
    token: Option<String>,
    /// Connections that are free.
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.authority)
    }
}

/// Why a call did nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// The daemon's answer.
    #[error("{message} ({code})")]
    Answer {
        status: StatusCode,
        code: String,
        message: String,
    },
    /// No daemon, or it broke off.
    #[error("daemon at {0}: {1:#}")]
    Away(String, anyhow::Error),
}

impl Refused {
    /// Whether no database could be asked.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Self::Away(..) => true,
            Self::Answer { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    pub(super) fn is_code(&self, wanted: &str) -> bool {
        matches!(self, Self::Answer { code, .. } if code == wanted)
    }
}

impl Server {
    pub(super) fn new(url: &str, token_file: Option<&Path>) -> anyhow::Result<Self> {
        let usage = |text: String| anyhow::Error::from(Usage(text));
        let rest = match url.split_once("://") {
            Some(("http", rest)) => rest,
            None => url,
            Some((scheme, _)) => {
                return Err(usage(format!("--server: {scheme} is not spoken; http is")));
            }
        };
        let rest = rest.trim_end_matches('/');
        if rest.is_empty() || rest.contains(['/', '@', '?', ' ']) {
            return Err(usage(format!("--server: {url:?} is not http://host:port")));
        }
        let has_port = rest.rsplit_once(':').is_some_and(|(_, port)| {
            !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
        });
        let authority = if has_port {
            rest.to_owned()
        } else {
            format!("{rest}:{PORT}")
        };
        let token = match token_file {
            None => None,
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("read token file {}", file.display()))?;
                Some(text.trim_end().to_owned())
            }
        };
        Ok(Self {
            authority,
            token,
            idle: Mutex::default(),
        })
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value, Refused> {
        self.call(Method::GET, path, None, Duration::ZERO).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, Refused> {
        self.call(Method::POST, path, Some(body), Duration::ZERO)
            .await
    }

    /// One call; `waits` is how long the daemon was asked to wait.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        waits: Duration,
    ) -> Result<Value, Refused> {
        let away = |error| Refused::Away(self.authority.clone(), error);
        let call = self.exchange(method, path, body);
        let (status, bytes) = tokio::time::timeout(PATIENCE + waits, call)
            .await
            .map_err(|_| away(anyhow::anyhow!("no answer in time")))?
            .map_err(away)?;
        let value: Value = serde_json::from_slice(&bytes)
            .map_err(|error| away(anyhow::anyhow!("{status}, and no JSON: {error}")))?;
        if status.is_success() {
            return Ok(value);
        }
        let text = |name: &str| value["error"][name].as_str().unwrap_or_default().to_owned();
        Err(Refused::Answer {
            status,
            code: text("code"),
            message: text("message"),
        })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.authority);
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = request.body(Full::new(body)).context("make the request")?;
        let mut connection = match self.idle_one().await {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let response = connection.send_request(request).await?;
        let status = response.status();
        let bytes = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("read answer: {error}"))?
            .to_bytes();
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
        Ok((status, bytes))
    }

    /// A free connection that still stands. A request is sent once, whatever becomes of it: an insert must not be repeated blindly.
    async fn idle_one(&self) -> Option<SendRequest<Full<Bytes>>> {
        loop {
            let free = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop();
            let mut connection = free?;
            if connection.ready().await.is_ok() {
                return Some(connection);
            }
        }
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&self.authority)
            .await
            .context("connect")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends with the connection, and says nothing that the call does not say.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }
}

/// A name as one part of a path or a value of a query.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_in_every_usual_way() {
        for (url, authority) in [
            ("http://queue:80/", "queue:80"),
            ("http://queue", "queue:7373"),
            ("10.0.0.1:7000", "10.0.0.1:7000"),
            ("[::1]:7373", "[::1]:7373"),
        ] {
            assert_eq!(Server::new(url, None).unwrap().authority, authority);
        }
        for url in ["https://queue", "http://", "queue/path", "a b"] {
            assert!(Server::new(url, None).unwrap_err().is::<Usage>(), "{url}");
        }
    }

    #[test]
    fn names_are_escaped() {
        assert_eq!(escaped("A::B c/é"), "A%3A%3AB%20c%2F%C3%A9");
    }
}
