//! [`Kit`]: what a daemon's `run` is given, a cheap handle to everything the process shares.
//!
//! Owns the assembly of the parts (listeners, metrics, health, tasks, workers, pages) and the small methods daemons call;
//! each part has its own module. It decides no life cycle: [`crate::main`] and the signals do.

use std::any::Any;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::about::About;
use crate::accept::ListenerMetrics;
use crate::config::common::Common;
use crate::config::types::{ListenAddr, OptionalAddr};
use crate::connections::Connections;
use crate::doors::Bound;
use crate::failure::Failure;
use crate::health::{Check, Health, Heartbeat};
use crate::listen::{self, Listener, OwnSockets};
use crate::lock;
use crate::metrics::Metrics;
use crate::metrics::cap::LabelCap;
use crate::notify::Notify;
use crate::page::Section;
use crate::passed::Passed;
use crate::phase::Phase;
use crate::reload::Reloader;
use crate::state::StateDir;
use crate::tasks::{BusyGuard, Tasks};
use crate::worker::{self, Worker, WorkerHandle, Workers};

type JsonPage = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;
type HtmlPage = Arc<dyn Fn() -> Vec<Section> + Send + Sync>;

/// What every daemon may rely on. Cheap to clone.
#[derive(Clone)]
pub struct Kit {
    pub(crate) inner: Arc<Inner>,
}

impl fmt::Debug for Kit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kit")
            .field("daemon", &self.inner.about.name)
            .field("node", &self.inner.node)
            .finish_non_exhaustive()
    }
}

/// Everything behind the handle.
pub(crate) struct Inner {
    pub(crate) about: About,
    pub(crate) node: String,
    pub(crate) started: Instant,
    pub(crate) common: ArcSwap<Common>,
    pub(crate) phase: watch::Sender<Phase>,
    /// Whether the daemon was told to say "not ready" while it serves on.
    pub(crate) lame: AtomicBool,
    pub(crate) was_ready: AtomicBool,
    pub(crate) draining: CancellationToken,
    pub(crate) cut: CancellationToken,
    pub(crate) stop_reason: OnceLock<String>,
    pub(crate) tasks: Tasks,
    pub(crate) health: Health,
    pub(crate) workers: Workers,
    pub(crate) metrics: Metrics,
    pub(crate) connections: Connections,
    pub(crate) notify: Notify,
    pub(crate) watchdog: Option<Duration>,
    pub(crate) reloader: Reloader,
    pub(crate) json: Mutex<Vec<(String, JsonPage)>>,
    pub(crate) pages: Mutex<Vec<HtmlPage>>,
    pub(crate) status: Mutex<Option<Arc<dyn Fn() -> String + Send + Sync>>>,
    pub(crate) usr1: Mutex<Option<Arc<dyn Fn() + Send + Sync>>>,
    /// Listener names and addresses, in the order of publication.
    ports: Mutex<Vec<(String, String)>>,
    listener_metrics: OnceLock<ListenerMetrics>,
    port_file: Option<PathBuf>,
    passed: Mutex<std::collections::BTreeMap<String, Vec<std::os::fd::OwnedFd>>>,
    pub(crate) own_sockets: OwnSockets,
    state: StateDir,
}

/// What a kit is made of; see [`Inner`].
pub(crate) struct Parts {
    pub(crate) about: About,
    pub(crate) common: Common,
    pub(crate) reloader: Reloader,
    pub(crate) passed: Passed,
    pub(crate) port_file: Option<PathBuf>,
}

impl Kit {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts {
            about,
            common,
            reloader,
            passed,
            port_file,
        } = parts;
        let node = node_name(&common);
        let state = StateDir::new(&about, &common.state_dir);
        let inner = Inner {
            about,
            node,
            started: Instant::now(),
            common: ArcSwap::from_pointee(common),
            phase: watch::Sender::new(Phase::Starting),
            lame: AtomicBool::new(false),
            was_ready: AtomicBool::new(false),
            draining: CancellationToken::new(),
            cut: CancellationToken::new(),
            stop_reason: OnceLock::new(),
            tasks: Tasks::default(),
            health: Health::default(),
            workers: Workers::default(),
            metrics: Metrics::default(),
            connections: Connections::default(),
            notify: Notify::open(passed.notify_socket.as_deref()),
            watchdog: passed.watchdog,
            reloader,
            json: Mutex::default(),
            pages: Mutex::default(),
            status: Mutex::default(),
            usr1: Mutex::default(),
            ports: Mutex::default(),
            listener_metrics: OnceLock::new(),
            port_file,
            passed: Mutex::new(passed.sockets),
            own_sockets: OwnSockets::default(),
            state,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// A kit for a unit test inside a runtime: defaults, no admin port, no signals, no port file.
    #[must_use]
    pub fn for_test(about: About) -> Self {
        let parts = Parts {
            about,
            common: Common::default(),
            reloader: Reloader::default(),
            passed: Passed::default(),
            port_file: None,
        };
        Self::new(parts)
    }

    /// Binds listeners, or takes the passed ones: `fd:NAME` addresses, or all sockets passed as `name` when the addresses are
    /// the defaults. They are published in the port file as `name`, `name_1`, …
    ///
    /// # Errors
    /// An address is busy or not of this machine (exit 69), or a passed socket is missing (exit 78).
    pub fn listen(&self, name: &str, addrs: &[ListenAddr]) -> Result<Vec<Listener>, Failure> {
        let mut groups = self.listen_groups(name, addrs, 1)?;
        Ok(groups.pop().unwrap_or_default())
    }

    /// Like [`Kit::listen`], `groups` times over the same addresses with SO_REUSEPORT: one group for each thread.
    /// Unix sockets cannot be shared so and appear in the first group only; passed sockets are dealt out in turn.
    ///
    /// # Errors
    /// See [`Kit::listen`].
    pub fn listen_reuseport(
        &self,
        name: &str,
        addrs: &[ListenAddr],
        groups: usize,
    ) -> Result<Vec<Vec<Listener>>, Failure> {
        self.listen_groups(name, addrs, groups)
    }

    /// Binds listeners, or takes the passed ones, as [`Kit::listen`] does, to be served by [`Bound::serve`] or [`Bound::follow`]: these follow
    /// the addresses of reloaded configurations.
    ///
    /// # Errors
    /// See [`Kit::listen`].
    pub fn bind(&self, name: &'static str, addrs: &[ListenAddr]) -> Result<Bound, Failure> {
        let by_name = self.is_passed(name);
        let passed_addr = [ListenAddr::Fd(name.to_owned())];
        let mut sockets = Vec::new();
        for addr in if by_name { &passed_addr } else { addrs } {
            let mut groups = [Vec::new()];
            self.listen_one(addr, &mut groups)?;
            let [listeners] = groups;
            sockets.push((addr.clone(), listeners));
        }
        self.announce(name, sockets.iter().flat_map(|(_, listeners)| listeners));
        Ok(Bound::new(
            self,
            name,
            by_name.then(|| addrs.to_vec()),
            sockets,
        ))
    }

    fn listen_groups(
        &self,
        name: &str,
        addrs: &[ListenAddr],
        groups: usize,
    ) -> Result<Vec<Vec<Listener>>, Failure> {
        let groups = groups.max(1);
        let mut out: Vec<Vec<Listener>> = (0..groups).map(|_| Vec::new()).collect();
        let passed_addr = [ListenAddr::Fd(name.to_owned())];
        for addr in if self.is_passed(name) {
            &passed_addr
        } else {
            addrs
        } {
            self.listen_one(addr, &mut out)?;
        }
        self.announce(name, out.iter().flatten());
        Ok(out)
    }

    /// Whether sockets passed under the listener's name stand for its addresses: nobody set these.
    fn is_passed(&self, name: &str) -> bool {
        !self.inner.reloader.sets_listener(name) && lock(&self.inner.passed).contains_key(name)
    }

    fn announce<'a>(&self, name: &str, listeners: impl Iterator<Item = &'a Listener>) {
        let mut published = Vec::new();
        for listener in listeners {
            let address = listener.address();
            if !published.contains(&address) {
                info!(listener = name, address = %address, "listening");
                published.push(address);
            }
        }
        for address in published {
            self.publish(name, address);
        }
    }

    fn listen_one(&self, addr: &ListenAddr, out: &mut [Vec<Listener>]) -> Result<(), Failure> {
        let groups = out.len();
        if let ListenAddr::Fd(fd_name) = addr
            && let Some(fds) = lock(&self.inner.passed).remove(fd_name)
        {
            for (index, fd) in fds.into_iter().enumerate() {
                let listener = listen::adopt(fd, fd_name)?;
                if let Some(group) = out.get_mut(index % groups) {
                    group.push(listener);
                }
            }
            return Ok(());
        }
        let first = listen::bind(addr, groups > 1, "--listen")?;
        let again: Vec<ListenAddr> = first
            .iter()
            .filter_map(|listener| listener.tcp_addr())
            .filter_map(|addr| addr.to_string().parse().ok())
            .collect();
        if let ListenAddr::Unix(path) = addr {
            self.inner.own_sockets.add(path.clone());
        }
        let mut rest = out.iter_mut();
        if let Some(group) = rest.next() {
            group.extend(first);
        }
        for group in rest {
            for addr in &again {
                group.extend(listen::bind(addr, true, "--listen")?);
            }
        }
        Ok(())
    }

    /// Binds datagram sockets (non-blocking), or takes the passed ones of that name; published as `name`, `name_1`, …
    ///
    /// # Errors
    /// An address is busy or not of this machine (exit 69).
    pub fn listen_udp(
        &self,
        name: &str,
        addrs: &[ListenAddr],
    ) -> Result<Vec<std::net::UdpSocket>, Failure> {
        let mut sockets = Vec::new();
        let mut passed = lock(&self.inner.passed);
        let mut streams = Vec::new();
        for fd in passed.remove(name).unwrap_or_default() {
            match listen::adopt_udp(fd) {
                Ok(socket) => sockets.push(socket),
                Err(fd) => streams.push(fd),
            }
        }
        // One unit may pass a stream and a datagram socket under one name.
        if !streams.is_empty() {
            passed.insert(name.to_owned(), streams);
        }
        drop(passed);
        if sockets.is_empty() {
            for addr in addrs {
                sockets.extend(listen::bind_udp(addr, "--listen")?);
            }
        }
        for socket in &sockets {
            let address = socket
                .local_addr()
                .map_or_else(|_| "unknown".to_owned(), |addr| addr.to_string());
            info!(listener = name, address = %address, "listening (udp)");
            self.publish(name, address);
        }
        Ok(sockets)
    }

    /// Publishes an address in the port file under `name`, or `name_1` … if that is taken. Listeners made by the kit are
    /// published already; this is for others, such as UDP.
    pub fn publish(&self, name: &str, address: String) {
        lock(&self.inner.ports).push((name.to_owned(), address));
    }

    /// Puts these in the place of all addresses published under `name`, in the port file too.
    pub(crate) fn republish(&self, name: &str, addresses: Vec<String>) {
        let mut ports = lock(&self.inner.ports);
        ports.retain(|(published, _)| published != name);
        ports.extend(
            addresses
                .into_iter()
                .map(|address| (name.to_owned(), address)),
        );
        drop(ports);
        if self.inner.was_ready.load(Ordering::SeqCst)
            && let Err(error) = self.write_port_file()
        {
            warn!(error = %error, "addresses not published");
        }
    }

    /// The published addresses: a name of its own for each, and the address.
    #[must_use]
    pub fn addresses(&self) -> Vec<(String, String)> {
        let mut named: Vec<(String, String)> = Vec::new();
        for (name, address) in lock(&self.inner.ports).iter() {
            let mut unique = name.clone();
            let mut number = 1;
            while named.iter().any(|(taken, _)| *taken == unique) {
                unique = format!("{name}_{number}");
                number += 1;
            }
            named.push((unique, address.clone()));
        }
        named
    }

    pub(crate) fn listener_metrics(&self) -> ListenerMetrics {
        let metrics = &self.inner.listener_metrics;
        metrics
            .get_or_init(|| ListenerMetrics::register(self))
            .clone()
    }

    /// The metrics of the process.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// A cap for label values that come from users, as `metrics.max_names` says.
    #[must_use]
    pub fn label_cap(&self) -> LabelCap {
        let max = self.inner.common.load().metrics.max_names;
        LabelCap::new(usize::try_from(max).unwrap_or(usize::MAX))
    }

    /// Starts a tracked task; its panic ends the process. A drain waits for it until the deadline, so a task that runs for
    /// ever must end on [`Kit::draining`], or be started by [`Kit::spawn_background`].
    pub fn spawn<F>(&self, name: &str, future: F) -> tokio::task::JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.inner.tasks.spawn(name, future)
    }

    /// Starts a tracked task that is dropped as soon as the daemon drains: tickers, refreshers, watchers.
    pub fn spawn_background<F>(&self, name: &str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let draining = self.draining();
        self.inner.tasks.spawn(name, async move {
            tokio::select! { () = future => {} () = draining.cancelled() => {} }
        });
    }

    /// Starts a tracked thread of the operating system, for work that is not a task: an event loop of its own, blocking I/O.
    /// Its panic ends the process, a drain waits for it until the deadline, and it shows among the tasks.
    ///
    /// # Errors
    /// The system gives no thread (exit 74).
    pub fn thread(
        &self,
        name: &str,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<std::thread::JoinHandle<()>, Failure> {
        let tracked = self.inner.tasks.tracked(name, work);
        let builder = std::thread::Builder::new().name(name.to_owned());
        builder
            .spawn(tracked)
            .map_err(|error| Failure::io(format!("thread {name}: {error}")))
    }

    /// Cancelled when the daemon shall stop accepting and finish its work.
    #[must_use]
    pub fn draining(&self) -> CancellationToken {
        self.inner.draining.clone()
    }

    /// Cancelled at the drain deadline: drop what is left.
    #[must_use]
    pub fn cut(&self) -> CancellationToken {
        self.inner.cut.clone()
    }

    /// Ask for a graceful stop from inside, such as a protocol's `shutdown` command.
    pub fn stop(&self, reason: &str) {
        self.begin_drain(reason);
    }

    /// Held while work is in flight; a drain waits until all are dropped, at most until its deadline.
    #[must_use]
    pub fn busy(&self) -> BusyGuard {
        self.inner.tasks.busy()
    }

    /// Registers a loop that must turn at least every few seconds, for `/healthz` and the watchdog.
    #[must_use]
    pub fn heartbeat(&self, name: &str) -> Heartbeat {
        self.inner.health.heartbeat(name)
    }

    /// Registers a dependency for `/readyz`; it starts as ok.
    #[must_use]
    pub fn check(&self, name: &str) -> Check {
        self.inner.health.check(name)
    }

    /// Starts a background worker: visible at `/-/workers`, pausable, throttled, stopped between steps at a drain.
    pub fn worker<W: Worker>(&self, worker: W) -> WorkerHandle {
        let name = worker.name();
        let (entry, handle) = self.inner.workers.add(name.clone(), worker.status());
        self.inner.tasks.spawn(
            &format!("worker {name}"),
            worker::run(worker, entry, self.draining()),
        );
        handle
    }

    /// Adds a JSON page to the admin port, such as `/-/jobs`.
    pub fn json(&self, path: &str, page: impl Fn() -> serde_json::Value + Send + Sync + 'static) {
        lock(&self.inner.json).push((path.to_owned(), Arc::new(page)));
    }

    /// Adds sections to the status page.
    pub fn page(&self, page: impl Fn() -> Vec<Section> + Send + Sync + 'static) {
        lock(&self.inner.pages).push(Arc::new(page));
    }

    /// The short line for `systemctl status`, such as `serving, 1234 connections`.
    pub fn status_line(&self, line: impl Fn() -> String + Send + Sync + 'static) {
        *lock(&self.inner.status) = Some(Arc::new(line));
    }

    /// What SIGUSR1 does instead of writing the summary to the log.
    pub fn on_usr1(&self, action: impl Fn() + Send + Sync + 'static) {
        *lock(&self.inner.usr1) = Some(Arc::new(action));
    }

    /// Called after each successful reload with the new configuration; `restart` keys in it still have their old values.
    pub fn on_reload<C: Any + Send + Sync>(&self, action: impl Fn(&C) + Send + Sync + 'static) {
        self.inner.reloader.subscribe(move |config| {
            if let Some(config) = config.downcast_ref::<C>() {
                action(config);
            }
        });
    }

    /// The open client connections, for `/-/connections`.
    #[must_use]
    pub fn connections(&self) -> &Connections {
        &self.inner.connections
    }

    /// The name of this instance.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.inner.node
    }

    /// The constant facts of this daemon.
    #[must_use]
    pub fn about(&self) -> &About {
        &self.inner.about
    }

    /// The kit's own tables of the configuration now in force: limits, shutdown, …
    #[must_use]
    pub fn common(&self) -> Arc<Common> {
        self.inner.common.load_full()
    }

    /// The state directory, made (0750) and locked at the first call.
    ///
    /// # Errors
    /// It cannot be made or locked (exit 74); the message names the process that holds it.
    pub fn state_dir(&self) -> Result<PathBuf, Failure> {
        self.inner.state.open()
    }

    /// Checks the version of what lies in the state directory against ours, and writes ours if there is none yet.
    /// Returns the version found: an older one is the daemon's to migrate, then [`Kit::set_state_format`].
    ///
    /// # Errors
    /// The directory cannot be used (exit 74), or a newer program wrote it (exit 78).
    pub fn state_format(&self, ours: u32) -> Result<u32, Failure> {
        self.inner.state.format(&self.inner.about, ours)
    }

    /// Writes the version of what lies in the state directory, after a migration.
    ///
    /// # Errors
    /// The file cannot be written (exit 74).
    pub fn set_state_format(&self, version: u32) -> Result<(), Failure> {
        self.inner.state.set_format(&self.inner.about, version)
    }

    /// The phase, to watch.
    #[must_use]
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.inner.phase.subscribe()
    }

    /// Whether the daemon is leaving or was told to say it is not ready.
    #[must_use]
    pub fn is_lame_duck(&self) -> bool {
        self.inner.lame.load(Ordering::Relaxed)
    }

    /// A long migration goes on: ask the service manager for this much more time.
    pub fn extend_startup(&self, time: Duration, status: &str) {
        self.inner.notify.extend(time);
        self.inner.notify.status(status);
    }

    /// Call once when everything accepts: writes the port file, says `READY=1`, `/readyz` turns 200.
    ///
    /// # Errors
    /// The port file cannot be written, or a passed socket was wanted by nobody.
    #[expect(
        clippy::unused_async,
        reason = "part of the async start; a store of addresses may wait one day"
    )]
    pub async fn ready(&self) -> Result<(), Failure> {
        self.ready_now()
    }

    /// [`Kit::ready`] outside of a runtime.
    ///
    /// # Errors
    /// See [`Kit::ready`].
    pub fn ready_now(&self) -> Result<(), Failure> {
        if let Some(name) = lock(&self.inner.passed).keys().next() {
            return Err(Failure::config(format!(
                "passed socket {name:?} is wanted by no listener (listen = [\"fd:{name}\"])"
            )));
        }
        self.write_port_file()?;
        let started = self.inner.phase.send_if_modified(|phase| {
            let starting = *phase == Phase::Starting;
            if starting {
                *phase = Phase::Running;
            }
            starting
        });
        self.inner.was_ready.store(true, Ordering::SeqCst);
        if started {
            self.inner.notify.ready("serving");
            info!("ready in {}ms", self.inner.started.elapsed().as_millis());
        }
        Ok(())
    }

    fn write_port_file(&self) -> Result<(), Failure> {
        let Some(path) = &self.inner.port_file else {
            return Ok(());
        };
        let addresses = self.addresses().into_iter();
        let table: toml::Table = addresses
            .map(|(name, addr)| (name, toml::Value::String(addr)))
            .collect();
        let temporary = path.with_extension(format!("tmp{}", std::process::id()));
        let written = std::fs::write(&temporary, table.to_string())
            .and_then(|()| std::fs::rename(&temporary, path));
        written.map_err(|error| {
            Failure::io(format!(
                "port file {}: {error} (IBEX_PORT_FILE)",
                path.display()
            ))
        })
    }

    /// Starts the drain: STOPPING, not ready, then after the delay no more accepting. The first reason counts.
    pub(crate) fn begin_drain(&self, reason: &str) {
        if self.inner.stop_reason.set(reason.to_owned()).is_err() {
            return;
        }
        info!(reason, "stopping");
        let shutdown = self.inner.common.load().shutdown.clone();
        let deadline = Instant::now() + shutdown.delay.std() + shutdown.grace.std();
        self.inner.phase.send_replace(Phase::Draining { deadline });
        self.inner.notify.stopping("draining");
        if shutdown.delay.is_zero() {
            self.inner.draining.cancel();
            return;
        }
        let inner = Arc::clone(&self.inner);
        let delay = shutdown.delay.std();
        // The delay runs on its own thread because a stop may be asked for from outside of any runtime.
        let spawned = std::thread::Builder::new()
            .name("drain-delay".to_owned())
            .spawn(move || {
                std::thread::park_timeout(delay);
                inner.draining.cancel();
            });
        if spawned.is_err() {
            self.inner.draining.cancel();
        }
    }

    /// A unix socket bound before the kit existed, to be removed at the end.
    pub(crate) fn own_unix_socket(&self, addr: &OptionalAddr) {
        if let OptionalAddr::At(ListenAddr::Unix(path)) = addr {
            self.inner.own_sockets.add(path.clone());
        }
    }

    pub(crate) fn remove_own_sockets(&self) {
        self.inner.own_sockets.remove_all();
    }
}

/// The name of this instance: as configured, else the host's.
pub(crate) fn node_name(common: &Common) -> String {
    if common.node_name.is_empty() {
        rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned()
    } else {
        common.node_name.clone()
    }
}
