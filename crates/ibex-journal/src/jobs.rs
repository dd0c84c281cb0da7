//! Work that is waited for, given to Gearman workers, and done here when none answers.
//!
//! Apart because of that fallback. All functions are pure, so a job whose outcome is unknown may be repeated.

use crate::clock;
use crate::config::GearmanConfig;
use crate::error::{Error, Result};
use crate::images::{self, Order, Picture};
use crate::token;
use bytes::Bytes;
use ibex_gearman_client::{Client, Config};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Scales a picture; see [`images::run`].
pub const RESIZE: &str = "image_resize";
/// Tells the workers of the job queue that there is something.
pub const WAKE: &str = "journal_wake";

/// Once nobody came for a job, work is done here for so many seconds: not each of many uploads waits in vain.
const ALONE: i64 = 30;

/// The job servers.
#[derive(Debug)]
pub struct Jobs {
    client: Option<Client>,
    patience: Duration,
    remote: AtomicU64,
    local: AtomicU64,
    /// Until when nobody is asked, Unix time.
    alone_until: AtomicI64,
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
            alone_until: AtomicI64::new(0),
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
        if let Some(client) = &self.client
            && clock::now() >= self.alone_until.load(Ordering::Relaxed)
        {
            match self.by_worker(client, &source, order).await {
                Ok(done) => {
                    self.remote.fetch_add(1, Ordering::Relaxed);
                    return images::result(&done);
                }
                // A failed job is most likely no picture; the local run finds out and words the refusal.
                Err(error) => {
                    tracing::debug!(%error, func = RESIZE, "job not done by a worker, doing it here");
                    self.note(&error);
                }
            }
        }
        self.local.fetch_add(1, Ordering::Relaxed);
        let work = move || images::resize(&source, order);
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Error::Bug(error.to_string()))?
    }

    async fn by_worker(
        &self,
        client: &Client,
        source: &Bytes,
        order: Order,
    ) -> Result<Bytes, ibex_gearman_client::Error> {
        let unique = format!("up:{}:{}x{}", token::md5(source), order.width, order.height);
        let job = client
            .submit(RESIZE, images::workload(order, source))
            .unique(unique)
            .await?;
        job.complete_within(self.patience).await
    }

    fn note(&self, error: &ibex_gearman_client::Error) {
        use ibex_gearman_client::Error::{JobException, JobFailed};
        // A worker's word, if a bad one, is a worker's.
        if !matches!(error, JobFailed { .. } | JobException { .. }) {
            self.alone_until
                .store(clock::now() + ALONE, Ordering::Relaxed);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A job server that makes every job and gives none to a worker. Returns how many it made.
    fn server_without_workers() -> (String, std::sync::Arc<AtomicU64>) {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let made = std::sync::Arc::new(AtomicU64::new(0));
        let counter = std::sync::Arc::clone(&made);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, counter) = (stream.unwrap(), std::sync::Arc::clone(&counter));
                std::thread::spawn(move || {
                    let mut head = [0; 12];
                    while stream.read_exact(&mut head).is_ok() {
                        let [.., a, b, c, d] = head;
                        let length = u64::from(u32::from_be_bytes([a, b, c, d]));
                        std::io::copy(&mut (&mut stream).take(length), &mut std::io::sink())
                            .unwrap();
                        let [_, _, _, _, _, _, _, kind, ..] = head;
                        if kind == 7 {
                            counter.fetch_add(1, Ordering::SeqCst);
                            stream.write_all(b"\0RES\0\0\0\x08\0\0\0\x05H:x:1").unwrap();
                        }
                    }
                });
            }
        });
        (address, made)
    }

    #[tokio::test]
    async fn without_workers_one_upload_waits_and_the_others_do_not() {
        let (address, made) = server_without_workers();
        let config = GearmanConfig {
            servers: vec![address],
            patience: ibex_kit::Duration::from_millis(50),
        };
        let jobs = Jobs::connect(&config).await.unwrap();
        let picture = Bytes::from(crate::seed::userpic(1).unwrap());
        let order = Order {
            width: 10,
            height: 10,
            fit: images::Fit::Cover,
        };
        for _ in 0..5 {
            jobs.resize(picture.clone(), order).await.unwrap();
        }
        assert_eq!(jobs.counts(), (0, 5));
        assert_eq!(made.load(Ordering::SeqCst), 1);
    }
}
