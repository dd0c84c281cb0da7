//! One client connection: lines in, replies out, in order.
//!
//! Owns framing, limits and back-pressure: while a reply cannot be written nothing more is read, and a client that takes nothing for too long is
//! dropped. Commands run one after
//! the other.

use crate::commands::{self, Client};
use crate::console;
use crate::tracker::Tracker;
use bytes::BytesMut;
use ibex_kit::Stream;
use ibex_mogilefs_proto::line::split_line;
use ibex_mogilefs_proto::{ErrorCode, Line, REQUEST_BYTES_MAX, Reply, Step};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::broadcast;

/// Replies gathered for a pipelining client before they are written.
const GATHER_BYTES: usize = 64 << 10;

/// Serves a connection until the client leaves or the tracker stops.
pub(crate) async fn serve(tracker: Arc<Tracker>, stream: Stream, client: Client) {
    let mut conn = Conn {
        write_timeout: tracker.config().write_timeout.std(),
        tracker,
        stream,
        client,
        input: BytesMut::new(),
        output: BytesMut::new(),
        watching: None,
    };
    if let Err(error) = conn.run().await {
        tracing::debug!(peer = ?conn.client.ip, %error, "connection ended");
    }
}

struct Conn {
    tracker: Arc<Tracker>,
    stream: Stream,
    client: Client,
    input: BytesMut,
    output: BytesMut,
    write_timeout: Duration,
    /// Log lines for a client that said `!watch`.
    watching: Option<broadcast::Receiver<String>>,
}

/// What to do after a line.
enum After {
    GoOn,
    Close,
}

impl Conn {
    async fn run(&mut self) -> io::Result<()> {
        let draining = self.tracker.kit.draining();
        loop {
            match split_line(&self.input, REQUEST_BYTES_MAX) {
                Ok(Step::Need) => {
                    self.flush().await?;
                    if draining.is_cancelled() || !self.read_more().await? {
                        return Ok(());
                    }
                }
                Ok(Step::Frame { consumed, .. }) => {
                    let line = self.input.split_to(consumed);
                    let busy = self.tracker.kit.busy();
                    let after = self.line(strip_end(&line)).await;
                    if self.output.len() >= GATHER_BYTES || matches!(after, After::Close) {
                        self.flush().await?;
                    }
                    drop(busy);
                    if let After::Close = after {
                        return Ok(());
                    }
                }
                Err(_) => {
                    Reply::refused(ErrorCode::BadRequest).encode(None, &mut self.output);
                    return self.flush().await;
                }
            }
        }
    }

    /// Waits for input; false at its end. A watching client gets log lines meanwhile.
    async fn read_more(&mut self) -> io::Result<bool> {
        let draining = self.tracker.kit.draining();
        loop {
            let logged = async {
                match &mut self.watching {
                    Some(lines) => lines.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                read = self.stream.read_buf(&mut self.input) => return Ok(read? > 0),
                line = logged => match line {
                    Ok(line) => {
                        self.output.extend_from_slice(format!(":: {line}\r\n").as_bytes());
                        self.flush().await?;
                    }
                    // A slow watcher misses lines rather than holding anybody up.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => self.watching = None,
                },
                () = draining.cancelled() => return Ok(false),
            }
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            let written =
                tokio::time::timeout(self.write_timeout, self.stream.write_buf(&mut self.output))
                    .await;
            match written {
                Ok(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        Ok(())
    }

    async fn line(&mut self, line: &[u8]) -> After {
        match Line::parse(line) {
            Line::Empty => After::GoOn,
            Line::Command { name, args } => {
                commands::answer(&self.tracker, &self.client, name, args, &mut self.output).await;
                After::GoOn
            }
            Line::Console { name, args } => {
                let answer =
                    console::answer(&self.tracker, &self.client, name, args, &mut self.watching);
                self.output.extend_from_slice(answer.text.as_bytes());
                if answer.stops {
                    self.tracker.kit.stop("asked by the console");
                    return After::Close;
                }
                After::GoOn
            }
        }
    }
}

fn strip_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
