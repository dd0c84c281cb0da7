//! One replica from node to node, hashed on the way.
//!
//! Owns the streaming and the proof that the copy is good: its length always, its digest whenever one is known or the class keeps one. Says which
//! side failed, so that the caller can try
//! another source or another destination.

use crate::side;
use crate::tracker::{Tracker, lock};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use ibex_mogilefs_client::node::{NodeError, NodeResponse};
use ibex_mogilefs_proto::path::FidPath;
use ibex_mogilefs_proto::side::SideAnswer;
use ibex_mogilefs_proto::{Checksum, DevId, Fid, HashAlgorithm};
use md5::{Digest, Md5};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Slowest transfer that is not called a failure, bytes per second.
const RATE_MIN: u64 = 1 << 20;

/// Which side of a copy failed, and how.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    #[error("source: {0}")]
    Source(String),
    #[error("destination: {0}")]
    Destination(String),
}

/// What is copied.
#[derive(Debug, Clone)]
pub(crate) struct Copy {
    pub(crate) fid: Fid,
    pub(crate) length: u64,
    pub(crate) from: DevId,
    pub(crate) to: DevId,
    /// The digest the file must have, when one is stored.
    pub(crate) expected: Option<Checksum>,
}

/// What went through.
#[derive(Debug, Default)]
struct Tally {
    md5: Md5,
    bytes: u64,
    source_error: Option<String>,
}

/// Copies a replica and proves it; the MD5 of what was copied.
pub(crate) async fn copy(tracker: &Tracker, copy: &Copy) -> Result<Checksum, CopyError> {
    let unknown = |device: DevId| format!("device {device} is unknown");
    let source = tracker
        .read_url(copy.from, copy.fid)
        .ok_or_else(|| CopyError::Source(unknown(copy.from)))?;
    let target = tracker
        .url(copy.to, copy.fid)
        .ok_or_else(|| CopyError::Destination(unknown(copy.to)))?;
    let response = tracker
        .copier
        .get(&source, 0)
        .await
        .map_err(|error| CopyError::Source(error.to_string()))?;
    if response.length() != Some(copy.length) {
        return Err(CopyError::Source(format!(
            "has {:?} bytes instead of {}",
            response.length(),
            copy.length
        )));
    }
    tracker.make_directories(copy.to, copy.fid).await;

    let expected_md5 = copy
        .expected
        .as_ref()
        .filter(|sum| sum.algorithm == HashAlgorithm::Md5);
    let headers = headers(copy.length, expected_md5).map_err(CopyError::Destination)?;
    let tally = Arc::new(Mutex::new(Tally::default()));
    let allowance =
        tracker.config().copy_timeout.std() + Duration::from_secs(copy.length / RATE_MIN);
    let put = tracker
        .copier
        .put(
            &target,
            headers,
            body(response, Arc::clone(&tally)),
            allowance,
        )
        .await;
    let (actual, bytes, source_error) = {
        let tally = lock(&tally);
        let digest = tally.md5.clone().finalize().to_vec();
        let sum = Checksum {
            algorithm: HashAlgorithm::Md5,
            digest,
        };
        (sum, tally.bytes, tally.source_error.clone())
    };
    if let Some(error) = source_error {
        return Err(CopyError::Source(error));
    }
    // A source whose bytes differ from the stored digest is the one to blame, even when the destination refused them.
    if bytes == copy.length && expected_md5.is_some_and(|expected| *expected != actual) {
        discard(tracker, &target).await;
        return Err(CopyError::Source(format!(
            "has {actual} instead of the stored digest"
        )));
    }
    put.map_err(|error| CopyError::Destination(error.to_string()))?;
    prove(tracker, copy, &target, &actual, expected_md5.is_some()).await?;
    tracker.metrics.copied_bytes.inc_by(bytes);
    Ok(actual)
}

/// Whether the destination has what was sent: it compared the digest itself, or is asked for it, or at least for the length.
async fn prove(
    tracker: &Tracker,
    copy: &Copy,
    target: &str,
    actual: &Checksum,
    sent_md5: bool,
) -> Result<(), CopyError> {
    let failed = |error: String| CopyError::Destination(error);
    match tracker.nodes.head(target).await {
        Ok(Some(length)) if length == copy.length => {}
        Ok(Some(length)) => {
            discard(tracker, target).await;
            return Err(failed(format!("kept {length} bytes of {}", copy.length)));
        }
        Ok(None) => return Err(failed("accepted the file and does not have it".into())),
        Err(error) => return Err(failed(error.to_string())),
    }
    let snapshot = tracker.snapshot();
    let verifies = snapshot
        .cluster
        .devices
        .get(&copy.to)
        .and_then(|device| device.rejects_bad_md5)
        == Some(true);
    if sent_md5 && verifies {
        return Ok(());
    }
    match digest_of(
        tracker,
        copy.to,
        copy.fid,
        HashAlgorithm::Md5,
        copy.length,
        false,
    )
    .await
    {
        Ok(Some(found)) if found == *actual => Ok(()),
        Ok(found) => {
            discard(tracker, target).await;
            let found = found.map_or_else(|| "nothing".to_owned(), |sum| sum.to_string());
            Err(failed(format!("has {found} instead of {actual}")))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Digest of a replica: over the side channel, or by reading it over HTTP where there is none; `None` when the file is missing.
///
/// # Errors
/// What went wrong, for the log.
pub(crate) async fn digest_of(
    tracker: &Tracker,
    device: DevId,
    fid: Fid,
    algorithm: HashAlgorithm,
    length: u64,
    background: bool,
) -> Result<Option<Checksum>, String> {
    let config = tracker.config();
    let snapshot = tracker.snapshot();
    let (_, host) = snapshot.cluster.device(device).ok_or("device is unknown")?;
    let address = format!("{}:{}", host.ip, config.mogstored_stream_port);
    let wait = config.node_timeout.std() + Duration::from_secs(10 + length / RATE_MIN);
    let path = FidPath::new(device, fid).to_string();
    match side::digest(
        &address,
        &path,
        algorithm,
        background,
        config.conn_timeout.std(),
        wait,
    )
    .await
    {
        Ok(SideAnswer::Digest(sum)) if sum.algorithm == algorithm => return Ok(Some(sum)),
        // Another node may own the port on this address; HTTP has the last word on what is missing.
        Ok(
            SideAnswer::Missing
            | SideAnswer::Digest(_)
            | SideAnswer::Size(_)
            | SideAnswer::Unsupported,
        ) => {}
        Err(error) => tracing::trace!(address, %error, "no digest over the side channel"),
    }
    if algorithm != HashAlgorithm::Md5 {
        return Err(format!("node cannot tell {algorithm}"));
    }
    let url = tracker.read_url(device, fid).ok_or("device is unknown")?;
    let mut response = match tracker.copier.get(&url, 0).await {
        Ok(response) => response,
        Err(NodeError::Status(404 | 410)) => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let mut md5 = Md5::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| error.to_string())? {
        md5.update(&chunk);
    }
    Ok(Some(Checksum {
        algorithm,
        digest: md5.finalize().to_vec(),
    }))
}

async fn discard(tracker: &Tracker, url: &str) {
    if let Err(error) = tracker.nodes.delete(url).await {
        tracing::debug!(%url, %error, "bad copy stays until it is overwritten");
    }
}

fn headers(length: u64, md5: Option<&Checksum>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if let Some(md5) = md5 {
        let value =
            HeaderValue::from_str(&base64(&md5.digest)).map_err(|error| error.to_string())?;
        headers.insert("content-md5", value);
    }
    Ok(headers)
}

fn body(response: NodeResponse, tally: Arc<Mutex<Tally>>) -> ibex_mogilefs_client::node::Body {
    let stream = futures_util::stream::unfold(Some((response, tally)), |state| async move {
        let (mut response, tally) = state?;
        match response.chunk().await {
            Ok(Some(chunk)) => {
                {
                    let mut tally = lock(&tally);
                    tally.md5.update(&chunk);
                    tally.bytes += chunk.len() as u64;
                }
                Some((
                    Ok::<Frame<Bytes>, std::io::Error>(Frame::data(chunk)),
                    Some((response, tally)),
                ))
            }
            Ok(None) => None,
            Err(error) => {
                lock(&tally).source_error = Some(error.to_string());
                Some((Err(std::io::Error::other(error.to_string())), None))
            }
        }
    });
    StreamBody::new(stream).boxed_unsync()
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
