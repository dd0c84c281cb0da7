//! The whole family as processes: which instances there are, in which order they start, and what the demo does with all of them at once.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::layout::{self, Layout};
use super::process::Process;

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Stack {
    pub(crate) layout: Layout,
    processes: Vec<Process>,
}

impl Stack {
    /// Starts every daemon below the site, waits for each, and lays out the file store.
    pub(crate) fn start_ground(layout: Layout) -> Result<Self> {
        let mut stack = Self {
            layout,
            processes: Vec::new(),
        };
        stack.start_all(&layout::GROUND.concat())?;
        stack.layout.prepare_files()?;
        Ok(stack)
    }

    /// Starts the site's workers; its databases are made by now.
    pub(crate) fn start_workers(&mut self) -> Result<()> {
        self.start_all(&layout::WORKERS.concat())
    }

    /// Starts the site and the balancer.
    pub(crate) fn start_site(&mut self) -> Result<()> {
        self.start_all(&layout::SITE.concat())?;
        self.start_all(&layout::FRONT.concat())
    }

    /// Starts processes that do not need each other at once, then waits for all of them.
    fn start_all(&mut self, names: &[&str]) -> Result<()> {
        let first = self.processes.len();
        for name in names {
            let spec = self.layout.spec(name)?;
            self.processes
                .push(Process::start(spec, self.layout.dir.clone())?);
        }
        for process in &mut self.processes[first..] {
            process.wait_ready()?;
            let place = process
                .spec
                .addr
                .map(|addr| addr.to_string())
                .unwrap_or_default();
            eprintln!(
                "  {:<12} {:<16} pid {}",
                process.spec.name,
                place,
                process.pid().unwrap_or_default()
            );
        }
        Ok(())
    }

    pub(crate) fn all(&self) -> &[Process] {
        &self.processes
    }

    pub(crate) fn all_mut(&mut self) -> &mut [Process] {
        &mut self.processes
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Result<&mut Process> {
        self.processes
            .iter_mut()
            .find(|process| process.spec.name == name)
            .with_context(|| format!("no process {name}"))
    }

    pub(crate) fn addr(&self, name: &str) -> Result<std::net::SocketAddr> {
        self.layout.addr(name)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.layout.dir
    }

    /// The file into which the mail receiver writes.
    pub(crate) fn mail_dir(&self) -> PathBuf {
        self.layout.dir.join("mail")
    }

    /// Stops everything, the front first and the ground last, and answers what did not stop cleanly.
    pub(crate) fn stop(&mut self) -> Vec<String> {
        let mut complaints = Vec::new();
        for layer in [layout::FRONT, layout::SITE, layout::WORKERS, layout::GROUND] {
            let names = layer.concat();
            let mut stopping: Vec<&mut Process> = self
                .processes
                .iter_mut()
                .filter(|process| names.contains(&process.spec.name.as_str()))
                .collect();
            for process in &mut stopping {
                complaints.extend(
                    process
                        .ask_to_stop()
                        .err()
                        .map(|error| format!("{error:#}")),
                );
            }
            for process in &mut stopping {
                complaints.extend(
                    process
                        .wait_stopped()
                        .err()
                        .map(|error| format!("{error:#}")),
                );
            }
        }
        self.processes.clear();
        complaints
    }
}
