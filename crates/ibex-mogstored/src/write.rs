//! Uploads: a temporary file that becomes the real one in a single step, or nothing at all.
//!
//! Owns the order write → compare → sync → rename → sync directory. Dropping an unfinished [`Upload`] removes its temporary file, whatever the reason.

use crate::config::SyncMode;
use crate::disks::{Disks, FILE_MODE, Parents, is_other_than_file};
use ibex_mogilefs_proto::DevId;
use rustix::fs::{
    AtFlags, FallocateFlags, OFlags, fallocate, fdatasync, fsync, openat, renameat, unlinkat,
};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// Space is reserved in advance from this length on: a full disk then refuses before the client sends megabytes.
const PREALLOCATE_BYTES_MIN: u64 = 1 << 20;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// A file being received.
#[derive(Debug)]
pub(crate) struct Upload {
    file: File,
    temp: Temp,
    parent: OwnedFd,
    name: String,
    sync: SyncMode,
}

/// A temporary file's name; gone with the value unless it was renamed.
#[derive(Debug)]
struct Temp {
    directory: OwnedFd,
    name: String,
    is_renamed: bool,
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.is_renamed {
            // Fails only when the file is gone already, which is what is wanted.
            let _gone = unlinkat(&self.directory, self.name.as_str(), AtFlags::empty());
        }
    }
}

impl Upload {
    /// Opens a temporary file on the device of the final one; makes the directories above the final name.
    pub(crate) fn create(
        disks: &Disks,
        device: DevId,
        parts: &[String],
        length: Option<u64>,
        sync: SyncMode,
    ) -> io::Result<Self> {
        let name = parts.last().ok_or(io::ErrorKind::InvalidInput)?.clone();
        let parent = disks.open_parent(device, parts, Parents::Create, sync == SyncMode::Full)?;
        if is_other_than_file(&parent, &name)? {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let directory = disks.open_temp(device)?;
        let temp = Temp {
            directory,
            name: format!(
                "{}-{}",
                std::process::id(),
                NEXT.fetch_add(1, Ordering::Relaxed)
            ),
            is_renamed: false,
        };
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(
            &temp.directory,
            temp.name.as_str(),
            flags,
            FILE_MODE,
        )?);
        if let Some(length) = length.filter(|&length| length >= PREALLOCATE_BYTES_MIN) {
            preallocate(&file, length)?;
        }
        Ok(Self {
            file,
            temp,
            parent,
            name,
            sync,
        })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Makes the file durable and visible; whether it replaced another.
    pub(crate) fn commit(mut self) -> io::Result<bool> {
        if self.sync != SyncMode::None {
            fdatasync(&self.file)?;
        }
        let replaced =
            rustix::fs::statat(&self.parent, self.name.as_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok();
        renameat(
            &self.temp.directory,
            self.temp.name.as_str(),
            &self.parent,
            self.name.as_str(),
        )?;
        self.temp.is_renamed = true;
        if self.sync == SyncMode::Full {
            fsync(&self.parent)?;
        }
        Ok(replaced)
    }
}

fn preallocate(file: &File, length: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, length) {
        // A file system without the call takes the bytes as they come.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A range of an existing file being overwritten in place: the original client's mode for large files. Not atomic by nature.
#[derive(Debug)]
pub(crate) struct Patch {
    file: File,
    offset: u64,
    sync: SyncMode,
}

impl Patch {
    pub(crate) fn open(
        disks: &Disks,
        device: DevId,
        parts: &[String],
        offset: u64,
        sync: SyncMode,
    ) -> io::Result<Self> {
        let name = parts.last().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = disks.open_parent(device, parts, Parents::Create, sync == SyncMode::Full)?;
        if is_other_than_file(&parent, name)? {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&parent, name.as_str(), flags, FILE_MODE)?);
        if sync == SyncMode::Full {
            fsync(&parent)?;
        }
        Ok(Self { file, offset, sync })
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.offset)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    pub(crate) fn commit(self) -> io::Result<()> {
        if self.sync != SyncMode::None {
            fdatasync(&self.file)?;
        }
        Ok(())
    }
}

/// Removes a file; whether it was there. Directories are refused with `IsADirectory`.
pub(crate) fn remove(
    disks: &Disks,
    device: DevId,
    parts: &[String],
    sync: SyncMode,
) -> io::Result<bool> {
    let name = parts.last().ok_or(io::ErrorKind::InvalidInput)?;
    let parent = match disks.open_parent(device, parts, Parents::Must, false) {
        Ok(parent) => parent,
        Err(error) if crate::disks::is_missing(&error) => return Ok(false),
        Err(error) => return Err(error),
    };
    match unlinkat(&parent, name.as_str(), AtFlags::empty()) {
        Ok(()) => {}
        Err(Errno::NOENT) => return Ok(false),
        Err(Errno::ISDIR | Errno::PERM) => return Err(io::ErrorKind::IsADirectory.into()),
        Err(error) => return Err(error.into()),
    }
    if sync == SyncMode::Full {
        fsync(&parent)?;
    }
    Ok(true)
}

/// Whether an error means that the device has no room: full, over quota, or beyond the largest file.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
