//! A blocking client of bytes.

use ibex_testkit::Daemon;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) struct Client {
    stream: TcpStream,
    read: Vec<u8>,
}

pub(crate) fn address(daemon: &Daemon) -> SocketAddr {
    daemon.addr("memcached").unwrap()
}

impl Client {
    pub(crate) fn new(daemon: &Daemon) -> Self {
        Self::to(address(daemon))
    }

    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// Sends what the server takes, which may close meanwhile.
    pub(crate) fn send_until_closed(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes));
    }

    /// Reads until `end` has come; returns everything up to and with it.
    pub(crate) fn until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut buffer = [0; 65_536];
        let mut searched = 0;
        loop {
            if let Some(at) = self.read[searched..]
                .windows(end.len())
                .position(|window| window == end)
            {
                return self.read.drain(..searched + at + end.len()).collect();
            }
            searched = self.read.len().saturating_sub(end.len() - 1);
            let read = self.stream.read(&mut buffer).unwrap();
            assert!(
                read > 0,
                "closed after {:?}",
                String::from_utf8_lossy(&self.read)
            );
            self.read.extend_from_slice(&buffer[..read]);
        }
    }

    pub(crate) fn ask(&mut self, request: &str, end: &str) -> String {
        self.send(request.as_bytes());
        String::from_utf8_lossy(&self.until(end.as_bytes())).into_owned()
    }

    pub(crate) fn stat(&mut self, name: &str) -> u64 {
        let text = self.ask("stats\r\n", "END\r\n");
        let prefix = format!("STAT {name} ");
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(&prefix))
            .unwrap_or_else(|| panic!("no {name} in {text}"));
        value.trim().parse().unwrap()
    }

    /// What still comes until the peer closes.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.read);
        // A reset after the last bytes is a close too.
        drop(self.stream.read_to_end(&mut rest));
        rest
    }
}
