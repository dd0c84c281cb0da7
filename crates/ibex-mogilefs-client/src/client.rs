//! What it means to store and to fetch a file: tracker calls and transfers put together.
//!
//! Owns the order of steps and what may be repeated. A store reserves a file id and destinations, sends the bytes to the first destination that takes
//! them, and tells the tracker; only then
//! is the key visible. If the answer to that last call is lost, the client asks whether the key already shows its file id before it gives up.

use crate::admin::Admin;
use crate::config::Config;
use crate::download::Download;
use crate::error::Error;
use crate::node::{self, NodeClient, NodeError, NodeTimeouts};
use crate::tracker::{Repeat, Trackers};
use crate::upload::{HashingBody, Tally, base64_encode};
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, header};
use http_body_util::BodyExt;
use ibex_mogilefs_proto::{Checksum, Command, DevId, ErrorCode, Fid, HashAlgorithm, Pairs};
use md5::{Digest, Md5};
use std::sync::Arc;
use std::time::Duration;

/// A file as the tracker describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Its id.
    pub fid: Fid,
    /// Its class.
    pub class: String,
    /// Its length in bytes.
    pub length: u64,
    /// How many replicas the tracker counts.
    pub replicas: u32,
    /// Its checksum, when the class keeps one and it is known.
    pub checksum: Option<Checksum>,
}

/// A file that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its id.
    pub fid: Fid,
    /// Its length in bytes.
    pub length: u64,
    /// MD5 of what was sent.
    pub checksum: Checksum,
}

/// Which replicas to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathsOptions {
    /// Whether the tracker asks a node before it answers. Without, the answer is faster and may name a dead node.
    pub verify: bool,
    /// How many paths at most; at least 2.
    pub count: u32,
}

impl Default for PathsOptions {
    fn default() -> Self {
        Self {
            verify: false,
            count: 2,
        }
    }
}

/// Most replicas a fetch tries. Classes hold two to four.
const FETCH_PATHS_MAX: u32 = 16;

/// Slowest transfer that is not called a failure, in bytes per second.
const TRANSFER_RATE_MIN: u64 = 5 << 20;

/// A MogileFS cluster, seen from one domain. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    trackers: Trackers,
    nodes: NodeClient,
}

/// Where an upload may go.
struct Destinations {
    fid: Fid,
    places: Vec<(DevId, String)>,
}

impl Client {
    /// A client that connects when it is first used.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let nodes = NodeClient::new(NodeTimeouts {
            connect: config.node_connect_timeout,
            progress: config.node_timeout,
        });
        Self {
            shared: Arc::new(Shared {
                trackers: Trackers::new(config.clone()),
                nodes,
                config,
            }),
        }
    }

    /// A client that has reached a tracker.
    ///
    /// # Errors
    /// [`Error::NoTracker`] when none answered.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let client = Self::new(config);
        client
            .call(Command::Noop, Pairs::new(), Repeat::Safely)
            .await?;
        Ok(client)
    }

    /// Administration of the cluster.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.clone())
    }

    /// Stores `bytes` under `key`, replacing what was there. The empty class name is the domain's default class.
    ///
    /// # Errors
    /// [`Error::Refused`] by the tracker; [`Error::Storage`] when no destination took the bytes, after starting over as often as configured.
    pub async fn store(
        &self,
        key: impl AsRef<[u8]>,
        class: &str,
        bytes: impl Into<Bytes>,
    ) -> Result<Stored, Error> {
        let bytes = bytes.into();
        let mut attempt = 1;
        loop {
            match self.store_once(key.as_ref(), class, &bytes).await {
                Err(error)
                    if error.is_retryable() && attempt < self.shared.config.store_attempts_max =>
                {
                    tracing::debug!(%error, attempt, "store starts over");
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn store_once(&self, key: &[u8], class: &str, bytes: &Bytes) -> Result<Stored, Error> {
        let length = bytes.len() as u64;
        let destinations = self.create_open(key, class, Some(length)).await?;
        let digest = Md5::digest(bytes);
        let headers = content_headers(Some(length), Some(&base64_encode(&digest)))?;
        let mut last = Error::NoReplica;
        for (device, url) in &destinations.places {
            match self
                .shared
                .nodes
                .put(
                    url,
                    headers.clone(),
                    node::full(bytes.clone()),
                    transfer_allowance(length),
                )
                .await
            {
                Ok(()) => {
                    let stored = stored(destinations.fid, length, &digest);
                    // The node has compared Content-MD5, so the tracker need not read the file again.
                    self.create_close(key, *device, url, &stored, false).await?;
                    return Ok(stored);
                }
                Err(error) => {
                    tracing::debug!(%url, %error, "destination refused");
                    last = Error::Storage(error);
                }
            }
        }
        Err(last)
    }

    /// Stores a stream under `key`. With a `length` the bytes go out as they come and must add up to it; without, they are sent in chunks. A stream
    /// cannot be started over, so
    /// only a destination that cannot be reached at all is passed over.
    ///
    /// # Errors
    /// As [`Client::store`], and [`Error::Source`] when the stream failed or was not as long as promised. Nothing becomes visible then.
    pub async fn store_stream<S, E>(
        &self,
        key: impl AsRef<[u8]>,
        class: &str,
        source: S,
        length: Option<u64>,
    ) -> Result<Stored, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: std::fmt::Display + 'static,
    {
        let key = key.as_ref();
        let destinations = self.create_open(key, class, length).await?;
        let (device, url) = self.reachable(&destinations).await?;
        let tally = Tally::default();
        let mut headers = content_headers(length, None)?;
        if length.is_none() {
            headers.insert(header::TRAILER, HeaderValue::from_static("content-md5"));
        }
        let body = HashingBody::new(source, length, tally.clone()).boxed_unsync();
        // How long a stream of unknown length takes is the source's affair; a day bounds a forgotten one.
        let allowance = length.map_or(Duration::from_hours(24), transfer_allowance);
        if let Err(error) = self.shared.nodes.put(&url, headers, body, allowance).await {
            return Err(tally
                .source_error()
                .map_or(Error::Storage(error), Error::Source));
        }
        let stored = stored(destinations.fid, tally.bytes(), &tally.md5());
        // With a trailer the node has compared the MD5; with a plain length nobody has, so the tracker does.
        self.create_close(key, device, &url, &stored, length.is_some())
            .await?;
        Ok(stored)
    }

    /// The first destination whose node answers at all; asked with HEAD, which a missing file answers with 404.
    async fn reachable(&self, destinations: &Destinations) -> Result<(DevId, String), Error> {
        let mut last = Error::NoReplica;
        for (device, url) in &destinations.places {
            match self.shared.nodes.head(url).await {
                Ok(_) | Err(NodeError::Status(_)) => return Ok((*device, url.clone())),
                Err(error) => last = Error::Storage(error),
            }
        }
        Err(last)
    }

    async fn create_open(
        &self,
        key: &[u8],
        class: &str,
        length: Option<u64>,
    ) -> Result<Destinations, Error> {
        let mut args = self
            .domain_args()
            .with("key", key)
            .with("class", class)
            .with("multi_dest", "1")
            .with("fid", "0");
        if let Some(length) = length {
            args = args.with_number("size", length);
        }
        let reply = self.call(Command::CreateOpen, args, Repeat::Safely).await?;
        let missing = Error::Protocol("create_open without destinations");
        let Some(fid) = reply.value("fid").and_then(Fid::parse) else {
            return Err(missing);
        };
        let count = reply.number("dev_count").unwrap_or(0);
        let places: Vec<(DevId, String)> = (1..=count)
            .map_while(|index| {
                let device = DevId::parse(reply.value(&format!("devid_{index}"))?)?;
                Some((device, text(&reply, &format!("path_{index}"))?))
            })
            .collect();
        if places.is_empty() {
            Err(missing)
        } else {
            Ok(Destinations { fid, places })
        }
    }

    async fn create_close(
        &self,
        key: &[u8],
        device: DevId,
        url: &str,
        stored: &Stored,
        verify: bool,
    ) -> Result<(), Error> {
        let args = self
            .domain_args()
            .with("key", key)
            .with_number("fid", stored.fid.0)
            .with_number("devid", u64::from(device.0))
            .with("path", url)
            .with_number("size", stored.length)
            .with("checksum", stored.checksum.to_string())
            .with("checksumverify", if verify { "1" } else { "0" });
        // Reading a large file back for its digest takes time; HEAD alone does not.
        let wait = self.shared.config.reply_timeout * 3
            + if verify {
                transfer_allowance(stored.length)
            } else {
                Duration::ZERO
            };
        for _ in 0..2 {
            match self
                .shared
                .trackers
                .call(Command::CreateClose, args.clone(), Repeat::Safely, wait)
                .await
            {
                Ok(_) => return Ok(()),
                Err(error) if error.code() == Some(ErrorCode::NoTempFile) => {
                    // An earlier try of ours may have been carried out without its reply reaching us.
                    return match self.info(key).await {
                        Ok(info) if info.fid == stored.fid => Ok(()),
                        Ok(_) | Err(_) => Err(error),
                    };
                }
                Err(error) if !error.is_retryable() || matches!(error, Error::NoTracker(_)) => {
                    return Err(error);
                }
                Err(error) if error.code() == Some(ErrorCode::SizeVerifyError) => {
                    return Err(error);
                }
                Err(error) => tracing::debug!(%error, "create_close tried again"),
            }
        }
        Err(Error::NoTracker("create_close kept failing".into()))
    }

    /// URLs of the replicas of `key`, in the order to try them; empty when none is left. The tracker does not ask the nodes.
    ///
    /// # Errors
    /// [`Error::Refused`] with `unknown_key` for an unknown key.
    pub async fn open_paths(&self, key: impl AsRef<[u8]>) -> Result<Vec<String>, Error> {
        self.paths(key, PathsOptions::default()).await
    }

    /// As [`Client::open_paths`], with choices.
    ///
    /// # Errors
    /// As [`Client::open_paths`].
    pub async fn paths(
        &self,
        key: impl AsRef<[u8]>,
        options: PathsOptions,
    ) -> Result<Vec<String>, Error> {
        let args = self
            .domain_args()
            .with("key", key)
            .with("noverify", if options.verify { "0" } else { "1" })
            .with_number("pathcount", u64::from(options.count));
        let reply = self.call(Command::GetPaths, args, Repeat::Safely).await?;
        let count = reply
            .number("paths")
            .ok_or(Error::Protocol("get_paths without a count"))?;
        Ok((1..=count)
            .map_while(|index| text(&reply, &format!("path{index}")))
            .collect())
    }

    /// The file stored under `key`, from whichever replica has it intact. Its length, and its checksum when the class keeps one, are verified.
    ///
    /// # Errors
    /// [`Error::TooLarge`] beyond the configured limit; [`Error::Damaged`] when every reachable replica differs from what was stored.
    pub async fn fetch(&self, key: impl AsRef<[u8]>) -> Result<Bytes, Error> {
        let key = key.as_ref();
        let info = if self.shared.config.verify_fetch {
            Some(self.info(key).await?)
        } else {
            None
        };
        let mut replicas = self.fetch_paths(key).await?;
        let mut damaged = None;
        // A damaged replica is dropped and the rest tried from the start.
        while !replicas.is_empty() {
            let mut download = Download::open(
                self.shared.nodes.clone(),
                replicas.clone(),
                info.as_ref().map(|info| info.length),
            )
            .await?;
            let bytes = self.collect(&mut download).await?;
            match info
                .as_ref()
                .and_then(|info| info.checksum.as_ref())
                .and_then(|checksum| differs(checksum, &bytes))
            {
                None => return Ok(bytes),
                Some(difference) => {
                    tracing::warn!(fid = ?info.as_ref().map(|info| info.fid), difference, "damaged replica");
                    damaged = Some(difference);
                    replicas.remove(0);
                }
            }
        }
        Err(damaged.map_or(Error::NoReplica, Error::Damaged))
    }

    async fn collect(&self, download: &mut Download) -> Result<Bytes, Error> {
        let length = download.length();
        if length > self.shared.config.fetch_bytes_max {
            return Err(Error::TooLarge(length));
        }
        let mut bytes =
            BytesMut::with_capacity(usize::try_from(length).map_err(|_| Error::TooLarge(length))?);
        while let Some(chunk) = download.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    /// Starts reading the file under `key` piece by piece.
    ///
    /// # Errors
    /// [`Error::Refused`] for an unknown key; [`Error::Storage`] when no replica answers.
    pub async fn open(&self, key: impl AsRef<[u8]>) -> Result<Download, Error> {
        let replicas = self.fetch_paths(key.as_ref()).await?;
        Download::open(self.shared.nodes.clone(), replicas, None).await
    }

    async fn fetch_paths(&self, key: &[u8]) -> Result<Vec<String>, Error> {
        let options = PathsOptions {
            verify: false,
            count: FETCH_PATHS_MAX,
        };
        let paths = self.paths(key, options).await?;
        if paths.is_empty() {
            Err(Error::NoReplica)
        } else {
            Ok(paths)
        }
    }

    /// Removes `key`; whether it existed.
    ///
    /// # Errors
    /// [`Error::Refused`] for anything but an unknown key.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        match self
            .call(
                Command::Delete,
                self.domain_args().with("key", key),
                Repeat::Safely,
            )
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if error.is_unknown_key() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives the file under `from` the key `to`, which must be free.
    ///
    /// # Errors
    /// [`Error::Refused`] with `unknown_key` or `key_exists`.
    pub async fn rename(&self, from: impl AsRef<[u8]>, to: impl AsRef<[u8]>) -> Result<(), Error> {
        let args = self.domain_args().with("from_key", from).with("to_key", to);
        self.call(Command::Rename, args, Repeat::Never)
            .await
            .map(drop)
    }

    /// Moves the file under `key` to another class; copies are made or removed in the background.
    ///
    /// # Errors
    /// [`Error::Refused`] for an unknown key or class.
    pub async fn update_class(&self, key: impl AsRef<[u8]>, class: &str) -> Result<(), Error> {
        let args = self.domain_args().with("key", key).with("class", class);
        self.call(Command::UpdateClass, args, Repeat::Safely)
            .await
            .map(drop)
    }

    /// What the tracker knows of `key`.
    ///
    /// # Errors
    /// [`Error::Refused`] with `unknown_key`.
    pub async fn info(&self, key: impl AsRef<[u8]>) -> Result<FileInfo, Error> {
        let reply = self
            .call(
                Command::FileInfo,
                self.domain_args().with("key", key),
                Repeat::Safely,
            )
            .await?;
        let missing = Error::Protocol("file_info lacks fields");
        let (Some(fid), Some(length), Some(devcount)) = (
            reply.value("fid").and_then(Fid::parse),
            reply.number("length"),
            reply.number("devcount"),
        ) else {
            return Err(missing);
        };
        Ok(FileInfo {
            fid,
            length,
            replicas: u32::try_from(devcount).map_err(|_| missing)?,
            class: text(&reply, "class").unwrap_or_default(),
            checksum: reply.value("checksum").and_then(Checksum::parse),
        })
    }

    /// Up to `limit` (at most 1000) keys starting with `prefix` and sorted after `after`, in order; empty at the end. Pass the last one as `after` to go on.
    ///
    /// # Errors
    /// [`Error::Refused`] with `after_mismatch` when `after` does not start with `prefix`.
    pub async fn list_keys(
        &self,
        prefix: impl AsRef<[u8]>,
        after: Option<&[u8]>,
        limit: u32,
    ) -> Result<Vec<Bytes>, Error> {
        let mut args = self
            .domain_args()
            .with("prefix", prefix)
            .with_number("limit", u64::from(limit));
        if let Some(after) = after {
            args = args.with("after", after);
        }
        let reply = match self.call(Command::ListKeys, args, Repeat::Safely).await {
            Ok(reply) => reply,
            Err(error) if error.code() == Some(ErrorCode::NoneMatch) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let count = reply
            .number("key_count")
            .ok_or(Error::Protocol("list_keys without a count"))?;
        Ok((1..=count)
            .map_while(|index| {
                reply
                    .value(&format!("key_{index}"))
                    .map(Bytes::copy_from_slice)
            })
            .collect())
    }

    pub(crate) fn domain(&self) -> &[u8] {
        &self.shared.config.domain
    }

    pub(crate) async fn call(
        &self,
        command: Command,
        args: Pairs,
        repeat: Repeat,
    ) -> Result<Pairs, Error> {
        self.shared
            .trackers
            .call(command, args, repeat, self.shared.config.reply_timeout)
            .await
    }

    fn domain_args(&self) -> Pairs {
        Pairs::new().with("domain", self.domain())
    }
}

fn stored(fid: Fid, length: u64, md5: &[u8]) -> Stored {
    let checksum = Checksum {
        algorithm: HashAlgorithm::Md5,
        digest: md5.to_vec(),
    };
    Stored {
        fid,
        length,
        checksum,
    }
}

/// How `bytes` differ from `checksum`; `None` when they agree or the algorithm is not one this client computes.
fn differs(checksum: &Checksum, bytes: &[u8]) -> Option<String> {
    match checksum.algorithm {
        HashAlgorithm::Md5 => {
            let actual = Md5::digest(bytes);
            (actual[..] != checksum.digest[..]).then(|| {
                format!(
                    "expected {checksum}, got MD5:{}",
                    ibex_mogilefs_proto::checksum::to_hex(&actual)
                )
            })
        }
        HashAlgorithm::Sha1
        | HashAlgorithm::Sha224
        | HashAlgorithm::Sha256
        | HashAlgorithm::Sha384
        | HashAlgorithm::Sha512 => None,
    }
}

/// The time a transfer of `length` bytes may take: ten seconds and what the slowest tolerable link needs.
fn transfer_allowance(length: u64) -> Duration {
    Duration::from_secs(10 + length / TRANSFER_RATE_MIN)
}

fn content_headers(length: Option<u64>, md5_base64: Option<&str>) -> Result<HeaderMap, Error> {
    let value =
        |text: &str| HeaderValue::from_str(text).map_err(|_| Error::Protocol("header value"));
    let mut headers = HeaderMap::new();
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, value(&length.to_string())?);
    }
    if let Some(md5) = md5_base64 {
        headers.insert("content-md5", value(md5)?);
    }
    Ok(headers)
}

fn text(reply: &Pairs, name: &str) -> Option<String> {
    reply
        .value(name)
        .map(|value| String::from_utf8_lossy(value).into_owned())
}
