//! The service manager's notify protocol, sd_notify(3), by hand.
//!
//! Owns the datagrams: READY, RELOADING with its time, STOPPING, STATUS, WATCHDOG, EXTEND_TIMEOUT_USEC; to a path or an
//! abstract address. Without `$NOTIFY_SOCKET` everything is a no-op. When to send is decided by the life cycle.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use tracing::debug;

use crate::lock;

/// At most one STATUS line in this time, so that a busy daemon does not keep the manager busy.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// The way to the service manager.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    socket: Option<(UnixDatagram, SocketAddr)>,
    last_status: Mutex<Option<(String, Instant)>>,
}

impl Notify {
    /// Opens the way to `address`, a path or `@name`; an address that cannot be used is the same as none.
    pub(crate) fn open(address: Option<&str>) -> Self {
        let socket = address.and_then(|address| {
            let target = match address.strip_prefix('@') {
                Some(name) => SocketAddr::from_abstract_name(name.as_bytes()),
                None => SocketAddr::from_pathname(address),
            };
            Some((UnixDatagram::unbound().ok()?, target.ok()?))
        });
        Self {
            socket,
            last_status: Mutex::default(),
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.socket.is_some()
    }

    pub(crate) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}"));
    }

    /// The start of a reload; [`Self::ready`] ends it. Both lines must come in one datagram.
    pub(crate) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = now
            .tv_sec
            .saturating_mul(1_000_000)
            .saturating_add(now.tv_nsec / 1_000);
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    pub(crate) fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={status}"));
    }

    pub(crate) fn watchdog(&self) {
        self.send("WATCHDOG=1");
    }

    pub(crate) fn extend(&self, time: Duration) {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", time.as_micros()));
    }

    /// A short line for `systemctl status`; sent when it differs and the last one is old enough.
    pub(crate) fn status(&self, status: &str) {
        let now = Instant::now();
        let mut last = lock(&self.last_status);
        let due = last
            .as_ref()
            .is_none_or(|(text, at)| text != status && now.duration_since(*at) >= STATUS_INTERVAL);
        if due {
            *last = Some((status.to_owned(), now));
            drop(last);
            self.send(&format!("STATUS={}", status.replace('\n', " ")));
        }
    }

    fn send(&self, text: &str) {
        let Some((socket, target)) = &self.socket else {
            return;
        };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), target) {
            debug!(error = %error, "notify failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer.get(..length).unwrap().to_vec()).unwrap()
    }

    #[test]
    fn sends_to_a_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::open(path.to_str());
        assert!(notify.is_connected());
        notify.ready("serving");
        assert_eq!(receive(&manager), "READY=1\nSTATUS=serving");
        notify.reloading();
        let reloading = receive(&manager);
        let micros = reloading
            .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
            .unwrap();
        assert!(micros.parse::<u64>().unwrap() > 0);
        notify.watchdog();
        assert_eq!(receive(&manager), "WATCHDOG=1");
        notify.extend(Duration::from_secs(3));
        assert_eq!(receive(&manager), "EXTEND_TIMEOUT_USEC=3000000");
        notify.stopping("draining");
        assert_eq!(receive(&manager), "STOPPING=1\nSTATUS=draining");
    }

    #[test]
    fn sends_to_an_abstract_address() {
        let name = format!("ibex-kit-test-{}", std::process::id());
        let manager =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap())
                .unwrap();
        Notify::open(Some(&format!("@{name}"))).watchdog();
        assert_eq!(receive(&manager), "WATCHDOG=1");
    }

    #[test]
    fn status_is_sent_once_per_interval() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notify = Notify::open(path.to_str());
        notify.status("serving, 1 connections");
        notify.status("serving, 2 connections");
        notify.watchdog();
        assert_eq!(receive(&manager), "STATUS=serving, 1 connections");
        assert_eq!(receive(&manager), "WATCHDOG=1");
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        let notify = Notify::open(None);
        assert!(!notify.is_connected());
        notify.ready("serving");
    }
}
