//! Gearman: the daemon as a worker of given job servers (`worker`), and as a job server whose background jobs are rows (`session`).
//!
//! Apart from each other because in one the daemon calls and in the other it is called; they share nothing but this start.

mod admin;
mod calls;
mod session;
mod submit;
mod worker;

use crate::api::App;
use crate::config::Config;
use ibex_gearman_client as client;
use ibex_kit::{Failure, Kit};
use session::Session;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

/// A connection as lists show it.
#[derive(Debug, Clone, Default)]
struct Seen {
    peer: String,
    name: String,
    funcs: Vec<String>,
}

/// What the connections of the job server share.
struct Front {
    app: Arc<App>,
    /// Job servers of foreground jobs.
    forward: Vec<String>,
    forwarding: OnceCell<client::Client>,
    seen: Mutex<BTreeMap<u64, Seen>>,
}

impl Front {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<u64, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client of the servers that foreground jobs go to.
    async fn forwarding(&self) -> Result<&client::Client, client::Error> {
        self.forwarding
            .get_or_try_init(|| {
                let config = client::Config::new(self.forward.clone()).with_exceptions(true);
                client::Client::connect(config)
            })
            .await
    }
}

/// The bound addresses of the job server, before there is anything to serve.
pub(crate) fn bind(config: &Config, kit: &Kit) -> Result<Option<ibex_kit::Bound>, Failure> {
    if config.gearman_listen.is_empty() {
        return Ok(None);
    }
    kit.bind("gearman", &config.gearman_listen).map(Some)
}

/// Starts both; they end with `stop`, after the drain.
pub(crate) fn start(
    app: &Arc<App>,
    kit: &Kit,
    bound: Option<ibex_kit::Bound>,
    stop: &CancellationToken,
) {
    let config = app.config.load();
    if !config.gearman_worker.is_empty() {
        let (app, stop) = (Arc::clone(app), stop.clone());
        let servers = config.gearman_worker.clone();
        kit.spawn("gearman-worker", async move {
            if let Err(error) = worker::run(app, servers, stop).await {
                tracing::error!(error = %error, "no worker of the job servers");
            }
        });
    }
    let Some(bound) = bound else { return };
    let front = Arc::new(Front {
        app: Arc::clone(app),
        forward: config.gearman_forward.clone(),
        forwarding: OnceCell::new(),
        seen: Mutex::default(),
    });
    let shown = Arc::clone(&front);
    kit.page(move || {
        let rows = shown
            .seen()
            .values()
            .filter(|seen| !seen.funcs.is_empty())
            .map(|seen| vec![seen.peer.clone(), seen.name.clone(), seen.funcs.join(" ")])
            .collect();
        vec![ibex_kit::page::Section::table(
            "Gearman workers",
            ["peer", "id", "functions"],
            rows,
        )]
    });
    let stop = stop.clone();
    bound.serve_until(
        stop.clone(),
        |config: &Config| config.gearman_listen.clone(),
        move |arrival| {
            let (front, stop) = (Arc::clone(&front), stop.clone());
            async move {
                let id = front.app.leases.new_stream();
                let peer = arrival.peer.to_string();
                front.seen().insert(
                    id,
                    Seen {
                        peer: peer.clone(),
                        ..Seen::default()
                    },
                );
                let mut session = Session::new(Arc::clone(&front), id, peer, arrival.stream);
                if let Err(error) = session.run(&stop).await {
                    tracing::debug!(conn = id, error = %error, "gearman connection ended");
                }
                session.leave().await;
                front.seen().remove(&id);
            }
        },
    );
}
