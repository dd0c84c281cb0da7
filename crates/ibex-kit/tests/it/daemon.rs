//! One running example daemon: start, addresses, signals, end.
//!
//! Owns waiting by polling with a deadline, never by a fixed sleep; a daemon still alive at the end of a test is killed.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Whatever is waited for comes within this, or the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The example's program, which cargo built for this test.
pub(crate) fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_ibex-echo"))
}

/// A command for it that sees nothing of this machine's environment.
pub(crate) fn command() -> Command {
    let mut command = Command::new(program());
    command.env_clear().stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn output(args: &[&str]) -> Output {
    command().args(args).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Until `condition` gives something.
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) struct Daemon {
    child: Child,
    pub(crate) dir: tempfile::TempDir,
    ports: toml::Table,
}

impl Daemon {
    /// Starts it on free ports and waits until it is ready.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, |_| {})
    }

    pub(crate) fn start_with(args: &[&str], prepare: impl FnOnce(&mut Command)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut command = command();
        command
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(args);
        prepare(&mut command);
        Self::run(command, dir)
    }

    /// Runs a prepared command as the daemon.
    pub(crate) fn run(mut command: Command, dir: tempfile::TempDir) -> Self {
        let port_file = dir.path().join("ports");
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        command
            .env("IBEX_PORT_FILE", &port_file)
            .stdout(Stdio::null())
            .stderr(log);
        let mut child = command.spawn().unwrap();
        let ports = wait_for("the port file", || {
            if let Some(status) = child.try_wait().unwrap() {
                let log = std::fs::read_to_string(dir.path().join("log")).unwrap_or_default();
                panic!("ended with {status}:\n{log}");
            }
            std::fs::read_to_string(&port_file)
                .ok()
                .map(|text| text.parse().unwrap())
        });
        Self { child, dir, ports }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The published address of a listener.
    pub(crate) fn address(&self, name: &str) -> String {
        self.ports
            .get(name)
            .and_then(toml::Value::as_str)
            .unwrap_or_else(|| panic!("no {name} in {:?}", self.ports))
            .to_owned()
    }

    /// The port file as it is now, without the admin port.
    pub(crate) fn published(&self) -> Vec<(String, String)> {
        let text = std::fs::read_to_string(self.dir.path().join("ports")).unwrap();
        let table: toml::Table = text.parse().unwrap();
        let all = table.into_iter().filter(|(name, _)| name != "admin");
        all.map(|(name, address)| (name, address.as_str().unwrap().to_owned()))
            .collect()
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address("echo")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends a line to the echo and reads up to the same line.
    pub(crate) fn echo(&self, line: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut got = Vec::new();
        while got.iter().filter(|b| **b == b'\n').count() < 2 {
            let mut buffer = [0; 256];
            let length = stream.read(&mut buffer).unwrap();
            assert!(length > 0, "closed after {:?}", text(&got));
            got.extend_from_slice(buffer.get(..length).unwrap());
        }
        text(&got)
    }

    /// A connection that holds all descriptors the process has left, if there was room for it.
    pub(crate) fn hoard(&self) -> Option<TcpStream> {
        let mut stream = self.connect();
        stream.write_all(b"hoard\n").ok()?;
        let mut got = [0; 12];
        stream.read_exact(&mut got).ok()?;
        assert_eq!(&got, b"hello\nhoard\n");
        Some(stream)
    }

    /// One admin request on its own connection: status and body.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address("admin")).unwrap();
        exchange(&mut stream, method, path, headers, body)
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = self.ask("GET", path, "", "");
        (status, body)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("the daemon's end", || self.child.try_wait().unwrap())
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// SIGTERM, and it must end cleanly.
    pub(crate) fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "{}", self.log());
        self.log()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Already ended is fine.
        let _ignored = self.child.kill().is_ok() && self.child.wait().is_ok();
    }
}

/// One HTTP exchange over any stream: status, head, body.
pub(crate) fn exchange(
    stream: &mut (impl std::io::Read + std::io::Write),
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> (u16, String, String) {
    let host = if headers.to_lowercase().contains("host:") {
        ""
    } else {
        "Host: localhost\r\n"
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\n{host}Connection: close\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no head in {answer:?}"));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap();
    (status, head.to_lowercase(), body.to_owned())
}
