//! One connection to one server, for what the pooled client has no calls for: dumps, watches, and reads of a server that is not of the pool.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use ibex_memcached_proto::reply::{Reply, Step, parse};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

/// Time to open a connection, and to see the first answer of a command.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// memcached's port.
const PORT: u16 = 11211;
/// The longest line of a dump or a watch: a key of 250 bytes, each encoded in three, and a dozen numbers. Policy: the peer is no memcached.
const LINE_BYTES_MAX: usize = 64 << 10;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection and what was read from it.
pub(super) struct Connection {
    server: String,
    stream: Box<dyn Stream>,
    read: BytesMut,
}

/// `host[:port[:weight]]`, `[v6]:port` or a socket's path.
#[derive(Debug, PartialEq, Eq)]
enum Endpoint<'t> {
    Tcp(&'t str, u16),
    Unix(&'t str),
}

fn endpoint(text: &str) -> anyhow::Result<Endpoint<'_>> {
    if let Some(path) = text
        .strip_prefix("unix:")
        .or_else(|| text.starts_with('/').then_some(text))
    {
        return Ok(Endpoint::Unix(path));
    }
    let (host, rest) = match text.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((host, rest)) => (host, rest.strip_prefix(':').unwrap_or(rest)),
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let port = rest.split(':').next().unwrap_or_default();
    let port = if port.is_empty() {
        PORT
    } else {
        port.parse()
            .with_context(|| format!("port of server {text:?}"))?
    };
    Ok(Endpoint::Tcp(host, port))
}

impl Connection {
    pub(super) async fn open(server: &str) -> anyhow::Result<Self> {
        let opening = async {
            let stream: Box<dyn Stream> = match endpoint(server)? {
                Endpoint::Tcp(host, port) => Box::new(TcpStream::connect((host, port)).await?),
                Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
            };
            anyhow::Ok(stream)
        };
        let stream = tokio::time::timeout(PATIENCE, opening)
            .await
            .map_err(anyhow::Error::from)
            .and_then(|opened| opened)
            .with_context(|| format!("connect to {server}"))?;
        Ok(Self {
            server: server.to_owned(),
            stream,
            read: BytesMut::new(),
        })
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let server = &self.server;
        self.stream
            .write_all(bytes)
            .await
            .with_context(|| format!("write to {server}"))
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        let server = &self.server;
        let read = self
            .stream
            .read_buf(&mut self.read)
            .await
            .with_context(|| format!("read from {server}"))?;
        if read == 0 {
            bail!("{server} closed the connection");
        }
        Ok(())
    }

    /// The next line without its end, as it comes; a dump or a watch may be quiet for long.
    pub(super) async fn line(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line = self.read.split_to(end + 1);
                let text = String::from_utf8_lossy(&line);
                return Ok(text.trim_end().to_owned());
            }
            if self.read.len() > LINE_BYTES_MAX {
                bail!("{} does not speak memcached's protocol", self.server);
            }
            self.more().await?;
        }
    }

    /// [`Connection::line`], but not longer than [`PATIENCE`].
    pub(super) async fn first_line(&mut self) -> anyhow::Result<String> {
        match tokio::time::timeout(PATIENCE, self.line()).await {
            Ok(line) => line,
            Err(_) => bail!("{} does not answer", self.server),
        }
    }

    /// Hands every reply to `on_reply` until it says that it was the last.
    pub(super) async fn replies(
        &mut self,
        mut on_reply: impl FnMut(Reply<'_>) -> anyhow::Result<Last>,
    ) -> anyhow::Result<()> {
        loop {
            match parse(&self.read).with_context(|| format!("read from {}", self.server))? {
                Step::Need(_) => {}
                Step::Frame { reply, consumed } => {
                    let last = on_reply(reply)?;
                    drop(self.read.split_to(consumed));
                    match last {
                        Last::Yes => return Ok(()),
                        Last::No => continue,
                    }
                }
            }
            match tokio::time::timeout(PATIENCE, self.more()).await {
                Ok(more) => more?,
                Err(_) => bail!("{} does not answer", self.server),
            }
        }
    }
}

/// Whether a reply was the last of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_texts() {
        let tcp = |text| endpoint(text).unwrap();
        assert_eq!(tcp("a"), Endpoint::Tcp("a", 11211));
        assert_eq!(tcp("a:1:3"), Endpoint::Tcp("a", 1));
        assert_eq!(tcp("[::1]:5"), Endpoint::Tcp("::1", 5));
        assert_eq!(tcp("[::1]"), Endpoint::Tcp("::1", 11211));
        assert_eq!(tcp("/run/c.sock"), Endpoint::Unix("/run/c.sock"));
        assert_eq!(tcp("unix:/run/c.sock"), Endpoint::Unix("/run/c.sock"));
        assert!(endpoint("a:x").is_err());
    }
}
