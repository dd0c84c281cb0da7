//! Work that is waited for, given to Gearman workers, and done here when none answers.
//!
//! Apart because of that fallback. All functions are pure, so a job whose outcome is unknown may be repeated.

use crate::config::GearmanConfig;
use crate::error::{Error, Result};
use crate::images::{self, Order, Picture};
use crate::token;
use bytes::Bytes;
use ibex_gearman_client::{Client, Config};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Scales a picture; see [`images::run`].
pub const RESIZE: &str = "image_resize";
/// Tells the workers of the job queue that there is something.
pub const WAKE: &str = "journal_wake";

/// The job servers.
#[derive(Debug)]
pub struct Jobs {
    client: Option<Client>,
    patience: Duration,
    remote: AtomicU64,
    local: AtomicU64,
}

impl Jobs {
    /// A client for the configured servers; none of them need be up.
    ///
    /// # Errors
    /// An address that makes no sense.
    pub async fn connect(config: &GearmanConfig) -> Result<Self> {
        let client = if config.servers.is_empty() {
            None
        } else {
            let client_config = Config::new(config.servers.iter().cloned())
                .with_connect_deadline(Duration::from_millis(300))
                .with_reply_deadline(Duration::from_secs(1));
            Some(
                Client::connect(client_config)
                    .await
                    .map_err(|error| Error::Invalid(format!("gearman.servers: {error}")))?,
            )
        };
        Ok(Self {
            client,
            patience: config.patience.std(),
            remote: AtomicU64::new(0),
            local: AtomicU64::new(0),
        })
    }

    /// Jobs done by workers and jobs done here, since the start.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (
            self.remote.load(Ordering::Relaxed),
            self.local.load(Ordering::Relaxed),
        )
    }

    /// Scales a picture, in a worker if one answers in time.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is no picture.
    pub async fn resize(&self, source: Bytes, order: Order) -> Result<Picture> {
        if let Some(client) = &self.client {
            let unique = format!(
                "up:{}:{}x{}",
                token::md5(&source),
                order.width,
                order.height
            );
            let submitted = client
                .submit(RESIZE, images::workload(order, &source))
                .unique(unique)
                .await;
            match submitted {
                Ok(job) => match job.complete_within(self.patience).await {
                    Ok(done) => {
                        self.remote.fetch_add(1, Ordering::Relaxed);
                        return images::result(&done);
                    }
                    // A failed job is most likely no picture; the local run finds out and words the refusal.
                    Err(error) => {
                        tracing::debug!(%error, func = RESIZE, "job not done by a worker, doing it here")
                    }
                },
                Err(error) => {
                    tracing::debug!(%error, func = RESIZE, "job server does not answer, doing the work here")
                }
            }
        }
        self.local.fetch_add(1, Ordering::Relaxed);
        let work = move || images::resize(&source, order);
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Error::Bug(error.to_string()))?
    }

    /// Wakes the workers of the job queue; if nobody hears it they look by themselves in a few seconds.
    pub async fn wake(&self) {
        let Some(client) = &self.client else { return };
        if let Err(error) = client
            .submit_background(WAKE, Bytes::new())
            .unique(WAKE)
            .await
        {
            tracing::debug!(%error, "workers not woken");
        }
    }
}
