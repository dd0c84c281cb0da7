//! A small blocking HTTP/1.1 client: one request, one connection, the whole answer in memory. Enough to look at an admin port, a storage node or a page as
//! a test sees it; it follows no redirect, keeps no cookie and knows no TLS, so that a test states all of that itself.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::Result;

/// Longest wait for any single read or write.
const IO_DEADLINE: Duration = Duration::from_secs(20);
/// Largest body accepted, in bytes: nothing a test fetches is bigger, and a runaway answer must not eat the machine.
const BODY_BYTES_MAX: u64 = 256 << 20;

/// A request being put together.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code, 100–599.
    pub status: u16,
    /// Header lines in order; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body with any chunking taken off.
    pub body: Vec<u8>,
}

impl Request {
    /// A request for `target` (path and query).
    #[must_use]
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// A GET.
    #[must_use]
    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    /// A POST with a body of `content_type`.
    #[must_use]
    pub fn post(target: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", target)
            .header("content-type", content_type)
            .body(body)
    }

    /// Adds a header line.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body; its length is announced in any case.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    fn encode(&self, host: &str) -> Vec<u8> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nconnection: close\r\n",
            self.method, self.target
        );
        if !self
            .headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            head.push_str(&format!("host: {host}\r\n"));
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() || !matches!(self.method.as_str(), "GET" | "HEAD" | "DELETE") {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Sends the request to `addr` and reads the whole answer.
    ///
    /// # Errors
    /// When the connection fails, a read takes longer than 20 s, or the answer is not HTTP/1.x.
    pub fn send(&self, addr: SocketAddr) -> Result<Response> {
        let stream = TcpStream::connect_timeout(&addr, IO_DEADLINE)
            .with_context(|| format!("connect {addr}"))?;
        stream.set_read_timeout(Some(IO_DEADLINE))?;
        stream.set_write_timeout(Some(IO_DEADLINE))?;
        // A server may answer and close before it has read a body it does not want; the answer counts then, not the broken pipe.
        let written = (&stream).write_all(&self.encode(&addr.to_string()));
        let answer = read_response(&mut BufReader::new(&stream), self.method == "HEAD");
        match (answer, written) {
            (Ok(answer), _) => Ok(answer),
            (Err(error), Ok(())) => {
                Err(error.context(format!("{} {addr}{}", self.method, self.target)))
            }
            (Err(_), Err(error)) => Err(anyhow::Error::from(error)
                .context(format!("send {} {addr}{}", self.method, self.target))),
        }
    }
}

impl Response {
    /// The first header called `name` (lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    /// All headers called `name` (lower case).
    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(header, _)| header == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text; bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// GETs `path` from `addr`.
///
/// # Errors
/// As [`Request::send`].
pub fn get(addr: SocketAddr, path: &str) -> Result<Response> {
    Request::get(path).send(addr)
}

fn read_line(reader: &mut impl BufRead) -> Result<String> {
    let mut line = String::new();
    reader
        .take(64 << 10)
        .read_line(&mut line)
        .context("read header line")?;
    ensure!(
        line.ends_with('\n'),
        "the connection ended in the head of the answer: {line:?}"
    );
    Ok(line.trim_end().to_owned())
}

/// Reads one answer, skipping interim ones (100–199).
fn read_response(reader: &mut impl BufRead, is_head: bool) -> Result<Response> {
    loop {
        let status_line = read_line(reader)?;
        let mut words = status_line.split(' ');
        ensure!(
            words
                .next()
                .is_some_and(|version| version.starts_with("HTTP/1.")),
            "not an HTTP answer: {status_line:?}"
        );
        let status: u16 = words
            .next()
            .unwrap_or_default()
            .parse()
            .with_context(|| format!("status line {status_line:?}"))?;
        let mut headers = Vec::new();
        loop {
            let line = read_line(reader)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line
                .split_once(':')
                .with_context(|| format!("header line {line:?}"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        if (100..200).contains(&status) && status != 101 {
            continue;
        }
        let mut response = Response {
            status,
            headers,
            body: Vec::new(),
        };
        if !is_head && status != 204 && status != 304 {
            response.body = read_body(reader, &response)?;
        }
        return Ok(response);
    }
}

fn read_body(reader: &mut impl BufRead, response: &Response) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    if response
        .header("transfer-encoding")
        .is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
    {
        read_chunks(reader, &mut body)?;
    } else if let Some(length) = response.header("content-length") {
        let length: u64 = length.parse().context("content-length")?;
        ensure!(
            length <= BODY_BYTES_MAX,
            "body of {length} bytes is more than a test wants"
        );
        let read = reader.take(length).read_to_end(&mut body)? as u64;
        ensure!(read == length, "body ended after {read} of {length} bytes");
    } else {
        reader.take(BODY_BYTES_MAX).read_to_end(&mut body)?;
    }
    Ok(body)
}

fn read_chunks(reader: &mut impl BufRead, body: &mut Vec<u8>) -> Result<()> {
    loop {
        let line = read_line(reader)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16).with_context(|| format!("chunk size {line:?}"))?;
        if body.len() as u64 + size > BODY_BYTES_MAX {
            bail!("chunked body is more than a test wants");
        }
        if size == 0 {
            while !read_line(reader)?.is_empty() {}
            return Ok(());
        }
        let read = reader.take(size).read_to_end(body)? as u64;
        ensure!(read == size, "chunk ended after {read} of {size} bytes");
        ensure!(
            read_line(reader)?.is_empty(),
            "chunk is not followed by a line end"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], status: u16, body: &[u8]) {
        let response = read_response(&mut BufReader::new(bytes), false).unwrap();
        assert_eq!((response.status, response.body.as_slice()), (status, body));
    }

    #[test]
    fn reads_every_kind_of_body() {
        check(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcREST",
            200,
            b"abc",
        );
        check(
            b"HTTP/1.0 404 Not Found\r\n\r\nto the end",
            404,
            b"to the end",
        );
        check(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: r\r\n\r\n", 200, b"abcde");
        check(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            204,
            b"",
        );
    }

    #[test]
    fn a_short_body_is_an_error() {
        assert!(
            read_response(
                &mut BufReader::new(&b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"[..]),
                false
            )
            .is_err()
        );
    }
}
