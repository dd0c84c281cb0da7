//! The open client connections, as `socks` and `states` show them.
//!
//! Owns one small record per connection that its task updates without locks where it matters. It controls nothing.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use ibex_perlbal_proto::head::Request;

use crate::socket::Socket;

/// State of a client connection; the names are the original's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum State {
    ReadingHeaders,
    BufferingRequest,
    BufferingUpload,
    WaitBackend,
    BackendReqSent,
    WaitRes,
    XferRes,
    WaitOpen,
    XferDisk,
    XferResp,
    PersistWait,
    Tunnel,
    Closed,
}

const NAMES: [&str; 13] = [
    "reading_headers",
    "buffering_request",
    "buffering_upload",
    "wait_backend",
    "backend_req_sent",
    "wait_res",
    "xfer_res",
    "wait_open",
    "xfer_disk",
    "xfer_resp",
    "persist_wait",
    "tunnel",
    "closed",
];

/// What is known of one connection.
#[derive(Debug)]
pub(crate) struct ClientInfo {
    pub(crate) id: u64,
    pub(crate) service: String,
    pub(crate) peer: String,
    pub(crate) fd: i32,
    pub(crate) local_port: u16,
    pub(crate) opened: Instant,
    pub(crate) requests: AtomicU64,
    state: AtomicU8,
    target: Mutex<Option<(Bytes, Bytes)>>,
    backend: Mutex<Option<Arc<str>>>,
}

impl ClientInfo {
    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    pub(crate) fn state(&self) -> &'static str {
        NAMES
            .get(usize::from(self.state.load(Ordering::Relaxed)))
            .copied()
            .unwrap_or("closed")
    }

    /// A request's head is complete.
    pub(crate) fn began(&self, request: &Request) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let host = request.host().cloned().unwrap_or_default();
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((host, request.target.clone()));
    }

    pub(crate) fn set_backend(&self, node: Option<Arc<str>>) {
        *self.backend.lock().unwrap_or_else(PoisonError::into_inner) = node;
    }

    pub(crate) fn backend(&self) -> Option<Arc<str>> {
        self.backend
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// `http://host/uri` of the current or last request.
    pub(crate) fn url(&self) -> Option<String> {
        let target = self
            .target
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (host, uri) = target?;
        let host = if host.is_empty() {
            "unknown".into()
        } else {
            String::from_utf8_lossy(&host).into_owned()
        };
        Some(format!("http://{host}{}", String::from_utf8_lossy(&uri)))
    }
}

/// All open client connections.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<ClientInfo>>>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<ClientInfo>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open(&self, service: &str, peer: &str, socket: &Socket) -> Arc<ClientInfo> {
        let info = Arc::new(ClientInfo {
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            service: service.to_owned(),
            peer: peer.to_owned(),
            fd: socket.as_fd().as_raw_fd(),
            local_port: socket.local_port(),
            opened: Instant::now(),
            requests: AtomicU64::new(0),
            state: AtomicU8::new(State::ReadingHeaders as u8),
            target: Mutex::default(),
            backend: Mutex::default(),
        });
        self.lock().insert(info.id, Arc::clone(&info));
        info
    }

    pub(crate) fn close(&self, id: u64) {
        self.lock().remove(&id);
    }

    /// All, by the order in which they came.
    pub(crate) fn all(&self) -> Vec<Arc<ClientInfo>> {
        self.lock().values().cloned().collect()
    }
}
