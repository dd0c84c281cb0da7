//! A blocking connection that speaks packets, for tests that care about bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use ibex_gearman_proto::{Request, Step, decode_response, kind};

/// Longest wait for a packet.
const PATIENCE: Duration = Duration::from_secs(60);

/// What packets go over: a socket, or TLS over one.
trait Stream: Read + Write + Send {}

impl<S: Read + Write + Send> Stream for S {}

pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    unread: Vec<u8>,
}

impl Wire {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).unwrap())
    }

    /// `None` while nobody listens.
    pub(crate) fn try_connect(addr: SocketAddr) -> Option<Self> {
        TcpStream::connect(addr).ok().map(Self::over)
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::over_stream(stream)
    }

    /// A stream whose reads end in time.
    pub(crate) fn over_stream(stream: impl Read + Write + Send + 'static) -> Self {
        Self {
            stream: Box::new(stream),
            unread: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, request: Request<'_>) {
        let mut wire = Vec::new();
        request.encode(&mut wire);
        self.send_bytes(&wire);
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) {
        // A server that hung up is found out by the next read.
        if let Err(error) = self
            .stream
            .write_all(bytes)
            .and_then(|()| self.stream.flush())
        {
            use std::io::ErrorKind::{BrokenPipe, ConnectionReset, InvalidData, UnexpectedEof};
            assert!(
                matches!(
                    error.kind(),
                    BrokenPipe | ConnectionReset | InvalidData | UnexpectedEof
                ),
                "{error}"
            );
        }
    }

    fn fill(&mut self) -> bool {
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(0) => false,
            Ok(count) => {
                self.unread.extend_from_slice(&buffer[..count]);
                true
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::ConnectionReset
                        | std::io::ErrorKind::UnexpectedEof
                        | std::io::ErrorKind::InvalidData
                ) =>
            {
                false
            }
            Err(error) => panic!(
                "nothing came: {error}; unread {:?}",
                self.unread.escape_ascii().to_string()
            ),
        }
    }

    /// The next byte, whatever it means.
    pub(crate) fn byte(&mut self) -> Option<u8> {
        if self.unread.is_empty() && !self.fill() {
            return None;
        }
        Some(self.unread.remove(0))
    }

    /// The next packet as its name and arguments; text lines come as `text …`; `None` at the end of the stream.
    pub(crate) fn next(&mut self) -> Option<String> {
        loop {
            if self.unread.first().is_some_and(|b| *b != 0) {
                if let Some(at) = self.unread.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = self.unread.drain(..=at).collect();
                    return Some(format!("text {}", line.escape_ascii()));
                }
            } else if !self.unread.is_empty()
                && let Step::Frame { message, consumed } =
                    decode_response(&self.unread, 1 << 28).expect("packets of a server")
            {
                let name = kind::name(message.kind()).unwrap_or("?");
                let arguments = self.unread[12..consumed]
                    .split(|b| *b == 0)
                    .map(|a| a.escape_ascii().to_string());
                let arguments = arguments.collect::<Vec<_>>().join(" ");
                let shown = if consumed == 12 {
                    name.to_owned()
                } else {
                    format!("{name} {arguments}")
                };
                self.unread.drain(..consumed);
                return Some(shown);
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Everything up to the answer of a marker: what the server had to say so far.
    pub(crate) fn said(&mut self) -> Vec<String> {
        self.send(Request::Echo { data: b"marker" });
        let mut said = Vec::new();
        loop {
            match self.next() {
                None => {
                    said.push("closed".into());
                    return said;
                }
                Some(packet) if packet == "ECHO_RES marker" => return said,
                Some(packet) => said.push(packet),
            }
        }
    }

    /// Waits for the next packet and takes its handle.
    pub(crate) fn handle(&mut self) -> String {
        let packet = self.next().expect("a packet with a handle");
        packet
            .split(' ')
            .nth(1)
            .unwrap_or_else(|| panic!("no handle in {packet}"))
            .to_owned()
    }

    /// The whole answer to a text command that ends in a single point.
    pub(crate) fn list(&mut self, command: &str) -> Vec<String> {
        self.send_bytes(format!("{command}\n").as_bytes());
        let mut lines = Vec::new();
        loop {
            let line = self.next().expect("a list");
            if line == "text .\\n" {
                return lines;
            }
            lines.push(
                line.trim_start_matches("text ")
                    .trim_end_matches("\\n")
                    .to_owned(),
            );
        }
    }

    /// One line of an answer.
    pub(crate) fn line(&mut self, command: &str) -> String {
        self.send_bytes(format!("{command}\n").as_bytes());
        self.next().expect("a line")
    }
}

/// A response to compare with.
pub(crate) fn is_error(packet: &str, code: &str) -> bool {
    packet.starts_with(&format!("ERROR {code} "))
}
