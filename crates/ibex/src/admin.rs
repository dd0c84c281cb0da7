//! A client of the daemons' admin HTTP, over TCP or a unix socket: one request, one connection, one deadline.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use crate::family::Daemon;

/// How long one call may take, connecting included.
const DEADLINE: Duration = Duration::from_secs(5);

/// Largest answer that is read; `/metrics` of a busy daemon is a tenth of it.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Status and text of an answer.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body, read as UTF-8 with replacement.
    pub text: String,
}

impl Answer {
    /// The body of a successful answer.
    ///
    /// # Errors
    /// For any status that is not a success; the body is the message.
    pub fn success(self) -> anyhow::Result<String> {
        if !self.status.is_success() {
            bail!("{}: {}", self.status, self.text.trim());
        }
        Ok(self.text)
    }
}

/// Sends one request to the admin port of `daemon`.
///
/// # Errors
/// When the daemon cannot be reached, breaks HTTP, or does not answer within five seconds.
pub async fn call(
    daemon: &Daemon,
    method: Method,
    path: &str,
    body: &str,
) -> anyhow::Result<Answer> {
    let call = exchange(daemon, method, path, body);
    match tokio::time::timeout(DEADLINE, call).await {
        Ok(answer) => answer,
        Err(_) => bail!("no answer within {} s", DEADLINE.as_secs()),
    }
    .with_context(|| format!("{} at {}", daemon.name, daemon.admin))
}

async fn exchange(
    daemon: &Daemon,
    method: Method,
    path: &str,
    body: &str,
) -> anyhow::Result<Answer> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(file) = &daemon.token_file {
        let token = std::fs::read_to_string(file)
            .with_context(|| format!("read token file {}", file.display()))?;
        request = request.header("authorization", format!("Bearer {}", token.trim_end()));
    }
    if let Some(socket) = daemon.admin.strip_prefix("unix:") {
        let stream = UnixStream::connect(socket).await.context("connect")?;
        let request = request.header("host", "localhost");
        send(
            stream,
            request.body(Full::new(Bytes::from(body.to_owned())))?,
        )
        .await
    } else {
        let stream = TcpStream::connect(&daemon.admin).await.context("connect")?;
        let request = request.header("host", daemon.admin.as_str());
        send(
            stream,
            request.body(Full::new(Bytes::from(body.to_owned())))?,
        )
        .await
    }
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> anyhow::Result<Answer>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("read answer: {error}"))?
            .to_bytes();
        Ok(Answer {
            status,
            text: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    tokio::pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = connection => {
            ended?;
            exchange.await
        }
    }
}
