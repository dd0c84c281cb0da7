//! Reverse proxy, load balancer and web server in the manner of Perlbal.
//!
//! ```text
//!   tokio runtime (a thread per core)
//!     accept task per listener ──► client task per connection ──► role: proxy | web | selector
//!                                                                  │ ask            ▲ lease
//!     management task per session ──► change of the model          ▼                │
//!                                                     upstream of the service (core under a mutex)
//!     clock task per upstream                           ├─ connect / verify task per new backend connection
//!                                                       └─ sockets of idle backend connections (no task)
//! ```
//!
//! Life of a request: `client` reads and checks the head → `route` asks plugins and selectors → `proxy` holds the body back as
//! the upload policy says, waits in the queue of `upstream`, lets `backend` exchange heads, and either `pump`s the body or
//! obeys X-REPROXY in `reproxy`; `web` and `files` answer from disk. The connection then waits for the next head.
//!
//! Owns sockets, clock, files and configuration. What a message means is in `ibex-perlbal-proto`, which connection a request
//! gets is decided in `ibex-perlbal-core`. HTTP/1 is spoken by our own strict codec on both sides rather than hyper's: what is
//! doubtful has to be refused, and a backend has to be released before its response has reached the client.

mod args;
mod backend;
mod balancer;
mod client;
mod clock;
mod config;
mod echo;
mod files;
mod manage;
mod metrics;
mod model;
mod nodes;
mod proxy;
mod pump;
mod put;
mod registry;
mod reproxy;
mod route;
mod service;
mod show;
mod socket;
mod tunnel;
mod upload;
mod upstream;
mod web;

use std::sync::Arc;
use std::time::Duration;

pub use args::Args;
pub use config::Config;
use ibex_kit::page::Section;
use ibex_kit::{About, Failure, Kit};
use tracing::{error, info, warn};

use crate::balancer::Balancer;

/// Who this daemon is.
pub const ABOUT: About = About {
    name: "ibex-perlbal",
    short: "perlbal",
    summary: "Reverse proxy, load balancer and web server in the manner of Perlbal",
    version: env!("CARGO_PKG_VERSION"),
    admin_port: config::ADMIN_PORT,
    original_flags: "-c FILE is the original's --config: a file in Perlbal's configuration language. -d goes into the background. --config names the TOML file of the kit.",
};

/// Node files are looked at this often, as in the original.
const NODEFILE_INTERVAL: Duration = Duration::from_secs(3);

/// Runs the balancer until it is told to stop.
///
/// # Errors
/// The configuration is wrong, or an address cannot be listened on.
pub async fn run(cfg: Config, kit: Kit) -> Result<(), Failure> {
    let balancer = Balancer::new(kit.clone(), cfg);
    if let Err(error) = balancer.reload(None).await {
        return Err(start_failure(&error.0));
    }
    if balancer.listeners().is_empty() {
        return Err(Failure::config(
            "No services or management port configured.  Nothing to do.  Stopping.",
        ));
    }
    let pid_file = write_pid_file(&balancer);
    watch(&balancer);
    show_pages(&balancer);
    kit.ready().await?;
    kit.draining().cancelled().await;
    if let Some(path) = pid_file
        && let Err(error) = std::fs::remove_file(&path)
    {
        error!(path = %path, %error, "pid file not removed");
    }
    Ok(())
}

fn start_failure(text: &str) -> Failure {
    if text.starts_with("Can't start service") {
        Failure::address(text)
    } else {
        Failure::config(text)
    }
}

/// COMPAT(perlbal): `SERVER pidfile = PATH` (Perlbal.pm, MANAGE_server). One that cannot be written is logged, and the balancer goes on
/// (`_write_pidfile`); under a service manager nobody needs it.
fn write_pid_file(balancer: &Balancer) -> Option<String> {
    let path = balancer.state.load().model.server.get("pidfile").cloned()?;
    match std::fs::write(&path, format!("{}\n", std::process::id())) {
        Ok(()) => Some(path),
        Err(error) => {
            warn!(path = %path, %error, "pid file not written");
            None
        }
    }
}

/// Starts what goes on beside the connections.
fn watch(balancer: &Arc<Balancer>) {
    let heartbeat = balancer.kit.heartbeat("timer");
    let ticking = Arc::clone(balancer);
    balancer.kit.spawn_background("timer", async move {
        loop {
            tokio::time::sleep(NODEFILE_INTERVAL).await;
            ticking.refresh_nodefiles().await;
            heartbeat.beat();
        }
    });
    let reloading = Arc::clone(balancer);
    balancer.kit.on_reload(move |new: &Config| {
        let (balancer, new) = (Arc::clone(&reloading), new.clone());
        reloading.kit.spawn("reload", async move {
            match balancer.reload(Some(new)).await {
                Ok(()) => info!("configuration reloaded"),
                Err(error) => error!(%error, "configuration not reloaded, the old one stays"),
            }
        });
    });
    let logged = Arc::clone(balancer);
    balancer.kit.on_usr1(move || log_overview(&logged));
}

/// COMPAT(perlbal): SIGUSR1 writes the services, states and queues to the log.
fn log_overview(balancer: &Arc<Balancer>) {
    use ibex_perlbal_proto::command::Listing;
    let names: Vec<String> = balancer.state.load().services.keys().cloned().collect();
    let listings = names
        .into_iter()
        .map(Listing::Service)
        .chain([Listing::States(None), Listing::Queues]);
    for listing in listings {
        for line in show::listing(balancer, &listing).unwrap_or_default() {
            info!("{line}");
        }
    }
}

fn show_pages(balancer: &Arc<Balancer>) {
    let shown = Arc::clone(balancer);
    balancer
        .kit
        .json("/-/services", move || show::status(&shown));
    let shown = Arc::clone(balancer);
    balancer.kit.page(move || {
        let status = show::status(&shown);
        let services = status
            .get("services")
            .and_then(|s| s.as_object())
            .cloned()
            .unwrap_or_default();
        let text = |v: Option<&serde_json::Value>| {
            v.map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                .unwrap_or_default()
        };
        let keys = [
            "role",
            "listen",
            "clients",
            "waiting",
            "backend_connections",
            "backend_idle",
        ];
        let rows = services
            .iter()
            .map(|(name, s)| {
                std::iter::once(name.clone())
                    .chain(keys.iter().map(|k| text(s.get(*k))))
                    .collect()
            })
            .collect();
        let nodes = shown
            .book
            .all()
            .iter()
            .map(|(a, f)| {
                vec![
                    a.to_string(),
                    f.requests.to_string(),
                    f.connects.to_string(),
                    f.attempts.to_string(),
                ]
            })
            .collect();
        vec![
            Section::table(
                "Services",
                [
                    "service",
                    "role",
                    "listen",
                    "clients",
                    "waiting",
                    "backend connections",
                    "idle",
                ],
                rows,
            ),
            Section::table(
                "Backends",
                ["node", "requests", "connects", "attempts"],
                nodes,
            ),
        ]
    });
    let counted = Arc::clone(balancer);
    balancer
        .kit
        .status_line(move || format!("serving, {} connections", counted.clients.all().len()));
}
