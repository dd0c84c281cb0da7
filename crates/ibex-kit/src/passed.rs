//! What the process was handed at start: sockets from systemd, and variables that children must not see.
//!
//! This is one of the crate's two places with `unsafe` (the other is [`crate::memory`]), on purpose a small one. Two
//! things cannot be had safely: making an owned socket of a bare descriptor number (the `LISTEN_FDS` protocol passes
//! numbers), and removing environment variables (another thread might be reading them). Both are sound because [`take`]
//! runs once, first thing in `main`, before any other thread exists. Matching sockets to listeners is
//! [`crate::listen`]'s work.

use std::collections::BTreeMap;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first passed descriptor, from sd_listen_fds(3).
const FIRST_FD: RawFd = 3;

/// More passed sockets than this is a mistake; they are ignored beyond it.
const FDS_MAX: i32 = 1024;

/// Variables that are for this process only.
const PRIVATE: [&str; 6] = [
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Sockets by name, and the notify variables.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    /// Sockets in the order they were passed, by `FileDescriptorName`.
    pub(crate) sockets: BTreeMap<String, Vec<OwnedFd>>,
    /// `$NOTIFY_SOCKET`.
    pub(crate) notify_socket: Option<String>,
    /// `$WATCHDOG_USEC`, if meant for this process.
    pub(crate) watchdog: Option<std::time::Duration>,
}

/// Takes what was passed and removes the variables. Call it once, before any thread is started; later calls get nothing.
#[expect(
    unsafe_code,
    reason = "removes variables and owns passed descriptors; see the module header"
)]
pub(crate) fn take() -> Passed {
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Passed::default();
    }
    let variable = |name: &str| std::env::var(name).ok();
    let mine = |name: &str| variable(name).is_none_or(|pid| pid == std::process::id().to_string());
    let mut passed = Passed {
        notify_socket: variable("NOTIFY_SOCKET"),
        ..Passed::default()
    };
    if mine("WATCHDOG_PID") {
        passed.watchdog = variable("WATCHDOG_USEC")
            .and_then(|usec| usec.parse().ok())
            .map(std::time::Duration::from_micros);
    }
    // sd_listen_fds(3): without a matching LISTEN_PID all of it is for somebody else.
    let count = variable("LISTEN_FDS")
        .and_then(|count| count.parse::<i32>().ok())
        .unwrap_or(0)
        .clamp(0, FDS_MAX);
    if variable("LISTEN_PID").is_some() && mine("LISTEN_PID") {
        let names = variable("LISTEN_FDNAMES").unwrap_or_default();
        let names: Vec<&str> = names.split(':').collect();
        for (index, number) in (FIRST_FD..FIRST_FD + count).enumerate() {
            let name = names
                .get(index)
                .filter(|name| !name.is_empty())
                .map_or("unknown", |name| *name);
            // SAFETY: the LISTEN_FDS protocol hands us these descriptors; nothing else in the process knows them, and the
            // TAKEN flag lets only one caller ever make owners of them.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            passed.sockets.entry(name.to_owned()).or_default().push(fd);
        }
    }
    for name in PRIVATE {
        // SAFETY: called first thing in `main`, before any other thread exists that could read the environment.
        unsafe { std::env::remove_var(name) };
    }
    passed
}
