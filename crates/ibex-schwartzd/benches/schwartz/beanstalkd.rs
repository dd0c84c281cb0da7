//! Debian's beanstalkd with a log that is synced at every write.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::http::{folder, together};

/// A running beanstalkd; ends when dropped.
pub(crate) struct Beanstalkd {
    child: Child,
    addr: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Beanstalkd {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Beanstalkd {
    pub(crate) fn start() -> Option<Self> {
        let program = ibex_testkit::skip::find_program("beanstalkd")?;
        let dir = folder();
        let addr = ibex_testkit::ports::free();
        let child = Command::new(program)
            .args(["-l", &addr.ip().to_string(), "-p", &addr.port().to_string()])
            .args(["-f0", "-b"])
            .arg(dir.path())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        ibex_testkit::wait::until_true("beanstalkd", || TcpStream::connect(addr).is_ok()).unwrap();
        Some(Self {
            child,
            addr,
            _dir: dir,
        })
    }

    fn connect(&self) -> BufReader<TcpStream> {
        let stream = TcpStream::connect(self.addr).unwrap();
        stream.set_nodelay(true).unwrap();
        BufReader::with_capacity(1 << 16, stream)
    }

    fn connections(&self, count: usize) -> Vec<BufReader<TcpStream>> {
        (0..count).map(|_| self.connect()).collect()
    }

    /// `list` puts in one write, then all answers.
    pub(crate) fn put(self, connections: usize, list: usize, time: Duration) -> f64 {
        let puts = puts(60).repeat(list);
        together(self.connections(connections), time, |stream| {
            stream.get_mut().write_all(puts.as_bytes()).unwrap();
            for _ in 0..list {
                assert!(line(stream).starts_with("INSERTED"));
            }
            list
        })
    }

    /// `max` reserves in one write, then `max` deletes in one; `ready` jobs lie there before.
    pub(crate) fn work(self, connections: usize, max: usize, ready: usize, time: Duration) -> f64 {
        let mut first = self.connect();
        let puts = puts(600).repeat(500);
        for _ in 0..ready / 500 {
            first.get_mut().write_all(puts.as_bytes()).unwrap();
            for _ in 0..500 {
                line(&mut first);
            }
        }
        let reserves = "reserve-with-timeout 0\r\n".repeat(max);
        together(self.connections(connections), time, |stream| {
            stream.get_mut().write_all(reserves.as_bytes()).unwrap();
            let mut deletes = String::new();
            let mut body = [0; 102];
            for _ in 0..max {
                let answer = line(stream);
                let Some(rest) = answer.strip_prefix("RESERVED ") else {
                    continue;
                };
                let (id, _) = rest.split_once(' ').unwrap();
                deletes += &format!("delete {id}\r\n");
                stream.read_exact(&mut body).unwrap();
            }
            stream.get_mut().write_all(deletes.as_bytes()).unwrap();
            let count = deletes.lines().count();
            for _ in 0..count {
                assert_eq!(line(stream).trim_end(), "DELETED");
            }
            count
        })
    }
}

fn puts(ttr: u32) -> String {
    format!("put 1024 0 {ttr} 100\r\n{}\r\n", "x".repeat(100))
}

fn line(stream: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    line
}
