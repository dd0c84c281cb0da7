//! Wakes Perl workers through Gearman: after an insert, a background job whose argument is the handle.
//!
//! Apart because it may fail without any effect on the insert: polling stays as the net. Pokes wait in a bounded queue; when the job
//! servers are slower than the inserts, the newest are dropped and counted.

use crate::metrics::Metrics;
use ibex_gearman_client::{Client, Config};
use ibex_schwartz::Handle;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Pokes that may wait.
const POKES_WAITING_MAX: usize = 4096;

/// The sending side; does nothing when no job server is configured.
#[derive(Debug, Clone)]
pub(crate) struct Poker {
    queue: Option<mpsc::Sender<(String, Handle)>>,
    metrics: Arc<Metrics>,
}

impl Poker {
    /// A poker, and the work that sends for it.
    pub(crate) fn new(
        servers: Vec<String>,
        function: String,
        metrics: &Arc<Metrics>,
    ) -> (Self, Option<impl Future<Output = ()> + Send + use<>>) {
        if servers.is_empty() {
            return (
                Self {
                    queue: None,
                    metrics: Arc::clone(metrics),
                },
                None,
            );
        }
        let (queue, waiting) = mpsc::channel(POKES_WAITING_MAX);
        let sending = send(servers, function, waiting, Arc::clone(metrics));
        (
            Self {
                queue: Some(queue),
                metrics: Arc::clone(metrics),
            },
            Some(sending),
        )
    }

    pub(crate) fn poke(&self, func: &str, handle: &Handle) {
        if let Some(queue) = &self.queue
            && queue.try_send((func.to_owned(), handle.clone())).is_err()
        {
            self.metrics.pokes_failed.inc();
        }
    }
}

async fn send(
    servers: Vec<String>,
    function: String,
    mut waiting: mpsc::Receiver<(String, Handle)>,
    metrics: Arc<Metrics>,
) {
    let mut client: Option<Client> = None;
    while let Some((func, handle)) = waiting.recv().await {
        if client.is_none() {
            client = Client::connect(Config::new(servers.clone()))
                .await
                .inspect_err(|error| tracing::debug!(error = %error, "no job server to poke"))
                .ok();
        }
        let Some(connected) = &client else {
            metrics.pokes_failed.inc();
            continue;
        };
        let name = function.replace("%f", &func);
        match connected.submit_background(name, handle.to_string()).await {
            Ok(_) => drop(metrics.pokes.inc()),
            Err(error) => {
                metrics.pokes_failed.inc();
                tracing::debug!(func, job = %handle, error = %error, "poke failed, polling will find the job");
                client = None;
            }
        }
    }
}
