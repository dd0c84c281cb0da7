//! The servers as child processes: ours, Debian's, and a bare event loop.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) use ibex_testkit::mariadb;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use crate::cases::Kind;

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ours => "ibex-gearmand",
            Self::OursSqlite => "ibex-gearmand sqlite",
            Self::OursMariadb => "ibex-gearmand mariadb",
            Self::Theirs1 => "gearmand -t1",
            Self::Theirs4 => "gearmand -t4",
            Self::TheirsSqlite => "gearmand libsqlite3",
            Self::Floor => "echo floor",
        }
    }
}

/// A server as a child process, in a folder of its own.
pub(crate) struct Server {
    child: Option<Child>,
    /// Where the kernel counts the time of the bare event loop, a thread of this process.
    floor: Option<PathBuf>,
    pub(crate) addr: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

pub(crate) fn start(kind: Kind, database: Option<&mariadb::Database<'_>>) -> Option<Server> {
    let dir = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let mut command = match kind {
        Kind::Floor => {
            let (sender, receiver) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let thread = std::fs::read_link("/proc/thread-self").unwrap();
                sender.send(thread).unwrap();
                floor(addr);
            });
            let thread = Path::new("/proc").join(receiver.recv().unwrap());
            wait_for(addr);
            return Some(Server {
                child: None,
                floor: Some(thread),
                addr,
                _dir: dir,
            });
        }
        Kind::Ours | Kind::OursSqlite | Kind::OursMariadb => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_ibex-gearmand"));
            command.args([
                "--listen",
                &addr.to_string(),
                "--admin",
                "none",
                "--log-level",
                "error",
            ]);
            command.args([
                "--set",
                &format!("state_dir={}", dir.path().display()),
                "--set",
                "limits.connections=20000",
            ]);
            let queue = match kind {
                Kind::OursSqlite => "sqlite",
                Kind::OursMariadb => {
                    command.args(["--set", &format!("store.url={}", database?.url())]);
                    "mysql"
                }
                Kind::Ours | Kind::Theirs1 | Kind::Theirs4 | Kind::TheirsSqlite | Kind::Floor => {
                    "memory"
                }
            };
            command.args(["--set", &format!("queue={queue}")]);
            command
        }
        Kind::Theirs1 | Kind::Theirs4 | Kind::TheirsSqlite => {
            let program = ["/usr/sbin/gearmand", "/usr/local/sbin/gearmand"]
                .into_iter()
                .map(PathBuf::from)
                .find(|p| p.exists())?;
            let mut command = Command::new(program);
            command.args([
                "-L",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-l",
                "none",
                "-f",
                "20000",
            ]);
            // It unlinks its pid file when it starts and ends: never a path that anybody else needs.
            command.arg("-P").arg(dir.path().join("pid"));
            command.args(["-t", if kind == Kind::Theirs4 { "4" } else { "1" }]);
            if kind == Kind::TheirsSqlite {
                command.args([
                    "-q",
                    "libsqlite3",
                    &format!("--libsqlite3-db={}", dir.path().join("q.db").display()),
                ]);
            }
            command
        }
    };
    let child = command
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server {
        child: Some(child),
        floor: None,
        addr,
        _dir: dir,
    };
    wait_for(addr);
    Some(server)
}

fn wait_for(addr: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect(addr).is_err() {
        assert!(Instant::now() < deadline, "no server at {addr}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Sends back what it hears, with the magic of answers; one thread, mio.
fn floor(addr: SocketAddr) {
    let mut poll = Poll::new().unwrap();
    let mut events = Events::with_capacity(256);
    let mut listener = mio::net::TcpListener::bind(addr).unwrap();
    poll.registry()
        .register(&mut listener, Token(usize::MAX), Interest::READABLE)
        .unwrap();
    let mut peers: Vec<TcpStream> = Vec::new();
    let mut buffer = vec![0; 65536];
    loop {
        poll.poll(&mut events, None).unwrap();
        for event in &events {
            if event.token() == Token(usize::MAX) {
                while let Ok((mut stream, _)) = listener.accept() {
                    stream.set_nodelay(true).unwrap();
                    poll.registry()
                        .register(&mut stream, Token(peers.len()), Interest::READABLE)
                        .unwrap();
                    peers.push(stream);
                }
                continue;
            }
            let peer = &mut peers[event.token().0];
            while let Ok(count @ 1..) = peer.read(&mut buffer) {
                let mut at = 0;
                while at + 12 <= count {
                    buffer[at..at + 8].copy_from_slice(b"\0RES\0\0\0\x11");
                    at += 12
                        + u32::from_be_bytes(buffer[at + 8..at + 12].try_into().unwrap()) as usize;
                }
                peer.write_all(&buffer[..count]).unwrap();
                if count < buffer.len() {
                    break;
                }
            }
        }
    }
}

impl Server {
    /// CPU time of all threads.
    pub(crate) fn cpu(&self) -> Duration {
        let tasks: Vec<PathBuf> = match &self.child {
            Some(child) => std::fs::read_dir(format!("/proc/{}/task", child.id()))
                .unwrap()
                .map(|task| task.unwrap().path())
                .collect(),
            None => self.floor.iter().cloned().collect(),
        };
        let nanoseconds = tasks.iter().map(|task| {
            // A thread may end between the listing and the look.
            let text = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            let first = text.split(' ').next();
            first.and_then(|ns| ns.parse().ok()).unwrap_or(0)
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    /// Resident bytes.
    pub(crate) fn resident(&self) -> f64 {
        let Some(child) = &self.child else { return 0.0 };
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<f64>()
            .unwrap()
            * 1024.0
    }
}
