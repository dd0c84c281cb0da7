//! Start and stop, top-down.

use crate::api::App;
use crate::config::Config;
use crate::fronts;
use crate::held::Leases;
use crate::hub::Hub;
use crate::leading::{self, Seat};
use crate::metrics::Metrics;
use crate::opening::Opening;
use crate::poke::Poker;
use crate::tls::Tls;
use crate::upkeep::{self, Cleaner};
use arc_swap::ArcSwap;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use ibex_kit::page::Section;
use ibex_kit::{Failure, Kit, Stream};
use ibex_schwartz::{Client, Keys};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// Bytes of a request's head, and of what is read ahead on a connection. Policy: 431.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How often an HTTP/2 client is asked whether it is there, and the time it has to answer.
const PING_EVERY: Duration = Duration::from_secs(20);
/// End of the drain's time that is kept for giving leases back and closing databases; half of it when it is shorter than twice this.
const GOODBYE: Duration = Duration::from_secs(2);

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// An address that cannot be bound, or databases none of which answers within `store.startup_timeout`.
pub async fn run(config: Config, kit: Kit) -> Result<(), Failure> {
    let tls = Tls::open(&config).map_err(Failure::config)?;
    let bound = kit.bind("schwartz", &config.listen)?;
    let gearman = fronts::gearman::bind(&config, &kit)?;
    let datagrams = kit.listen_udp("poke", &config.poke_udp)?;
    let metrics = Arc::new(Metrics::register(kit.metrics(), kit.label_cap()));
    let client = open(&config, &kit).await?;
    let app = assemble(config, &kit, client, metrics, tls);
    background(&app, &kit, datagrams)?;
    pages(&app, &kit);
    let stop = CancellationToken::new();
    let (serving, end) = (Arc::clone(&app), stop.clone());
    // Until the leases are back: workers that connect anew while it drains may still finish their jobs.
    bound.serve_until(
        stop.clone(),
        |config: &Config| config.listen.clone(),
        move |arrival| serve(Arc::clone(&serving), arrival.stream, end.clone()),
    );
    fronts::gearman::start(&app, &kit, gearman, &stop);
    kit.ready().await?;
    kit.draining().cancelled().await;
    drain(&app, &kit).await;
    stop.cancel();
    if let Err(error) = app.client.close().await {
        tracing::warn!(error = %error, "databases could not be closed cleanly");
    }
    Ok(())
}

/// Opens the databases; at least one must answer in time.
async fn open(config: &Config, kit: &Kit) -> Result<Client, Failure> {
    let first = if config.store.url.is_empty() {
        format!("sqlite:{}", kit.state_dir()?.join("schwartz.db").display())
    } else {
        config.store.url.clone()
    };
    let keys = match config.arg_keys_file.as_str() {
        "" => None,
        file => Some(Keys::read(file).map_err(|error| Failure::config(error.to_string()))?),
    };
    let deadline = Instant::now() + config.store.startup_timeout.std();
    let mut pause = Duration::from_millis(50);
    loop {
        let mut builder = Client::builder()
            .db(first.clone())
            .prefix(config.prefix.clone())
            .auto_init(config.auto_init)
            .retry_after(config.retry_after.std());
        if let Some(keys) = &keys {
            builder = builder.keys(keys.clone());
        }
        if !config.store.password.is_empty() {
            builder = builder.password(config.store.password.reveal());
        }
        builder = config
            .databases
            .iter()
            .fold(builder, |builder, url| builder.db(url.clone()));
        match builder.build().await {
            Ok(client) => return Ok(client),
            Err(error @ ibex_schwartz::Error::Config(_)) => {
                return Err(Failure::config(error.to_string()));
            }
            Err(error) if Instant::now() + pause >= deadline => {
                return Err(Failure::temporary(format!("open databases: {error}")));
            }
            Err(error) => tracing::info!(error = %error, "databases do not answer yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

fn assemble(
    config: Config,
    kit: &Kit,
    client: Client,
    metrics: Arc<Metrics>,
    tls: Option<Tls>,
) -> Arc<App> {
    let (poker, sending) = Poker::new(
        config.poke_gearman.clone(),
        config.poke_function.clone(),
        &metrics,
    );
    if let Some(sending) = sending {
        kit.spawn_background("poke", sending);
    }
    let seed = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(1, |since| {
            u64::from(since.subsec_nanos()) ^ since.as_secs().rotate_left(32)
        })
        ^ u64::from(std::process::id());
    let seats = client
        .databases()
        .iter()
        .map(|database| Arc::new(Seat::new(database.clone())))
        .collect();
    let app = Arc::new(App {
        seats,
        holder: format!("{}-{seed:016x}", std::process::id()),
        name: name(kit),
        started: Instant::now(),
        hub: Arc::new(Hub::new(client.clone(), kit.clone(), Arc::clone(&metrics))),
        client,
        leases: Leases::new(seed),
        events: crate::events::Events::new(),
        orders: crate::orders::Orders::default(),
        roster: crate::roster::Roster::default(),
        metrics,
        poker,
        tls,
        config: ArcSwap::from_pointee(config),
        depths: ArcSwap::default(),
        kit: kit.clone(),
        seed,
    });
    let reloaded = Arc::clone(&app);
    kit.on_reload(move |new: &Config| {
        reloaded.config.store(Arc::new(new.clone()));
        if let Some(tls) = &reloaded.tls
            && let Err(error) = tls.refresh(new)
        {
            tracing::warn!(error, "certificate not read, the old one stays");
        }
    });
    app
}

/// What this daemon is called in the list of workers: its node and process, at most 128 characters.
fn name(kit: &Kit) -> String {
    let name = format!("{}:{}", kit.node(), std::process::id());
    name.chars().take(128).collect()
}

fn background(
    app: &Arc<App>,
    kit: &Kit,
    datagrams: Vec<std::net::UdpSocket>,
) -> Result<(), Failure> {
    for (number, database) in app.client.databases().iter().enumerate() {
        tracing::info!(number, database = %database.address(), hash = database.hash(), "database");
        kit.spawn_background("watch", upkeep::watch(Arc::clone(app), database.clone()));
        let Some(seat) = app.seats.get(number) else {
            continue;
        };
        kit.spawn_background("lead", leading::lead(Arc::clone(app), Arc::clone(seat)));
        kit.worker(Cleaner {
            client: app.client.clone(),
            seat: Arc::clone(seat),
            number,
            done: 0,
        });
    }
    kit.spawn_background(
        "tick",
        upkeep::tick(Arc::clone(app), kit.check("store"), kit.heartbeat("tick")),
    );
    kit.spawn_background("stirred", upkeep::stirred(Arc::clone(app)));
    kit.spawn_background("depths", upkeep::depths(Arc::clone(app)));
    kit.spawn_background("workers", crate::roster::keep(Arc::clone(app)));
    for socket in datagrams {
        let socket = tokio::net::UdpSocket::from_std(socket)
            .map_err(|error| Failure::io(error.to_string()))?;
        kit.spawn_background("datagrams", upkeep::datagrams(Arc::clone(app), socket));
    }
    Ok(())
}

/// What the admin port shows.
fn pages(app: &Arc<App>, kit: &Kit) {
    let shown = Arc::clone(app);
    kit.page(move || {
        let rows = shown
            .depths
            .load()
            .iter()
            .map(|count| {
                vec![
                    count.funcname.clone(),
                    count.ready.to_string(),
                    count.grabbed.to_string(),
                    count.scheduled.to_string(),
                    count.blocked.to_string(),
                    if count.paused_until.is_some() {
                        "paused"
                    } else {
                        ""
                    }
                    .to_owned(),
                    count.oldest_ready_age.to_string(),
                ]
            })
            .collect();
        let databases = shown
            .client
            .databases()
            .iter()
            .zip(&shown.seats)
            .map(|(database, seat)| {
                vec![
                    database.address(),
                    database.hash().to_owned(),
                    if database.is_down() { "down" } else { "up" }.to_owned(),
                    if seat.leads() {
                        "this daemon"
                    } else {
                        "another"
                    }
                    .to_owned(),
                ]
            })
            .collect();
        vec![
            Section::table(
                "Functions",
                [
                    "function",
                    "ready",
                    "grabbed",
                    "scheduled",
                    "blocked",
                    "",
                    "oldest ready, s",
                ],
                rows,
            ),
            Section::table(
                "Databases",
                ["address", "handle prefix", "state", "upkeep led by"],
                databases,
            ),
            Section::facts(
                "Work",
                [
                    ("leases out", shown.leases.count()),
                    (
                        "fetches waiting",
                        usize::try_from(shown.metrics.waiters.get()).unwrap_or(0),
                    ),
                    ("workers seen within a minute", shown.roster.all().len()),
                ],
            ),
        ]
    });
    let line = Arc::clone(app);
    kit.status_line(move || format!("serving, {} leases out", line.leases.count()));
}

/// One connection, encrypted if that is configured and it comes over a network.
async fn serve(app: Arc<App>, stream: Stream, stop: CancellationToken) {
    match stream {
        // Apart on the heap: connections that are not encrypted need no room for it.
        Stream::Tcp(socket) if app.tls.is_some() => Box::pin(encrypted(app, socket, stop)).await,
        stream @ (Stream::Tcp(_) | Stream::Unix(_)) => talk(app, stream, stop).await,
    }
}

async fn encrypted(app: Arc<App>, socket: TcpStream, stop: CancellationToken) {
    let Some(tls) = &app.tls else {
        return;
    };
    let time = app.config.load().head_timeout.std();
    let accepted = tokio::select! {
        accepted = tls.accept(socket, time) => accepted,
        () = stop.cancelled() => return,
    };
    match accepted {
        Ok(stream) => talk(app, stream, stop).await,
        Err(error) => {
            app.metrics.handshakes_failed.inc();
            tracing::debug!(error = %error, "no TLS");
        }
    }
}

/// HTTP/1.1, or HTTP/2 with prior knowledge or by ALPN.
async fn talk<S>(app: Arc<App>, stream: S, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let head_timeout = app.config.load().head_timeout.std();
    let service = service_fn(move |request| {
        let app = Arc::clone(&app);
        async move { Ok::<_, Infallible>(app.answer(request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .max_buf_size(HEAD_BYTES_MAX)
        .header_read_timeout(head_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_EVERY)
        .max_concurrent_streams(256);
    let stream = Opening::new(stream, head_timeout);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(error = %error, "connection ended");
    }
}

/// Hands nothing more out, lets workers finish what they have, and gives the rest back.
async fn drain(app: &Arc<App>, kit: &Kit) {
    app.hub.closing.cancel();
    let grace = kit.common().shutdown.grace.std();
    let grace = grace.saturating_sub(GOODBYE.min(grace / 2));
    let returned = async {
        loop {
            let told = app.leases.returned.notified();
            if app.leases.count() == 0 {
                return;
            }
            tokio::select! {
                () = told => {}
                // A lease can end without a finish, too.
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    };
    let cut = kit.cut();
    tokio::select! {
        () = returned => {}
        () = tokio::time::sleep(grace) => {}
        () = cut.cancelled() => {}
    }
    let left = app.leases.take_all();
    if !left.is_empty() {
        tracing::info!(jobs = left.len(), "unfinished jobs given back");
        app.give_back(left).await;
    }
    for seat in &app.seats {
        seat.resign(&app.holder).await;
    }
}
