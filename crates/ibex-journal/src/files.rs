//! Where pictures are kept: MogileFS, or a directory when there are no trackers.
//!
//! Apart so that the rest of the site says `put`, `get`, `places`, `delete`. Keys are `up:<userid>:<picid>` and
//! `ph:<userid>:<mediaid>:<size>`; a key is written once and never changed, so copies may be kept for ever.

use crate::clock;
use crate::config::FilesConfig;
use crate::error::{Error, Result};
use bytes::Bytes;
use ibex_mogilefs_client::{Client, Config};
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// How long after a failure the pages say that the store is away, in seconds.
const DEGRADED: i64 = 5;
/// A stored picture is no larger than an upload.
const FETCH_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The file store.
#[derive(Debug)]
pub struct Files {
    place: Place,
    failed_at: AtomicI64,
}

#[derive(Debug)]
enum Place {
    Mogile(Client),
    Directory(PathBuf),
}

impl Files {
    /// The configured place; trackers need not be up.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open(config: &FilesConfig, dir: PathBuf) -> Result<Self> {
        let place = if config.trackers.is_empty() {
            std::fs::create_dir_all(&dir)
                .map_err(|error| Error::Files(format!("{}: {error}", dir.display())))?;
            Place::Directory(dir)
        } else {
            let config = Config::new(config.trackers.iter().cloned(), &config.domain)
                .with_connect_timeout(Duration::from_millis(500))
                .with_reply_timeout(Duration::from_secs(5))
                .with_fetch_bytes_max(FETCH_BYTES_MAX);
            Place::Mogile(Client::new(config))
        };
        Ok(Self {
            place,
            failed_at: AtomicI64::new(0),
        })
    }

    /// Whether a call failed a moment ago.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        clock::now() - self.failed_at.load(Ordering::Relaxed) < DEGRADED
    }

    /// Stores a file under a new key.
    ///
    /// # Errors
    /// [`Error::Files`].
    pub async fn put(&self, key: &str, class: &str, content: Bytes) -> Result<()> {
        let outcome = match &self.place {
            Place::Mogile(client) => client
                .store(key, class, content)
                .await
                .map(drop)
                .map_err(|error| error.to_string()),
            Place::Directory(dir) => write(dir.join(file_name(key)), content).await,
        };
        outcome.map_err(|error| self.failed(error))
    }

    /// The file, whole; `None` when there is none under this key.
    ///
    /// # Errors
    /// [`Error::Files`].
    pub async fn get(&self, key: &str) -> Result<Option<Bytes>> {
        match &self.place {
            Place::Mogile(client) => match client.fetch(key).await {
                Ok(content) => Ok(Some(content)),
                Err(error) if error.is_unknown_key() => Ok(None),
                Err(error) => Err(self.failed(error.to_string())),
            },
            Place::Directory(dir) => match tokio::fs::read(dir.join(file_name(key))).await {
                Ok(content) => Ok(Some(content.into())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(self.failed(error.to_string())),
            },
        }
    }

    /// URLs the balancer may fetch the file from; none when files live in a directory.
    ///
    /// # Errors
    /// [`Error::Files`].
    pub async fn places(&self, key: &str) -> Result<Vec<String>> {
        match &self.place {
            Place::Mogile(client) => match client.open_paths(key).await {
                Ok(urls) => Ok(urls),
                Err(error) if error.is_unknown_key() => Ok(Vec::new()),
                Err(error) => Err(self.failed(error.to_string())),
            },
            Place::Directory(_) => Ok(Vec::new()),
        }
    }

    /// Deletes the file, if it is there.
    ///
    /// # Errors
    /// [`Error::Files`].
    pub async fn delete(&self, key: &str) -> Result<()> {
        match &self.place {
            Place::Mogile(client) => client
                .delete(key)
                .await
                .map(drop)
                .map_err(|error| self.failed(error.to_string())),
            Place::Directory(dir) => match tokio::fs::remove_file(dir.join(file_name(key))).await {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(self.failed(error.to_string()))
                }
                Ok(()) | Err(_) => Ok(()),
            },
        }
    }

    fn failed(&self, error: String) -> Error {
        let now = clock::now();
        if now - self.failed_at.swap(now, Ordering::Relaxed) >= DEGRADED {
            tracing::warn!(error, "file store does not answer");
        }
        Error::Files(error)
    }
}

/// Keys are ours (letters, digits, colons); a colon is not for every file system.
fn file_name(key: &str) -> String {
    key.chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '_'
            }
        })
        .collect()
}

/// Written aside and renamed, so that a crash leaves the whole file or none.
async fn write(path: PathBuf, content: Bytes) -> Result<(), String> {
    let work = move || -> std::io::Result<()> {
        use std::io::Write as _;
        let aside = path.with_extension("part");
        let mut file = std::fs::File::create(&aside)?;
        file.write_all(&content)?;
        file.sync_all()?;
        std::fs::rename(&aside, &path)
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}
