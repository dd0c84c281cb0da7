//! The side channel: one connection, one request after the other, answers in order.

use crate::digest;
use crate::disks::{Disks, Urgency, file_system_number};
use crate::metrics::Metrics;
use crate::paths::{self, Target};
use crate::utilization::Sampler;
use bytes::BytesMut;
use ibex_kit::{Kit, Stream};
use ibex_mogilefs_proto::line::split_line;
use ibex_mogilefs_proto::side::{self, SIDE_REQUEST_BYTES_MAX, SideRequest};
use ibex_mogilefs_proto::{DevId, HashAlgorithm, Step};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What the node understands, as `caps` answers it.
const CAPABILITIES: &str = "size MD5 SHA-1 SHA-224 SHA-256 SHA-384 SHA-512 watch shutdown caps";

/// What the side channel needs.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) disks: Arc<Disks>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) kit: Kit,
}

enum After {
    GoOn,
    Close,
}

impl Side {
    /// Serves a connection until it ends or the daemon stops.
    pub(crate) async fn serve(&self, mut stream: Stream) {
        let draining = self.kit.draining();
        let served = tokio::select! {
            served = self.requests(&mut stream) => served,
            () = draining.cancelled() => Ok(()),
        };
        if let Err(error) = served {
            tracing::debug!(%error, "side connection ended");
        }
    }

    async fn requests(&self, stream: &mut Stream) -> io::Result<()> {
        let mut input = BytesMut::new();
        loop {
            let line = match split_line(&input, SIDE_REQUEST_BYTES_MAX) {
                Err(_) => return stream.write_all(b"ERROR: request too long\r\n").await,
                Ok(Step::Need) => {
                    if stream.read_buf(&mut input).await? == 0 {
                        return Ok(());
                    }
                    continue;
                }
                Ok(Step::Frame { consumed, .. }) => input.split_to(consumed),
            };
            self.metrics.side_requests.inc();
            if let After::Close = self.answer(line.trim_ascii_end(), stream).await? {
                return Ok(());
            }
        }
    }

    async fn answer(&self, line: &[u8], stream: &mut Stream) -> io::Result<After> {
        let answer = match SideRequest::parse(line) {
            SideRequest::Empty | SideRequest::ServerSetting => String::new(),
            SideRequest::Size(path) => self.size(path).await,
            SideRequest::Digest {
                algorithm,
                path,
                reason,
            } => self.digest(algorithm, path, reason).await,
            SideRequest::Caps => CAPABILITIES.to_owned(),
            SideRequest::List { .. } => "ERROR: unknown command: list".to_owned(),
            SideRequest::Refused(answer) => answer,
            SideRequest::Watch => {
                self.watch(stream).await?;
                return Ok(After::Close);
            }
            SideRequest::Shutdown => {
                self.kit.stop("asked by the side channel");
                return Ok(After::Close);
            }
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
        Ok(After::GoOn)
    }

    async fn size(&self, path: &str) -> String {
        let Ok(Target::File(device, parts)) = paths::parse(path) else {
            return side::size_answer(path, None);
        };
        let disks = Arc::clone(&self.disks);
        match self
            .disks
            .run(device, Urgency::Request, move || disks.size(device, &parts))
            .await
        {
            Ok(size) => side::size_answer(path, size),
            Err(_) => format!("ERR read {path} at 0 failed"),
        }
    }

    async fn digest(&self, algorithm: HashAlgorithm, path: &str, reason: Option<&str>) -> String {
        let Ok(Target::File(device, parts)) = paths::parse(path) else {
            return side::digest_answer(path, algorithm, None);
        };
        // Checks of everything go one at a time per disk, behind the requests somebody waits for.
        let urgency = if reason == Some("fsck") {
            Urgency::Background
        } else {
            Urgency::Request
        };
        let disks = Arc::clone(&self.disks);
        let outcome = self
            .disks
            .run(device, urgency, move || {
                match disks.open_file(device, &parts) {
                    Ok(file) => Ok(Some(digest::of_file(file, algorithm))),
                    Err(error) if crate::disks::is_missing(&error) => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .await;
        match outcome {
            Ok(None) => side::digest_answer(path, algorithm, None),
            Ok(Some(Ok(sum))) => side::digest_answer(path, algorithm, Some(&sum)),
            Ok(Some(Err(failure))) => {
                tracing::warn!(devid = %device, path, offset = failure.offset, error = %failure.error, "cannot read file");
                format!("ERR read {path} at {} failed", failure.offset)
            }
            Err(_) => format!("ERR read {path} at 0 failed"),
        }
    }

    async fn watch(&self, stream: &mut Stream) -> io::Result<()> {
        /// COMPAT(mogstored): trackers expect a round every second.
        const ROUND: Duration = Duration::from_secs(1);
        let mut samplers: BTreeMap<DevId, Sampler> = BTreeMap::new();
        loop {
            let disks = Arc::clone(&self.disks);
            let round = tokio::task::spawn_blocking(move || {
                let mut text = String::new();
                for device in disks.present() {
                    let percent = disks
                        .open_device(device)
                        .and_then(|directory| file_system_number(&directory))
                        .ok()
                        .and_then(|number| samplers.entry(device).or_default().percent(number));
                    text.push_str(&side::watch_line(device, percent));
                    text.push_str("\r\n");
                }
                (text, samplers)
            });
            let text;
            (text, samplers) = round.await.map_err(io::Error::other)?;
            stream.write_all(text.as_bytes()).await?;
            stream.write_all(b".\r\n").await?;
            tokio::time::sleep(ROUND).await;
        }
    }
}
