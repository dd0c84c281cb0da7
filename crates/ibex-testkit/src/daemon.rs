//! One real binary as a child: started on free ports in a folder of its own, ready before the test goes on, stopped with SIGTERM and judged by its exit code
//! and its log — or killed with SIGKILL and started again on the same state.
//!
//! The daemon publishes its addresses in the file named by `IBEX_PORT_FILE`; the harness waits for that file and for `/readyz`, never for a time.
//! Building is not its business: the binary must lie in the target folder of the running test (`cargo xtask test` builds all of them first).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::log::{self, Line};
use crate::{Result, http, wait};

/// A daemon told to stop must be gone by then: the default grace of 25 s and room for a busy machine.
const STOP_PATIENCE: Duration = Duration::from_secs(40);

/// The built program `name` beside the running test: `target/<profile>/<name>`, or in the folder named by `IBEX_TEST_BIN_DIR`.
///
/// # Errors
/// When it is not there, with the command that builds it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("IBEX_TEST_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let test = std::env::current_exe().context("find the running test")?;
            let dir = test.parent().context("the test lies in no folder")?;
            if dir.ends_with("deps") {
                dir.parent().unwrap_or(dir).to_owned()
            } else {
                dir.to_owned()
            }
        }
    };
    let path = dir.join(name);
    ensure!(
        path.is_file(),
        "{} is not built; run `cargo build -p {name}` (or `cargo xtask test`)",
        path.display()
    );
    Ok(path)
}

/// What to start and how.
#[derive(Debug, Clone)]
pub struct Builder {
    name: String,
    args: Vec<OsString>,
    env: BTreeMap<String, OsString>,
    announced: Vec<String>,
    needs_ready: bool,
    node: String,
}

impl Builder {
    /// The binary `name` (as in `target/debug/<name>`) with its data port and its admin port on free ports of the loopback.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let builder = Self {
            name: name.to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
            announced: Vec::new(),
            needs_ready: true,
            node: "test".to_owned(),
        };
        builder
            .env("IBEX_LISTEN", "127.0.0.1:0")
            .env("IBEX_ADMIN__LISTEN", "127.0.0.1:0")
            .env("IBEX_LOG__FORMAT", "json")
    }

    /// Adds one command-line argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds `--set KEY=VALUE`.
    #[must_use]
    pub fn set(self, key: &str, value: &str) -> Self {
        self.arg("--set").arg(format!("{key}={value}"))
    }

    /// Sets an environment variable of the child, which otherwise has `PATH`, `HOME` and the harness's own only.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    /// Takes a variable away again, for example `IBEX_LISTEN` for a daemon without such a key.
    #[must_use]
    pub fn without_env(mut self, name: &str) -> Self {
        self.env.remove(name);
        self
    }

    /// Announces that a WARN or ERROR containing `phrase` is expected in this test.
    #[must_use]
    pub fn announce(mut self, phrase: &str) -> Self {
        self.announced.push(phrase.to_owned());
        self
    }

    /// Does not wait for `/readyz` to say yes: for tests about daemons that are up but not ready.
    #[must_use]
    pub fn unready(mut self) -> Self {
        self.needs_ready = false;
        self
    }

    /// Starts the daemon in a fresh folder and waits until it serves.
    ///
    /// # Errors
    /// When it is not built, ends early, or is not ready in time; the error carries the log.
    pub fn start(self) -> Result<Daemon> {
        let dir = TempDir::with_prefix(format!("{}-", self.name))
            .context("make a folder for the daemon")?;
        self.start_in(dir)
    }

    fn start_in(self, dir: TempDir) -> Result<Daemon> {
        for sub in ["state", "run", "cache", "home"] {
            fs::create_dir_all(dir.path().join(sub))?;
        }
        let program = binary(&self.name)?;
        let child = self.spawn(&program, dir.path())?;
        let mut daemon = Daemon {
            builder: self,
            program,
            dir,
            child: Some(child),
            ports: BTreeMap::new(),
        };
        daemon.wait_ready()?;
        Ok(daemon)
    }

    fn spawn(&self, program: &Path, dir: &Path) -> Result<Child> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join("stderr.log"))?;
        let stdout = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join("stdout.log"))?;
        let mut command = self.command(program, dir);
        command.stdin(Stdio::null()).stdout(stdout).stderr(log);
        command
            .spawn()
            .with_context(|| format!("start {}", program.display()))
    }

    /// The command of this daemon with its environment, for tests that run it themselves.
    #[must_use]
    pub fn command(&self, program: &Path, dir: &Path) -> Command {
        let mut command = Command::new(program);
        command.args(&self.args).env_clear().current_dir(dir);
        command
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", dir.join("home"));
        command.env("XDG_STATE_HOME", dir.join("state"));
        command
            .env("STATE_DIRECTORY", dir.join("state"))
            .env("RUNTIME_DIRECTORY", dir.join("run"))
            .env("CACHE_DIRECTORY", dir.join("cache"));
        command
            .env("IBEX_PORT_FILE", dir.join("ports.toml"))
            .env("IBEX_NODE_NAME", &self.node)
            .envs(&self.env);
        command
    }
}

/// A running daemon. Dropping it kills it; a test that ends well calls [`Daemon::stop`] instead, which also judges the log.
#[derive(Debug)]
pub struct Daemon {
    builder: Builder,
    program: PathBuf,
    dir: TempDir,
    child: Option<Child>,
    ports: BTreeMap<String, String>,
}

impl Daemon {
    /// Starts to describe the daemon `name`; see [`Builder`].
    #[must_use]
    pub fn builder(name: &str) -> Builder {
        Builder::new(name)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + wait::PATIENCE;
        let file = self.dir.path().join("ports.toml");
        let name = self.builder.name.clone();
        loop {
            if let Some(status) = self.exited()? {
                bail!("{name} ended at start with {status}\n{}", self.log_text());
            }
            if let Ok(text) = fs::read_to_string(&file) {
                self.ports =
                    toml::from_str(&text).with_context(|| format!("port file {text:?}"))?;
                if !self.builder.needs_ready || self.is_ready() {
                    return Ok(());
                }
            }
            ensure!(
                Instant::now() < deadline,
                "{name} is not ready after {:?}\n{}",
                wait::PATIENCE,
                self.log_text()
            );
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Whether `/readyz` says yes at this moment. A daemon without an admin port is ready when its port file exists.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match self.ports.get("admin") {
            None => true,
            Some(_) => self
                .admin()
                .and_then(|admin| http::get(admin, "/readyz"))
                .is_ok_and(|answer| answer.status == 200),
        }
    }

    /// The TCP address of the listener `name`, as published in the port file.
    ///
    /// # Errors
    /// When there is no such listener, with the names there are.
    pub fn addr(&self, name: &str) -> Result<SocketAddr> {
        let text = self
            .ports
            .get(name)
            .with_context(|| format!("no listener {name:?} among {:?}", self.ports))?;
        text.parse()
            .with_context(|| format!("listener {name}: address {text:?}"))
    }

    /// All published addresses by listener name.
    #[must_use]
    pub fn ports(&self) -> &BTreeMap<String, String> {
        &self.ports
    }

    /// The address of the admin port.
    ///
    /// # Errors
    /// When it is switched off.
    pub fn admin(&self) -> Result<SocketAddr> {
        self.addr("admin")
    }

    /// GETs `path` from the admin port.
    ///
    /// # Errors
    /// As [`http::Request::send`].
    pub fn admin_get(&self, path: &str) -> Result<http::Response> {
        http::get(self.admin()?, path)
    }

    /// The value of the first sample whose name and labels are exactly `sample` in `/metrics`.
    ///
    /// # Errors
    /// When there is no such sample or it is no number.
    pub fn metric(&self, sample: &str) -> Result<f64> {
        let text = self.admin_get("/metrics")?.text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        let line = line.with_context(|| format!("no sample {sample} in /metrics"))?;
        line.trim()
            .parse()
            .with_context(|| format!("sample {sample}: {line:?}"))
    }

    /// The daemon's own folder: `state/`, `run/`, `cache/`, `stderr.log`, `ports.toml`.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Process id of the running child.
    ///
    /// # Errors
    /// When it was stopped.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("the daemon was stopped")?.id())
    }

    /// What it wrote to standard error so far.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.dir.path().join("stderr.log")).unwrap_or_default()
    }

    /// The log so far, line by line.
    #[must_use]
    pub fn logs(&self) -> Vec<Line> {
        log::parse(&self.log_text())
    }

    /// Announces that a WARN or ERROR containing `phrase` is expected from now on (or happened already).
    pub fn announce(&mut self, phrase: &str) {
        self.builder.announced.push(phrase.to_owned());
    }

    /// Waits until some log line contains `phrase`.
    ///
    /// # Errors
    /// When it does not in time.
    pub fn wait_log(&self, phrase: &str) -> Result<Line> {
        let found = wait::until(wait::PATIENCE, &format!("log line {phrase:?}"), || {
            self.logs()
                .into_iter()
                .find(|line| line.raw.contains(phrase))
        });
        found.with_context(|| self.log_text())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the child is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()?)
            .ok()
            .and_then(Pid::from_raw)
            .context("process id out of range")?;
        kill_process(pid, signal).with_context(|| format!("send {signal:?}"))
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>> {
        match self.child.as_mut() {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// Waits for the end of the child.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn wait_exit(&mut self, patience: Duration) -> Result<ExitStatus> {
        let mut child = self.child.take().context("the daemon was stopped")?;
        let status = wait::until(
            patience,
            &format!("the end of {}", self.builder.name),
            || child.try_wait().ok().flatten(),
        );
        if status.is_err() {
            self.child = Some(child);
        }
        status.with_context(|| self.log_text())
    }

    /// Stops with SIGTERM and judges: exit code 0, and no WARN or ERROR that was not announced. Answers how long the stop took.
    ///
    /// # Errors
    /// When any of that is not so.
    pub fn stop(mut self) -> Result<Duration> {
        let elapsed = self.terminate()?;
        self.judge_log()?;
        Ok(elapsed)
    }

    /// Stops with SIGTERM and requires exit code 0; the folder and the log stay.
    ///
    /// # Errors
    /// When it does not end, or ends with another code.
    pub fn terminate(&mut self) -> Result<Duration> {
        let start = Instant::now();
        self.signal(Signal::TERM)?;
        let status = self.wait_exit(STOP_PATIENCE)?;
        ensure!(
            status.code() == Some(0),
            "{} stopped with {status}\n{}",
            self.builder.name,
            self.log_text()
        );
        Ok(start.elapsed())
    }

    /// Requires a log without unannounced WARN or ERROR.
    ///
    /// # Errors
    /// Shows the lines.
    pub fn judge_log(&self) -> Result<()> {
        let lines = self.logs();
        let alarming: Vec<&str> = log::unannounced(&lines, &self.builder.announced)
            .iter()
            .map(|line| line.raw.as_str())
            .collect();
        ensure!(
            alarming.is_empty(),
            "{} logged what no test announced:\n{}",
            self.builder.name,
            alarming.join("\n")
        );
        Ok(())
    }

    /// Ends it with SIGKILL, as a power cut would.
    ///
    /// # Errors
    /// When it was stopped before.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the daemon was stopped")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts it again on the same folder (after [`Daemon::kill`] or [`Daemon::terminate`]) and waits until it serves. Ports may differ.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the daemon still runs");
        match fs::remove_file(self.dir.path().join("ports.toml")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context("remove the old port file");
            }
            Ok(()) | Err(_) => {}
        }
        self.child = Some(self.builder.spawn(&self.program, self.dir.path())?);
        self.wait_ready()
    }

    /// SIGKILL and start on the same state.
    ///
    /// # Errors
    /// As [`Builder::start`].
    pub fn kill_and_restart(&mut self) -> Result<()> {
        self.kill()?;
        self.restart()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        if let Err(error) = child.kill().and_then(|()| child.wait()) {
            eprintln!("{} could not be killed: {error}", self.builder.name);
        }
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.builder.name, self.log_text());
        }
    }
}
