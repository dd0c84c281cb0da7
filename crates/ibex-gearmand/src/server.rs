//! Start and stop, top-down, each step logged.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ibex_gearman_core::{Input, JobId, JobServer};
use ibex_gearman_proto::Decoder;
use ibex_kit::{Bound, Failure, Kit, ListenAddr};
use mio::{Poll, Waker};
use rustix::process::{Resource, Rlimit};

use crate::acl::Acl;
use crate::config::{Config, Queue};
use crate::doors::{Gate, HttpGate, Way};
use crate::driver::{Access, Bounds, Hub, Mail, Mailbox, Nowhere, Shared, epoch_ms};
use crate::peers::Peers;
use crate::reactor::{Reactor, waker_token};
use crate::store::{Backlog, Claimant, Left, Op, Outcomes, Store};
use crate::tls::Tls;
use crate::{metrics, page};

/// How often a graceful stop looks whether it is done.
const GRACE_LOOK: Duration = Duration::from_millis(100);

/// Serves until the kit says stop.
///
/// # Errors
/// What keeps the server from starting: addresses, the store, threads.
pub async fn run(config: Config, kit: Kit) -> Result<(), Failure> {
    if config.coredump {
        let maximum = rustix::process::getrlimit(Resource::Core).maximum;
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        rustix::process::setrlimit(Resource::Core, raised)
            .map_err(|error| Failure::io(format!("coredump: {error}")))?;
    }
    let backlog = Arc::new(Backlog::default());
    bound_backlog(&backlog, &config);
    let (store, left) = open_store(&config, &kit, &backlog).await?;
    let access = open_access(&config).map_err(Failure::config)?;
    let now = Instant::now();
    let mut policies = config.policies(kit.node());
    policies.first_job = left.first_job;
    // Differs from process to process, and nobody outside knows it.
    policies.hash_seed = RandomState::new().build_hasher().finish();
    let mut server = JobServer::new(policies, now, epoch_ms());
    restore(&mut server, now, left);

    let doors = bind(&config, &kit)?;
    let http = kit.bind("gearman_http", &config.http_listen)?;
    let (polls, mailboxes) = make_polls(reactor_count(config.threads))?;
    let hub = Hub {
        server,
        peers: Peers::new(),
        store: store.as_ref().map(Store::requests),
        fronts: BTreeMap::new(),
        next_front: 0,
    };
    let bounds = Bounds {
        output_max: config.output_max.as_usize(),
        slow_client_timeout: config.slow_client_timeout.std(),
        per_address_max: config.connections_per_address,
        keepalive: config.keepalive(),
    };
    let decoder = Decoder::new(config.packet_size_max.as_usize());
    let shared = Arc::new(Shared::new(
        hub,
        mailboxes,
        decoder,
        bounds,
        backlog,
        access,
        kit.clone(),
    ));
    let storing = store.map(|store| {
        let check = kit.check("store");
        check.ok();
        kit.spawn("store", store.run(Mailed(Arc::clone(&shared)), check))
    });
    declare(&shared);
    kit.spawn("grace", watch_grace(Arc::clone(&shared)));

    let mut threads = Vec::new();
    for (index, poll) in polls.into_iter().enumerate() {
        let reactor = Reactor::new(
            Arc::clone(&shared),
            index,
            poll,
            kit.heartbeat(&format!("reactor-{index}")),
        );
        threads.push(kit.thread(&format!("reactor-{index}"), move || reactor.run())?);
    }
    open_doors(&config, &shared, doors);
    let gate = HttpGate::new(Arc::clone(&shared), config.http_tls);
    http.follow(|config: &Config| config.http_listen.clone(), gate);
    kit.ready().await?;
    kit.draining().cancelled().await;

    tracing::info!("stopping");
    stop(&shared, threads).await?;
    if let Some(storing) = storing {
        storing
            .await
            .map_err(|error| Failure::bug(format!("store task: {error}")))?;
    }
    if shared.is_queue_lost.load(Ordering::Acquire) {
        return Err(Failure::temporary(
            "another server has taken the job queue; it was silent for longer than queue_lease",
        ));
    }
    Ok(())
}

/// Binds everything; whoever connects waits in the kernel.
fn bind(config: &Config, kit: &Kit) -> Result<Vec<(Way, Bound)>, Failure> {
    let way = if config.tls { Way::Tls } else { Way::Plain };
    let mut doors = vec![
        (way, kit.bind("gearman", &config.listen)?),
        (Way::Plain, kit.bind("gearman_plain", &config.listen_plain)?),
    ];
    if let Some(address) = admin_socket(config)? {
        doors.push((Way::Admin, kit.bind("gearman_admin", &[address])?));
    }
    Ok(doors)
}

/// Lets clients in, and follows what reloads say of the addresses.
fn open_doors(config: &Config, shared: &Arc<Shared>, doors: Vec<(Way, Bound)>) {
    let backlog = i32::try_from(config.backlog).unwrap_or(i32::MAX);
    for ((way, bound), addresses) in doors.into_iter().zip(ADDRESSES) {
        let shared = Arc::clone(shared);
        let gate = Gate {
            shared,
            way,
            backlog,
        };
        bound.follow(addresses, gate);
    }
}

/// The addresses of the doors in the order of [`bind`].
const ADDRESSES: [fn(&Config) -> Vec<ListenAddr>; 3] = [
    |config| config.listen.clone(),
    |config| config.listen_plain.clone(),
    |config| admin_socket(config).ok().flatten().into_iter().collect(),
];

fn open_access(config: &Config) -> Result<Access, String> {
    let tls = if config.has_tls() {
        Some(Tls::open(config)?)
    } else {
        None
    };
    let acl = open_acl(config)?;
    Ok(Access { tls, acl })
}

fn open_acl(config: &Config) -> Result<Option<Acl>, String> {
    match config.acl_file.as_str() {
        "" => Ok(None),
        path => Acl::open(path).map(Some),
    }
}

async fn open_store(
    config: &Config,
    kit: &Kit,
    backlog: &Arc<Backlog>,
) -> Result<(Option<Store>, Left), Failure> {
    let queue = config.queue_kind().map_err(Failure::config)?;
    let url = match queue {
        Queue::Memory => {
            // Without a store, numbers begin where no earlier life can have come: at the second of the start, shifted.
            let first_job = (epoch_ms() / 1000) << 20;
            tracing::info!("background jobs wait in memory and do not survive a stop");
            let left = Left {
                first_job,
                ..Left::default()
            };
            return Ok((None, left));
        }
        Queue::Sqlite if config.store.url.is_empty() => {
            format!("sqlite:{}", kit.state_dir()?.join("jobs.db").display())
        }
        Queue::Sqlite | Queue::MySql => {
            with_password(&config.store.url, config.store.password.reveal())
        }
    };
    let claimant = claimant(config, kit);
    let import_table = Some(config.import_table.as_str()).filter(|table| !table.is_empty());
    // As while running: workloads that wait may take half of what jobs may.
    let resident_max = match config.memory_max.bytes() {
        0 => u64::MAX,
        bytes => bytes / 2,
    };
    let deadline = Instant::now() + config.store.startup_timeout.std();
    loop {
        match Store::open(
            &url,
            &claimant,
            import_table,
            resident_max,
            Arc::clone(backlog),
        )
        .await
        {
            Ok((store, left)) => {
                tracing::info!(
                    jobs = left.jobs.len(),
                    dead = left.dead.len(),
                    quarantined = left.quarantined,
                    "job store open"
                );
                return Ok((Some(store), left));
            }
            Err(failure)
                if Instant::now() >= deadline || failure.kind() != ibex_kit::Kind::Temporary =>
            {
                return Err(failure);
            }
            Err(failure) => {
                tracing::warn!(error = %failure, "job store, will retry");
                kit.extend_startup(Duration::from_secs(10), "waiting for the job store");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// The file in the state directory that names this server, so that its next life takes its queue back at once.
const NAME_FILE: &str = "queue_name";

fn claimant(config: &Config, kit: &Kit) -> Claimant {
    let life = format!("{}-{}", std::process::id(), epoch_ms());
    let fresh = format!("{}-{life}", kit.node());
    let server = match kit.state_dir() {
        Ok(dir) => {
            let path = dir.join(NAME_FILE);
            let kept = std::fs::read_to_string(&path).ok();
            kept.filter(|name| !name.trim().is_empty())
                .unwrap_or_else(|| {
                    if let Err(error) = std::fs::write(&path, &fresh) {
                        tracing::warn!(error = %error, "the next start waits for queue_lease");
                    }
                    fresh
                })
        }
        Err(error) => {
            tracing::debug!(error = %error, "without a state directory the next start waits for queue_lease");
            fresh
        }
    };
    Claimant {
        server: server
            .trim()
            .replace(' ', "_")
            .chars()
            .take(NAME_CHARS_MAX)
            .collect(),
        life,
        lease: config.queue_lease.std(),
    }
}

/// With the life's number it fits the column.
const NAME_CHARS_MAX: usize = 50;

/// Puts the password into a database URL that names a user without one.
fn with_password(url: &str, password: &str) -> String {
    match url
        .split_once("://")
        .and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?)))
    {
        Some((scheme, (user, rest))) if !password.is_empty() && !user.contains(':') => {
            let escaped: String = password
                .bytes()
                .map(|b| {
                    if b.is_ascii_alphanumeric() {
                        char::from(b).to_string()
                    } else {
                        format!("%{b:02X}")
                    }
                })
                .collect();
            format!("{scheme}://{user}:{escaped}@{rest}")
        }
        _ => url.to_owned(),
    }
}

fn restore(server: &mut JobServer, now: Instant, left: Left) {
    for (job, away) in left.jobs {
        let input = match away {
            Some(len) => Input::RestoredAway(job, len),
            None => Input::Restored(job),
        };
        server.handle(now, input);
    }
    for (job, len, reason) in left.dead {
        server.handle(now, Input::RestoredDead(job, len, reason));
    }
    for result in left.results {
        server.handle(now, Input::RestoredResult(result));
    }
    for schedule in left.schedules {
        server.handle(now, Input::RestoredSchedule(schedule));
    }
    // Nobody is connected, so nothing can have come out but requests to forget the oldest dead and results beyond the bound, which the next trim repeats.
    while server.poll_output().is_some() {}
}

fn admin_socket(config: &Config) -> Result<Option<ListenAddr>, Failure> {
    match config.admin_socket.as_str() {
        "none" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|error| Failure::config(format!("admin_socket: {error}"))),
    }
}

fn reactor_count(threads: u32) -> usize {
    match usize::try_from(threads).unwrap_or(1) {
        0 => {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            if processors <= 2 {
                1
            } else {
                (processors / 2).min(4)
            }
        }
        count => count,
    }
}

fn make_polls(count: usize) -> Result<(Vec<Poll>, Vec<Mailbox>), Failure> {
    let failure = |error: std::io::Error| Failure::io(format!("event queue: {error}"));
    let (mut polls, mut mailboxes) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let poll = Poll::new().map_err(failure)?;
        let waker = Waker::new(poll.registry(), waker_token()).map_err(failure)?;
        mailboxes.push(Mailbox::new(waker));
        polls.push(poll);
    }
    Ok((polls, mailboxes))
}

/// Metrics, pages, signals.
fn declare(shared: &Arc<Shared>) {
    let kit = &shared.kit;
    kit.metrics()
        .with(|registry| metrics::register(registry, shared));
    page::register(shared);
    let reloaded = Arc::clone(shared);
    kit.on_reload(move |new: &Config| {
        let mut hub = reloaded.hub();
        let before = hub.server.config_mut();
        let mut policies = new.policies(reloaded.kit.node());
        policies.handle_prefix.clone_from(&before.handle_prefix);
        (policies.first_job, policies.durable) = (before.first_job, before.durable);
        policies.has_store = before.has_store;
        *before = policies;
        drop(hub);
        bound_backlog(&reloaded.store_backlog, new);
        reread(&reloaded, new);
    });
    let graceful = Arc::clone(shared);
    kit.on_usr1(move || close_gracefully(&graceful));
}

/// A quarter of what jobs may take in memory may be on its way into the store: the rest waits, runs, or has come back.
fn bound_backlog(backlog: &Backlog, config: &Config) {
    let bytes_max = config.memory_max.as_usize() / 4;
    backlog.bytes_max.store(bytes_max, Ordering::Relaxed);
}

/// Files beside the configuration; what is wrong with one leaves what was read before.
fn reread(shared: &Shared, config: &Config) {
    match open_acl(config) {
        Ok(acl) => shared.set_acl(acl),
        Err(error) => tracing::error!(error, "access rules not read again, the old ones stay"),
    }
    if let Some(tls) = &shared.tls
        && let Err(error) = tls.refresh(config)
    {
        tracing::error!(error, "certificates not read again, the old ones stay");
    }
}

/// SIGUSR1 and `shutdown graceful`: no new connections; stops when nothing runs and nothing waits that a connected worker could do.
pub(crate) fn close_gracefully(shared: &Shared) {
    if shared.is_closing_doors.swap(true, Ordering::AcqRel) {
        return;
    }
    tracing::info!("closing gracefully");
    shared.doors_closed.cancel();
    shared.wake_all();
}

/// Ends the reactors, then the store once it has everything.
async fn stop(
    shared: &Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
) -> Result<(), Failure> {
    shared.is_stopping.store(true, Ordering::Release);
    shared.wake_all();
    let joined = tokio::task::spawn_blocking(move || {
        threads.into_iter().all(|thread| thread.join().is_ok())
    });
    let is_clean = joined
        .await
        .map_err(|error| Failure::bug(format!("join reactors: {error}")))?;
    // The last way to the store task: it ends when it has written everything.
    let mut hub = shared.hub();
    hub.pump(shared, &mut Nowhere, &mut []);
    store_rest(&hub);
    hub.store = None;
    if is_clean {
        Ok(())
    } else {
        Err(Failure::bug("a reactor panicked"))
    }
}

/// `store_on_shutdown`: what waits in memory is written now. Of a durable queue everything is there already.
fn store_rest(hub: &Hub) {
    let Some(store) = &hub.store else { return };
    let (jobs, dead) = hub.server.unstored();
    if !jobs.is_empty() {
        tracing::info!(jobs = jobs.len(), "writing waiting jobs");
    }
    for job in jobs {
        store.push(Op::Persist(job));
    }
    for (job, reason) in dead {
        let (id, attempts) = (job.id, job.attempts);
        store.push(Op::Persist(job));
        store.push(Op::Bury {
            job: id,
            attempts,
            reason,
        });
    }
}

/// Outcomes of the store go to the first reactor by mail.
struct Mailed(Arc<Shared>);

impl Mailed {
    fn mail(&self, mail: Mail) {
        if let Some(mailbox) = self.0.mailboxes.first() {
            mailbox.push(mail);
            mailbox.wake();
        }
    }
}

impl Outcomes for Mailed {
    fn stored(&self, jobs: Vec<JobId>) {
        if !jobs.is_empty() {
            self.mail(Mail::Stored(jobs));
        }
    }

    fn fetched(&self, workloads: Vec<(JobId, Option<Bytes>)>) {
        self.mail(Mail::Fetched(workloads));
    }

    fn fetch_failed(&self, jobs: Vec<JobId>) {
        self.mail(Mail::FetchFailed(jobs));
    }

    fn failed(&self, jobs: Vec<JobId>) {
        if !jobs.is_empty() {
            self.mail(Mail::StoreFailed(jobs));
        }
    }

    fn lost(&self) {
        self.0.is_queue_lost.store(true, Ordering::Release);
        // At once: what waits here waits there too.
        self.0.is_stopping.store(true, Ordering::Release);
        self.0.wake_all();
        self.0.kit.stop("another server has taken the job queue");
    }
}

/// Watches a graceful close and stops the process when it is done.
pub(crate) async fn watch_grace(shared: Arc<Shared>) {
    let draining = shared.kit.draining();
    loop {
        tokio::select! {
            () = draining.cancelled() => return,
            () = tokio::time::sleep(GRACE_LOOK) => {}
        }
        if shared.is_closing_doors.load(Ordering::Acquire) && is_idle(&shared) {
            shared.kit.stop("closed gracefully");
            return;
        }
    }
}

fn is_idle(shared: &Shared) -> bool {
    let hub = shared.hub();
    hub.server.functions(Instant::now()).all(|f| {
        f.running == 0
            && (f.workers == 0 || f.waiting.iter().sum::<u32>() == 0 && f.committing == 0)
    })
}
