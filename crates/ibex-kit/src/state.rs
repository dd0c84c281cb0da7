//! The state directory: where it is, and that only one process uses it.
//!
//! Owns the choice of the path (spec/ops.md 7.1) and the lock. What lies inside belongs to the daemon.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::FlockOperation;

use crate::about::About;
use crate::failure::Failure;
use crate::lock;

/// The state directory of this process; not touched before [`StateDir::open`].
#[derive(Debug)]
pub(crate) struct StateDir {
    path: PathBuf,
    held: Mutex<Option<File>>,
}

impl StateDir {
    /// The configured directory, else the first that fits of `$STATE_DIRECTORY`, `/var/lib/ibex/NAME` (root),
    /// `$XDG_STATE_HOME/ibex/NAME`, `~/.local/state/ibex/NAME`.
    pub(crate) fn new(about: &About, configured: &str) -> Self {
        Self {
            path: state_path(about, configured),
            held: Mutex::new(None),
        }
    }

    /// Makes and locks it; later calls only return the path.
    pub(crate) fn open(&self) -> Result<PathBuf, Failure> {
        let mut held = lock(&self.held);
        if held.is_none() {
            *held = Some(take(&self.path)?);
        }
        Ok(self.path.clone())
    }
}

impl StateDir {
    /// The version in `FORMAT`; written as `ours` if there is none.
    pub(crate) fn format(&self, about: &About, ours: u32) -> Result<u32, Failure> {
        let path = self.open()?.join("FORMAT");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.set_format(about, ours)?;
                return Ok(ours);
            }
            Err(error) => return Err(Failure::io(format!("{}: {error}", path.display()))),
        };
        // "3 ibex-gearmand 0.3.0": the version, and who wrote it.
        let (number, writer) = text
            .trim()
            .split_once(' ')
            .unwrap_or((text.trim(), "an unknown program"));
        let found: u32 = number
            .parse()
            .map_err(|_| Failure::config(format!("{}: no version in it", path.display())))?;
        if found > ours {
            let message = format!(
                "{}: format {found} was written by {writer}, this program knows {ours} (use the newer program)",
                path.display()
            );
            return Err(Failure::config(message));
        }
        Ok(found)
    }

    /// Replaces `FORMAT` in one step.
    pub(crate) fn set_format(&self, about: &About, version: u32) -> Result<(), Failure> {
        let directory = self.open()?;
        let path = directory.join("FORMAT");
        let written = replace(
            &directory,
            &path,
            &format!("{version} {} {}\n", about.name, about.version),
        );
        written.map_err(|error| Failure::io(format!("{}: {error}", path.display())))
    }
}

/// Atomic replacement: a temporary file beside it, synced, renamed, the directory synced.
fn replace(directory: &Path, path: &Path, text: &str) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

/// Where the state of `about` lies: `configured` (the key `state_dir`), or the default. Nothing is made or locked; for programs of which several
/// processes share what lies there, and for commands beside a running daemon. A daemon on its own calls [`crate::Kit::state_dir`].
#[must_use]
pub fn state_path(about: &About, configured: &str) -> PathBuf {
    let variable = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if configured.is_empty() {
        default_dir(about.short, rustix::process::geteuid().is_root(), &variable)
    } else {
        PathBuf::from(configured)
    }
}

/// Makes the state directory at `path` (0750) if it is not there.
///
/// # Errors
/// It cannot be made (exit 74).
pub fn make_state_dir(path: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(0o750).create(path);
    made.map_err(|error| {
        Failure::io(format!(
            "state directory {}: {error} (set state_dir)",
            path.display()
        ))
    })
}

fn default_dir(short: &str, root: bool, variable: &dyn Fn(&str) -> Option<PathBuf>) -> PathBuf {
    if let Some(path) = variable("STATE_DIRECTORY") {
        // systemd may pass several, separated by colons; ours is the first.
        let text = path.to_string_lossy().into_owned();
        return PathBuf::from(text.split(':').next().unwrap_or_default());
    }
    if root {
        return Path::new("/var/lib/ibex").join(short);
    }
    let base = variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    // Without a home there is only the common temporary directory, where the name must not collide with another user's.
    let temporary =
        || std::env::temp_dir().join(format!("ibex-{}", rustix::process::getuid().as_raw()));
    base.map_or_else(temporary, |base| base.join("ibex"))
        .join(short)
}

fn take(path: &Path) -> Result<File, Failure> {
    let failure = |error: &std::io::Error| {
        Failure::io(format!(
            "state directory {}: {error} (set state_dir)",
            path.display()
        ))
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(path)
        .map_err(|error| failure(&error))?;
    let lock_path = path.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|error| failure(&error))?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        // The message is useful even without the pid.
        let _length = file.read_to_string(&mut pid).unwrap_or(0);
        let pid = pid.trim();
        return Err(Failure::io(format!(
            "state directory {}: in use by process {pid} (stop it, or set state_dir)",
            path.display()
        )));
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|error| failure(&error))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_follows_the_environment() {
        let none = |_: &str| None;
        assert_eq!(
            default_dir("gearmand", true, &none),
            Path::new("/var/lib/ibex/gearmand")
        );
        let home = |name: &str| (name == "HOME").then(|| PathBuf::from("/home/u"));
        assert_eq!(
            default_dir("gearmand", false, &home),
            Path::new("/home/u/.local/state/ibex/gearmand")
        );
        let uid = rustix::process::getuid().as_raw();
        let nowhere = std::env::temp_dir().join(format!("ibex-{uid}/gearmand"));
        assert_eq!(default_dir("gearmand", false, &none), nowhere);
        let systemd = |name: &str| {
            (name == "STATE_DIRECTORY")
                .then(|| PathBuf::from("/var/lib/ibex/gearmand:/var/lib/other"))
        };
        assert_eq!(
            default_dir("gearmand", false, &systemd),
            Path::new("/var/lib/ibex/gearmand")
        );
    }

    #[test]
    fn a_newer_format_is_refused_with_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let about = About {
            name: "ibex-x",
            short: "x",
            summary: "",
            version: "1.2.3",
            admin_port: 1,
            original_flags: "",
        };
        let state = StateDir::new(&about, dir.path().to_str().unwrap());
        assert_eq!(state.format(&about, 2).unwrap(), 2);
        assert_eq!(
            std::fs::read_to_string(dir.path().join("FORMAT")).unwrap(),
            "2 ibex-x 1.2.3\n"
        );
        assert_eq!(state.format(&about, 3).unwrap(), 2);
        let failure = state.format(&about, 1).unwrap_err();
        assert_eq!(failure.kind(), crate::failure::Kind::Config);
        assert!(
            failure
                .to_string()
                .contains("format 2 was written by ibex-x 1.2.3"),
            "{failure}"
        );
    }

    #[test]
    fn a_second_holder_is_refused_by_pid() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let held = take(&path).unwrap();
        let failure = take(&path).unwrap_err();
        assert_eq!(failure.kind(), crate::failure::Kind::Io);
        assert!(
            failure
                .to_string()
                .contains(&format!("in use by process {}", std::process::id())),
            "{failure}"
        );
        drop(held);
        take(&path).unwrap();
    }
}
