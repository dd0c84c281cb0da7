//! The daemons' own protocols, as little of each as the tour needs, written against the documents and not with the family's client crates: the tour is an
//! outsider's look.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::browser::urlencoded;

/// Longest wait for one answer.
const DEADLINE: Duration = Duration::from_secs(20);

fn connect(addr: SocketAddr) -> Result<TcpStream> {
    let stream =
        TcpStream::connect_timeout(&addr, DEADLINE).with_context(|| format!("connect {addr}"))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One connection of lines.
#[derive(Debug)]
pub(crate) struct Lines {
    reader: BufReader<TcpStream>,
}

impl Lines {
    pub(crate) fn connect(addr: SocketAddr) -> Result<Self> {
        Ok(Self {
            reader: BufReader::new(connect(addr)?),
        })
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.reader.get_mut().write_all(bytes).context("send")
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        self.reader
            .read_until(b'\n', &mut line)
            .context("read a line")?;
        ensure!(line.ends_with(b"\n"), "the connection was closed");
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// memcached: stores a value.
    pub(crate) fn cache_set(&mut self, key: &str, value: &str) -> Result<()> {
        self.send(format!("set {key} 0 0 {}\r\n{value}\r\n", value.len()).as_bytes())?;
        let answer = self.line()?;
        ensure!(answer == "STORED", "set {key}: {answer}");
        Ok(())
    }

    /// memcached: fetches a value.
    pub(crate) fn cache_get(&mut self, key: &str) -> Result<Option<String>> {
        self.send(format!("get {key}\r\n").as_bytes())?;
        let head = self.line()?;
        if head == "END" {
            return Ok(None);
        }
        let size: usize = head
            .rsplit(' ')
            .next()
            .unwrap_or_default()
            .parse()
            .with_context(|| format!("get {key}: {head}"))?;
        let mut value = vec![0; size + 2];
        self.reader.read_exact(&mut value)?;
        value.truncate(size);
        let end = self.line()?;
        ensure!(end == "END", "get {key}: {end}");
        Ok(Some(String::from_utf8_lossy(&value).into_owned()))
    }

    /// A text command answered by lines up to a lone `.` (Gearman's and the tracker's consoles).
    pub(crate) fn until_dot(&mut self, command: &str) -> Result<Vec<String>> {
        self.send(format!("{command}\r\n").as_bytes())?;
        let mut lines = Vec::new();
        loop {
            let line = self.line()?;
            if line == "." {
                return Ok(lines);
            }
            lines.push(line);
        }
    }

    /// MogileFS tracker: a command; the error holds the code.
    pub(crate) fn tracker(
        &mut self,
        command: &str,
        args: &[(&str, &str)],
    ) -> Result<BTreeMap<String, String>> {
        let args: Vec<(String, String)> = args
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        self.send(format!("{command} {}\r\n", urlencoded(&args)).as_bytes())?;
        let answer = self.line()?;
        let Some(rest) = answer.strip_prefix("OK") else {
            bail!("{command}: {answer}")
        };
        let pairs = rest
            .trim()
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        Ok(pairs
            .map(|(name, value)| (name.to_owned(), decode(value)))
            .collect())
    }
}

/// Undoes percent-encoding.
pub(crate) fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |digit: Option<u8>| {
            digit
                .and_then(|digit| char::from(digit).to_digit(16))
                .and_then(|digit| u8::try_from(digit).ok())
        };
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => match (hex(rest.next()), hex(rest.next())) {
                (Some(high), Some(low)) => bytes.push(high * 16 + low),
                _ => bytes.push(b'%'),
            },
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Packet types of the Gearman protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    CanDo = 1,
    PreSleep = 4,
    Noop = 6,
    SubmitJob = 7,
    JobCreated = 8,
    GrabJob = 9,
    NoJob = 10,
    JobAssign = 11,
    WorkComplete = 13,
    EchoReq = 16,
    EchoRes = 17,
    SubmitJobBg = 18,
}

/// A connection that speaks Gearman's binary packets.
#[derive(Debug)]
pub(crate) struct Gearman {
    stream: TcpStream,
}

impl Gearman {
    pub(crate) fn connect(addr: SocketAddr) -> Result<Self> {
        Ok(Self {
            stream: connect(addr)?,
        })
    }

    fn send(&mut self, kind: Kind, args: &[&[u8]]) -> Result<()> {
        let body = args.join(&0);
        let mut packet = b"\0REQ".to_vec();
        packet.extend((kind as u32).to_be_bytes());
        packet.extend(u32::try_from(body.len())?.to_be_bytes());
        packet.extend(body);
        self.stream.write_all(&packet).context("send a packet")
    }

    fn read(&mut self) -> Result<(u32, Vec<u8>)> {
        let mut head = [0; 12];
        self.stream.read_exact(&mut head).context("read a packet")?;
        ensure!(head.starts_with(b"\0RES"), "not a Gearman packet: {head:?}");
        let number =
            |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let mut body = vec![0; usize::try_from(number(8))?];
        self.stream
            .read_exact(&mut body)
            .context("read a packet's body")?;
        Ok((number(4), body))
    }

    fn expect(&mut self, kind: Kind) -> Result<Vec<u8>> {
        let (got, body) = self.read()?;
        ensure!(
            got == kind as u32,
            "want packet {kind:?}, got {got}: {}",
            String::from_utf8_lossy(&body)
        );
        Ok(body)
    }

    pub(crate) fn echo(&mut self, text: &str) -> Result<String> {
        self.send(Kind::EchoReq, &[text.as_bytes()])?;
        Ok(String::from_utf8_lossy(&self.expect(Kind::EchoRes)?).into_owned())
    }

    /// Submits a job and waits for its result.
    pub(crate) fn call(&mut self, function: &str, workload: &str) -> Result<String> {
        self.send(
            Kind::SubmitJob,
            &[function.as_bytes(), b"", workload.as_bytes()],
        )?;
        self.expect(Kind::JobCreated)?;
        let body = self.expect(Kind::WorkComplete)?;
        let result = body.splitn(2, |byte| *byte == 0).nth(1).unwrap_or_default();
        Ok(String::from_utf8_lossy(result).into_owned())
    }

    /// Submits a background job; the answer is its handle.
    pub(crate) fn background(
        &mut self,
        function: &str,
        unique: &str,
        workload: &str,
    ) -> Result<String> {
        self.send(
            Kind::SubmitJobBg,
            &[function.as_bytes(), unique.as_bytes(), workload.as_bytes()],
        )?;
        Ok(String::from_utf8_lossy(&self.expect(Kind::JobCreated)?).into_owned())
    }

    /// Works on one job of `function`: waits for it, hands its workload to `work`, sends what that answers.
    pub(crate) fn work_once(
        &mut self,
        function: &str,
        work: impl FnOnce(&str) -> String,
    ) -> Result<String> {
        self.send(Kind::CanDo, &[function.as_bytes()])?;
        let (handle, workload) = loop {
            self.send(Kind::GrabJob, &[])?;
            let (kind, body) = self.next_answer()?;
            if kind == Kind::JobAssign as u32 {
                let mut parts = body.splitn(3, |byte| *byte == 0);
                let handle = parts.next().unwrap_or_default().to_vec();
                break (
                    handle,
                    String::from_utf8_lossy(parts.nth(1).unwrap_or_default()).into_owned(),
                );
            }
            ensure!(
                kind == Kind::NoJob as u32,
                "want a job or none, got packet {kind}"
            );
            self.send(Kind::PreSleep, &[])?;
            self.expect(Kind::Noop)?;
        };
        self.send(Kind::WorkComplete, &[&handle, work(&workload).as_bytes()])?;
        // A round trip, so that the completion has arrived when this returns.
        self.echo("done")?;
        Ok(workload)
    }

    /// The next packet that is no NOOP: one may have crossed our question.
    fn next_answer(&mut self) -> Result<(u32, Vec<u8>)> {
        loop {
            let (kind, body) = self.read()?;
            if kind != Kind::Noop as u32 {
                return Ok((kind, body));
            }
        }
    }
}
