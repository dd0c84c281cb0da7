//! The smallest question each daemon answers, asked over a fresh connection or a kept one.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// Longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(20);

/// A question and the beginning of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping {
    /// Bytes to send.
    pub ask: &'static [u8],
    /// What the answer starts with.
    pub answer: &'static [u8],
    /// What the answer ends with, so that a kept connection is in step for the next question.
    pub end: &'static [u8],
}

const HTTP: Ping = Ping {
    ask: b"GET /ibex-ping HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    answer: b"HTTP/1.1 ",
    end: b"",
};

/// The question for the daemon whose short name is `short`.
///
/// # Errors
/// When nobody has said yet how to ask it.
pub fn of(short: &str) -> Result<Ping> {
    Ok(match short {
        "memcached" => Ping {
            ask: b"version\r\n",
            answer: b"VERSION ",
            end: b"\r\n",
        },
        "gearmand" => Ping {
            ask: b"version\n",
            answer: b"OK ",
            end: b"\n",
        },
        "mogilefsd" => Ping {
            ask: b"!version\r\n",
            answer: b"",
            end: b"\r\n.\r\n",
        },
        "mogstored" | "journal" | "perlbal" | "schwartzd" => HTTP,
        other => bail!("no question for {other}; add one to integration-tests/src/ping.rs"),
    })
}

impl Ping {
    /// Asks over a fresh connection.
    ///
    /// # Errors
    /// When the daemon does not accept or answers something else.
    pub fn fresh(&self, addr: SocketAddr) -> Result<()> {
        self.ask(&mut connect(addr)?)
            .with_context(|| format!("ask {addr}"))
    }

    /// Whether one connection can carry several questions.
    #[must_use]
    pub fn keeps(&self) -> bool {
        !self.end.is_empty()
    }

    /// Asks over an open connection.
    ///
    /// # Errors
    /// When the connection ends or the answer is another.
    pub fn ask(&self, stream: &mut TcpStream) -> Result<()> {
        stream.write_all(self.ask).context("send the question")?;
        let mut got = Vec::new();
        let mut buffer = [0; 4096];
        while !self.is_whole(&got) {
            let read = stream.read(&mut buffer).context("read the answer")?;
            ensure!(
                read > 0,
                "the connection ended after {:?}",
                String::from_utf8_lossy(&got)
            );
            got.extend_from_slice(&buffer[..read]);
        }
        ensure!(
            got.starts_with(self.answer),
            "strange answer {:?}",
            String::from_utf8_lossy(&got)
        );
        Ok(())
    }

    fn is_whole(&self, got: &[u8]) -> bool {
        !got.is_empty() && got.len() >= self.answer.len() && got.ends_with(self.end)
    }
}

/// A connection with deadlines.
///
/// # Errors
/// When nobody listens.
pub fn connect(addr: SocketAddr) -> Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&addr, DEADLINE).with_context(|| format!("connect {addr}"))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}
