//! The kernel tells of writes to a SQLite file's log, so that other programs' inserts need not be polled for.
//!
//! Apart because it is the only place that knows of file names. A write is told before its commit can be seen: SQLite writes the log, syncs it, and
//! shows it to readers then. Who is told looks again a few times.

use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// Room for the events of one read; an event is 16 bytes and a name.
const EVENTS_BYTES: usize = 4096;

/// A watched log.
#[derive(Debug)]
pub(crate) struct Wal {
    events: AsyncFd<OwnedFd>,
    name: Vec<u8>,
}

impl Wal {
    /// Watches the log of a database file.
    ///
    /// # Errors
    /// The file is not there, or the kernel has no more watches.
    pub(crate) fn watch(file: &Path) -> io::Result<Self> {
        // SQLite names the log after the file that a link leads to.
        let file = file.canonicalize()?;
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        // The folder, as the log comes and goes.
        inotify::add_watch(&events, folder, WatchFlags::MODIFY)?;
        let mut name = name.as_encoded_bytes().to_vec();
        name.extend_from_slice(b"-wal");
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for descriptors that may be closed under it; an OwnedFd is not"
        )]
        let events = AsyncFd::new(events)?;
        Ok(Self { events, name })
    }

    /// Returns when the log was written to; never when the kernel cannot tell any more. Safe to drop.
    pub(crate) async fn written(&self) {
        loop {
            let Ok(mut ready) = self.events.readable().await else {
                return std::future::pending().await;
            };
            match ready.try_io(|events| self.read(events.get_ref())) {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => {
                    tracing::debug!(error = %error, "writes to the file are polled for");
                    return std::future::pending().await;
                }
            }
        }
    }

    /// Reads all events; whether one of them is of the log.
    fn read(&self, events: &OwnedFd) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
        let mut reader = inotify::Reader::new(events, &mut buffer);
        let (mut is_any, mut is_ours) = (false, false);
        loop {
            match reader.next() {
                Ok(event) => {
                    is_any = true;
                    is_ours |= event.events().contains(ReadFlags::QUEUE_OVERFLOW)
                        || event
                            .file_name()
                            .is_some_and(|name| name.to_bytes() == self.name);
                }
                Err(Errno::WOULDBLOCK) if is_any => return Ok(is_ours),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn writes_to_the_log_are_told_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("jobs.db");
        assert!(Wal::watch(&file).is_err(), "there is no such file");
        std::fs::write(&file, "x").unwrap();
        let wal = Wal::watch(&file).unwrap();
        std::fs::write(dir.path().join("other"), "x").unwrap();
        std::fs::write(&file, "y").unwrap();
        let told = tokio::time::timeout(Duration::from_millis(20), wal.written()).await;
        assert!(told.is_err(), "nothing was written to the log");
        std::fs::write(dir.path().join("jobs.db-wal"), "x").unwrap();
        tokio::time::timeout(Duration::from_secs(30), wal.written())
            .await
            .unwrap();
    }
}
