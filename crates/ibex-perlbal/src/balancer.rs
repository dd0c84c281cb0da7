//! The running balancer: one picture of the configuration, and the move to the next.
//!
//! Owns the services by name, the listeners, and what all connections share. A change of configuration is a new model; the
//! move opens what is missing first and can fail without having changed anything; then it is one swap. Requests keep the
//! settings they started with. Listeners whose address stays are kept, even when another service takes it over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use ibex_kit::{AsyncListener, Kit, ListenAddr};
use ibex_perlbal_core::dispatcher::NodeSpec;
use ibex_perlbal_proto::command::Error;
use ibex_perlbal_proto::tunable::Role;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::client;
use crate::config::Config;
use crate::manage;
use crate::metrics::Metrics;
use crate::model::{self, BackendVersion, FileMark, Model, Settings};
use crate::nodes::NodeBook;
use crate::registry::Registry;
use crate::service::{Admission, Service};
use crate::upload::{Progress, remove_leftovers};
use crate::upstream::{Targets, Verify};

/// The configuration as it runs.
pub(crate) struct Running {
    pub(crate) model: Model,
    pub(crate) services: BTreeMap<String, Arc<Service>>,
}

/// One listener and the service it feeds at the moment.
struct Listening {
    service: Arc<ArcSwap<Service>>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    /// As published, for `socks`.
    addresses: Vec<String>,
}

/// See the module.
pub(crate) struct Balancer {
    pub(crate) kit: Kit,
    pub(crate) state: ArcSwap<Running>,
    pub(crate) clients: Registry,
    pub(crate) book: Arc<NodeBook>,
    pub(crate) targets: Targets,
    pub(crate) progress: Progress,
    pub(crate) metrics: Metrics,
    /// `PERLBAL_DEBUG_BUFFERED_UPLOADS` is set.
    pub(crate) shows_upload_reasons: bool,
    pub(crate) started: Instant,
    pub(crate) started_unix: u64,
    pub(crate) cut: CancellationToken,
    config: ArcSwap<Config>,
    changes: tokio::sync::Mutex<()>,
    listening: Mutex<BTreeMap<String, Listening>>,
    keepers: Mutex<BTreeMap<String, JoinHandle<()>>>,
    ids: AtomicU64,
}

impl Balancer {
    pub(crate) fn new(kit: Kit, config: Config) -> Arc<Self> {
        let metrics = kit.metrics().with(Metrics::register);
        Arc::new(Self {
            state: ArcSwap::from_pointee(Running {
                model: Model::default(),
                services: BTreeMap::new(),
            }),
            clients: Registry::default(),
            book: Arc::default(),
            targets: Targets::default(),
            progress: Progress::default(),
            metrics,
            shows_upload_reasons: std::env::var_os("PERLBAL_DEBUG_BUFFERED_UPLOADS").is_some(),
            started: Instant::now(),
            started_unix: crate::clock::unix_secs(),
            cut: CancellationToken::new(),
            config: ArcSwap::from_pointee(config),
            changes: tokio::sync::Mutex::new(()),
            listening: Mutex::default(),
            keepers: Mutex::default(),
            ids: AtomicU64::new(0),
            kit,
        })
    }

    /// A number nobody else has, as text: for request ids and multipart boundaries.
    pub(crate) fn request_id(&self) -> String {
        let n = self.ids.fetch_add(1, Ordering::Relaxed);
        let hash =
            std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), n);
        format!("{:x}{hash:016x}{n:x}", self.started_unix)
    }

    /// Most connections to one reproxy target, 0 = no limit.
    pub(crate) fn reproxy_connections_max(&self, address: &str) -> usize {
        let state = self.state.load();
        let server = &state.model.server;
        let own = server.get(&format!("max_reproxy_connections({address})"));
        own.or_else(|| server.get("max_reproxy_connections"))
            .and_then(|v| v.parse().ok())
            .unwrap_or(0)
    }

    /// Reads the configuration and moves to it.
    pub(crate) async fn reload(self: &Arc<Self>, config: Option<Config>) -> Result<(), Error> {
        if let Some(config) = config {
            self.config.store(Arc::new(config));
        }
        let config = self.config.load_full();
        let model = tokio::task::spawn_blocking(move || {
            model::load(config.conf_file().as_deref(), &config.commands)
        })
        .await;
        let model = model
            .map_err(|e| Error::new(e.to_string()))?
            .map_err(|e| Error::new(e.to_string()))?;
        self.change(|current| {
            *current = model;
            Ok(())
        })
        .await
    }

    /// Changes the configuration in one step. When the change or the move fails nothing has changed.
    pub(crate) async fn change<R>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut Model) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let _one_at_a_time = self.changes.lock().await;
        let mut model = self.state.load().model.clone();
        let result = change(&mut model)?;
        self.move_to(model).await?;
        Ok(result)
    }

    async fn move_to(self: &Arc<Self>, model: Model) -> Result<(), Error> {
        let before = self.state.load_full();
        let services: BTreeMap<String, Arc<Service>> = model
            .services
            .iter()
            .map(|(name, m)| (name.clone(), self.service_for(&before, name, &model, m)))
            .collect();
        let wanted = wanted_listeners(&model)?;
        let opened = self.open_missing(&wanted)?;
        for (name, settings) in &model.services {
            clean_spool_directory(name, before.model.services.get(name), settings);
            if let Some(service) = services.get(name) {
                configure(service, Settings::compile(&model, settings), &model);
            }
        }
        self.keep_time(&services);
        let pools: Vec<NodeSpec> = model
            .pools
            .values()
            .flat_map(|p| p.nodes.iter().cloned())
            .collect();
        self.book
            .keep(|address| pools.iter().any(|n| *n.address == *address));
        self.state.store(Arc::new(Running {
            model,
            services: services.clone(),
        }));
        self.move_listeners(&wanted, opened, &services).await;
        Ok(())
    }

    fn service_for(
        &self,
        before: &Running,
        name: &str,
        model: &Model,
        settings: &model::ServiceModel,
    ) -> Arc<Service> {
        before.services.get(name).cloned().unwrap_or_else(|| {
            Service::new(
                name,
                Settings::compile(model, settings),
                Arc::clone(&self.book),
            )
        })
    }

    /// Opens the listeners that do not exist yet; on failure none stays open.
    fn open_missing(
        &self,
        wanted: &BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, Vec<AsyncListener>>, Error> {
        let mut opened = BTreeMap::new();
        for (key, service) in wanted {
            if self.lock_listening().contains_key(key) {
                continue;
            }
            let failed = |why: String| {
                Error::new(format!(
                    "Can't start service '{service}' on {}: {why}",
                    address_of_key(key)
                ))
            };
            let address: ListenAddr = listen_address(address_of_key(key))
                .parse()
                .map_err(failed)?;
            let listeners = self
                .kit
                .listen(service, &[address])
                .map_err(|e| failed(e.to_string()))?;
            let listeners: Result<Vec<AsyncListener>, _> = listeners
                .into_iter()
                .map(ibex_kit::Listener::into_tokio)
                .collect();
            opened.insert(key.clone(), listeners.map_err(|e| failed(e.to_string()))?);
        }
        Ok(opened)
    }

    fn lock_listening(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Listening>> {
        self.listening
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn move_listeners(
        self: &Arc<Self>,
        wanted: &BTreeMap<String, String>,
        opened: BTreeMap<String, Vec<AsyncListener>>,
        services: &BTreeMap<String, Arc<Service>>,
    ) {
        let mut stopped = Vec::new();
        {
            let mut listening = self.lock_listening();
            let gone: Vec<String> = listening
                .keys()
                .filter(|k| !wanted.contains_key(*k))
                .cloned()
                .collect();
            stopped.extend(gone.iter().filter_map(|k| listening.remove(k)));
            for (key, entry) in listening.iter() {
                if let Some(service) = wanted.get(key).and_then(|s| services.get(s)) {
                    entry.service.store(Arc::clone(service));
                }
            }
            for (key, listeners) in opened {
                if let Some(service) = wanted.get(&key).and_then(|s| services.get(s)) {
                    listening.insert(key, self.start(service, listeners));
                }
            }
        }
        for entry in stopped {
            entry.stop.cancel();
            for task in entry.tasks {
                // A task that is cancelled at the end of the process is as good as one that ended.
                let _ended = task.await.is_ok();
            }
        }
    }

    fn start(self: &Arc<Self>, service: &Arc<Service>, listeners: Vec<AsyncListener>) -> Listening {
        let target = Arc::new(ArcSwap::new(Arc::clone(service)));
        let stop = CancellationToken::new();
        let addresses = listeners.iter().map(AsyncListener::address).collect();
        let tasks = listeners
            .into_iter()
            .map(|listener| {
                self.kit.spawn(
                    "accept",
                    accept(
                        Arc::clone(self),
                        listener,
                        Arc::clone(&target),
                        stop.clone(),
                    ),
                )
            })
            .collect();
        Listening {
            service: target,
            stop,
            tasks,
            addresses,
        }
    }

    /// Addresses listened on, with the service of each.
    pub(crate) fn listeners(&self) -> Vec<(String, String)> {
        let listening = self.lock_listening();
        listening
            .values()
            .flat_map(|l| {
                l.addresses
                    .iter()
                    .map(|a| (a.clone(), l.service.load().name.clone()))
            })
            .collect()
    }

    /// Starts and stops the clocks of the dispatchers.
    fn keep_time(&self, services: &BTreeMap<String, Arc<Service>>) {
        let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        keepers.retain(|name, task| {
            let kept = services.contains_key(name);
            if !kept {
                task.abort();
            }
            kept
        });
        for (name, service) in services {
            keepers
                .entry(name.clone())
                .or_insert_with(|| tokio::spawn(Arc::clone(&service.upstream).keep_time()));
        }
    }

    /// Looks at the node files again; changed ones give their pools new nodes.
    pub(crate) async fn refresh_nodefiles(self: &Arc<Self>) {
        let state = self.state.load_full();
        for (pool, known) in &state.model.pools {
            let Some(file) = &known.nodefile else {
                continue;
            };
            // A file that is gone for a moment is being replaced; the nodes stay.
            let Some(mark) = FileMark::of(file).filter(|m| known.mark != Some(*m)) else {
                continue;
            };
            match model::read_nodefile(file) {
                Ok(nodes) => self.apply_nodefile(pool, file, mark, nodes).await,
                Err(error) => warn!(pool = %pool, %error, "node file could not be read"),
            }
        }
    }

    async fn apply_nodefile(
        self: &Arc<Self>,
        pool: &str,
        file: &str,
        mark: FileMark,
        nodes: Vec<NodeSpec>,
    ) {
        info!(pool, nodes = nodes.len(), "node file changed");
        let changed = self.change(|model| {
            // The pool may have been given another source in between.
            if let Some(pool) = model
                .pools
                .get_mut(pool)
                .filter(|p| p.nodefile.as_deref() == Some(file))
            {
                pool.nodes = nodes;
                pool.mark = Some(mark);
            }
            Ok(())
        });
        if let Err(error) = changed.await {
            warn!(pool, %error, "node file could not be applied");
        }
    }
}

/// Address to service, for everything that is enabled. Ports left to the kernel are told apart by service.
fn wanted_listeners(model: &Model) -> Result<BTreeMap<String, String>, Error> {
    let mut wanted: BTreeMap<String, String> = BTreeMap::new();
    for (name, service) in model.services.iter().filter(|(_, s)| s.enabled) {
        for address in service.listen() {
            let key = if address.ends_with(":0") || address == "0" {
                format!("{address} {name}")
            } else {
                address.clone()
            };
            if let Some(other) = wanted.insert(key, name.clone()) {
                return Err(Error::new(format!(
                    "Can't start service '{name}' on {address}: service '{other}' listens there"
                )));
            }
        }
    }
    Ok(wanted)
}

fn address_of_key(key: &str) -> &str {
    key.split(' ').next().unwrap_or(key)
}

/// The kit's form of an address of the language.
fn listen_address(text: &str) -> String {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        format!(":{text}")
    } else {
        text.to_owned()
    }
}

/// Removes what an earlier run has left in a spool directory that comes into use.
fn clean_spool_directory(
    name: &str,
    before: Option<&model::ServiceModel>,
    now: &model::ServiceModel,
) {
    let directory = now.text("buffer_uploads_path");
    if let Some(directory) =
        directory.filter(|_| before.and_then(|b| b.text("buffer_uploads_path")) != directory)
    {
        remove_leftovers(std::path::Path::new(directory), name);
    }
}

/// Gives a service its new settings.
fn configure(service: &Arc<Service>, settings: Settings, model: &Model) {
    let nodes = settings
        .proxy
        .pool
        .as_ref()
        .and_then(|p| model.pools.get(p))
        .map(|p| p.nodes.clone())
        .unwrap_or_default();
    let version = match settings.proxy.verify_version {
        BackendVersion::V10 => String::new(),
        BackendVersion::V11 => format!("Host: {}\r\n", service.name),
    };
    let number = if version.is_empty() { "1.0" } else { "1.1" };
    let verify = Verify {
        request: format!(
            "OPTIONS {} HTTP/{number}\r\n{version}Connection: keep-alive\r\n\r\n",
            settings.proxy.verify_path
        ),
    };
    if settings.proxy.reproxy_cache == 0 {
        service.reproxy_cache.clear();
    }
    service
        .upstream
        .configure(settings.proxy.dispatcher.clone(), nodes, verify);
    service.settings.store(Arc::new(settings));
}

/// Accepts clients until stopped.
async fn accept(
    balancer: Arc<Balancer>,
    listener: AsyncListener,
    target: Arc<ArcSwap<Service>>,
    stop: CancellationToken,
) {
    let draining = balancer.kit.draining();
    loop {
        let accepted = tokio::select! {
            accepted = accept_when_free(&listener, &target) => accepted,
            () = stop.cancelled() => return,
            () = draining.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::error!(%error, "listener broken");
                return;
            }
        };
        let service = target.load_full();
        let settings = service.settings.load();
        if let ibex_kit::Stream::Tcp(stream) = &stream
            && settings.sndbuf > 0
            && let Err(error) = socket2::SockRef::from(stream).set_send_buffer_size(settings.sndbuf)
        {
            tracing::debug!(%error, "SO_SNDBUF not set");
        }
        let role = settings.role;
        drop(settings);
        match role {
            Some(Role::Management) => drop(balancer.kit.spawn(
                "management",
                manage::serve(Arc::clone(&balancer), service, stream, peer),
            )),
            Some(Role::Echo) => drop(balancer.kit.spawn(
                "echo",
                crate::echo::serve(Arc::clone(&balancer), service, stream),
            )),
            _ => {
                let ip = peer
                    .ip()
                    .unwrap_or(std::net::Ipv4Addr::LOCALHOST.into())
                    .to_canonical();
                match service.admit(ip) {
                    Admission::Admitted => drop(balancer.kit.spawn(
                        "client",
                        client::serve(Arc::clone(&balancer), service, stream, peer),
                    )),
                    Admission::Full => {}
                    Admission::AddressFull => client::turn_away(stream),
                }
            }
        }
    }
}

async fn accept_when_free(
    listener: &AsyncListener,
    target: &ArcSwap<Service>,
) -> std::io::Result<(ibex_kit::Stream, ibex_kit::Peer)> {
    loop {
        let service = target.load_full();
        if !service.is_full() {
            return listener.accept().await;
        }
        service.freed.notified().await;
    }
}
