//! The two servers and one blocking connection to them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use ibex_memcached_proto::reply::{Reply, Step, parse};
use ibex_testkit::{daemon, skip};

/// Worker threads of both.
pub(crate) const THREADS: &str = "2";

/// A running server; killed when dropped.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    child: Child,
    pub(crate) port: u16,
    _dir: tempfile::TempDir,
}

/// Both servers with `-m megabytes`, ours first.
pub(crate) fn start_all(megabytes: u32, extra: &[&str]) -> Vec<Server> {
    let mut servers = vec![start_ours(megabytes, extra)];
    if let Some(peer) = skip::find_program("memcached") {
        servers.push(Server::start("memcached", &peer, megabytes, extra));
    }
    servers
}

/// Ours alone.
pub(crate) fn start_ours(megabytes: u32, extra: &[&str]) -> Server {
    let program = daemon::binary("ibex-memcached").unwrap();
    let args = [["--admin", "none"].as_slice(), extra].concat();
    Server::start("ibex-memcached", &program, megabytes, &args)
}

impl Server {
    /// Starts `program` and waits until it listens.
    fn start(name: &'static str, program: &PathBuf, megabytes: u32, extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ports = dir.path().join("ports");
        let child = Command::new(program)
            .args(["-l", "127.0.0.1", "-p", "-1", "-U", "0", "-u", "root"])
            .args(["-t", THREADS, "-m", &megabytes.to_string()])
            .args(extra)
            .env("MEMCACHED_PORT_FILENAME", &ports)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let port = loop {
            let text = std::fs::read_to_string(&ports).unwrap_or_default();
            let port = text
                .lines()
                .find_map(|line| line.strip_prefix("TCP INET: "));
            if let Some(port) = port {
                break port.trim().parse().unwrap();
            }
            assert!(Instant::now() < deadline, "{name} did not start");
            std::thread::sleep(Duration::from_millis(5));
        };
        Self {
            name,
            child,
            port,
            _dir: dir,
        }
    }

    /// SIGUSR1, and until it is gone.
    pub(crate) fn stop_gracefully(mut self) {
        let id = i32::try_from(self.child.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(id).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::USR1).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// User and system time in seconds.
    pub(crate) fn cpu(&self) -> f64 {
        // schedstat counts nanoseconds on the processor, per thread; stat counts ticks of 10 ms.
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        tasks
            .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
            .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
            .sum::<u64>() as f64
            / 1e9
    }

    /// Resident bytes now.
    pub(crate) fn rss(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most bytes that ever were resident.
    pub(crate) fn peak(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(field)).unwrap();
        let kilobytes: u64 = line
            .split_ascii_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        kilobytes << 10
    }

    /// A number of `stats`.
    pub(crate) fn stat(&self, name: &str) -> u64 {
        let mut stream = self.connect();
        stream.write_all(b"stats\r\n").unwrap();
        let lines = BufReader::new(stream)
            .lines()
            .map_while(Result::ok)
            .take_while(|line| line != "END");
        let prefix = format!("STAT {name} ");
        lines
            .filter_map(|line| line.strip_prefix(&prefix)?.trim().parse().ok())
            .last()
            .unwrap_or(0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A connection that sends a batch and reads replies off one by one.
pub(crate) struct Talk {
    stream: TcpStream,
    pub(crate) out: BytesMut,
    input: BytesMut,
}

impl Talk {
    pub(crate) fn new(server: &Server) -> Self {
        Self {
            stream: server.connect(),
            out: BytesMut::new(),
            input: BytesMut::new(),
        }
    }

    /// Sends what was written to `out`.
    pub(crate) fn send(&mut self) {
        self.stream.write_all(&self.out).unwrap();
        self.out.clear();
    }

    /// Hands replies to `on_reply` until it has seen `count` that end a request, which it says.
    pub(crate) fn receive(&mut self, count: usize, mut ends: impl FnMut(&Reply<'_>) -> bool) {
        let mut left = count;
        while left > 0 {
            match parse(&self.input).unwrap() {
                Step::Frame { reply, consumed } => {
                    left -= usize::from(ends(&reply));
                    self.input.advance(consumed);
                }
                Step::Need(_) => {
                    let old = self.input.len();
                    self.input.resize(old + (64 << 10), 0);
                    let read = self.stream.read(&mut self.input[old..]).unwrap();
                    assert!(read > 0, "the server closed");
                    self.input.truncate(old + read);
                }
            }
        }
    }
}

/// Appends a `set` of `bytes` bytes.
pub(crate) fn store(out: &mut BytesMut, key: &[u8], ttl: u32, bytes: usize) {
    out.extend_from_slice(b"set ");
    out.extend_from_slice(key);
    out.extend_from_slice(format!(" 0 {ttl} {bytes}\r\n").as_bytes());
    out.resize(out.len() + bytes, b'v');
    out.extend_from_slice(b"\r\n");
}
