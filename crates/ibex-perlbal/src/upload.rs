//! Request bodies on their way to a backend: streamed, held in memory, or spooled to disk.
//!
//! Owns carrying out the decisions of the core's upload policy (spec part A7). Apart from the proxy because it reads from
//! the client only. Spool files are unlinked when dropped, whatever happened.

use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use ibex_perlbal_core::upload::{Decision, Length, Reason, at_head, on_progress};
use ibex_perlbal_proto::forward::OutBody;
use ibex_perlbal_proto::framing::RequestBody;
use ibex_perlbal_proto::head::Refusal;
use tokio::io::AsyncWriteExt as _;
use tracing::error;

use crate::client::{BodyError, Client, Turn};
use crate::model::Settings;
use crate::registry::State;

/// A request body.
#[derive(Debug)]
pub(crate) enum Upload {
    None,
    /// All of it.
    Memory {
        pieces: Vec<Bytes>,
        bytes: u64,
    },
    /// The beginning; the rest comes from the client. `bytes` is unknown for chunked bodies.
    Stream {
        prefix: Vec<Bytes>,
        bytes: Option<u64>,
    },
    /// All of it, in a file.
    Spooled(Spool),
}

impl Upload {
    /// Framing of the request to the backend.
    pub(crate) fn out_body(&self, speaks_chunked: bool) -> OutBody {
        match self {
            Self::None => OutBody::None,
            Self::Memory { bytes, .. } => OutBody::Length(*bytes),
            Self::Stream { bytes: Some(n), .. } => OutBody::Length(*n),
            Self::Stream { bytes: None, .. } if speaks_chunked => OutBody::Chunked,
            Self::Stream { bytes: None, .. } => OutBody::None,
            Self::Spooled(spool) => OutBody::Length(spool.bytes),
        }
    }

    /// True when the request can be sent a second time.
    pub(crate) fn is_replayable(&self) -> bool {
        !matches!(self, Self::Stream { .. })
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        match self {
            Self::Spooled(spool) => Some(spool.reason),
            Self::None | Self::Memory { .. } | Self::Stream { .. } => None,
        }
    }
}

/// A spooled body.
#[derive(Debug)]
pub(crate) struct Spool {
    pub(crate) file: File,
    pub(crate) bytes: u64,
    reason: Reason,
    path: PathBuf,
}

impl Drop for Spool {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &PathBuf) {
    if let Err(error) = std::fs::remove_file(path) {
        error!(path = %path.display(), %error, "spool file not removed");
    }
}

/// Removes a spool file unless it was completed.
struct Unfinished(Option<PathBuf>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            remove(path);
        }
    }
}

/// Reads as much of the body as the policy wants before a backend is asked for.
pub(crate) async fn prepare(
    client: &mut Client,
    turn: &mut Turn,
    service: &str,
    settings: &Settings,
) -> Result<Upload, BodyError> {
    let policy = &settings.proxy.upload;
    let (length, bytes) = match turn.body {
        RequestBody::None => return Ok(Upload::None),
        RequestBody::Length(n) => (Length::Known(n), Some(n)),
        RequestBody::Chunked => (Length::Unknown, None),
    };
    let mut decision = at_head(policy, length);
    let mut prefix: Vec<Bytes> = Vec::new();
    let mut received = 0;
    client.info.set_state(State::BufferingRequest);
    while decision == Decision::ReadMore {
        match client.next_body(turn).await? {
            Some(data) => {
                received += data.len() as u64;
                prefix.push(data);
                if bytes != Some(received) {
                    decision = on_progress(policy, length, received, turn.started.elapsed());
                }
            }
            None => {
                return Ok(Upload::Memory {
                    pieces: prefix,
                    bytes: received,
                });
            }
        }
        report_progress(client, turn, settings);
    }
    match decision {
        Decision::Spool(reason) => spool(client, turn, service, settings, prefix, reason)
            .await
            .map(Upload::Spooled),
        Decision::Ask | Decision::ReadMore if bytes == Some(received) => Ok(Upload::Memory {
            pieces: prefix,
            bytes: received,
        }),
        Decision::Ask | Decision::ReadMore => Ok(Upload::Stream { prefix, bytes }),
    }
}

/// What a client is told when its body cannot be stored.
const STORE_FAILED: BodyError = BodyError::Refused(Refusal::new(500, "Upload could not be stored"));

async fn spool(
    client: &mut Client,
    turn: &mut Turn,
    service: &str,
    settings: &Settings,
    prefix: Vec<Bytes>,
    reason: Reason,
) -> Result<Spool, BodyError> {
    client.info.set_state(State::BufferingUpload);
    let directory = settings.proxy.upload_path.clone().ok_or(STORE_FAILED)?;
    let path = directory.join(spool_name(service, client.info.local_port, client.info.id));
    let failed = |error: std::io::Error| {
        error!(path = %directory.display(), %error, "upload could not be spooled");
        STORE_FAILED
    };
    let mut file = tokio::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .await
        .map_err(failed)?;
    let mut unfinished = Unfinished(Some(path.clone()));
    let mut bytes = 0;
    for piece in prefix {
        bytes += piece.len() as u64;
        file.write_all(&piece).await.map_err(failed)?;
    }
    while let Some(piece) = client.next_body(turn).await? {
        bytes += piece.len() as u64;
        file.write_all(&piece).await.map_err(failed)?;
        report_progress(client, turn, settings);
    }
    file.flush().await.map_err(failed)?;
    client.balancer.metrics.spooled(bytes);
    unfinished.0 = None;
    Ok(Spool {
        file: file.into_std().await,
        bytes,
        reason,
        path,
    })
}

/// COMPAT(perlbal): `NAME-LISTEN-client-ID-RANDOM`, visible while in use (ClientProxy.pm).
fn spool_name(service: &str, port: u16, id: u64) -> String {
    let random =
        std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), id);
    format!("{service}-{port}-client-{id}-{random:016x}")
}

/// Removes what an earlier run left behind.
pub(crate) fn remove_leftovers(directory: &std::path::Path, service: &str) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = name
            .strip_prefix(service)
            .and_then(|r| r.strip_prefix('-'))
            .is_some_and(|r| r.contains("-client-"));
        if is_ours {
            remove(&entry.path());
        }
    }
}

/// Sends the progress of an upload to the configured listeners, at most once a second.
fn report_progress(client: &Client, turn: &Turn, settings: &Settings) {
    if settings.proxy.status_listeners.is_empty() {
        return;
    }
    let Some(session) = upload_session(&turn.request.target) else {
        return;
    };
    let total = match turn.body {
        RequestBody::Length(n) => n,
        RequestBody::None | RequestBody::Chunked => 0,
    };
    let now = crate::clock::unix_secs();
    let started = now.saturating_sub(turn.started.elapsed().as_secs());
    let text = format!(
        "UPLOAD:{session}:{}:{total}:{started}:{now}",
        turn.body_received
    );
    client
        .balancer
        .progress
        .send(&session, &text, &settings.proxy.status_listeners);
}

/// `client_up_sess` of a request target: 5 to 50 word characters.
pub(crate) fn upload_session(target: &[u8]) -> Option<String> {
    let query = target.splitn(2, |b| *b == b'?').nth(1)?;
    let value = query
        .split(|b| *b == b'&')
        .find_map(|p| p.strip_prefix(b"client_up_sess="))?;
    let word: Vec<u8> = value
        .iter()
        .copied()
        .take_while(|b| b.is_ascii_alphanumeric() || *b == b'_')
        .collect();
    if (5..=50).contains(&word.len()) {
        String::from_utf8(word).ok()
    } else {
        None
    }
}

/// Datagrams about uploads.
#[derive(Debug, Default)]
pub(crate) struct Progress(std::sync::Mutex<ProgressState>);

#[derive(Debug, Default)]
struct ProgressState {
    socket: Option<std::net::UdpSocket>,
    sent: std::collections::BTreeMap<String, Instant>,
}

/// Sessions remembered for the once-a-second rule; beyond, the old ones are forgotten.
const SESSIONS_MAX: usize = 1000;

impl Progress {
    fn send(&self, session: &str, text: &str, listeners: &[std::net::SocketAddr]) {
        let mut state = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Instant::now();
        if state
            .sent
            .get(session)
            .is_some_and(|t| now.duration_since(*t).as_secs() < 1)
        {
            return;
        }
        if state.sent.len() >= SESSIONS_MAX {
            state
                .sent
                .retain(|_, t| now.duration_since(*t).as_secs() < 1);
        }
        state.sent.insert(session.to_owned(), now);
        if state.socket.is_none() {
            state.socket = std::net::UdpSocket::bind(("0.0.0.0", 0))
                .ok()
                .filter(|s| s.set_nonblocking(true).is_ok());
        }
        if let Some(socket) = &state.socket {
            for listener in listeners {
                // A lost datagram is replaced by the next one a second later.
                let _ignored = socket.send_to(text.as_bytes(), listener).is_ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions() {
        assert_eq!(
            upload_session(b"/up?x=1&client_up_sess=abc_12"),
            Some("abc_12".to_owned())
        );
        assert_eq!(upload_session(b"/up?client_up_sess=abcd"), None);
        assert_eq!(upload_session(b"/client_up_sess=abcdef"), None);
    }

    #[test]
    fn leftovers_are_removed_by_name() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["web-80-client-1-00", "web-notes", "other-80-client-1-00"] {
            std::fs::write(directory.path().join(name), "x").unwrap();
        }
        remove_leftovers(directory.path(), "web");
        let mut left: Vec<String> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["other-80-client-1-00", "web-notes"]);
    }
}
