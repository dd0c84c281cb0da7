//! A connection that has switched protocols: bytes both ways until one side ends.
//!
//! Owns what follows a backend's 101 (spec part C3). Apart from `pump` because nothing is parsed any more. Bytes the client
//! sent before the 101 have waited in its buffer; had the answer been another, they would have been read as HTTP.

use std::io;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ibex_perlbal_proto::forward::end_to_end;
use ibex_perlbal_proto::head::{Response, Version};

use crate::client::{Client, Cut, Turn};
use crate::model::Settings;
use crate::registry::State;
use crate::route::reason_or;
use crate::socket::Socket;
use crate::upstream::Lease;

/// Passes the 101 on and then everything, both ways.
pub(crate) async fn run(
    client: &mut Client,
    turn: &mut Turn,
    mut lease: Lease,
    response: &Response,
    settings: &Settings,
) -> Result<(), Cut> {
    turn.status = 101;
    turn.keep = false;
    client.info.set_state(State::Tunnel);
    let mut head = BytesMut::new();
    let reason = reason_or(response.status, &response.reason);
    for part in [Version::V11.text().as_bytes(), b" 101 ", &reason, b"\r\n"] {
        head.extend_from_slice(part);
    }
    let switched = response
        .fields
        .first("Upgrade")
        .cloned()
        .unwrap_or_default();
    let fields = end_to_end(response);
    let fixed = [
        (&b"Upgrade"[..], &switched[..]),
        (b"Connection", b"Upgrade"),
    ];
    for (name, value) in fields
        .iter()
        .map(|f| (&f.name[..], &f.value[..]))
        .chain(fixed)
    {
        for part in [name, b": ", value, b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    let backend = lease.wire();
    head.extend_from_slice(&backend.buffer);
    client.wire.socket.write_all(&head, turn.entry.idle).await?;
    let early = std::mem::take(&mut client.wire.buffer);
    backend
        .socket
        .write_all(&early, settings.proxy.backend_timeout)
        .await?;
    let activity = Activity {
        last: Mutex::new(Instant::now()),
        silence_max: settings.proxy.tunnel_timeout,
    };
    tokio::select! {
        _ended = copy(&client.wire.socket, &backend.socket, &activity) => {}
        _ended = copy(&backend.socket, &client.wire.socket, &activity) => {}
    }
    // Nothing of HTTP can follow on either connection.
    Err(Cut)
}

/// When something was last seen, in either direction.
struct Activity {
    last: Mutex<Instant>,
    silence_max: Duration,
}

impl Activity {
    fn seen(&self) {
        *self
            .last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = Instant::now();
    }

    fn ends(&self) -> Instant {
        *self
            .last
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            + self.silence_max
    }
}

async fn copy(from: &Socket, to: &Socket, activity: &Activity) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        match tokio::time::timeout_at(activity.ends().into(), from.read(&mut buffer)).await {
            Ok(Ok(0)) => return Ok(()),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) if activity.ends() <= Instant::now() => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(_) => continue,
        }
        activity.seen();
        to.write_all(&buffer, activity.silence_max).await?;
        buffer.clear();
    }
}
