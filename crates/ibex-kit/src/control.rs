//! The control thread: signals, admin port, watchdog pings, one tick a second.
//!
//! Owns a small runtime of its own, so that a saturated data runtime can neither delay a stop nor hide from the watchdog.
//! It starts before anything that takes time; it lives until the process ends.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use crate::Kit;
use crate::admin;
use crate::failure::Failure;
use crate::listen::Listener;
use crate::logging;

/// Stop requests so far: the second means "now", the third ends the process at once.
static STOPS: AtomicU32 = AtomicU32::new(0);

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    quit: Signal,
    usr1: Signal,
    usr2: Signal,
}

impl Signals {
    fn install() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            usr1: signal(SignalKind::user_defined1())?,
            usr2: signal(SignalKind::user_defined2())?,
        })
    }
}

/// Starts the thread; returns when the signal handlers are installed.
pub(crate) fn start(kit: &Kit, listeners: Vec<Listener>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(8)
        .thread_name("admin")
        .build()
        .map_err(|error| Failure::io(format!("control runtime: {error}")))?;
    let (installed, wait) = std::sync::mpsc::channel();
    let kit = kit.clone();
    let thread = std::thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || {
            runtime.block_on(async move {
                let signals = Signals::install();
                let failed = signals.as_ref().err().map(ToString::to_string);
                if installed.send(failed).is_err() {
                    return;
                }
                let Ok(signals) = signals else { return };
                for listener in listeners {
                    tokio::spawn(admin::serve(kit.clone(), listener));
                }
                tokio::spawn(tick(kit.clone()));
                tokio::spawn(watchdog(kit.clone()));
                obey(kit, signals).await;
            });
        });
    thread.map_err(|error| Failure::io(format!("control thread: {error}")))?;
    match wait.recv() {
        Ok(None) => Ok(()),
        Ok(Some(error)) => Err(Failure::io(format!("signal handlers: {error}"))),
        Err(_) => Err(Failure::bug("control thread ended at its start")),
    }
}

async fn obey(kit: Kit, mut signals: Signals) {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => stop(&kit, "SIGTERM"),
            _ = signals.interrupt.recv() => stop(&kit, "SIGINT"),
            _ = signals.hangup.recv() => {
                let kit = kit.clone();
                // Reading files may block; the outcome is logged inside.
                tokio::task::spawn_blocking(move || drop(kit.reload()));
            }
            _ = signals.quit.recv() => {
                dump(&kit);
                std::process::abort();
            }
            _ = signals.usr1.recv() => kit.usr1(),
            _ = signals.usr2.recv() => kit.set_lame_duck(!kit.is_lame_duck()),
        }
    }
}

fn stop(kit: &Kit, reason: &str) {
    match STOPS.fetch_add(1, Ordering::SeqCst) {
        0 => kit.begin_drain(reason),
        1 => {
            warn!(reason, "second stop request, stopping now");
            kit.begin_drain(reason);
            kit.inner.draining.cancel();
            kit.inner.cut.cancel();
        }
        _ => {
            #[expect(
                clippy::exit,
                reason = "the third request means: end at once, as the signal's default action would"
            )]
            std::process::exit(130);
        }
    }
}

/// SIGQUIT: what every task is at, then an abort.
fn dump(kit: &Kit) {
    error!(
        tasks = kit.inner.tasks.view().len(),
        busy = kit.inner.tasks.busy_count(),
        "SIGQUIT, aborting after this dump"
    );
    for task in kit.inner.tasks.view() {
        error!(task = %task.name, age = task.age_seconds, idle = task.idle_seconds, polls = task.polls, "task");
    }
    for (name, age) in kit.inner.health.stalled(Duration::ZERO) {
        error!(name, age = age.as_secs_f64(), "loop last turned");
    }
}

/// Once a second: suppressed messages, stall histograms, the status line.
async fn tick(kit: Kit) {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        logging::tell_suppressed();
        kit.inner.health.observe();
        if let crate::Phase::Draining { deadline } = *kit.inner.phase.borrow() {
            kit.inner
                .notify
                .extend(deadline.saturating_duration_since(Instant::now()) + DRAIN_SLACK);
        } else if kit.inner.was_ready.load(Ordering::SeqCst) && kit.inner.notify.is_connected() {
            kit.inner.notify.status(&kit.status_text());
        }
    }
}

/// What a drain may take beyond its deadline, for closing stores.
const DRAIN_SLACK: Duration = Duration::from_secs(10);

/// Pings the service manager three times per `WATCHDOG_USEC`, but only while every loop turns.
async fn watchdog(kit: Kit) {
    let Some(limit) = kit.inner.watchdog.filter(|limit| !limit.is_zero()) else {
        return;
    };
    let mut interval = tokio::time::interval(limit / 3);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = false;
    loop {
        interval.tick().await;
        let stall = kit.common().watchdog.stall.std().min(limit);
        let stalled = kit.inner.health.stalled(stall);
        if stalled.is_empty() {
            told = false;
            kit.inner.notify.watchdog();
        } else if !told {
            told = true;
            let names: Vec<&str> = stalled.iter().map(|(name, _)| name.as_str()).collect();
            error!(loops = names.join(","), "loops stalled, no watchdog ping");
        }
    }
}

impl Kit {
    /// Loads the configuration again; logs what came of it. The service manager is told of the start and the end in any case.
    pub(crate) fn reload(&self) -> Result<crate::reload::Report, String> {
        if matches!(
            *self.inner.phase.borrow(),
            crate::Phase::Draining { .. } | crate::Phase::Stopping
        ) {
            let refused = "reload refused while draining".to_owned();
            warn!("{refused}");
            return Err(refused);
        }
        self.inner.notify.reloading();
        let result = self.inner.reloader.reload();
        let outcome = match result {
            Ok((report, mut common)) => {
                if common.limits.connections != self.common().limits.connections {
                    crate::limits::raise_open_files(&mut common);
                }
                if let Err(error) = logging::set_level(&common.log.level) {
                    warn!(error, "log level stays");
                }
                self.inner.common.store(std::sync::Arc::new(common));
                info!(changed = report.changed.join(","), "configuration reloaded");
                for key in &report.needs_restart {
                    warn!(key = %key, "needs restart");
                }
                Ok(report)
            }
            Err(error) => {
                error!(error = %error, "configuration not reloaded, the old one stays");
                Err(error)
            }
        };
        if self.inner.was_ready.load(Ordering::SeqCst) {
            self.inner.notify.ready(&self.status_text());
        }
        outcome
    }

    /// Lame duck: `/readyz` says no, everything is served on.
    pub(crate) fn set_lame_duck(&self, lame: bool) {
        if self.inner.lame.swap(lame, Ordering::SeqCst) != lame {
            info!(lame, "lame duck");
        }
    }

    fn status_text(&self) -> String {
        let line = crate::lock(&self.inner.status).clone();
        line.map_or_else(
            || format!("serving, {} connections", self.inner.connections.count()),
            |line| line(),
        )
    }

    fn usr1(&self) {
        let action = crate::lock(&self.inner.usr1).clone();
        if let Some(action) = action {
            return action();
        }
        let tasks: Vec<String> = self
            .inner
            .tasks
            .names()
            .into_iter()
            .map(|(name, count)| format!("{name}={count}"))
            .collect();
        let phase = self.inner.phase.borrow().name();
        info!(
            phase,
            ready = admin::readiness(&self.inner).is_ready(),
            connections = self.inner.connections.count(),
            busy = self.inner.tasks.busy_count(),
            tasks = tasks.join(","),
            "summary"
        );
    }
}
