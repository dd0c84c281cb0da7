//! A kept HTTP/1.1 connection, and many of them at work at once.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant, SystemTime};

/// Steps on so many connections at once until the time is over or nothing is left to do; what they did per second.
pub(crate) fn together<C: Send>(
    connections: Vec<C>,
    time: Duration,
    step: impl Fn(&mut C) -> usize + Sync,
) -> f64 {
    let start = Instant::now();
    let (done, end) = std::thread::scope(|scope| {
        let threads: Vec<_> = connections
            .into_iter()
            .map(|mut connection| {
                let step = &step;
                scope.spawn(move || {
                    let (mut done, mut last) = (0, start);
                    while start.elapsed() < time {
                        let now = step(&mut connection);
                        if now == 0 {
                            break;
                        }
                        done += now;
                        last = Instant::now();
                    }
                    (done, last)
                })
            })
            .collect();
        let ends = threads.into_iter().map(|one| one.join().unwrap());
        ends.fold((0, start), |(sum, end), (done, last)| {
            (sum + done, end.max(last))
        })
    });
    done as f64 / (end - start).as_secs_f64().max(1e-9)
}

/// Seconds since the epoch, as other programs on this machine see them.
pub(crate) fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
}

/// A folder beside the built programs, so that all write to the same disk.
pub(crate) fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap()
}

/// A connection that stays open.
pub(crate) struct Http {
    stream: BufReader<TcpStream>,
}

impl Http {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::with_capacity(1 << 16, stream),
        }
    }

    /// Sends a request whose answer is not read here.
    pub(crate) fn get(mut self, path: &str) -> BufReader<TcpStream> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        self.stream
    }

    pub(crate) fn post(&mut self, path: &str, body: &str) -> Vec<u8> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 20"), "{path}: {line}");
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).unwrap();
        answer
    }
}
