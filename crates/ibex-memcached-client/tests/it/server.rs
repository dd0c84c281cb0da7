//! Starts and stops a memcached for one test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ibex_memcached_client::Config;
use ibex_testkit::skip;

const OURS: &str = "ibex-memcached";
/// For everything that takes no time unless the machine is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server; killed when dropped.
#[derive(Debug)]
pub(crate) struct Memcached {
    child: Child,
    pub(crate) port: u16,
    _dir: tempfile::TempDir,
}

/// The original from the system, or the program named by `IBEX_TEST_MEMCACHED`.
fn original() -> Option<PathBuf> {
    match std::env::var_os("IBEX_TEST_MEMCACHED") {
        Some(named) => Some(named.into()),
        None => skip::program("memcached"),
    }
}

/// A pool whose calls never run out of time on a busy machine.
pub(crate) fn patient<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Config {
    Config::new(servers)
        .with_connect_timeout(PATIENCE)
        .with_operation_timeout(PATIENCE)
}

impl Memcached {
    /// Starts the original, or says why not.
    pub(crate) fn start() -> Option<Self> {
        Self::start_on(-1)
    }

    /// Starts the original and ours, as far as they are here.
    pub(crate) fn each() -> Vec<Self> {
        let ours = match ibex_testkit::daemon::binary(OURS) {
            Ok(program) => Some(program),
            Err(error) => {
                skip::skip(&format!("{error:#}"));
                None
            }
        };
        [original(), ours]
            .into_iter()
            .flatten()
            .map(|program| Self::launch(&program, -1))
            .collect()
    }

    pub(crate) fn start_on(port: i32) -> Option<Self> {
        original().map(|program| Self::launch(&program, port))
    }

    /// The original on a unix socket, whose path comes with it.
    pub(crate) fn start_on_socket() -> Option<(Self, String)> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache.sock");
        let child = Command::new(original()?)
            .arg("-s")
            .arg(&path)
            .args(["-u", "root"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Self {
            child,
            port: 0,
            _dir: dir,
        };
        let deadline = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(&path).is_err() {
            assert!(Instant::now() < deadline, "memcached does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some((server, path.display().to_string()))
    }

    fn launch(program: &Path, port: i32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port_file = dir.path().join("ports");
        // Many at a time must not share ours' admin port; the original has none.
        let is_ours = program.file_name().is_some_and(|name| name == OURS);
        let admin: &[&str] = if is_ours { &["--admin", "none"] } else { &[] };
        let child = Command::new(program)
            .args(admin)
            .args([
                "-l",
                "127.0.0.1",
                "-p",
                &port.to_string(),
                "-U",
                "0",
                "-u",
                "root",
            ])
            .env("MEMCACHED_PORT_FILENAME", &port_file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        let port = loop {
            let text = std::fs::read_to_string(&port_file).unwrap_or_default();
            if let Some(port) = text
                .lines()
                .find_map(|line| line.strip_prefix("TCP INET: "))
            {
                break port.trim().parse().unwrap();
            }
            assert!(
                Instant::now() < deadline,
                "memcached did not publish its port"
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        Self {
            child,
            port,
            _dir: dir,
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Sends `-STOP` or `-CONT`.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
