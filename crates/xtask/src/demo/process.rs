//! One process of the demo: started, waited for, stopped, killed and started again. It runs in a process group of its own, so that Ctrl-C reaches the demo
//! only, which then stops everything in order; and it is told by the kernel when the demo dies without a goodbye (through `setpriv`, where there is one).

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ibex_testkit::log::Line;
use ibex_testkit::{http, log, skip};
use rustix::process::{Pid, Signal, kill_process};

/// A daemon must be ready within this time; the first start migrates databases.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// A daemon told to stop must be gone within its grace and some more.
const STOP_PATIENCE: Duration = Duration::from_secs(40);

/// What to start.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// Name of the instance: `memcached1`.
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// Where it serves, for the tour.
    pub(crate) addr: Option<SocketAddr>,
}

/// A process that runs, or did.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) spec: Spec,
    dir: PathBuf,
    child: Option<Child>,
    ports: BTreeMap<String, String>,
    log_read: usize,
}

impl Process {
    /// Starts the process; its log and port file lie under `dir`.
    pub(crate) fn start(spec: Spec, dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(dir.join("log"))?;
        fs::create_dir_all(dir.join("run"))?;
        let mut process = Self {
            spec,
            dir,
            child: None,
            ports: BTreeMap::new(),
            log_read: 0,
        };
        process.log_read = process.log_text().len();
        process.spawn()?;
        Ok(process)
    }

    fn spawn(&mut self) -> Result<()> {
        let port_file = self.port_file();
        if port_file.exists() {
            fs::remove_file(&port_file)?;
        }
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())?;
        let mut command = match skip::find_program("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command
                    .args(["--pdeathsig", "TERM"])
                    .arg(&self.spec.program);
                command
            }
            None => Command::new(&self.spec.program),
        };
        command
            .args(&self.spec.args)
            .env_clear()
            .current_dir(&self.dir);
        command
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.dir);
        command
            .env("IBEX_LOG__FORMAT", "json")
            .env("IBEX_NODE_NAME", &self.spec.name)
            .env("IBEX_PORT_FILE", &port_file);
        if let Some(level) = std::env::var_os("IBEX_LOG") {
            command.env("IBEX_LOG", level);
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        self.child = Some(
            command
                .spawn()
                .with_context(|| format!("start {}", self.spec.program.display()))?,
        );
        Ok(())
    }

    /// Waits until the port file is there and `/readyz` says yes.
    pub(crate) fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        let mut why = "no port file yet".to_owned();
        loop {
            if let Some(status) = self.exited()? {
                bail!(
                    "{} ended at start with {status}:\n{}",
                    self.spec.name,
                    self.log_tail()
                );
            }
            if let Ok(text) = fs::read_to_string(self.port_file()) {
                self.ports = toml::from_str(&text)
                    .with_context(|| format!("port file of {}: {text:?}", self.spec.name))?;
                match self.readiness() {
                    Ok(()) => return Ok(()),
                    Err(error) => why = format!("{error:#}"),
                }
            }
            ensure!(
                Instant::now() < deadline,
                "{} is not ready after {START_PATIENCE:?} ({why}):\n{}",
                self.spec.name,
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn readiness(&self) -> Result<()> {
        let Some(admin) = self.admin() else {
            return Ok(());
        };
        let answer = http::get(admin, "/readyz")?;
        ensure!(answer.status == 200, "/readyz: {}", answer.text().trim());
        Ok(())
    }

    /// Address of the admin port, once it is ready.
    pub(crate) fn admin(&self) -> Option<SocketAddr> {
        self.ports.get("admin")?.parse().ok()
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn port_file(&self) -> PathBuf {
        self.dir
            .join("run")
            .join(format!("{}.ports.toml", self.spec.name))
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.dir.join("log").join(format!("{}.log", self.spec.name))
    }

    fn log_text(&self) -> String {
        fs::read(self.log_file())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn log_tail(&self) -> String {
        let text = self.log_text();
        let lines: Vec<&str> = text.lines().collect();
        lines
            .iter()
            .rev()
            .take(15)
            .rev()
            .map(|line| format!("    {line}\n"))
            .collect()
    }

    /// Lines of level WARN and above since the last call.
    pub(crate) fn new_alarms(&mut self) -> Vec<Line> {
        let text = self.log_text();
        let new = text.get(self.log_read..).unwrap_or_default();
        // A line that is being written is read next time.
        let whole = new.rfind('\n').map_or(0, |at| at + 1);
        self.log_read += whole;
        let lines = log::parse(&new[..whole]);
        lines.into_iter().filter(Line::is_alarming).collect()
    }

    /// How it ended, if it did.
    pub(crate) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        let Some(child) = self.child.as_mut() else {
            return Ok(None);
        };
        Ok(child.try_wait()?)
    }

    /// Sends SIGTERM.
    pub(crate) fn ask_to_stop(&mut self) -> Result<()> {
        if self.exited()?.is_none()
            && let Some(child) = &self.child
        {
            kill_process(Pid::from_child(child), Signal::TERM)
                .with_context(|| format!("stop {}", self.spec.name))?;
        }
        Ok(())
    }

    /// Waits for the end after [`Self::ask_to_stop`]; kills what does not end.
    pub(crate) fn wait_stopped(&mut self) -> Result<Duration> {
        let start = Instant::now();
        let Some(mut child) = self.child.take() else {
            return Ok(Duration::ZERO);
        };
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if start.elapsed() > STOP_PATIENCE {
                child.kill()?;
                child.wait()?;
                bail!(
                    "{} did not stop within {STOP_PATIENCE:?} and was killed",
                    self.spec.name
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        ensure!(
            status.code() == Some(0),
            "{} stopped with {status}:\n{}",
            self.spec.name,
            self.log_tail()
        );
        Ok(start.elapsed())
    }

    /// Ends it with SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<()> {
        let mut child = self
            .child
            .take()
            .with_context(|| format!("{} does not run", self.spec.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Starts it again on the same port and state and waits until it is ready.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.child = None;
        self.spawn()?;
        self.wait_ready()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // What is left here was not stopped in order; it must not outlive the demo in any case.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
