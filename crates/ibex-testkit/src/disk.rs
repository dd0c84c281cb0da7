//! A disk that is soon full: a small tmpfs, where this process may mount one.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A small file system of its own, unmounted with the value.
#[derive(Debug)]
pub struct Small {
    at: PathBuf,
    /// The folder it lies on, if that is its own.
    folder: Option<TempDir>,
}

impl Small {
    /// One of so many megabytes on a folder of its own; `None`, with a visible line, where that is not allowed.
    ///
    /// # Panics
    /// If no folder can be made.
    #[must_use]
    pub fn mount(megabytes: u32) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let mut small = Self::mount_at(folder.path().to_owned(), megabytes)?;
        small.folder = Some(folder);
        Some(small)
    }

    /// One on the folder `at`.
    #[must_use]
    pub fn mount_at(at: PathBuf, megabytes: u32) -> Option<Self> {
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "small"])
            .arg(&at)
            .output();
        if done.is_ok_and(|done| done.status.success()) {
            return Some(Self { at, folder: None });
        }
        crate::skip::skip(
            "a small tmpfs cannot be mounted (not root, or no such right in this container)",
        );
        None
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.at
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        match Command::new("umount").arg("-l").arg(&self.at).status() {
            Ok(status) if status.success() => {}
            other => eprintln!("tmpfs stays: {other:?}"),
        }
    }
}
