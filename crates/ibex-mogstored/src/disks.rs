//! The devices below the document root: opening their directories and files without ever leaving them, and bounding the calls to each.
//!
//! Owns the descriptors' flags. Every directory below `devN` is opened by one `openat` with `O_NOFOLLOW`, so a symbolic link planted inside a device
//! leads nowhere; `devN` itself may
//! be a link to where the disk is mounted. Everything here but [`Disks::run`] blocks and belongs on a blocking thread.

use ibex_mogilefs_proto::DevId;
use rustix::fs::{AtFlags, Mode, OFlags, fstat, fsync, mkdirat, openat, statat};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// Access of directories and files: the owner's, and reading for the group that backs them up.
const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o750);
pub(crate) const FILE_MODE: Mode = Mode::from_raw_mode(0o640);

/// All devices of the node.
#[derive(Debug)]
pub(crate) struct Disks {
    docroot: PathBuf,
    threads: usize,
    known: Mutex<BTreeMap<DevId, Known>>,
}

#[derive(Debug, Clone)]
struct Known {
    /// The file system's number when the device was first seen as a mount point.
    mounted_as: Option<u64>,
    gate: Arc<Semaphore>,
    background: Arc<Semaphore>,
}

/// Whether missing directories are made on the way to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parents {
    Must,
    Create,
}

/// How urgent a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Somebody waits.
    Request,
    /// One at a time per disk.
    Background,
}

impl Disks {
    pub(crate) fn new(docroot: &Path, threads: u32) -> Self {
        Self {
            docroot: docroot.to_owned(),
            threads: usize::try_from(threads).unwrap_or(1),
            known: Mutex::default(),
        }
    }

    /// Runs `work`, which blocks, on a blocking thread, after a place at the device is free.
    pub(crate) async fn run<T, F>(&self, device: DevId, urgency: Urgency, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let known = self.known(device);
        let gate = match urgency {
            Urgency::Request => known.gate,
            Urgency::Background => known.background,
        };
        let permit = gate.acquire_owned().await.map_err(io::Error::other)?;
        let done = tokio::task::spawn_blocking(move || {
            let outcome = work();
            drop(permit);
            outcome
        });
        done.await.map_err(io::Error::other)?
    }

    fn known(&self, device: DevId) -> Known {
        let mut known = self
            .known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // Only devices that exist may make entries, or strangers could fill the map.
        if let Some(entry) = known.get(&device) {
            return entry.clone();
        }
        let entry = Known {
            mounted_as: None,
            gate: Arc::new(Semaphore::new(self.threads)),
            background: Arc::new(Semaphore::new(1)),
        };
        if self.path(device).is_dir() {
            known.insert(device, entry.clone());
        }
        entry
    }

    /// `docroot/devN`.
    pub(crate) fn path(&self, device: DevId) -> PathBuf {
        self.docroot.join(format!("dev{device}"))
    }

    /// The devices present now, by number.
    pub(crate) fn present(&self) -> Vec<DevId> {
        let Ok(entries) = std::fs::read_dir(&self.docroot) else {
            return Vec::new();
        };
        let mut devices: Vec<DevId> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let device = DevId::parse(name.strip_prefix("dev")?.as_bytes())?;
                (format!("dev{device}") == name && entry.path().is_dir()).then_some(device)
            })
            .collect();
        devices.sort_unstable();
        devices
    }

    /// Remembers whether the device is a mount point, so that its loss is noticed.
    pub(crate) fn observe(&self, device: DevId) -> io::Result<()> {
        let here = file_system_of(&self.path(device))?;
        let root = file_system_of(&self.docroot)?;
        let entry = self.known(device);
        let mut known = self
            .known
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mounted_as = (here != root).then_some(here).or(entry.mounted_as);
        known.insert(
            device,
            Known {
                mounted_as,
                ..entry
            },
        );
        Ok(())
    }

    /// Whether writes may go to the device: it was never a mount point or still is one; with `require_mount` it must be one.
    pub(crate) fn is_mounted(&self, device: DevId, require_mount: bool) -> io::Result<bool> {
        let here = file_system_of(&self.path(device))?;
        let root = file_system_of(&self.docroot)?;
        let expected = self.known(device).mounted_as;
        Ok(here != root || (expected.is_none() && !require_mount))
    }

    /// The device's own directory.
    pub(crate) fn open_device(&self, device: DevId) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(self.path(device), flags, Mode::empty())?)
    }

    /// The directory that holds the last of `parts`. `sync` also syncs directories that got a new entry.
    pub(crate) fn open_parent(
        &self,
        device: DevId,
        parts: &[String],
        parents: Parents,
        sync: bool,
    ) -> io::Result<OwnedFd> {
        let mut directory = self.open_device(device)?;
        for part in parts.iter().take(parts.len().saturating_sub(1)) {
            directory = open_directory(&directory, part, parents, sync)?;
        }
        Ok(directory)
    }

    /// Opens a file for reading; `NotFound` for directories, links and everything that is no plain file.
    pub(crate) fn open_file(&self, device: DevId, parts: &[String]) -> io::Result<File> {
        let parent = self.open_parent(device, parts, Parents::Must, false)?;
        let name = parts.last().ok_or(io::ErrorKind::NotFound)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(openat(&parent, name.as_str(), flags, Mode::empty())?);
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(file)
    }

    /// Size of a file; `None` when it is missing.
    pub(crate) fn size(&self, device: DevId, parts: &[String]) -> io::Result<Option<u64>> {
        match self.open_file(device, parts) {
            Ok(file) => file.metadata().map(|metadata| Some(metadata.len())),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The directory of unfinished uploads, made if need be.
    pub(crate) fn open_temp(&self, device: DevId) -> io::Result<OwnedFd> {
        let directory = self.open_device(device)?;
        open_directory(
            &directory,
            crate::paths::TEMP_DIRECTORY,
            Parents::Create,
            false,
        )
    }

    /// Removes what an earlier process left unfinished; how many files.
    pub(crate) fn clean_temp(&self, device: DevId) -> io::Result<usize> {
        let path = self.path(device).join(crate::paths::TEMP_DIRECTORY);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut removed = 0;
        for entry in entries {
            std::fs::remove_file(entry?.path())?;
            removed += 1;
        }
        Ok(removed)
    }
}

fn open_directory(
    parent: &OwnedFd,
    name: &str,
    parents: Parents,
    sync: bool,
) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        Ok(directory) => return Ok(directory),
        Err(Errno::NOENT) if parents == Parents::Create => {}
        Err(error) => return Err(error.into()),
    }
    match mkdirat(parent, name, DIRECTORY_MODE) {
        Ok(()) if sync => fsync(parent)?,
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(openat(parent, name, flags, Mode::empty())?)
}

fn file_system_of(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata(path)?.dev())
}

/// Whether `name` exists in `directory` as something else than a plain file.
pub(crate) fn is_other_than_file(directory: &OwnedFd, name: &str) -> io::Result<bool> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode)
                != rustix::fs::FileType::RegularFile)
        }
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether an error means that the named file is not there: absent, or a part of its path is no directory or a link.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    ) || error.raw_os_error() == Some(Errno::LOOP.raw_os_error())
}

/// Number of the file system behind an open file, for the kernel's statistics.
pub(crate) fn file_system_number(directory: &OwnedFd) -> io::Result<u64> {
    Ok(fstat(directory)?.st_dev)
}
